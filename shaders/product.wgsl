// What all variants of the product share: out = act(scale * (A W + bias) +
// channel) + residual, where A is a matrix of tokens or, with GATHER, the
// patches of a picture (an implicit convolution: 3x3 or 1x1, stride 1 or 2, a
// nearest 2x upsampling folded in).
//
// Bindings and shapes (channels last; columns in vec4s, rows at a pitch):
//   a        activations [rows, K]; with GATHER [batch, in_h, in_w, K]
//   w        weights in units of 8 values along K of one column, panel by panel
//            of 64 columns: [N / 64, taps, K / 8, 64, 8] f32, or with W16 packed
//            f16 (which needs no f16 feature), or with HALF f16; activations
//            [N, K] serve as well, with other strides
//   out      activations [rows, N]
//   bias     f32 [N]
//   channel  activations [batch, N], added to every row of a picture
//   residual activations [rows, N]
// A may be f16 where out, channel and residual are f32 (OUT32). With SCALED the scale
// lies behind the bias, as narrow_factor.wgsl leaves both.
// Where K is long and the tiles are few, SPLIT: workgroups along z make parts of
// the sums, out is f32 [parts, M, N] of whole tiles, and product_sum.wgsl adds
// the parts (as `a`) and finishes.
// Constraints: K a multiple of 4 (in w of 8) and N of 8 by padding; padded
// weights are zero, so padded columns of out become zero. Columns of w from
// w_columns on are not read. With GEGLU the columns of w alternate, four values and four gates, and
// out has half of them.

#import storage
#import activation

// Columns of a panel of weights.
const PANEL: u32 = 64u;

struct Params {
    m: u32,           // rows of this dispatch
    n8: u32,          // columns of w / 8
    k4: u32,          // vec4s of A in a tap
    taps: u32,
    k8: u32,          // units of w in a tap
    a_offset: u32,    // all offsets and pitches of activations in vec4s
    a_pitch: u32,
    w_offset: u32,    // of weights in units of 8 values
    w_step: u32,      // from unit to unit along K
    w_column: u32,    // from column to column
    w_panel: u32,     // from 64 columns to the next 64
    w_columns: u32,   // columns that may be read
    o_offset: u32,
    o_pitch: u32,
    n4: u32,          // columns of out / 4, rounded up
    r_offset: u32,
    c_offset: u32,
    c_pitch: u32,
    flags: u32,       // BIAS, CHANNEL, RESIDUAL, GEGLU, SCALED
    activation: u32,
    first_row: u32,   // place of row 0 in the whole output
    rows_per_batch: u32,
    heads: u32,       // z = batch * heads + head
    a_batch: u32,
    a_head: u32,
    w_batch: u32,
    w_head: u32,
    o_batch: u32,
    o_head: u32,
    scale: f32,
    scale_at: u32,    // with SCALED: the place of the scale behind the bias
    in_h: u32,
    in_w: u32,
    out_w: u32,
    stride: u32,
    pad: u32,
    up: u32,          // 1: the input is seen at twice its size, or one less
    a_first: u32,     // pixels of the input before the bound window
    seen_h: u32,      // size of the picture that the taps see, upsampling done
    seen_w: u32,
    r_pitch: u32,
    split: u32,       // units along K of a part, with SPLIT; parts, with SUM
}

const BIAS: u32 = 1u;
const CHANNEL: u32 = 2u;
const RESIDUAL: u32 = 4u;
const GEGLU: u32 = 8u;
const SCALED: u32 = 16u;

#ifdef COOP
// Eight packed f16. NVIDIA's driver makes two loads of a struct of f16, one of this.
alias Unit8 = vec4<u32>;
#else
#ifdef HALF
// Eight values, one load.
struct Unit8 {
    lo: vec4<f16>,
    hi: vec4<f16>,
}
#else
#ifdef W16
alias Unit8 = vec4<u32>;
#else
struct Unit8 {
    lo: vec4<f32>,
    hi: vec4<f32>,
}
#endif
#endif
#endif

