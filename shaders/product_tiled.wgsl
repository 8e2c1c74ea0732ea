// The product through shared memory, for GPUs without matrix units and for shapes
// that those cannot take. See product.wgsl for bindings, shapes and constraints.
//
// A workgroup of WX x WY invocations makes BM = R WY rows x BN = 8 WX columns, each
// invocation R x 8 of it, in slices of BK along K. Both operands lie in shared
// memory as they do outside, along K: f16 where both are f16 (HALF), else f32, and
// the sums are f32. The next slice is read into registers while this one is used.
// A row of a tile takes BK / 4 + 1 vec4s, an odd number, so that neighbours in a
// column lie in different banks; the 8 columns of an invocation are WX rows of the
// tile apart, so that what neighbouring invocations read are neighbours.
// Shared memory: (BM + BN) (BK + 4) values.
//
// By Mesa 26.1.6's compilers, f16, 2026-11-26 (nothing was run on these; hot loop:
// one slice, or a quarter of one where it stays a loop):
//   tile (R)          RDNA2 navi21           Turing tu102 (NVK)     Xe-HPG dg2
//   128x128 (8)       128 VGPR, 81-83 % FMA  144-152, 74 % FMA      spills 126-147
//   64x64 (8)         168, 76-82 %           184-192, 74 %          spills 223-266
//   64x128 (4)        80, 75-78 %            96, 64-65 %            116-125, 43-44 %
//   32x64 (4)         72, 73-76 %            104-112, 65 %          127-136, 0-7 spills
//   128x16, 16x128    88-104                 120-128                spills 67-121
// With one copy of the epilogue (2026-11-28) registers and spills are the same, but for 8
// spills in 32x64 with GATHER on DG2; code is 10 to 27 KB on navi21.
// No spill but on Intel, which is not given the tiles that do. Xe2
// (bmg) spills 1 and 9 in 32x64.
// With slices of 32 the tiles of 4 rows spill there too (up to 280).
//
// On an NVIDIA H200 (docs/gpu.md) the tile before this one, f32 in shared memory, did
// 19 to 34 TFLOP/s; this one makes conv_in alone there, at 3.4 TFLOP/s for its K of 4.

#import product

const U: u32 = ${BK}u / 8u;      // units of 8 values in a row of a slice
const P: u32 = ${BK}u / 4u + 1u; // vec4s from row to row of a tile
const T: u32 = ${WX}u * ${WY}u;  // invocations

#ifdef HALF
alias Tile = vec4<f16>;
#else
alias Tile = vec4<f32>;
#endif

var<workgroup> a_tile: array<Tile, ${A_TILE}>;
var<workgroup> w_tile: array<Tile, ${W_TILE}>;

// Unit k of a row of A that begins at vec4 `at`; zeros where there is none. Beyond
// the last vec4 of a row all weights are zero.
struct Unit {
    lo: Act,
    hi: Act,
}

fn load_a(at: u32, k: u32, live: bool) -> Unit {
    if !live || k >= p.k8 {
        return Unit();
    }
    return Unit(a[at + 2u * k], a[at + min(2u * k + 1u, p.k4 - 1u)]);
}

@compute @workgroup_size(${WX}, ${WY})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
#ifdef SPLIT
    let z = 0u;
    let begin = group.z * p.split;
    let end = min(begin + p.split, p.taps * p.k8);
#else
    let z = group.z;
    let begin = 0u;
    let end = p.taps * p.k8;
#endif
    let m0 = group.x * ${BM}u;
    let g0 = group.y * ${WX}u;
    // What this invocation brings of a slice: AU units of A and WU of w, the same
    // rows and columns in every slice.
#ifndef GATHER
    let a_base = p.a_offset + batch_offset(z, p.a_batch, p.a_head);
#endif
#repeat i ${AU}
    let a_unit${i} = min(thread + ${i}u * T, ${BM}u * U - 1u);
    let row${i} = min(m0 + a_unit${i} / U, p.m - 1u);
#ifdef GATHER
    let pixel${i} = pixel(row${i});
    var patch${i} = patch_at(pixel${i}, begin / p.k8);
#else
    let patch${i} = vec2(a_base + row${i} * p.a_pitch, 1u);
#endif
    var a${i} = load_a(patch${i}.x, begin % p.k8 + a_unit${i} % U, patch${i}.y != 0u);
