// y = a w + bias with cooperative matrices: f16 operands, f32 sums, f16 result.
// With GATHER, a is the 3x3 patches (stride 1, zero padding 1) of a picture.
//
// A workgroup makes BM x BN of y in slices of BK along K through shared memory;
// its WM x WN subgroups make (BM / WM) x (BN / WN) each, in matrices of F x F.
// The next slice is read into registers while this one is multiplied.
//
// Measured on an H200: docs/gpu.md. shaders/product_coop.wgsl had this form until
// 2026-11-27, when it was found that NVIDIA's driver reads the next slice too late.
//
// Bindings and shapes, all counted in units of 8 halves (16 bytes):
//   a     f16 [m, k8]; with GATHER [pictures, h, w, k8]
//   w     f16 [n / 64, taps * k8, 64, 8]: a unit is 8 values along K of one column
//   y     f16 [m, n / 8]
//   bias  f32 [n], followed by zeros up to a multiple of BN
// Constraints: k8 a multiple of BK / 8, n of 8; every row of a is whole.
// Defines: F (8 or 16), LANES of a subgroup, BM BN BK, WN, the numbers derived
// from them in product.rs; FLAT for scalar arrays in shared memory (Metal), TWO
// for two stages, GATHER.

enable wgpu_cooperative_matrix;

struct H8 { a: vec4<f16>, b: vec4<f16> }

struct Params {
    m: u32,
    n: u32,
    k8: u32,        // of a tap
    taps: u32,
    tiles_m: u32,
    tiles_n: u32,
    raster: u32,    // row tiles that are walked together
    h: u32,
    w: u32,
}

@group(0) @binding(0) var<storage, read> a: array<H8>;
@group(0) @binding(1) var<storage, read> w: array<H8>;
@group(0) @binding(2) var<storage, read_write> y: array<H8>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<uniform> p: Params;

const T = ${T}u;                  // invocations
const U = ${BK}u / 8u;            // units of a row of a slice
#ifdef FLAT
const P = ${BK}u + 8u;            // pitch of a row: 8 halves of padding
const S = 1u;                     // halves of an element
var<workgroup> sa: array<f16, ${SA}>;
var<workgroup> sw: array<f16, ${SW}>;
#else
const P = ${BK}u / 4u + 2u;
const S = 4u;
var<workgroup> sa: array<vec4<f16>, ${SA}>;
var<workgroup> sw: array<vec4<f16>, ${SW}>;
#endif
var<workgroup> spill: array<${SPILL_OF}, ${SPILL}>;  // 16 x 16 a subgroup

#ifdef FLAT
fn put_a(at: u32, x: H8) {
    sa[at] = x.a.x; sa[at + 1u] = x.a.y; sa[at + 2u] = x.a.z; sa[at + 3u] = x.a.w;
    sa[at + 4u] = x.b.x; sa[at + 5u] = x.b.y; sa[at + 6u] = x.b.z; sa[at + 7u] = x.b.w;
}
fn put_w(at: u32, x: H8) {
    sw[at] = x.a.x; sw[at + 1u] = x.a.y; sw[at + 2u] = x.a.z; sw[at + 3u] = x.a.w;
    sw[at + 4u] = x.b.x; sw[at + 5u] = x.b.y; sw[at + 6u] = x.b.z; sw[at + 7u] = x.b.w;
}
#else
fn put_a(at: u32, x: H8) { sa[at] = x.a; sa[at + 1u] = x.b; }
fn put_w(at: u32, x: H8) { sw[at] = x.a; sw[at + 1u] = x.b; }
#endif

#ifdef GATHER
// Unit of a where the patch of pixel `row` has its `tap`, and whether it lies
// inside the picture.
fn patch_at(row: u32, tap: u32) -> vec2<u32> {
    let area = p.h * p.w;
    let picture = row / area;
    let at = row - picture * area;
    let dy = tap / 3u;
    let py = at / p.w + dy - 1u;
    let px = at % p.w + (tap - dy * 3u) - 1u;
    // An index before the picture wraps to a large number, so one test serves.
    let inside = py < p.h && px < p.w;
    return select(vec2(0u), vec2((picture * area + py * p.w + px) * p.k8, 1u), inside);
}
#endif

