//! Shaders run without bounds checks, so no call may be accepted that asks for more than
//! its views hold: it is an error that calls itself a bug.

use crate::common::{CAP, capped, device, storages};
use calotype::Error;
use calotype::Result;
use calotype::gpu::Buffer;
use calotype::kernel::attention::{self, Attention, transpose};
use calotype::kernel::latent::{
    Row, SLOTS, STORES, Share, State, StepValues, Weighed, guidance, input, mask, rescale,
    threshold, update,
};
use calotype::kernel::norm::{self, GroupNorm, Mask, layer_norm, softmax};
use calotype::kernel::product::{self, Conv, Epilogue, Layout, Product, Weight, WeightStorage};
use calotype::kernel::sinusoid::{self, Sinusoid};
use calotype::kernel::{Activation, Dispatch, Mode, Program, Storage, Tensor, View, layout, map};
use std::sync::Arc;

const F32: Storage = Storage::F32;
const STEP: u64 = size_of::<StepValues>() as u64;

/// A view of `bytes` into a larger buffer.
fn view(bytes: u64) -> View {
    device().view(&vec![0; bytes as usize])
}

fn tensor(view: &View, shape: [usize; 4]) -> Tensor {
    Tensor::new(view.clone(), F32, shape)
}

fn halves(view: &View, shape: [usize; 4]) -> Tensor {
    Tensor::new(view.clone(), Storage::F16, shape)
}

/// Fails unless `result` is an error that says whose mistake it is.
fn assert_bug<T>(result: Result<T>, what: &str) {
    match result {
        Ok(_) => panic!("{what}: accepted"),
        Err(e @ Error::Internal { .. }) => {
            let text = e.to_string();
            assert!(text.contains("bug") && !text.contains("smaller"), "{text}");
        }
        Err(other) => panic!("{what}: {other}"),
    }
}

type Make = Box<dyn Fn(&[View]) -> Result<Vec<Dispatch>>>;

/// A call of a kernel's function over views of exactly the bytes that it needs.
struct Call {
    name: &'static str,
    bytes: Vec<u64>,
    make: Make,
}

fn call(
    name: &'static str,
    bytes: &[u64],
    make: impl Fn(&[View]) -> Result<Vec<Dispatch>> + 'static,
) -> Call {
    Call {
        name,
        bytes: bytes.to_vec(),
        make: Box::new(make),
    }
}

fn one(dispatch: Result<Dispatch>) -> Result<Vec<Dispatch>> {
    Ok(vec![dispatch?])
}

fn latent_calls(mode: Mode) -> Vec<Call> {
    // Two pictures of 6 pixels, 4 channels: 12 vec4s.
    let shape = [2, 3, 2, 4];
    vec![
        call("input", &[192, 384, STEP, 2 * 576], move |v| {
            let x = tensor(&v[0], shape);
            let y = tensor(&v[3], [4, 3, 2, 12]);
            one(input(mode, &x, &v[1], &v[2], &y))
        }),
        call("guidance", &[192, 288, STEP, 192], move |v| {
            let (u, t) = (tensor(&v[0], shape), tensor(&v[1], [3, 3, 2, 4]));
            one(guidance(
                mode,
                Some((&u, 0)),
                (&t, 1),
                Weighed::ALONE,
                2,
                &v[2],
                &v[3],
            ))
        }),
        call("rescale", &[288, STEP, 192], move |v| {
            one(rescale((&tensor(&v[0], [3, 3, 2, 4]), 1), 2, &v[1], &v[2]))
        }),
        call("update", &[192, 192, STEP], move |v| {
            let (noise, history) = (view(16), view(16));
            let state = State {
                sample: &v[0],
                output: &v[1],
                noise: &noise,
                history: &history,
            };
            one(update(mode, &state, &v[2], 12, Share::Whole))
        }),
        call("threshold", &[192, STEP], |v| {
            one(threshold(&v[0], &v[1], 2, 6))
        }),
        call("mask", &[192, 192, 192, 24, STEP], move |v| {
            let x = tensor(&v[0], shape);
            one(mask(mode, &x, [&v[1], &v[2], &v[3]], &v[4]))
        }),
    ]
}

