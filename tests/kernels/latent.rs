//! The kernels of the denoising loop.

use crate::common::{BELOW, GUARD, Random, Report, device, kinds, rounded};
use calotype::kernel::latent::{
    Row, SLOTS, STORES, Share, State, StepValues, Weighed, guidance, input, mask, rescale,
    threshold, twin_guidance, twin_input, twin_mask, twin_rescale, twin_update, update,
};
use calotype::kernel::{Storage, Tensor, View};
use calotype::schedule::Bound;

const STEP: StepValues = StepValues {
    input_scale: 0.0683,
    guidance_scale: 7.5,
    guidance_rescale: 0.7,
    kept_original: 0.8,
    kept_noise: 0.6,
    stores: 0.0,
    threshold_ratio: 0.97,
    threshold_most: 1.5,
    number: 1.0,
    update: NOTHING,
    store: [NOTHING; STORES],
};

const NOTHING: Row = Row {
    slot: 0.0,
    clip: 0.0,
    sample: 0.0,
    output: 0.0,
    noise: 0.0,
    history: [0.0; SLOTS],
};

fn view(step: &StepValues) -> View {
    device().view(bytemuck::bytes_of(step))
}

/// A copy that a kernel may change, the guard after it.
fn place(values: &[f32]) -> View {
    device().view(bytemuck::cast_slice(&[values, &[GUARD; 4]].concat()))
}

/// Pictures, pixels and channels.
fn shapes() -> Vec<[usize; 3]> {
    let mut random = Random::new(1);
    let drawn = (0..25).map(|_| {
        [
            random.size(1, 4),
            random.size(1, 3000),
            4 * random.size(1, 3),
        ]
    });
    let fixed = [
        [1, 1, 4],
        [2, 64, 4],
        [3, 65, 8],
        [1, 4097, 4],
        [1, 20000, 4],
    ];
    fixed.into_iter().chain(drawn).collect()
}

#[test]
fn inputs() {
    let mut report = Report::new("latent input");
    for (i, [n, pixels, c]) in shapes().into_iter().enumerate() {
        let mut random = Random::new(i as u64);
        let (copies, wide) = (1 + i % 3, 4 * (i % 2));
        let x = random.values(n * pixels * c);
        let extra = random.values(n * pixels * wide);
        let twin = twin_input(&x, c, &extra, STEP.input_scale, copies);
        for (mode, storage) in kinds() {
            let latents = Tensor::new(place(&x), Storage::F32, [n, pixels, 1, c]);
            let more = if wide == 0 {
                place(&[0.0])
            } else {
                place(&extra)
            };
            let y = device().blank(storage, [copies * n, pixels, 1, c + wide], BELOW);
            device().run(vec![
                input(mode, &latents, &more, &view(&STEP), &y).unwrap(),
            ]);
            let out = device().read(&y);
            // What comes beside the latents is only stored, the latents are rounded too.
            let twin = rounded(storage, &twin);
            report.compare(mode, storage, &out, &twin, &[copies, n, pixels, c, wide]);
        }
    }
    report.finish(30);
}

#[test]
fn guided_predictions() {
    let mut report = Report::new("guidance");
    for (i, [n, pixels, c]) in shapes().into_iter().enumerate() {
        let count = pixels * c;
        // A batch of `n` and the pictures of each half.
        let pictures = (n / 2).max(1);
        let values = Random::new(i as u64).values(n * count);
        let (from, to) = (0, n - pictures);
        for (mode, storage) in kinds() {
            let both = device().tensor(storage, [n, pixels, 1, c], &values, BELOW);
            let seen = rounded(storage, &values);
            let half = |place: usize| &seen[place * count..][..pictures * count];
            for guided in [true, false] {
                let u = guided.then_some((&both, from));
                let y = device().room(pictures * count);
                let step = view(&STEP);
                let part = Weighed::ALONE;
                let all = guidance(mode, u, (&both, to), part, pictures, &step, &y);
                device().run(vec![all.unwrap()]);
                let twin = if guided {
                    twin_guidance(half(from), &[(half(to), 1.0)], STEP.guidance_scale)
                } else {
                    half(to).to_vec()
                };
                let out = device().read_floats(&y, pictures * count);
                report.compare(mode, storage, &out, &twin, &[n, pixels, c]);
            }
        }
    }
    report.finish(30);
}

#[test]
fn predictions_of_several_parts() {
    let mut report = Report::new("parts");
    for (i, [n, pixels, c]) in shapes().into_iter().enumerate() {
        let count = n * pixels * c;
        // The negative prompt's and three parts', `n` pictures each.
        let values = Random::new(i as u64).values(4 * count);
        let weights = [1.0, 0.5, -0.4];
        for (mode, storage) in kinds() {
            let all = device().tensor(storage, [4 * n, pixels, 1, c], &values, BELOW);
            let seen = rounded(storage, &values);
            let y = device().room(count);
            let step = view(&STEP);
            let dispatch = |part: usize| {
                let weighed = Weighed {
                    weight: weights[part],
                    first: part == 0,
                };
                let t = (&all, (part + 1) * n);
                guidance(mode, Some((&all, 0)), t, weighed, n, &step, &y)
            };
            device().run((0..3).map(|part| dispatch(part).unwrap()).collect());
            let side = |i: usize| &seen[i * count..][..count];
            let parts = [0, 1, 2].map(|part| (side(part + 1), weights[part]));
            let twin = twin_guidance(side(0), &parts, STEP.guidance_scale);
            let out = device().read_floats(&y, count);
            report.compare(mode, storage, &out, &twin, &[n, pixels, c]);
        }
    }
    report.finish(30);
}