#ifdef SUM
@group(0) @binding(0) var<storage, read> a: array<vec4<f32>>;
#else
#ifdef COOP
@group(0) @binding(0) var<storage, read> a: array<Unit8>;
#else
@group(0) @binding(0) var<storage, read> a: array<Act>;
#endif
#endif
@group(0) @binding(1) var<storage, read> w: array<Unit8>;
#ifdef SPLIT
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;
#else
@group(0) @binding(2) var<storage, read_write> out: array<Out>;
#endif
#ifdef COOP
@group(0) @binding(3) var<storage, read> bias: array<f32>;
#else
@group(0) @binding(3) var<storage, read> bias: array<vec4<f32>>;
#endif
@group(0) @binding(4) var<storage, read> channel: array<Out>;
@group(0) @binding(5) var<storage, read> residual: array<Out>;
@group(0) @binding(6) var<uniform> p: Params;

// Eight values: columns of one row, or a column's along K.
struct Eight {
    lo: vec4<f32>,
    hi: vec4<f32>,
}

#ifdef HALF
#ifndef COOP
fn split(x: Unit8) -> Unit8 {
    return x;
}
#endif
#else
fn split(x: Unit8) -> Eight {
#ifdef W16
    return Eight(
        vec4(unpack2x16float(x.x), unpack2x16float(x.y)),
        vec4(unpack2x16float(x.z), unpack2x16float(x.w)),
    );
#else
    return Eight(x.lo, x.hi);
#endif
}
#endif

#ifdef GATHER
// Batch and output position of a row of A.
fn pixel(row: u32) -> vec3<u32> {
    let whole = row + p.first_row;
    let batch = whole / p.rows_per_batch;
    let at = whole - batch * p.rows_per_batch;
    let y = at / p.out_w;
    return vec3(batch, y, at - y * p.out_w);
}

// Where the patch of a pixel has its `tap`: index of the first vec4, and
// whether it lies inside the picture.
fn patch_at(pixel: vec3<u32>, tap: u32) -> vec2<u32> {
    let width = select(1u, 3u, p.taps == 9u);
    let dy = tap / width;
    let y = pixel.y * p.stride + dy - p.pad;
    let x = pixel.z * p.stride + (tap - dy * width) - p.pad;
    // An index before the picture wraps to a large number, so one test serves.
    let within = y < p.seen_h && x < p.seen_w;
    let row = (pixel.x * p.in_h + (y >> p.up)) * p.in_w + (x >> p.up) - p.a_first;
    return select(vec2(0u), vec2(p.a_offset + row * p.a_pitch, 1u), within);
}
#endif

// The first unit of a column of w, or of the last that may be read.
fn column_at(n: u32) -> u32 {
    let column = min(n, p.w_columns - 1u);
    return column / PANEL * p.w_panel + column % PANEL * p.w_column;
}

fn batch_offset(z: u32, batch: u32, head: u32) -> u32 {
    let b = z / p.heads;
    return b * batch + (z - b * p.heads) * head;
}

#ifndef SPLIT
fn scale() -> f32 {
    if (p.flags & SCALED) == 0u {
        return p.scale;
    }
#ifdef COOP
    return bias[p.scale_at];
#else
    return bias[p.scale_at / 4u].x;
#endif
}

// Writes eight finished columns of a row. Matrices' sums begin with the bias.
fn finish(row: u32, n8: u32, z: u32, acc: Eight) {
    var lo = acc.lo;
    var hi = acc.hi;
#ifndef COOP
    if (p.flags & BIAS) != 0u {
        lo += bias[2u * n8];
        hi += bias[2u * n8 + 1u];
    }
#endif
    let scale = scale();
    lo *= scale;
    hi *= scale;
    let second = 2u * n8 + 1u < p.n4;
    if (p.flags & CHANNEL) != 0u {
        let at = p.c_offset + (row + p.first_row) / p.rows_per_batch * p.c_pitch + 2u * n8;
        lo += vec4<f32>(channel[at]);
        if second {
            hi += vec4<f32>(channel[at + 1u]);
        }
    }
    let block = batch_offset(z, p.o_batch, p.o_head);
    let base = p.o_offset + block + row * p.o_pitch;
    if (p.flags & GEGLU) != 0u {
        out[base + n8] = narrow(lo * gelu(hi));
        return;
    }
    if p.activation != NONE {
        lo = activate(p.activation, lo);
        hi = activate(p.activation, hi);
    }
    if (p.flags & RESIDUAL) != 0u {
        let at = p.r_offset + block + row * p.r_pitch + 2u * n8;
        lo += vec4<f32>(residual[at]);
        if second {
            hi += vec4<f32>(residual[at + 1u]);
        }
    }
    let at = base + 2u * n8;
    out[at] = narrow(lo);
    if second {
        out[at + 1u] = narrow(hi);
    }
}
#endif