fn row_calls(mode: Mode) -> Vec<Call> {
    let shape = [2, 5, 3, 12];
    let bytes = 30 * 48;
    let [stats, affine] = norm::scratch_bytes(mode, shape);
    let group_norm = move |v: &[View], only: bool| {
        let norm = GroupNorm {
            x: &tensor(&v[0], shape),
            y: &tensor(&v[1], shape),
            gamma: &v[2],
            beta: &v[3],
            groups: 4,
            eps: 1e-5,
            activation: Activation::Silu,
            stats: &v[4],
            affine: &v[5],
        };
        match only {
            true => norm.apply_only(&device().gpu, mode),
            false => norm.dispatches(&device().gpu, mode),
        }
    };
    let half = call("softmax to f16", &[bytes, bytes / 2], move |v| {
        let mask = Mask {
            count: 11,
            rows_per_head: 15,
            first: 0,
            causal: true,
        };
        let scores = tensor(&v[0], shape);
        let weights = halves(&v[1], shape);
        one(softmax(mode, &scores, Some(&weights), mask))
    });
    let halves = storages().contains(&Storage::F16).then_some(half);
    let mut calls = vec![
        call(
            "group norm",
            &[bytes, bytes, 48, 48, stats, affine],
            move |v| group_norm(v, false),
        ),
        call("layer norm", &[bytes, bytes, 48, 48], move |v| {
            let (x, y) = (tensor(&v[0], shape), tensor(&v[1], shape));
            layer_norm(&device().gpu, mode, &x, [&v[2], &v[3]], &y, 1e-5)
        }),
        call("softmax", &[bytes], move |v| {
            let mask = Mask {
                count: 11,
                rows_per_head: 15,
                first: 0,
                causal: true,
            };
            one(softmax(mode, &tensor(&v[0], shape), None, mask))
        }),
        call("map", &[bytes, 96, bytes], move |v| {
            let (x, y) = (tensor(&v[0], shape), tensor(&v[2], shape));
            let b = tensor(&v[1], [2, 1, 1, 12]);
            map::dispatches(&device().context(mode), &x, Activation::Silu, Some(&b), &y)
        }),
        call("to pixels", &[30 * 40, bytes], move |v| {
            let pixels = tensor(&v[1], [2, 5, 3, 10]);
            one(layout::to_pixels(mode, &v[0], &pixels, [1.0, 0.0]))
        }),
        call("to planes", &[30 * 40, bytes], move |v| {
            let pixels = tensor(&v[1], [2, 5, 3, 10]);
            one(layout::to_planes(mode, &pixels, &v[0], [1.0, 0.0]))
        }),
        call("sinusoid", &[24, 3 * 64], |v| {
            let how = Sinusoid {
                dim: 8,
                cos_first: true,
                shift: 0.0,
            };
            let y = tensor(&v[1], [3, 1, 1, 16]);
            one(sinusoid::dispatch(&v[0], &y, how, 6))
        }),
        call("transpose", &[2 * 5 * 64, 2 * 2 * 8 * 32], |v| {
            one(transpose(&tensor(&v[0], [2, 5, 1, 16]), 2, &v[1]))
        }),
    ];
    calls.extend(halves);
    calls
}

fn attention_calls(mode: Mode) -> Vec<Call> {
    let make = move |[n, queries, keys]: [usize; 3], [heads, d]: [usize; 2]| {
        let c = heads * d;
        let shapes = [queries, keys, keys, queries].map(|rows| [n, rows, 1, c]);
        let mut bytes = shapes.map(|shape| Tensor::bytes_of(F32, shape)).to_vec();
        let room = attention::scratch_bytes(mode, F32, [n, queries, keys], [heads, d]);
        bytes.extend(room);
        call("attention", &bytes, move |v| {
            let attention = Attention {
                q: &tensor(&v[0], shapes[0]),
                k: &tensor(&v[1], shapes[1]),
                v: &tensor(&v[2], shapes[2]),
                out: &tensor(&v[3], shapes[3]),
                heads,
                causal: false,
                scratch: &v[4..],
            };
            attention.dispatches(&device().context(mode))
        })
    };
    vec![make([2, 35, 33], [2, 64]), make([2, 9, 16], [2, 24])]
}

