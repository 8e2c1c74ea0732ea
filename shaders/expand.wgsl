// Weights in blocks as the f16 weights of a product: out = scale * q, where 32 values
// along k of one column share a scale, and q is an int8 or, with Q4, a nibble less 8.
//
// Bindings and shapes, of the panels of a dispatch:
//   q    panels [words]: values as units of 8 along k of one column (two u32s, with Q4
//        one), [taps, K / 8, 64], the first in the lowest bits; then their scales, f16 in
//        pairs, [taps, K / 32 rounded up, 64]; then padding up to a multiple of 64 words
//   out  f16 in pairs, units of 8 as product.wgsl reads them: [panels, taps, K / 8, 64, 8]
// One invocation a unit. Needs no f16 feature.
//
// On an NVIDIA H200 (driver 580.159.04, 2026-11-27, `calotype bench kernels -o expand`):
// 3 us for 1280x1280, 18 to 20 us for 1280x10240 and for a convolution of 1280 channels,
// 1.4 to 2.2 TB/s read and written of the card's 4.1; q4 takes as long as q8. A guided
// step of SDXL at 1024x1024 becomes 3 to 6 % slower than with f16 weights.

override WG: u32 = 64u;

struct Params {
    units: u32,     // of all panels
    panel: u32,     // units of a panel
    k8: u32,        // units along K of a tap
    blocks: u32,    // blocks along K of a tap
    words: u32,     // of a panel in q
}

@group(0) @binding(0) var<storage, read> q: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4<u32>>;
@group(0) @binding(2) var<uniform> p: Params;

#ifdef Q4
const UNIT_WORDS: u32 = 1u;
#else
const UNIT_WORDS: u32 = 2u;
#endif

// Values 0 to 3 of a word, from the bits at `shift` on.
#ifdef Q4
fn four(word: u32, shift: u32) -> vec4<f32> {
    let bits = (vec4(word) >> (vec4(0u, 4u, 8u, 12u) + shift)) & vec4(15u);
    return vec4<f32>(vec4<i32>(bits) - 8);
}
#else
fn four(word: u32) -> vec4<f32> {
    return vec4<f32>((vec4(bitcast<i32>(word)) << vec4(24u, 16u, 8u, 0u)) >> vec4(24u));
}
#endif

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let i = (group.y * grid.x + group.x) * WG + local.x;
    if i >= p.units {
        return;
    }
    let panel = i / p.panel;
    let unit = i - panel * p.panel;
    let column = unit % 64u;
    let tap = unit / 64u / p.k8;
    let block = tap * p.blocks + (unit / 64u - tap * p.k8) / 4u;
    let first = panel * p.words;
    let pair = unpack2x16float(q[first + p.panel * UNIT_WORDS + (block * 64u + column) / 2u]);
    let scale = select(pair.x, pair.y, column % 2u == 1u);
#ifdef Q4
    let word = q[first + unit];
    let lo = scale * four(word, 0u);
    let hi = scale * four(word, 16u);
#else
    let lo = scale * four(q[first + 2u * unit]);
    let hi = scale * four(q[first + 2u * unit + 1u]);
#endif
    out[i] = vec4(
        pack2x16float(lo.xy),
        pack2x16float(lo.zw),
        pack2x16float(hi.xy),
        pack2x16float(hi.zw),
    );
}
