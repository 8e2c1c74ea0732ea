// Attention with heads 64 wide in one pass over the keys (Dao et al., 2022,
// "FlashAttention"): out = softmax(scale Q K^T) V, never holding more than 32 scores a
// query. For GPUs without matrix units, and for what those do not serve: causal
// attention, f32, rows at odd vec4s. Other widths, and CPU adapters, go through products
// over chunks of queries (see kernel/attention/mod.rs).
//
// Bindings and shapes: q [batch, queries, heads, 64], k and v [batch, keys,
// heads, 64], out as q, each at an offset and pitch of its own (in vec4s), so
// that fused projections are read where they lie. Softmax and sums are f32.
//
// A workgroup of 8 x TY invocations makes QB = R TY queries of one head, 32 keys at a
// time. Each invocation holds R x 4 scores, then R rows x 8 columns of the output. The 8
// invocations of a row find its largest score together, through shared memory, and keep
// the sums of their own keys' weights until the end, so that scores never leave
// registers and all invocations take part in the softmax. The next block of keys and
// values is read while this one is used (PREFETCH).
//
// Operands lie in shared memory as f16 (HALF) or f32, weights where the keys were. Rows
// are an odd number of vec4s apart, and the rows and keys of an invocation TY and 8
// apart, so that neighbouring invocations read different banks.
// MASK where the keys are no multiple of 32, or where attention is causal.
//
// By Mesa 26.1.6's compilers, with and without MASK, 2026-11-26 (nothing was run on
// these):
//                           RDNA2 navi21       Turing tu102 (NVK)  Xe-HPG dg2
//   f16, 64 (R 4), PREFETCH 168 VGPR           128                 spills 13-24
//   f16, 64 (R 8), PREFETCH 256                216-232             spills 208-220
//   f16, 64 (R 4)           160-168            96                  105-110
//   f32, 32 (R 4)           136-176            96                  103-108
// No spill but on Intel, which is not given the two that do (Xe2, bmg: the same two).
// 19.1 KB of shared memory in f16, so that three workgroups share the 64 KB of an RDNA2
// unit, and 26.1 KB in f32.
//
// The kernel before this one, f32 in shared memory and half its invocations in the
// softmax, did 8.9 TFLOP/s on an NVIDIA H200 (docs/gpu.md); this one was not run there.

#import storage
#import bounded
#import attention_params

@group(0) @binding(0) var<storage, read> q: array<Act>;
@group(0) @binding(1) var<storage, read> k: array<Act>;
@group(0) @binding(2) var<storage, read> v: array<Act>;
@group(0) @binding(3) var<storage, read_write> out: array<Act>;
@group(0) @binding(4) var<uniform> p: Params;

const T: u32 = 8u * ${TY}u;  // invocations
const P: u32 = 17u;          // vec4s from row to row of queries and keys
const PW: u32 = 9u;          // of weights
const PT: u32 = ${TY}u + 1u; // of parts

// Below every score. The first block of keys has one that each query sees, so that
// no maximum stays there and masked scores, far below it, weigh nothing.
const MASKED: f32 = -0x1.fffffep127;

#ifdef F16
const UNIT: f32 = 1.0;
#else
// Values are summed in units of 2^16: before the division a sum may be that many
// times the largest.
const UNIT: f32 = 0x1p-16;
#endif
// The largest f16: weights in f16 are rounded, so that a mean may exceed its values a
// little.
const MOST: f32 = 65504.0;

// exp(d), 0 where that is below exp(-80); not a number where d is none.
fn weight(d: vec4<f32>) -> vec4<f32> {
    return select(exp(d), vec4(0.0), d < vec4(-80.0));
}

fn sum4(x: vec4<f32>) -> f32 {
    return x.x + x.y + x.z + x.w;
}

#ifdef HALF
alias Tile = vec4<f16>;
#else
alias Tile = vec4<f32>;
#endif

var<workgroup> q_tile: array<Tile, ${Q_TILE}>;     // [QB][17]
var<workgroup> k_tile: array<Tile, ${K_TILE}>;     // [32][17] keys, then [QB][9] weights
var<workgroup> v_tile: array<Tile, 512>;           // [32][16]
var<workgroup> parts: array<vec4<f32>, ${PARTS}>;  // [R / 4][8][TY + 1], a vec4 four rows

@compute @workgroup_size(${T})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let first = group.x * ${QB}u;
    let head = group.y * 16u;
    let ty = thread / 8u;
    let tx = thread % 8u;
    // What this invocation brings: column `column` of some rows.
    let column = head + thread % 16u;
    let own = thread / 16u;
    let to = own * P + thread % 16u;
    let last = p.keys - 1u;
    let q_base = p.q_offset + group.z * p.q_batch + column;
    let k_base = p.k_offset + group.z * p.k_batch + column;
    let v_base = p.v_offset + group.z * p.v_batch + column;
#repeat n ${QU}
    {
        let row = min(first + own + ${n}u * (T / 16u), p.queries - 1u);
        q_tile[to + ${n}u * (T / 16u) * P] = Tile(q[q_base + row * p.q_pitch]);
    }
#end
#ifdef PREFETCH
#repeat n ${KU}
    var k${n} = k[k_base + min(own + ${n}u * (T / 16u), last) * p.k_pitch];
    var v${n} = v[v_base + min(own + ${n}u * (T / 16u), last) * p.v_pitch];
#end
#endif
#repeat g ${GROUPS}
    var maximum${g} = vec4(MASKED);
    var total${g} = vec4(0.0);
#end
#repeat g ${GROUPS}
#repeat i 4
    var lo${g}_${i} = vec4(0.0);
    var hi${g}_${i} = vec4(0.0);
#end
#end
    var end = p.keys;