#end
    let w_base = p.w_offset + batch_offset(z, p.w_batch, p.w_head);
#repeat i ${WU}
    let w_unit${i} = min(thread + ${i}u * T, ${BN}u * U - 1u);
    let slot${i} = w_unit${i} % ${BN}u;
    let column${i} = w_base + column_at(8u * g0 + slot${i} % ${WX}u * 8u + slot${i} / ${WX}u);
    var w${i} = w[column${i} + (begin / p.k8 * p.k8 + min(begin % p.k8 + w_unit${i} / ${BN}u, p.k8 - 1u)) * p.w_step];
#end
#repeat r ${R}
    var lo${r} = vec4(0.0);
    var hi${r} = vec4(0.0);
#end
    // A slice ends with its tap. Parts of a product are whole slices: p.split and, where
    // there are parts, p.k8 are multiples of U.
    var tap = begin / p.k8;
    var k = begin % p.k8;
    for (var s = begin; s < end; s = tap * p.k8 + k) {
#repeat i ${AU}
        {
            let to = a_unit${i} / U * P + a_unit${i} % U * 2u;
            a_tile[to] = Tile(a${i}.lo);
            a_tile[to + 1u] = Tile(a${i}.hi);
        }
#end
#repeat i ${WU}
        {
            let to = slot${i} * P + w_unit${i} / ${BN}u * 2u;
            let unit = split(w${i});
            w_tile[to] = unit.lo;
            w_tile[to + 1u] = unit.hi;
        }
#end
        workgroupBarrier();
        // The next slice; the last turn reads the first of the last tap again.
        k += U;
        if k >= p.k8 {
            k = 0u;
            tap++;
#ifdef GATHER
#repeat i ${AU}
            patch${i} = patch_at(pixel${i}, min(tap, p.taps - 1u));
#end
#endif
        }
#repeat i ${AU}
        a${i} = load_a(patch${i}.x, k + a_unit${i} % U, patch${i}.y != 0u);
#end
#repeat i ${WU}
        w${i} = w[column${i} + (min(tap, p.taps - 1u) * p.k8 + min(k + w_unit${i} / ${BN}u, p.k8 - 1u)) * p.w_step];
#end
#ifdef ROLLED
        // The same number, which the compiler cannot know: unrolled, the loop spills on
        // Intel (DG2, Mesa 26.1.6: 119 to 288 registers of tiles that else spill none).
        let quarters = min(2u * U, 8u * p.k8);
#else
        let quarters = 2u * U;
#endif
        for (var q = 0u; q < quarters; q++) {
#repeat c 8
            let y${c} = vec4<f32>(w_tile[(${c}u * ${WX}u + local.x) * P + q]);
#end
#repeat j 4
            let p${j} = vec4(y0[${j}], y1[${j}], y2[${j}], y3[${j}]);
            let q${j} = vec4(y4[${j}], y5[${j}], y6[${j}], y7[${j}]);
#end
#repeat r ${R}
            {
                let x = vec4<f32>(a_tile[(${r}u * ${WY}u + local.y) * P + q]);
                lo${r} = fma(vec4(x.w), p3, fma(vec4(x.z), p2, fma(vec4(x.y), p1, fma(vec4(x.x), p0, lo${r}))));
                hi${r} = fma(vec4(x.w), q3, fma(vec4(x.z), q2, fma(vec4(x.y), q1, fma(vec4(x.x), q0, hi${r}))));
            }
#end
        }
        workgroupBarrier();
    }
    let n8 = g0 + local.x;
#ifdef SPLIT
#repeat r ${R}
    {
        let row = (group.z * grid.x + group.x) * ${BM}u + ${r}u * ${WY}u + local.y;
        out[row * p.o_pitch + 2u * n8] = lo${r};
        out[row * p.o_pitch + 2u * n8 + 1u] = hi${r};
    }
#end
#else
    // One copy of the epilogue for all rows: compilers make one for each where they know
    // the number.
    let rows = select(0u, ${R}u, n8 < p.n8);
    for (var r = 0u; r < rows; r++) {
        var sums = Eight(lo0, hi0);
#repeat r ${R}
        if r == ${r}u {
            sums = Eight(lo${r}, hi${r});
        }
#end
        let row = m0 + r * ${WY}u + local.y;
        if row < p.m {
            finish(row, n8, z, sums);
        }
    }
#endif
}
