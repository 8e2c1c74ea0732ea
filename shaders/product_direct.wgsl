// The product without shared memory, for CPU adapters. See product.wgsl for
// bindings, shapes and constraints.
//
// A workgroup of 8 invocations makes 8 rows x 64 columns: each invocation owns
// 8 columns, and all of them read the same 8 rows of A. On lavapipe a load from
// an address that all lanes share is one scalar load and a broadcast, while a
// load from differing addresses is one branch a lane, so the wide operand is
// the one that differs and each of its values serves 8 rows. With NARROW, for
// outputs of a few channels, the invocations share columns and differ in rows.
//
// Measured on lavapipe (Mesa 22.3.6, AVX2 lanes of 8), 256x640x1280, GFLOP per
// CPU-second: 8 rows x 8 columns 9.0 with f32 weights, 11.0 with packed f16;
// 16 x 8 10.5 and 12.7 but twice the compile time and worse tails; 8 x 4 7.1;
// 4 x 16 6.9. Lanes along rows instead: 2.5 to 6.6 (f32), 10.1 (f16, 8 x 8).
// For 3 output channels (VAE, 128x128x128) NARROW makes 6.8 to 7.8 GFLOP/s on
// two idle cores; without it 0.4 to 0.5 were seen on two busy ones.

#import product

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
#ifdef NARROW
    let m0 = (group.x * 8u + local.x) * 8u;
    let n8 = group.y;
#else
    let m0 = group.x * 8u;
    let n8 = group.y * 8u + local.x;
#endif
    let z = group.z;
    let w_base = p.w_offset + batch_offset(z, p.w_batch, p.w_head) + panel_at(min(n8, p.n8 - 1u));
#repeat r 8
    let row${r} = min(m0 + ${r}u, p.m - 1u);
    var lo${r} = vec4(0.0);
    var hi${r} = vec4(0.0);
#end
#ifdef GATHER
#repeat r 8
    let pixel${r} = pixel(row${r});
#end
#else
    let a0 = p.a_offset + batch_offset(z, p.a_batch, p.a_head);
#repeat r 8
    let at${r} = a0 + row${r} * p.a_pitch;
#end
#endif
    for (var tap = 0u; tap < p.taps; tap++) {
#ifdef GATHER
#repeat r 8
        let patch${r} = patch_at(pixel${r}, tap);
        let at${r} = patch${r}.x;
        let within${r} = patch${r}.y != 0u;
#end
#endif
        let w_tap = w_base + tap * p.k_rows * p.w_pitch;
        for (var k = 0u; k < p.k4; k++) {
#repeat q 4
            let w${q} = weights(w_tap + min(4u * k + ${q}u, p.k_rows - 1u) * p.w_pitch);
#end
#repeat r 8
            {
#ifdef GATHER
                let x = select(vec4(0.0), widen(a[at${r} + select(0u, k, within${r})]), within${r});
#else
                let x = widen(a[at${r} + k]);
#endif
                lo${r} = fma(vec4(x.w), w3.lo, fma(vec4(x.z), w2.lo, fma(vec4(x.y), w1.lo, fma(vec4(x.x), w0.lo, lo${r}))));
                hi${r} = fma(vec4(x.w), w3.hi, fma(vec4(x.z), w2.hi, fma(vec4(x.y), w1.hi, fma(vec4(x.x), w0.hi, hi${r}))));
            }
#end
        }
    }
    if n8 < p.n8 {
#repeat r 8
        if m0 + ${r}u < p.m {
            finish(m0 + ${r}u, n8, z, Eight(lo${r}, hi${r}));
        }
#end
    }
}