/// Weights of 12 channels to `n`.
fn twelve_to(taps: usize, n: usize) -> Layout {
    Layout {
        taps,
        k: 12,
        n,
        geglu: false,
    }
}

fn product_calls(mode: Mode) -> Vec<Call> {
    let conv = Conv {
        stride: 1,
        pad: 1,
        upsample: false,
    };
    let make = move |taps: usize, conv: Option<Conv>, storage: WeightStorage| {
        // 12 to 64 channels, so that no panel of the weights is padded.
        let (shape, out) = ([2, 5, 3, 12], [2, 5, 3, 64]);
        let bytes = [
            Tensor::bytes_of(F32, shape),
            twelve_to(taps, 64).bytes(storage),
            Tensor::bytes_of(F32, out),
            256,
            2 * 256,
            Tensor::bytes_of(F32, out),
        ];
        call("product", &bytes, move |v| {
            let product = Product {
                a: &tensor(&v[0], shape),
                weight: &Weight::packed(v[1].clone(), storage, twelve_to(taps, 64)),
                out: &tensor(&v[2], out),
                conv,
                blocks: None,
                epilogue: Epilogue {
                    bias: Some(v[3].clone()),
                    channel: Some(tensor(&v[4], [2, 1, 1, 64])),
                    residual: Some(tensor(&v[5], out)),
                    ..Default::default()
                },
                rows: None,
            };
            product::dispatches(&device().context(mode), &product)
        })
    };
    vec![
        make(1, None, WeightStorage::F32),
        make(1, None, WeightStorage::F16),
        make(9, Some(conv), WeightStorage::F32),
    ]
}

/// Every function of the kernels runs over views of exactly the bytes that it needs, and
/// refuses each of them when it is a value shorter.
#[test]
fn a_view_that_is_too_short_is_refused() {
    let mut refused = 0;
    for direct in [true, false] {
        let mode = Mode { direct };
        let calls = [
            latent_calls(mode),
            row_calls(mode),
            attention_calls(mode),
            product_calls(mode),
        ];
        for Call { name, bytes, make } in calls.into_iter().flatten() {
            let views: Vec<View> = bytes.iter().map(|bytes| view(*bytes)).collect();
            device().run(make(&views).unwrap_or_else(|e| panic!("{name}: {e}")));
            for i in 0..views.len() {
                let mut short = views.clone();
                short[i].size -= 4;
                assert_bug(make(&short), &format!("{name}, view {i}"));
                refused += 1;
            }
        }
    }
    assert!(refused > 100, "{refused}");
}

/// 2^16 vec4s of buffers of 256 bytes.
#[test]
fn an_update_of_more_than_there_is_is_refused() {
    let small = || view(256);
    let state = State {
        sample: &small(),
        output: &small(),
        noise: &small(),
        history: &small(),
    };
    for direct in [true, false] {
        let mode = Mode { direct };
        for count in [1 << 16, 17, 0, usize::MAX, usize::MAX / 16 + 1] {
            let made = update(mode, &state, &view(STEP), count, Share::Whole);
            assert_bug(made, &format!("{count} vec4s"));
        }
    }
}