#[test]
fn rescaled_predictions() {
    let mut report = Report::new("guidance rescale");
    for (i, [n, pixels, c]) in shapes().into_iter().enumerate() {
        let count = pixels * c;
        let mut random = Random::new(i as u64);
        let t = random.values((n + 1) * count);
        let e: Vec<f32> = random
            .values(n * count)
            .iter()
            .map(|x| 3.0 * x + 0.5)
            .collect();
        for (mode, storage) in kinds() {
            let both = device().tensor(storage, [n + 1, pixels, 1, c], &t, BELOW);
            let seen = rounded(storage, &t);
            for phi in [0.7, 0.0] {
                let step = StepValues {
                    guidance_rescale: phi,
                    ..STEP
                };
                let y = place(&e);
                device().run(vec![rescale((&both, 1), n, &view(&step), &y).unwrap()]);
                let twin: Vec<f32> = e
                    .chunks(count)
                    .zip(seen[count..].chunks(count))
                    .flat_map(|(e, t)| twin_rescale(t, e, phi))
                    .collect();
                let out = device().read_floats(&y, n * count);
                report.compare(mode, storage, &out, &twin, &[n, pixels, c]);
            }
        }
    }
    report.finish(30);
}

/// Predictions without a spread stay as they are; large and small ones have one.
#[test]
fn rescaled_predictions_at_extremes() {
    let count = 4 * 50;
    let values = Random::new(3).values(count);
    let times = |factor: f32| -> Vec<f32> { values.iter().map(|x| x * factor).collect() };
    let cases = [
        (times(1.0), vec![0.0; count]),
        (times(1.0), vec![0.25; count]),
        (vec![0.0; count], times(1.0)),
        (vec![0.0; count], vec![0.0; count]),
        (times(1e10), times(1e-10)),
        (times(1e12), times(1e12)),
    ];
    let mut report = Report::new("guidance rescale");
    for (i, (t, e)) in cases.into_iter().enumerate() {
        let both = device().tensor(Storage::F32, [1, 50, 1, 4], &t, BELOW);
        let y = place(&e);
        device().run(vec![rescale((&both, 0), 1, &view(&STEP), &y).unwrap()]);
        let twin = twin_rescale(&t, &e, STEP.guidance_rescale);
        let out = device().read_floats(&y, count);
        assert!(twin.iter().all(|x| x.is_finite()), "{i}");
        report.compare("", Storage::F32, &out, &twin, &i);
    }
    report.finish(6);
}

/// Bounds do not hide what is not a number.
#[test]
fn what_is_not_a_number_stays_so() {
    let x = [f32::NAN, 3.0, -f32::NAN, -3.0];
    let row = Row {
        clip: 1.0,
        sample: 1.0,
        ..NOTHING
    };
    let mut step = StepValues {
        update: row,
        ..STEP
    };
    step.store[0].slot = 0.0;
    let found = |values: &[f32]| values.iter().map(|x| x.is_nan()).collect::<Vec<_>>();
    for (mode, _) in kinds() {
        let [sample, output, noise, history] = [0, 1, 2, 3].map(|_| place(&x));
        let state = State {
            sample: &sample,
            output: &output,
            noise: &noise,
            history: &history,
        };
        device().run(vec![
            update(mode, &state, &view(&step), 1, Share::Whole).unwrap(),
        ]);
        let out = device().read_floats(&sample, 4);
        assert_eq!(found(&out), [true, false, true, false], "{out:?}");
        device().run(vec![threshold(&history, &view(&step), 1, 1).unwrap()]);
        let out = device().read_floats(&history, 4);
        assert_eq!(found(&out), [true, false, true, false], "{out:?}");
    }
}

/// Levels down to nothing.
#[test]
fn thresholds_at_extremes() {
    let x = [3e38, -1.0, 0.0, 1e-3];
    for most in [1e-38, 1e-45, 1.0, 3e38] {
        let step = StepValues {
            threshold_ratio: 1.0,
            threshold_most: most,
            ..STEP
        };
        let history = place(&x);
        device().run(vec![threshold(&history, &view(&step), 1, 1).unwrap()]);
        let out = device().read_floats(&history, 4);
        let within = out.iter().all(|x| (-1.0..=1.0).contains(x));
        assert!(within, "{most:e}: {out:?}");
        assert_eq!((out[0], out[2]), (1.0, 0.0), "{most:e}: {out:?}");
    }
}

