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
// MEASURED

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
    let w_base = p.w_offset + batch_offset(z, p.w_batch, p.w_head);
#repeat r 8
    let row${r} = min(m0 + ${r}u, p.m - 1u);
    let column${r} = w_base + column_at(8u * n8 + ${r}u);
    var lo${r} = vec4(0.0);
    var hi${r} = vec4(0.0);
#end
#ifdef GATHER
#repeat r 8
    let pixel${r} = pixel(row${r});
#end
#else
    let first = p.a_offset + batch_offset(z, p.a_batch, p.a_head);
#repeat r 8
    let at${r} = first + row${r} * p.a_pitch;
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
#repeat r 8
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
    if n8 < p.n8 {
#repeat r 8
        if m0 + ${r}u < p.m {
            finish(m0 + ${r}u, n8, z, Eight(lo${r}, hi${r}));
        }
#end
    }
}