/// What was a window of 2^64 bytes, and the advice to draw a smaller picture.
#[test]
fn a_tensor_larger_than_its_buffer_is_refused() {
    let gpu = &device().gpu;
    let small: Arc<Buffer> = Arc::new(gpu.buffer("small", 256).unwrap());
    let x = Tensor::new(View::whole(&small), F32, [1, 1 << 20, 1, 64]);
    let y = Tensor::new(view(256), F32, [1, 1 << 20, 1, 64]);
    let mode = Mode { direct: true };
    let copied = map::dispatches(&device().context(mode), &x, Activation::None, None, &y);
    assert_bug(copied, "map");
    assert_bug(x.row_window(1 << 19..1 << 20, 256), "rows");
    assert_bug(View::whole(&small).around(1 << 20, 16, 256), "around");
    assert_bug(View::whole(&small).around(u64::MAX, 16, 256), "around");
    assert_bug(View::whole(&small).first(257), "first");
    assert_bug(View::whole(&small).part(128..257), "part");
    let beyond = View {
        buffer: small.clone(),
        offset: 128,
        size: 256,
    };
    let [a, b] = [beyond, view(256)].map(|view| Tensor::new(view, F32, [1, 4, 1, 16]));
    for (x, y) in [(&a, &b), (&b, &a)] {
        let made = map::dispatches(&device().context(mode), x, Activation::None, None, y);
        assert_bug(made, "a view beyond its buffer");
    }
    assert_bug(gpu.upload(&small, &[0; 260]), "upload");
    assert_bug(gpu.download(&small, 4, 256), "download");
    assert_bug(gpu.download(&small, u64::MAX - 3, 4), "download");
}

#[test]
fn columns_rows_and_pictures_that_are_not_there_are_refused() {
    let x = tensor(&view(2 * 3 * 64), [2, 3, 1, 16]);
    assert!(x.columns(4, 8).is_ok());
    for (first, count) in [(0, 17), (12, 8), (2, 4), (0, 6), (usize::MAX, 4)] {
        assert_bug(
            x.columns(first, count),
            &format!("columns {first}, {count}"),
        );
    }
    assert!(x.picture(1, 256).is_ok());
    for i in [2, usize::MAX] {
        assert_bug(x.picture(i, 256), &format!("picture {i}"));
    }
    for rows in [0..0, 5..7, 6..usize::MAX] {
        assert_bug(x.row_window(rows.clone(), 256), &format!("{rows:?}"));
    }
    assert_bug(x.row_window(0..1, 0), "an alignment of 0");
}

/// The fields of a tensor may say anything.
#[test]
fn a_tensor_that_contradicts_itself_is_refused() {
    let mode = Mode { direct: true };
    let good = tensor(&view(2 * 3 * 64), [2, 3, 1, 16]);
    let with = |change: fn(&mut Tensor)| {
        let mut bad = good.clone();
        change(&mut bad);
        bad
    };
    let all = [
        with(|t| t.n = 0),
        with(|t| t.n = 3),
        with(|t| t.n = usize::MAX),
        with(|t| (t.n, t.h) = (1 << 32, 1 << 32)),
        with(|t| t.c = 0),
        with(|t| t.c = usize::MAX),
        with(|t| t.pitch = 0),
        with(|t| t.pitch = 5),
        with(|t| t.pitch = usize::MAX),
        with(|t| t.offset = 1),
        with(|t| t.offset = usize::MAX),
    ];
    for (i, bad) in all.iter().enumerate() {
        let y = Tensor {
            view: view(2 * 3 * 64),
            ..bad.clone()
        };
        let made = map::dispatches(&device().context(mode), bad, Activation::None, None, &y);
        assert_bug(made, &format!("map {i}"));
        let mask = Mask {
            count: 1,
            rows_per_head: 1,
            first: 0,
            causal: false,
        };
        assert_bug(softmax(mode, bad, None, mask), &format!("softmax {i}"));
        assert_bug(transpose(bad, 1, &view(4096)), &format!("transpose {i}"));
        let planes = layout::to_planes(mode, bad, &view(4096), [1.0, 0.0]);
        assert_bug(planes, &format!("planes {i}"));
    }
}