/// A row with some factors zero, which must not read what they belong to.
fn row(random: &mut Random, slots: usize) -> Row {
    let mut factors = random.values(3 + slots);
    for factor in &mut factors {
        if random.coin() {
            *factor = 0.0;
        }
    }
    let mut history = [0.0; SLOTS];
    history[..slots].copy_from_slice(&factors[3..]);
    Row {
        slot: random.size(0, slots.max(1) - 1) as f32,
        clip: if random.coin() { 0.6 } else { 0.0 },
        sample: factors[0],
        output: factors[1],
        noise: factors[2],
        history,
    }
}

#[test]
fn updates() {
    let mut report = Report::new("latent update");
    for (i, [n, pixels, c]) in shapes().into_iter().enumerate() {
        let count = n * pixels * c;
        let mut random = Random::new(i as u64);
        let (slots, stores) = (i % (SLOTS + 1), i % (STORES + 1));
        let stores = if slots == 0 { 0 } else { stores };
        let mut step = StepValues {
            stores: stores as f32,
            update: row(&mut random, slots),
            ..STEP
        };
        (0..stores).for_each(|k| step.store[k] = row(&mut random, slots));
        let [x, e, noise] = [0, 1, 2].map(|_| random.values(count));
        let history: Vec<Vec<f32>> = (0..slots).map(|_| random.values(count)).collect();
        let (twin, kept) = twin_update(&step, [&x, &e, &noise], &history);
        for (mode, _) in kinds() {
            for shares in [&[Share::Whole][..], &[Share::First, Share::Rest]] {
                let [sample, output, noise] = [&x, &e, &noise].map(|values| place(values));
                let slots_view = place(&history.concat());
                let state = State {
                    sample: &sample,
                    output: &output,
                    noise: &noise,
                    history: &slots_view,
                };
                let view = view(&step);
                let run = |share: &Share| update(mode, &state, &view, count / 4, *share).unwrap();
                device().run(shares.iter().map(run).collect());
                let out = device().read_floats(&sample, count);
                report.compare(mode, Storage::F32, &out, &twin, &[n, pixels, c, slots]);
                if slots > 0 {
                    let out = device().read_floats(&slots_view, slots * count);
                    report.compare(mode, Storage::F32, &out, &kept.concat(), &[stores]);
                }
            }
        }
    }
    report.finish(30);
}

#[test]
fn thresholds() {
    let mut report = Report::new("latent threshold");
    for (i, [n, pixels, c]) in shapes().into_iter().enumerate() {
        let count = pixels * c;
        let mut x: Vec<f32> = Random::new(i as u64).values(n * count);
        x.iter_mut().for_each(|x| *x *= 1.6);
        if i % 3 == 0 {
            // Many equal values around the quantile.
            x.iter_mut().for_each(|x| *x = (*x * 4.0).round() / 4.0);
        }
        let ratio = [0.97, 0.5, 1.0, 0.0, 0.995][i % 5];
        let mut step = StepValues {
            threshold_ratio: ratio,
            ..STEP
        };
        step.store[0].slot = 1.0;
        let bound = Bound::Threshold {
            ratio: f64::from(ratio),
            most: f64::from(step.threshold_most),
        };
        let twin: Vec<f32> = x
            .chunks(count)
            .flat_map(|x| bound.apply(x.iter().map(|x| f64::from(*x)).collect()))
            .map(|x| x as f32)
            .collect();
        for (mode, _) in kinds() {
            // The second of two slots.
            let both = place(&[vec![9.0; n * count], x.clone()].concat());
            device().run(vec![threshold(&both, &view(&step), n, count / 4).unwrap()]);
            let out = device().read_floats(&both, 2 * n * count);
            assert!(out[..n * count].iter().all(|x| *x == 9.0));
            report.compare(
                mode,
                Storage::F32,
                &out[n * count..],
                &twin,
                &[n, pixels, c],
            );
        }
    }
    report.finish(30);
}

#[test]
fn masks() {
    let mut report = Report::new("latent mask");
    for (i, [n, pixels, c]) in shapes().into_iter().enumerate() {
        let count = n * pixels * c;
        let mut random = Random::new(i as u64);
        let [x, original, noise] = [0, 1, 2].map(|_| random.values(count));
        let m: Vec<f32> = (0..pixels)
            .map(|_| if random.coin() { 1.0 } else { 0.25 })
            .collect();
        let factors = [STEP.kept_original, STEP.kept_noise];
        let twin = twin_mask([&x, &original, &noise], &m, c, factors);
        for (mode, _) in kinds() {
            let latents = Tensor::new(place(&x), Storage::F32, [n, pixels, 1, c]);
            let [original, noise, m] = [&original, &noise, &m].map(|values| place(values));
            let kept = [&original, &noise, &m];
            device().run(vec![mask(mode, &latents, kept, &view(&STEP)).unwrap()]);
            let out = device().read_floats(&latents.view, count);
            report.compare(mode, Storage::F32, &out, &twin, &[n, pixels, c]);
        }
    }
    report.finish(30);
}