#ifdef MASK
    // Keys that a row sees: those before its limit.
#repeat g ${GROUPS}
#repeat i 4
    let limit${g}_${i} = select(p.keys, min(p.keys, first + (4u * ${g}u + ${i}u) * ${TY}u + ty + 1u), p.causal != 0u);
#end
#end
    end = select(end, min(end, first + ${QB}u), p.causal != 0u);
#endif
    for (var start = 0u; start < end; start += 32u) {
        workgroupBarrier();
#repeat n ${KU}
#ifndef PREFETCH
        let k${n} = k[k_base + min(start + own + ${n}u * (T / 16u), last) * p.k_pitch];
        let v${n} = v[v_base + min(start + own + ${n}u * (T / 16u), last) * p.v_pitch];
#endif
        k_tile[to + ${n}u * (T / 16u) * P] = Tile(k${n});
        v_tile[thread + ${n}u * T] = Tile(widen(v${n}) * UNIT);
#end
        workgroupBarrier();
#ifdef PREFETCH
#repeat n ${KU}
        {
            let next = min(start + 32u + own + ${n}u * (T / 16u), last);
            k${n} = k[k_base + next * p.k_pitch];
            v${n} = v[v_base + next * p.v_pitch];
        }
#end
#endif
#repeat g ${GROUPS}
#repeat i 4
        var s${g}_${i} = vec4(0.0);
#end
#end
        for (var d = 0u; d < 16u; d++) {
#repeat j 4
            let y${j} = vec4<f32>(k_tile[(tx + ${j}u * 8u) * P + d]);
#end
#repeat j 4
            let z${j} = vec4(y0[${j}], y1[${j}], y2[${j}], y3[${j}]);
#end
#repeat g ${GROUPS}
#repeat i 4
            {
                let x = vec4<f32>(q_tile[(ty + (4u * ${g}u + ${i}u) * ${TY}u) * P + d]);
                s${g}_${i} = fma(vec4(x.w), z3, fma(vec4(x.z), z2, fma(vec4(x.y), z1, fma(vec4(x.x), z0, s${g}_${i}))));
            }
#end
#end
        }
#ifdef MASK
        let keys = vec4(start + tx) + vec4(0u, 8u, 16u, 24u);
#endif
#repeat g ${GROUPS}
#repeat i 4
        s${g}_${i} *= p.scale;
#ifdef MASK
        s${g}_${i} = select(vec4(MASKED), s${g}_${i}, keys < vec4(limit${g}_${i}));
#endif
        let t${g}_${i} = max(max(s${g}_${i}.x, s${g}_${i}.y), max(s${g}_${i}.z, s${g}_${i}.w));
#end
        parts[(${g}u * 8u + tx) * PT + ty] = vec4(t${g}_0, t${g}_1, t${g}_2, t${g}_3);
#end
        workgroupBarrier();
#repeat g ${GROUPS}
        {
            var top = maximum${g};
            for (var j = 0u; j < 8u; j++) {
                top = max(top, parts[(${g}u * 8u + j) * PT + ty]);
            }
            let rescale = weight(maximum${g} - top);
            maximum${g} = top;
            total${g} *= rescale;
#repeat i 4
            {
                let e = weight(s${g}_${i} - vec4(top[${i}]));
                total${g}[${i}] += sum4(e);
                k_tile[(ty + (4u * ${g}u + ${i}u) * ${TY}u) * PW + tx] = Tile(e);
                lo${g}_${i} *= rescale[${i}];
                hi${g}_${i} *= rescale[${i}];
            }
#end
        }
#end
        workgroupBarrier();
        // Keys x, x + 8, x + 16 and x + 24.
        for (var x = 0u; x < 8u; x++) {
#repeat j 4
            let a${j} = vec4<f32>(v_tile[(x + ${j}u * 8u) * 16u + tx]);
            let b${j} = vec4<f32>(v_tile[(x + ${j}u * 8u) * 16u + tx + 8u]);
#end
#repeat g ${GROUPS}
#repeat i 4
            {
                let e = vec4<f32>(k_tile[(ty + (4u * ${g}u + ${i}u) * ${TY}u) * PW + x]);
                lo${g}_${i} = fma(vec4(e.w), a3, fma(vec4(e.z), a2, fma(vec4(e.y), a1, fma(vec4(e.x), a0, lo${g}_${i}))));
                hi${g}_${i} = fma(vec4(e.w), b3, fma(vec4(e.z), b2, fma(vec4(e.y), b1, fma(vec4(e.x), b0, hi${g}_${i}))));
            }
#end
#end
        }
    }
    // The parts of the maxima were read before the last barrier.
#repeat g ${GROUPS}
    parts[(${g}u * 8u + tx) * PT + ty] = total${g};
#end
    workgroupBarrier();
    let o_base = p.o_offset + group.z * p.o_batch + head + tx;
#repeat g ${GROUPS}
    {
        var sum = vec4(0.0);
        for (var j = 0u; j < 8u; j++) {
            sum += parts[(${g}u * 8u + j) * PT + ty];
        }
        let share = 1.0 / UNIT / sum;
#repeat i 4
        {
            let row = first + (4u * ${g}u + ${i}u) * ${TY}u + ty;
            if row < p.queries {
                let at = o_base + row * p.o_pitch;
#ifdef HALF
                out[at] = narrow(bounded(lo${g}_${i} * share[${i}], MOST));
                out[at + 8u] = narrow(bounded(hi${g}_${i} * share[${i}], MOST));
#else
                out[at] = narrow(lo${g}_${i} * share[${i}]);
                out[at + 8u] = narrow(hi${g}_${i} * share[${i}]);
#endif
            }
        }
#end
    }
#end
}
