// The product with cooperative matrices: f16 operands, f32 sums. See product.wgsl
// for bindings, shapes and the epilogue.
//
// A workgroup makes BM x BN of out in slices of BK along K; its subgroups, WN of
// them side by side, make TM x TN each, in matrices of F x F. Both operands lie in
// shared memory along K, 8 halves of padding a row. The next slice is read into
// registers while this one is multiplied, across taps too. Sums begin with the
// bias. Matrices have no elements in WGSL, so 16 x 16 of them at a time go through
// shared memory to `finish`. Workgroups walk RASTER row tiles together, rows first,
// so that neighbours share columns of w while the rows stay in the cache.
//
// With SPLIT the sums begin with zeros, and go to `out` as they are.
//
// Constraints: HALF; K a multiple of BK and at least BK; pitches and offsets of A
// even vec4s; no blocks (z = 1); a subgroup has LANES invocations. F is 16 or 8;
// FLAT puts scalars into shared memory, as Metal needs. bias is always bound: zeros
// where there is none, N rounded up to BN at the least.
// Every variable in shared memory is a multiple of 16 bytes: on NVIDIA's driver
// 580.159.04 an u32 shifted the matrices behind it by 8 bytes.
//
// What NVIDIA's driver 580.159.04 makes of it decides its form (H200, 2026-11-27;
// read from the pipeline cache's machine code):
// - A load whose value is used behind a branch is moved behind the branch, so loads
//   of the next slice that were stored at the top of the next turn were issued there,
//   and every slice waited for memory. Loads and stores are in one block now: 194 to
//   218 TFLOP/s at 2048x10240x1280, 128x128.
// - A struct of f16 is read 8 bytes at a time, a vec4<u32> 16: 218 to 250.
// - With a copy of the epilogue for each matrix a guided step at 1024x1024 took 85.9 ms,
//   with one 80.5; alone the same kernels gained 3 % (the sum over the tuning table). The
//   rest is probably code that kernels push out of each other's caches.
// In a step: 145 (128x160) to 229 TFLOP/s (128x128) for linear layers, 203 to 259 for
// convolutions, of the 637 that matrices reach from registers.
// Small tiles are bound by what comes from the cache: 64x64 to 128x128 all move 4.0 to
// 4.6 TB/s. docs/gpu.md has every figure. Rejected there: two stages (the stores are
// moved among the multiplications and wait: 156 for 250), loads two slices ahead in a
// second set of registers (0 to -12 %; 64x160 +4), touching weights 1 to 6 slices ahead
// (-5 %), read_write operands between storage barriers (164 for 250), 16 subgroups (the
// driver did not finish in 25 s), slices of 16 (19 to 31 %), scalars in shared memory
// (up to 9 %), RASTER of 4 or 16 for 64 (up to 6 %).
//
// By Mesa 26.1.6's compilers, BK 32, 2026-11-26, before these changes (nothing was run
// on these): registers, matrix instructions and shared loads a slice, waves a SIMD or
// warps a scheduler.
//   tile     RDNA3 navi31, 64 lanes    RDNA4 gfx1201, 64         GA102 (NVK), 32
//   128x128  192, 32 wmma, 64 b64, 8   132-144, 32, 16 b64, 8    248, 64 hmma, 16 ldsm, 8
//   128x160  192, 40, 72, 8            156-168, 40, 18, 8        200, 40, 14, 8
//   64x160   192, 20, 56, 8            108, 20, 14, 8            224, 40, 14, 8
//   128x80   120-192, 20, 56, 8-12     108-120, 20, 14, 12       216, 40, 14, 8
//   128x64   240-252, 32, 64, 6        156-168, 32, 16, 6        152-160, 32, 12, 12
//   64x64    144, 16, 48, 10           96, 16, 12, 10            120, 16, 8, 16
//   32x64    120, 8, 32, 12            72, 8, 8, 12              120-128, 16, 8, 16
//   256x160  -                         -                         255, 80, 18, 8
// No spill, but for 256x160 on GA102 (16, 17 with GATHER), which is NVIDIA's own
// driver's best at some shapes all the same. Intel offers no square matrices: no
// variant is made for it.

#import product
#import halves