#[test]
fn shapes_that_do_not_fit_together_are_refused() {
    let mode = Mode { direct: false };
    let of = |shape| tensor(&view(Tensor::bytes_of(F32, shape)), shape);
    let x = of([2, 3, 2, 16]);
    let none_of = |y: &Tensor, b: Option<&Tensor>| {
        map::dispatches(&device().context(mode), &x, Activation::None, b, y)
    };
    assert!(none_of(&of([2, 3, 2, 16]), Some(&of([2, 1, 1, 16]))).is_ok());
    assert_bug(none_of(&of([2, 3, 2, 12]), None), "columns");
    assert_bug(none_of(&of([2, 3, 2, 16]), Some(&of([1, 1, 1, 16]))), "b");
    let halves = Tensor {
        storage: Storage::F16,
        ..of([2, 3, 2, 16])
    };
    assert_bug(none_of(&halves, None), "storage");

    let mask = |count, rows_per_head| Mask {
        count,
        rows_per_head,
        first: 0,
        causal: true,
    };
    for mask in [mask(0, 1), mask(17, 1), mask(3, 0), mask(3, 1 << 32)] {
        assert_bug(softmax(mode, &x, None, mask), &format!("{mask:?}"));
    }
    let many = Sinusoid {
        dim: 2 * sinusoid::MAX_DIM,
        cos_first: true,
        shift: 0.0,
    };
    let wide = of([1, 1, 1, many.dim]);
    assert_bug(sinusoid::dispatch(&view(4), &wide, many, 1), "dim");

    let attention = |q: [usize; 4], k: [usize; 4], v: [usize; 4], heads| {
        let out = of(q);
        let scratch = [view(1 << 16), view(1 << 16)];
        let attention = Attention {
            q: &of(q),
            k: &of(k),
            v: &of(v),
            out: &out,
            heads,
            causal: false,
            scratch: &scratch,
        };
        attention.dispatches(&device().context(mode))
    };
    let q = [1, 5, 1, 128];
    assert!(attention(q, q, q, 2).is_ok());
    assert_bug(attention(q, q, q, 0), "no heads");
    assert_bug(attention(q, q, q, 3), "heads");
    assert_bug(attention(q, q, q, 32), "heads of 4");
    assert_bug(attention(q, [2, 5, 1, 128], [2, 5, 1, 128], 2), "batch");
    assert_bug(attention(q, [1, 5, 1, 64], [1, 5, 1, 64], 2), "columns");
    assert_bug(attention(q, q, [1, 4, 1, 128], 2), "values");
}

#[test]
fn products_of_other_kinds_are_refused() {
    let mode = Mode { direct: true };
    let (a, out) = ([1, 6, 5, 12], [1, 6, 5, 16]);
    let made = |change: fn(&mut Product<'_>, &mut Weight)| {
        let bytes = |shape| Tensor::bytes_of(F32, shape);
        let (a, out) = (tensor(&view(bytes(a)), a), tensor(&view(bytes(out)), out));
        let room = twelve_to(9, 16).bytes(WeightStorage::F32);
        let mut weight = Weight::packed(view(room), WeightStorage::F32, twelve_to(1, 16));
        let given = weight.clone();
        let mut product = Product {
            a: &a,
            weight: &given,
            out: &out,
            conv: None,
            blocks: None,
            epilogue: Epilogue::default(),
            rows: None,
        };
        change(&mut product, &mut weight);
        let product = Product {
            weight: &weight,
            ..product
        };
        product::dispatches(&device().context(mode), &product)
    };
    const CONV: Conv = Conv {
        stride: 1,
        pad: 1,
        upsample: false,
    };
    assert!(made(|_, _| {}).is_ok());
    assert!(made(|p, w| (p.conv, w.taps) = (Some(CONV), 9)).is_ok());
    assert_bug(made(|_, w| w.taps = 9), "taps without a convolution");
    assert_bug(made(|_, w| w.taps = 0), "no taps");
    assert_bug(made(|p, w| (p.conv, w.taps) = (Some(CONV), 4)), "2 by 2");
    assert_bug(made(|p, w| (p.conv, w.taps) = (Some(CONV), 1)), "padded");
    let stride = |p: &mut Product<'_>, w: &mut Weight| {
        w.taps = 9;
        p.conv = Some(Conv { stride: 0, ..CONV });
    };
    assert_bug(made(stride), "no stride");
    let pad = |p: &mut Product<'_>, w: &mut Weight| {
        w.taps = 9;
        p.conv = Some(Conv {
            pad: 1 << 32,
            ..CONV
        });
    };
    assert_bug(made(pad), "padding");
    assert_bug(made(|p, _| p.rows = Some(0..31)), "rows");
    assert_bug(made(|p, _| p.rows = Some(0..usize::MAX)), "rows");
    assert_bug(made(|_, w| w.k_rows = 20), "inputs");
    assert_bug(made(|_, w| w.k_rows = 0), "no inputs");
    assert_bug(made(|_, w| w.n8 = 3), "outputs");
    assert_bug(made(|_, w| w.step = 1 << 20), "a step");
    assert_bug(made(|_, w| w.offset = usize::MAX), "an offset");
    assert_bug(made(|p, _| p.epilogue.geglu = true), "geglu");
    let odd = Tensor {
        pitch: 5,
        ..tensor(&view(1024), [1, 4, 1, 8])
    };
    assert_bug(Weight::of(&odd).map(drop), "an odd pitch");
}

