// The product without shared memory, for CPU adapters. See product.wgsl for
// bindings, shapes and constraints.
//
// A workgroup of 8 invocations makes R rows x 64 columns: each invocation owns
// 8 columns, and all of them read the same R rows of A. On lavapipe a load from
// an address that all lanes share is one scalar load and a broadcast, while a
// load from differing addresses is one branch a lane, so the wide operand is
// the one that differs and each of its values serves R rows. With NARROW, for
// outputs of a few channels, the invocations share columns and differ in rows.
//
// What keeps it from the peak are its loads, each of which lavapipe makes into code for
// every lane: with A from registers it takes 0.36 of the time, with the weights 0.57, with
// both 0.135, which is the rate of `calotype bench peaks` (`calotype bench ab '-o linear
// --shape 64x640x1280 --storage "f32 w f32"'` and the same with `--shaders`, 2026-11-27).
//
// Measured on lavapipe (Mesa 22.3.6, AVX2 lanes of 8, 2026-11-26), a UNet forward of
// 128x128 pixels (bench --model random:sdxl-base --batch 1 --dtype f16 --activations
// f32), processor seconds, interleaved: weights as they lay before, [N/64][K][64], and
// 8 rows 9.6, 9.3; these weights, 16 rows 9.3, 9.3. Rejected: 8 rows 10.5, 12 rows
// 12.8, eights of K taken in two halves 10.5 (8 rows). With the epilogue as a loop over the
// rows, not as so many copies, a pipeline takes 0.03 to 0.15 s before its first use, not 0.06
// to 0.37 s, all of the first picture on an empty shader cache 9.6 processor seconds, not
// 20.4, and a step of the embedded model takes 0.84 to 0.95 of the time (2026-11-27,
// CALOTYPE_LOG=calotype::gpu=debug calotype generate; bench model --sizes 128, interleaved,
// busy machine).
// For 3 output channels (VAE, 128x128x128) NARROW makes 6.8 to 7.8 GFLOP/s on
// two idle cores; without it 0.4 to 0.5 were seen on two busy ones.

#import product

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
#ifdef NARROW
    let m0 = (group.x * 8u + local.x) * ${R}u;
    let n8 = group.y;
#else
    let m0 = group.x * ${R}u;
    let n8 = group.y * 8u + local.x;
#endif
    let z = group.z;
    let w_base = p.w_offset + batch_offset(z, p.w_batch, p.w_head);
#repeat c 8
    let column${c} = w_base + column_at(8u * n8 + ${c}u);
#end
#repeat r ${R}
    let row${r} = min(m0 + ${r}u, p.m - 1u);
    var lo${r} = vec4(0.0);
    var hi${r} = vec4(0.0);
#end
#ifdef GATHER
#repeat r ${R}
    let pixel${r} = pixel(row${r});
#end
#else
    let first = p.a_offset + batch_offset(z, p.a_batch, p.a_head);
#repeat r ${R}
    let at${r} = first + row${r} * p.a_pitch;
#end
#endif
    for (var tap = 0u; tap < p.taps; tap++) {
#ifdef GATHER
#repeat r ${R}
        let patch${r} = patch_at(pixel${r}, tap);
        let at${r} = patch${r}.x;
        let within${r} = patch${r}.y != 0u;
#end
#endif
        for (var k8 = 0u; k8 < p.k8; k8++) {
            let step = (tap * p.k8 + k8) * p.w_step;
#repeat c 8
            let w${c} = split(w[column${c} + step]);
#end
            // Beyond the last vec4 of A all weights are zero.
            let k0 = 2u * k8;
            let k1 = min(k0 + 1u, p.k4 - 1u);
#repeat j 4
            let p${j} = vec4(w0.lo[${j}], w1.lo[${j}], w2.lo[${j}], w3.lo[${j}]);
            let q${j} = vec4(w4.lo[${j}], w5.lo[${j}], w6.lo[${j}], w7.lo[${j}]);
            let s${j} = vec4(w0.hi[${j}], w1.hi[${j}], w2.hi[${j}], w3.hi[${j}]);
            let t${j} = vec4(w4.hi[${j}], w5.hi[${j}], w6.hi[${j}], w7.hi[${j}]);
#end
#repeat r ${R}
            {
#ifdef GATHER
                let x = select(vec4(0.0), widen(a[at${r} + select(0u, k0, within${r})]), within${r});
                let y = select(vec4(0.0), widen(a[at${r} + select(0u, k1, within${r})]), within${r});
#else
                let x = widen(a[at${r} + k0]);
                let y = widen(a[at${r} + k1]);
#endif
                lo${r} = fma(vec4(x.w), p3, fma(vec4(x.z), p2, fma(vec4(x.y), p1, fma(vec4(x.x), p0, lo${r}))));
                hi${r} = fma(vec4(x.w), q3, fma(vec4(x.z), q2, fma(vec4(x.y), q1, fma(vec4(x.x), q0, hi${r}))));
                lo${r} = fma(vec4(y.w), s3, fma(vec4(y.z), s2, fma(vec4(y.y), s1, fma(vec4(y.x), s0, lo${r}))));
                hi${r} = fma(vec4(y.w), t3, fma(vec4(y.z), t2, fma(vec4(y.y), t1, fma(vec4(y.x), t0, hi${r}))));
            }
#end
        }
    }
    // A loop: the epilogue is long, and was most of what there was to compile.
    var lo: array<vec4<f32>, ${R}>;
    var hi: array<vec4<f32>, ${R}>;
#repeat r ${R}
    lo[${r}] = lo${r};
    hi[${r}] = hi${r};
#end
    if n8 < p.n8 {
        for (var r = 0u; r < ${R}u && m0 + r < p.m; r++) {
            finish(m0 + r, n8, z, Eight(lo[r], hi[r]));
        }
    }
}