const T: u32 = ${T}u;             // invocations
const U: u32 = ${BK}u / 8u;       // units of 8 values in a row of a slice
const RASTER: u32 = 64u;
#ifdef FLAT
const P: u32 = ${BK}u + 8u;       // elements from row to row
const S: u32 = 1u;                // halves of an element
var<workgroup> a_tile: array<f16, ${A_TILE}>;
var<workgroup> w_tile: array<f16, ${W_TILE}>;
var<workgroup> sums: array<f32, ${SUMS}>;  // 16 x 16 a subgroup

fn put_a(at: u32, unit: Unit8) {
    let x = halves(unit);
#repeat j 4
    a_tile[at + ${j}u] = x.lo[${j}];
    a_tile[at + 4u + ${j}u] = x.hi[${j}];
#end
}
fn put_w(at: u32, unit: Unit8) {
    let x = halves(unit);
#repeat j 4
    w_tile[at + ${j}u] = x.lo[${j}];
    w_tile[at + 4u + ${j}u] = x.hi[${j}];
#end
}
fn sum_at(at: u32) -> vec4<f32> {
    return vec4(sums[at], sums[at + 1u], sums[at + 2u], sums[at + 3u]);
}
#else
const P: u32 = ${BK}u / 4u + 2u;
const S: u32 = 4u;
var<workgroup> a_tile: array<vec4<f16>, ${A_TILE}>;
var<workgroup> w_tile: array<vec4<f16>, ${W_TILE}>;
var<workgroup> sums: array<vec4<f32>, ${SUMS}>;

fn put_a(at: u32, unit: Unit8) {
    let x = halves(unit);
    a_tile[at] = x.lo;
    a_tile[at + 1u] = x.hi;
}
fn put_w(at: u32, unit: Unit8) {
    let x = halves(unit);
    w_tile[at] = x.lo;
    w_tile[at + 1u] = x.hi;
}
fn sum_at(at: u32) -> vec4<f32> {
    return sums[at / 4u];
}
#endif

#ifdef GATHER
// Without a branch, behind which NVIDIA's driver would move the load. Outside the
// picture the place is 0.
fn load_a(place: vec2<u32>, k: u32) -> Unit8 {
    return a[place.x / 2u + k] & vec4(0u - place.y);
}
#endif