@compute @workgroup_size(${T})
fn main(@builtin(workgroup_id) g: vec3<u32>, @builtin(local_invocation_index) t: u32, @builtin(subgroup_id) sg: u32, @builtin(subgroup_invocation_id) lane: u32) {
    // Groups of `raster` row tiles; inside a group rows first, then columns.
    let walk = p.raster * p.tiles_n;
    let first = g.x / walk * p.raster;
    let high = min(p.tiles_m - first, p.raster);
    let m0 = (first + g.x % walk % high) * ${BM}u;
    let n0 = (g.x % walk / high) * ${BN}u;
    let r0 = sg / ${WN}u * ${TM}u;
    let c0 = sg % ${WN}u * ${TN}u;
#repeat i ${AU}
    let row${i} = min(m0 + (t + ${i}u * T) / U, p.m - 1u);
    let ad${i} = (t + ${i}u * T) / U * P + (t + ${i}u * T) % U * (8u / S);
    let ak${i} = (t + ${i}u * T) % U;
#ifdef GATHER
    var patch${i} = patch_at(row${i}, 0u);
    var a${i} = H8();
    if patch${i}.y != 0u {
        a${i} = a[patch${i}.x + ak${i}];
    }
#else
    let ar${i} = row${i} * p.k8 + ak${i};
    var a${i} = a[ar${i}];
#endif
#end
    let depth = p.taps * p.k8;
#repeat i ${WU}
    let wu${i} = min(t + ${i}u * T, ${BN}u * U - 1u);
    let wn${i} = min(n0 + wu${i} % ${BN}u, p.n - 1u);
    let wr${i} = (wn${i} / 64u * depth + wu${i} / ${BN}u) * 64u + wn${i} % 64u;
    let wd${i} = wu${i} % ${BN}u * P + wu${i} / ${BN}u * (8u / S);
    var w${i} = w[wr${i}];
#end
#repeat j ${BJ}
#repeat v ${Q}
    let b${j}_${v} = n0 + c0 + ${j}u * 16u + ${v}u * ${F}u;
#repeat i ${BI}
#repeat u ${Q}
    var c${i}_${u}_${j}_${v} = coopLoadT<coop_mat${F}x${F}<f32, C>>(&bias[b${j}_${v}], 0u);
#end
#end
#end
#end
#ifdef GATHER
    var tap = 0u;
    var k = 0u;
#endif
#ifdef TWO
    var half = 0u;
#endif
    for (var s = 0u; s < depth; s += U) {
#ifdef TWO
        let ha = half * ${HA}u;
        let hw = half * ${HW}u;
        half = 1u - half;
#else
        let ha = 0u;
        let hw = 0u;
#endif
#repeat i ${AU}
        put_a(ha + ad${i}, a${i});
#end
#repeat i ${WU}
        put_w(hw + wd${i}, w${i});
#end
        workgroupBarrier();
        let next = min(s + U, depth - U);  // the last turn reads its own slice again
#ifdef GATHER
        k += U;
        if k == p.k8 {
            k = 0u;
            tap = min(tap + 1u, p.taps - 1u);
#repeat i ${AU}
            patch${i} = patch_at(row${i}, tap);
#end
        }
#repeat i ${AU}
        a${i} = H8();
        if patch${i}.y != 0u {
            a${i} = a[patch${i}.x + k + ak${i}];
        }
#end
#else
#repeat i ${AU}
        a${i} = a[ar${i} + next];
#end
#endif
#repeat i ${WU}
        w${i} = w[wr${i} + next * 64u];
#end
#repeat k ${KS}
        {
#repeat j ${BJ}
#repeat v ${Q}
            let yp${j}_${v} = hw + (c0 + ${j}u * 16u + ${v}u * ${F}u) * P + ${k}u * ${F}u / S;
            let y${j}_${v} = coopLoad<coop_mat${F}x${F}<f16, B>>(&sw[yp${j}_${v}], P);
#end
#end
#repeat i ${BI}
#repeat u ${Q}
            let xp${i}_${u} = ha + (r0 + ${i}u * 16u + ${u}u * ${F}u) * P + ${k}u * ${F}u / S;
            let x${i}_${u} = coopLoadT<coop_mat${F}x${F}<f16, A>>(&sa[xp${i}_${u}], P);
#repeat j ${BJ}
#repeat v ${Q}
            c${i}_${u}_${j}_${v} = coopMultiplyAdd(x${i}_${u}, y${j}_${v}, c${i}_${u}_${j}_${v});
#end
#end
#end
#end
        }
#end
#ifndef TWO
        workgroupBarrier();
#endif
    }
#repeat i ${BI}
#repeat j ${BJ}
#repeat u ${Q}
#repeat v ${Q}
    { let h = (sg * 256u + ${u}u * ${F}u * 16u + ${v}u * ${F}u) / S; coopStoreT(c${i}_${u}_${j}_${v}, &spill[h], 16u / S); }
#end
#end
    workgroupBarrier();
    for (var e = lane; e < 32u; e += ${LANES}u) {
        let row = m0 + r0 + ${i}u * 16u + e / 2u;
        let col = n0 + c0 + ${j}u * 16u + e % 2u * 8u;
        let h = (sg * 256u + e * 8u) / S;
        if row < p.m && col < p.n {
#ifdef FLAT
            let lo = vec4(spill[h], spill[h + 1u], spill[h + 2u], spill[h + 3u]);
            let hi = vec4(spill[h + 4u], spill[h + 5u], spill[h + 6u], spill[h + 7u]);
#else
            let lo = spill[h];
            let hi = spill[h + 1u];
#endif
            y[(row * p.n + col) / 8u] = H8(vec4<f16>(lo), vec4<f16>(hi));
        }
    }
    workgroupBarrier();
#end
#end
}
