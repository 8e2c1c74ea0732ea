//! The kernels of the denoising loop.

use crate::common::{BELOW, Random, Report, device, kinds, modes, sweep};
use calotype::bench::kernels::latent::{NOTHING, STEP};
use calotype::kernel::latent::{
    Row, Share, State, StepValues, rescale, threshold, twin_rescale, update,
};
use calotype::kernel::{Storage, View};

fn view(step: &StepValues) -> View {
    device().view(bytemuck::bytes_of(step))
}

/// A copy that a kernel may change, the guard after it.
fn place(values: &[f32]) -> View {
    device().bed.changed(values).unwrap()
}

#[test]
fn inputs() {
    sweep("sweep latent input", modes, 30);
}

/// 30 shapes guided and not.
#[test]
fn guided_predictions() {
    sweep("sweep guidance", modes, 60);
}

#[test]
fn predictions_of_several_parts() {
    sweep("sweep guidance of parts", modes, 30);
}

/// 30 shapes with and without a spread to take over.
#[test]
fn rescaled_predictions() {
    sweep("sweep rescale", modes, 60);
}

/// 30 shapes at once and the first store by itself.
#[test]
fn updates() {
    sweep("sweep update", modes, 60);
}

#[test]
fn thresholds() {
    sweep("sweep threshold", modes, 30);
}

#[test]
fn masks() {
    sweep("sweep mask", modes, 30);
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
