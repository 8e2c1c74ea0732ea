// The product through shared memory, for GPUs. See product.wgsl for bindings,
// shapes and constraints.
//
// A workgroup of WX x WY invocations makes a tile of 8 WY rows x 8 WX columns,
// each invocation 8 x 8 of it, in slices of 16 along K. A is transposed on its
// way into shared memory, so that both operands are read as vec4s. WX >= 8:
// then each invocation loads at most one 4x4 block of A a slice, whose pixels
// are worked out once. Shared memory: 512 (WX + WY) bytes. The low and the high
// halves of the columns lie apart, so that neighbouring invocations read
// neighbouring vec4s.
//
// On an NVIDIA H200 (docs/gpu.md) 19 to 34 TFLOP/s at SDXL's shapes; on lavapipe it is the slower variant (see
// product_direct.wgsl).

#import product

override WX: u32 = 8u;
override WY: u32 = 8u;

var<workgroup> a_tile: array<vec4<f32>, 32u * WY>;  // [16][2 WY] vec4s of rows
var<workgroup> w_tile: array<vec4<f32>, 32u * WX>;  // [16][lo and hi halves][WX]

@compute @workgroup_size(WX, WY)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let z = group.z;
    let m0 = group.x * 8u * WY;
    let g0 = group.y * WX;
    // This invocation's 4x4 block of A: rows 4 quad .. 4 quad + 3, vec4 `slot`.
    let quad = thread / 4u;
    let slot = thread % 4u;
    let loads_a = quad < 2u * WY;
#ifdef GATHER
#repeat j 4
    let pixel${j} = pixel(min(m0 + 4u * quad + ${j}u, p.m - 1u));
#end
#else
    let a0 = p.a_offset + batch_offset(z, p.a_batch, p.a_head);
#repeat j 4
    let at${j} = a0 + min(m0 + 4u * quad + ${j}u, p.m - 1u) * p.a_pitch;
#end
#endif
    let w_base = p.w_offset + batch_offset(z, p.w_batch, p.w_head);
#repeat r 8
    var lo${r} = vec4(0.0);
    var hi${r} = vec4(0.0);
#end
    for (var tap = 0u; tap < p.taps; tap++) {
#ifdef GATHER
#repeat j 4
        let patch${j} = patch_at(pixel${j}, tap);
        let at${j} = patch${j}.x;
#end
#endif
        let w_tap = w_base + tap * p.k_rows * p.w_pitch;
        for (var slice = 0u; slice < p.k4; slice += 4u) {
            workgroupBarrier();
            if loads_a {
                let k = slice + slot;
                let live = k < p.k4;
#repeat j 4
                var x${j} = vec4(0.0);
#ifdef GATHER
                if live && patch${j}.y != 0u {
#else
                if live {
#endif
                    x${j} = widen(a[at${j} + k]);
                }
#end
                let block = transpose(mat4x4<f32>(x0, x1, x2, x3));
#repeat j 4
                a_tile[(4u * slot + ${j}u) * 2u * WY + quad] = block[${j}];
#end
            }
            for (var unit = thread; unit < 16u * WX; unit += WX * WY) {
                let k = unit / WX;
                let column = unit % WX;
                let row = min(4u * slice + k, p.k_rows - 1u);
                let x = weights(w_tap + row * p.w_pitch + panel_at(min(g0 + column, p.n8 - 1u)));
                w_tile[k * 2u * WX + column] = x.lo;
                w_tile[(k * 2u + 1u) * WX + column] = x.hi;
            }
            workgroupBarrier();
            for (var k = 0u; k < 16u; k++) {
                let a_lo = a_tile[(k * WY + local.y) * 2u];
                let a_hi = a_tile[(k * WY + local.y) * 2u + 1u];
                let w_lo = w_tile[k * 2u * WX + local.x];
                let w_hi = w_tile[(k * 2u + 1u) * WX + local.x];
#repeat r 4
                lo${r} = fma(vec4(a_lo[${r}]), w_lo, lo${r});
                hi${r} = fma(vec4(a_lo[${r}]), w_hi, hi${r});
#end
                lo4 = fma(vec4(a_hi[0]), w_lo, lo4);
                hi4 = fma(vec4(a_hi[0]), w_hi, hi4);
                lo5 = fma(vec4(a_hi[1]), w_lo, lo5);
                hi5 = fma(vec4(a_hi[1]), w_hi, hi5);
                lo6 = fma(vec4(a_hi[2]), w_lo, lo6);
                hi6 = fma(vec4(a_hi[2]), w_hi, hi6);
                lo7 = fma(vec4(a_hi[3]), w_lo, lo7);
                hi7 = fma(vec4(a_hi[3]), w_hi, hi7);
            }
        }
    }
    let n8 = g0 + local.x;
    if n8 < p.n8 {
#repeat r 8
        {
            let row = m0 + 8u * local.y + ${r}u;
            if row < p.m {
                finish(row, n8, z, Eight(lo${r}, hi${r}));
            }
        }
#end
    }
}