@compute @workgroup_size(${T})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) thread: u32, @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) lane: u32) {
    let tiles_m = (p.m + ${BM}u - 1u) / ${BM}u;
    let tiles_n = (8u * p.n8 + ${BN}u - 1u) / ${BN}u;
    let tile = group.y * grid.x + group.x;
    if tile >= tiles_m * tiles_n {
        return;
    }
    let walk = RASTER * tiles_n;
    let first = tile / walk * RASTER;
    let high = min(tiles_m - first, RASTER);
    let m0 = (first + tile % walk % high) * ${BM}u;
    let n0 = tile % walk / high * ${BN}u;
    let r0 = subgroup / ${WN}u * ${TM}u;
    let c0 = subgroup % ${WN}u * ${TN}u;
    // The units along K of this workgroup.
#ifdef SPLIT
    let begin = group.z * p.split;
    let depth = min(begin + p.split, p.taps * p.k8);
#else
    let begin = 0u;
    let depth = p.taps * p.k8;
#endif
    // What this invocation brings of a slice: AU units of A and WU of w.
#repeat i ${AU}
    let a_row${i} = (thread + ${i}u * T) / U;
    let a_k${i} = (thread + ${i}u * T) % U;
    let a_to${i} = a_row${i} * P + a_k${i} * (8u / S);
    let row${i} = min(m0 + a_row${i}, p.m - 1u);
#ifdef GATHER
    let pixel${i} = pixel(row${i});
    var patch${i} = patch_at(pixel${i}, begin / p.k8);
    var a${i} = load_a(patch${i}, begin % p.k8 + a_k${i});
#else
    let a_from${i} = (p.a_offset + row${i} * p.a_pitch) / 2u + a_k${i};
    var a${i} = a[a_from${i} + begin];
#endif
#end
#repeat i ${WU}
    let w_unit${i} = min(thread + ${i}u * T, ${BN}u * U - 1u);
    let w_row${i} = w_unit${i} % ${BN}u;
    let w_k${i} = w_unit${i} / ${BN}u;
    let w_to${i} = w_row${i} * P + w_k${i} * (8u / S);
    let w_from${i} = p.w_offset + column_at(n0 + w_row${i}) + w_k${i} * p.w_step;
    var w${i} = w[w_from${i} + begin * p.w_step];
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
    var tap = begin / p.k8;
    var k = begin % p.k8;
#endif
#repeat i ${AU}
    put_a(a_to${i}, a${i});
#end
#repeat i ${WU}
    put_w(w_to${i}, w${i});
#end
    workgroupBarrier();
    for (var s = begin + U; s < depth + U; s += U) {
        let next = min(s, depth - U);  // the last turn reads its own slice again
#ifdef GATHER
        k += U;
        if k == p.k8 {
            k = 0u;
            tap = min(tap + 1u, p.taps - 1u);
#repeat i ${AU}
            patch${i} = patch_at(pixel${i}, tap);
#end
        }
#repeat i ${AU}
        a${i} = load_a(patch${i}, k + a_k${i});
#end
#else
#repeat i ${AU}
        a${i} = a[a_from${i} + next];
#end
#endif
#repeat i ${WU}
        w${i} = w[w_from${i} + next * p.w_step];
#end
#repeat k ${KS}
        {
#repeat j ${BJ}
#repeat v ${Q}
            let yp${j}_${v} = (c0 + ${j}u * 16u + ${v}u * ${F}u) * P + ${k}u * ${F}u / S;
            let y${j}_${v} = coopLoad<coop_mat${F}x${F}<f16, B>>(&w_tile[yp${j}_${v}], P);
#end
#end
#repeat i ${BI}
#repeat u ${Q}
            let xp${i}_${u} = (r0 + ${i}u * 16u + ${u}u * ${F}u) * P + ${k}u * ${F}u / S;
            let x${i}_${u} = coopLoadT<coop_mat${F}x${F}<f16, A>>(&a_tile[xp${i}_${u}], P);
#repeat j ${BJ}
#repeat v ${Q}
            c${i}_${u}_${j}_${v} = coopMultiplyAdd(x${i}_${u}, y${j}_${v}, c${i}_${u}_${j}_${v});
#end
#end
#end
#end
        }
#end
        workgroupBarrier();
#repeat i ${AU}
        put_a(a_to${i}, a${i});
#end
#repeat i ${WU}
        put_w(w_to${i}, w${i});
#end
        workgroupBarrier();
    }
#ifdef SPLIT
    // A name for it, since naga 30 does not emit a load in this place.
    let pitch = p.o_pitch;
#repeat i ${BI}
#repeat j ${BJ}
#repeat u ${Q}
#repeat v ${Q}
    {
        let row = group.z * tiles_m * ${BM}u + m0 + r0 + ${i}u * 16u + ${u}u * ${F}u;
        let to = row * pitch + (n0 + c0 + ${j}u * 16u + ${v}u * ${F}u) / 4u;
        coopStoreT(c${i}_${u}_${j}_${v}, &out[to], pitch);
    }
#end
#end
#end
#end
#else
    // One copy of the epilogue for all matrices of 16 x 16: compilers make one for each
    // where they know the number.
    let matrices = select(0u, ${BI}u * ${BJ}u, p.m > 0u);
    for (var f = 0u; f < matrices; f++) {
#repeat i ${BI}
#repeat j ${BJ}
        if f == ${i}u * ${BJ}u + ${j}u {
#repeat u ${Q}
#repeat v ${Q}
            let to${u}_${v} = (subgroup * 256u + ${u}u * ${F}u * 16u + ${v}u * ${F}u) / S;
            coopStoreT(c${i}_${u}_${j}_${v}, &sums[to${u}_${v}], 16u / S);
#end
#end
        }
#end
#end
        workgroupBarrier();
        // 16 rows of two groups of 8 columns.
        for (var e = lane; e < 32u; e += ${LANES}u) {
            let row = m0 + r0 + f / ${BJ}u * 16u + e / 2u;
            let n8 = (n0 + c0) / 8u + f % ${BJ}u * 2u + e % 2u;
            if row < p.m && n8 < p.n8 {
                let at = subgroup * 256u + e * 8u;
                finish(row, n8, 0u, Eight(sum_at(at), sum_at(at + 4u)));
            }
        }
        workgroupBarrier();
    }
#endif
}
