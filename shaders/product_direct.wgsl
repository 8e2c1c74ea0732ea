// The product without shared memory, for CPU adapters. See product.wgsl for
// bindings, shapes and constraints.
//
// A workgroup of 8 invocations makes R rows x 64 columns: each invocation owns
// 8 columns, and all of them need the same R rows of A. Inside of a loop lavapipe 22.3.6
// makes every load into one branch a lane, uniform or not (read from its machine code), so
// with SHARED each lane of a subgroup loads another row, and all take it by broadcast; subgroups have LANES
// invocations then, which divide 8 and R. With NARROW, for outputs of a few channels,
// the invocations share columns and differ in rows.
//
// Measured on lavapipe (Mesa 22.3.6, AVX2 lanes of 8), 2026-11-28, interleaved with
// Direct, `calotype bench kernels -o conv --shape 1x128x128x32x32 --storage "f32 w f16"
// --variant direct` and so on, milliseconds, two runs on a busy machine:
//   conv 3x3  1x128x128x32->32   70, 73    to 36, 35
//             1x64x64x64->64     33, 39    to 12, 18
//             1x32x32x320->320   182, 107  to 63, 62
//   linear    256x640->640       22, 25    to 9.2, 11
//             77x768->768        9.4, 9.2  to 3.4, 5.2
//             4096x64->64        3.9, 5.3  to 3.0, 6.6
//             128x64->512        1.7, 1.6  to 1.9, 0.9
// Mesa 26.1.6's: 1x64x64x64->64 22 to 10, 256x640->640 13 to 7.9; SwiftShader (subgroups of
// 4): 156 to 147, 108 to 82.
// Rejected with it: 24 and 32 rows (0.4 to 0.8 of the rate for convolutions, 0.5 to 2.0 for
// linear layers), and for layers of 32 columns two groups of rows side by side, whose
// shuffles cost what the idle lanes do (0.6 to 1.2).
//
// Before it (2026-11-26, a UNet forward of 128x128 pixels, bench --model random:sdxl-base
// --batch 1 --dtype f16 --activations f32, processor seconds, interleaved): weights
// [N/64][K][64] and 8 rows 9.6, 9.3; these weights, 16 rows 9.3, 9.3. Rejected: 8 rows
// 10.5, 12 rows 12.8, eights of K taken in two halves 10.5 (8 rows). With the epilogue as a
// loop over the rows, not as so many copies, a pipeline takes 0.03 to 0.15 s before its first
// use, not 0.06 to 0.37 s, all of the first picture on an empty shader cache 9.6 processor
// seconds, not 20.4, and a step of the embedded model takes 0.84 to 0.95 of the time
// (2026-11-27, CALOTYPE_LOG=calotype::gpu=debug calotype generate; bench model --sizes 128,
// interleaved, busy machine).
// For 3 output channels (VAE, 128x128x128) NARROW makes 6.8 to 7.8 GFLOP/s on
// two idle cores; without it 0.4 to 0.5 were seen on two busy ones.

#import product

@compute @workgroup_size(8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
#ifdef SHARED
    @builtin(subgroup_invocation_id) lane: u32,
#endif
) {
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
    // The rows that this invocation loads: one of each LANES.
#ifdef SHARED
    let m1 = m0 + lane;
#else
    let m1 = m0;
#endif
#repeat l ${LOADS}
    let row${l} = min(m1 + ${l}u * ${LANES}u, p.m - 1u);
#repeat q ${LANES}
    var lo${l}_${q} = vec4(0.0);
    var hi${l}_${q} = vec4(0.0);
#end
#end
#ifdef GATHER
#repeat l ${LOADS}
    let pixel${l} = pixel(row${l});
#end
#else
    let first = p.a_offset + batch_offset(z, p.a_batch, p.a_head);
#repeat l ${LOADS}
    let at${l} = first + row${l} * p.a_pitch;
#end
#endif
    for (var tap = 0u; tap < p.taps; tap++) {
#ifdef GATHER
#repeat l ${LOADS}
        let patch${l} = patch_at(pixel${l}, tap);
        let at${l} = patch${l}.x;
        let within${l} = patch${l}.y != 0u;
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
#repeat l ${LOADS}
#ifdef GATHER
            let x${l} = select(vec4(0.0), widen(a[at${l} + select(0u, k0, within${l})]), within${l});
            let y${l} = select(vec4(0.0), widen(a[at${l} + select(0u, k1, within${l})]), within${l});
#else
            let x${l} = widen(a[at${l} + k0]);
            let y${l} = widen(a[at${l} + k1]);
#endif
#repeat q ${LANES}
            {
#ifdef SHARED
                let x = subgroupBroadcast(x${l}, ${q}u);
                let y = subgroupBroadcast(y${l}, ${q}u);
#else
                let x = x${l};
                let y = y${l};
#endif
                lo${l}_${q} = fma(vec4(x.w), p3, fma(vec4(x.z), p2, fma(vec4(x.y), p1, fma(vec4(x.x), p0, lo${l}_${q}))));
                hi${l}_${q} = fma(vec4(x.w), q3, fma(vec4(x.z), q2, fma(vec4(x.y), q1, fma(vec4(x.x), q0, hi${l}_${q}))));
                lo${l}_${q} = fma(vec4(y.w), s3, fma(vec4(y.z), s2, fma(vec4(y.y), s1, fma(vec4(y.x), s0, lo${l}_${q}))));
                hi${l}_${q} = fma(vec4(y.w), t3, fma(vec4(y.z), t2, fma(vec4(y.y), t1, fma(vec4(y.x), t0, hi${l}_${q}))));
            }
#end
#end
        }
    }
    // A loop: the epilogue is long, and was most of what there was to compile.
    var lo: array<vec4<f32>, ${R}>;
    var hi: array<vec4<f32>, ${R}>;
#repeat l ${LOADS}
#repeat q ${LANES}
    lo[${l}u * ${LANES}u + ${q}u] = lo${l}_${q};
    hi[${l}u * ${LANES}u + ${q}u] = hi${l}_${q};
#end
#end
    if n8 < p.n8 {
        for (var r = 0u; r < ${R}u && m0 + r < p.m; r++) {
            finish(m0 + r, n8, z, Eight(lo[r], hi[r]));
        }
    }
}