/// Numbers that kernels read from a buffer may say anything as well.
#[test]
fn the_numbers_of_a_step_lead_no_kernel_out_of_its_views() {
    let row = |slot: f32| Row {
        slot,
        sample: 2.0,
        noise: 1.0,
        history: [1.0; SLOTS],
        ..Default::default()
    };
    let wild = StepValues {
        stores: 1e9,
        threshold_most: 1.0,
        update: row(0.0),
        store: [row(3e9); STORES],
        ..Default::default()
    };
    let wild_view = device().view(bytemuck::bytes_of(&wild));
    let values: Vec<f32> = (0..16).map(|i| i as f32).collect();
    for direct in [true, false] {
        let sample = device().floats(&values, 4);
        let (noise, history) = (device().room(0), device().room(8));
        let state = State {
            sample: &sample,
            output: &device().floats(&values, 4),
            noise: &noise,
            history: &history,
        };
        let made = update(Mode { direct }, &state, &wild_view, 4, Share::Whole);
        device().run(vec![made.unwrap()]);
        let doubled: Vec<f32> = values.iter().map(|x| 2.0 * x).collect();
        assert_eq!(device().read_floats(&sample, 16), doubled);
        // All of them the guard still.
        device().read_floats(&history, 0);
        device().read_floats(&noise, 0);
    }
    let history = device().room(12);
    device().run(vec![threshold(&history, &wild_view, 1, 4).unwrap()]);
    let kept = device().read_floats(&history, 16);
    assert!(kept.iter().all(|x| x.is_finite()), "{kept:?}");

    assert_bug(wild.check(SLOTS, true), "stores");
    let few = |slot: f32| StepValues {
        stores: 1.0,
        update: row(0.0),
        store: [row(slot); STORES],
        ..Default::default()
    };
    assert!(few(6.0).check(SLOTS, true).is_ok());
    assert_bug(few(7.0).check(SLOTS, true), "a slot");
    assert_bug(few(6.0).check(SLOTS - 1, true), "history");
    assert_bug(few(6.0).check(SLOTS, false), "noise");
}

#[test]
fn a_program_refuses_what_a_device_cannot_bind() {
    let (gpu, mode) = (&device().gpu, Mode { direct: true });
    let x = tensor(&view(1024), [1, 4, 1, 64]);
    let twice = map::dispatches(&device().context(mode), &x, Activation::Silu, None, &x);
    assert_bug(Program::new(gpu, twice.unwrap()), "a view bound twice");
    let mut odd = view(1024);
    (odd.offset, odd.size) = (odd.offset + 4, odd.size - 4);
    let soft = softmax(
        mode,
        &tensor(&odd, [1, 3, 1, 64]),
        None,
        Mask {
            count: 64,
            rows_per_head: 1,
            first: 0,
            causal: false,
        },
    );
    assert_bug(Program::new(gpu, vec![soft.unwrap()]), "misaligned");
    let large = capped().view(&vec![0; 2 * CAP as usize]);
    let pixels = Tensor::new(large.clone(), F32, [1, CAP as usize / 8, 1, 4]);
    let planes = capped().view(&vec![0; 2 * CAP as usize]);
    let made = layout::to_planes(mode, &pixels, &planes, [1.0, 0.0]).unwrap();
    let error = Program::new(&capped().gpu, vec![made]).err().unwrap();
    assert!(error.to_string().contains("limit"), "{error}");
}
