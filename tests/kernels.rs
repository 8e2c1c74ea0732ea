use calotype::gpu::{AdapterChoice, Gpu};
use calotype::kernel::product::*;
use calotype::kernel::*;
use std::sync::Arc;
fn upload(gpu: &Arc<Gpu>, b: &[u8]) -> View {
    let buf = Arc::new(gpu.buffer("t", b.len() as u64).unwrap());
    gpu.upload(&buf, b).unwrap();
    View::whole(&buf)
}
fn rnd(n: usize, seed: u64) -> Vec<f32> {
    let mut s = seed * 7919 + 1;
    (0..n)
        .map(|_| {
            s = s
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            ((s >> 40) as f32) / 16777216.0 - 0.5
        })
        .collect()
}
fn tensor(gpu: &Arc<Gpu>, st: Storage, shape: [usize; 4], v: &[f32]) -> Tensor {
    let [n, h, w, c] = shape;
    let p = c.next_multiple_of(4);
    let mut o = vec![0f32; n * h * w * p];
    for r in 0..n * h * w {
        o[r * p..r * p + c].copy_from_slice(&v[r * c..][..c]);
    }
    Tensor::new(upload(gpu, &st.encode(&o)), st, shape)
}
fn read(gpu: &Arc<Gpu>, t: &Tensor) -> Vec<f32> {
    let d = t
        .storage
        .decode(&gpu.download(&t.view.buffer, 0, t.view.size).unwrap());
    let p = t.pitch * 4;
    (0..t.rows())
        .flat_map(|r| d[r * p..r * p + t.c].to_vec())
        .collect()
}
fn rel(a: &[f32], b: &[f32]) -> f64 {
    let d: f64 = a.iter().zip(b).map(|(x, y)| ((x - y) as f64).powi(2)).sum();
    let n: f64 = b.iter().map(|x| (*x as f64).powi(2)).sum();
    (d / n).sqrt()
}
#[test]
fn smoke() {
    let gpu = Gpu::open(&AdapterChoice::default()).unwrap();
    let none = Arc::new(gpu.buffer("none", 256).unwrap());
    for direct in [true, false] {
        let tuning = Tuning { direct };
        for (st, ws) in [
            (Storage::F32, WeightStorage::F32),
            (Storage::F32, WeightStorage::F16),
            (Storage::F16, WeightStorage::F16),
        ] {
            for (shape, co, taps, conv) in [
                (
                    [1, 5, 7, 12],
                    20,
                    9,
                    Some(Conv {
                        stride: 1,
                        pad: 1,
                        upsample: false,
                    }),
                ),
                (
                    [2, 6, 9, 3],
                    70,
                    9,
                    Some(Conv {
                        stride: 2,
                        pad: 1,
                        upsample: false,
                    }),
                ),
                (
                    [1, 4, 3, 33],
                    5,
                    9,
                    Some(Conv {
                        stride: 1,
                        pad: 1,
                        upsample: true,
                    }),
                ),
                ([2, 77, 1, 130], 200, 1, None),
                (
                    [1, 8, 8, 64],
                    64,
                    1,
                    Some(Conv {
                        stride: 1,
                        pad: 0,
                        upsample: false,
                    }),
                ),
            ] {
                let [n, h, w, c] = shape;
                let up = conv.is_some_and(|c| c.upsample) as usize;
                let s = conv.map_or(1, |c| c.stride);
                let pad = conv.map_or(0, |c| c.pad);
                let k = if taps == 9 { 3 } else { 1 };
                let (oh, ow) = (
                    ((h << up) + 2 * pad - k) / s + 1,
                    ((w << up) + 2 * pad - k) / s + 1,
                );
                let q = |v: Vec<f32>| -> Vec<f32> {
                    v.into_iter()
                        .map(|x| half::f16::from_f32(x).to_f32())
                        .collect()
                };
                let x = q(rnd(n * h * w * c, 1));
                let wt = q(rnd(taps * c * co, 2));
                let a = tensor(&gpu, st, shape, &x);
                let wv = upload(
                    &gpu,
                    &pack(ws, [taps, c, co], |t, i, j| wt[(t * c + i) * co + j]),
                );
                let weight = Weight::packed(wv, ws, taps, c, co);
                let out = tensor(&gpu, st, [n, oh, ow, co], &vec![0.0; n * oh * ow * co]);
                let p = Product {
                    a: &a,
                    weight: &weight,
                    out: &out,
                    conv,
                    blocks: None,
                    epilogue: Default::default(),
                    rows: None,
                };
                let prog =
                    Program::new(&gpu, dispatches(&gpu, tuning, &none, &p).unwrap()).unwrap();
                prog.run(&gpu).unwrap();
                let e = if let Some(cv) = conv {
                    twin_conv(&x, shape, &wt, [taps, co], cv, [oh, ow])
                } else {
                    twin_linear(&x, &wt, [n * h * w, c, co])
                };
                let r = rel(&read(&gpu, &out), &e);
                println!("{direct} {st:?} {ws:?} {shape:?} {r:e}");
                assert!(r < if st == Storage::F16 { 5e-3 } else { 1e-5 });
            }
            for (d, heads, q, kk, causal) in [
                (64, 2, 77, 77, true),
                (64, 1, 100, 33, false),
                (32, 2, 20, 20, false),
                (512, 1, 50, 50, false),
            ] {
                let c = heads * d;
                let (a, b, v) = (rnd(2 * q * c, 1), rnd(2 * kk * c, 2), rnd(2 * kk * c, 3));
                let (ta, tb, tv) = (
                    tensor(&gpu, st, [2, q, 1, c], &a),
                    tensor(&gpu, st, [2, kk, 1, c], &b),
                    tensor(&gpu, st, [2, kk, 1, c], &v),
                );
                let out = tensor(&gpu, st, [2, q, 1, c], &vec![0.0; 2 * q * c]);
                let sc = attention::scratch_bytes(tuning, st, [2, q, kk], [heads, d])
                    .map(|s| s.map(|b| View::whole(&Arc::new(gpu.buffer("s", b).unwrap()))));
                let at = attention::Attention {
                    q: &ta,
                    k: &tb,
                    v: &tv,
                    out: &out,
                    heads,
                    causal,
                    scratch: sc.as_ref().map(|[x, y]| [x, y]),
                };
                Program::new(&gpu, at.dispatches(&gpu, tuning, &none).unwrap())
                    .unwrap()
                    .run(&gpu)
                    .unwrap();
                let r = rel(
                    &read(&gpu, &out),
                    &attention::twin([&a, &b, &v], [2, q, kk], [heads, d], causal),
                );
                println!("attn {direct} {st:?} {d} {r:e}");
                assert!(r < if st == Storage::F16 { 5e-3 } else { 1e-5 });
            }
            for (n, h, w, c, g) in [(2, 5, 7, 32, 8), (1, 40, 33, 30, 3), (2, 16, 16, 320, 32)] {
                let x: Vec<f32> = rnd(n * h * w * c, 4).iter().map(|v| v + 3.0).collect();
                let (ga, be) = (rnd(c, 5), rnd(c, 6));
                let tx = tensor(&gpu, st, [n, h, w, c], &x);
                let ty = tensor(&gpu, st, [n, h, w, c], &vec![0.0; n * h * w * c]);
                let [a, b] = norm::scratch_bytes([n, h, w, c])
                    .map(|b| View::whole(&Arc::new(gpu.buffer("s", b).unwrap())));
                let pd = |v: &[f32]| {
                    let mut v = v.to_vec();
                    v.resize(c.next_multiple_of(4), 0.0);
                    upload(&gpu, bytemuck::cast_slice(&v))
                };
                let (gv, bv) = (pd(&ga), pd(&be));
                let gn = norm::GroupNorm {
                    x: &tx,
                    y: &ty,
                    gamma: &gv,
                    beta: &bv,
                    groups: g,
                    eps: 1e-5,
                    activation: Activation::Silu,
                    stats: &a,
                    affine: &b,
                };
                Program::new(&gpu, gn.dispatches(&gpu, tuning).unwrap())
                    .unwrap()
                    .run(&gpu)
                    .unwrap();
                let r = rel(
                    &read(&gpu, &ty),
                    &norm::twin_group_norm(&x, [n, h * w, c], &ga, &be, g, 1e-5, Activation::Silu),
                );
                println!("gn {direct} {st:?} {c} {r:e}");
                assert!(r < if st == Storage::F16 { 5e-3 } else { 1e-5 });
            }
        }
    }
}
