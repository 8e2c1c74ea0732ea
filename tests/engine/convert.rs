//! Checkpoints written as one file, and read again.

use crate::case::{generate, load, relative};
use calotype::checkpoint::convert::{Precision, convert};
use calotype::checkpoint::{Checkpoint, Part};
use calotype::pipeline::{Dtype, LoadOptions, RawRequest, Trace};
use std::path::Path;

fn write(model: &str, path: &Path, precision: Precision) {
    let checkpoint = Checkpoint::open(model).unwrap();
    let (mut calls, mut all) = (0, 0);
    let mut next = |done, count| {
        assert_eq!(done, calls);
        (calls, all) = (calls + 1, count);
        Ok(())
    };
    let made = convert(&checkpoint, path, precision, &mut next).unwrap();
    assert_eq!((made.tensors, calls), (all, all));
    assert_eq!(made.bytes, std::fs::metadata(path).unwrap().len());
}

/// The first prediction of the base, and of the refiner, for the embedded base.
fn predictions(model: &str, refiner: Option<&str>) -> Vec<Vec<f32>> {
    let options = LoadOptions {
        model: model.into(),
        refiner: refiner.map(str::to_owned),
        dtype: Dtype::F32,
        ..Default::default()
    };
    let raw = RawRequest {
        prompt: Some("a red circle".into()),
        negative_prompt: Some("a square".into()),
        seed: Some(3.into()),
        steps: Some(3),
        width: Some(64),
        height: Some(64),
        refiner: Some(refiner.is_some()),
        high_noise_fraction: refiner.map(|_| 0.5),
        ..Default::default()
    };
    let mut trace = Trace::new();
    generate(&mut load(&options).unwrap(), raw, Some(&mut trace));
    let names = [
        "prompt_embeds",
        "noise_pred.000",
        "refiner.noise_pred.000",
        "decoded",
    ];
    let all = names.iter().filter_map(|name| trace.f32s(name));
    all.map(|(_, values)| values).collect()
}

/// In every format and precision: what is drawn, what is known of the configuration, and
/// that the file is a single one in the layout of the original release.
#[test]
fn what_is_written_draws_as_what_was_read() {
    let folder = tempfile::tempdir().unwrap();
    let exact = predictions("demo", Some("demo"));
    for (end, precision, most) in [
        ("safetensors", Precision::F32, 0.0),
        ("safetensors", Precision::F16, 0.0),
        ("gguf", Precision::F16, 1e-6),
        ("gguf", Precision::Q8, 1e-2),
        ("gguf", Precision::Q4, 1e-1),
    ] {
        let path = |name: &str| folder.path().join(format!("{name}-{precision:?}.{end}"));
        let (base, refiner) = (path("base"), path("refiner"));
        write("demo", &base, precision);
        write("demo-refiner", &refiner, precision);
        let [base, refiner] = [&base, &refiner].map(|path| path.to_str().unwrap());
        let made = predictions(base, Some(refiner));
        assert_eq!(made.len(), exact.len());
        let errors: Vec<f64> = made
            .iter()
            .zip(&exact)
            .map(|(a, b)| relative(a, b))
            .collect();
        println!("{end} {precision:?}: {errors:?}");
        // What comes after the first step goes other ways, where anything was quantised.
        let compared = if most > 1e-3 { 2 } else { errors.len() };
        let worst = errors[..compared]
            .iter()
            .fold(0f64, |most, error| most.max(*error));
        assert!(worst <= most, "{end} {precision:?}: {errors:?}");
        assert!(errors.iter().all(|error| error.is_finite()), "{errors:?}");
        if most >= 1e-2 {
            assert!(errors[1] > 1e-5, "nothing was quantised: {errors:?}");
        }
        let (from, to) = (
            Checkpoint::open("demo").unwrap(),
            Checkpoint::open(base).unwrap(),
        );
        assert_eq!(from.scheduler, to.scheduler);
        assert_eq!((&from.unet, &from.vae), (&to.unet, &to.vae));
        assert_eq!(
            (&from.text_encoder, &from.text_encoder_2),
            (&to.text_encoder, &to.text_encoder_2)
        );
        assert_eq!(
            from.force_zeros_for_empty_prompt,
            to.force_zeros_for_empty_prompt
        );
    }
}

/// A file that was converted, converted again: the same tensors.
#[test]
fn converting_twice_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = ["a.gguf", "b.gguf"].map(|name| folder.path().join(name));
    write("demo", &first, Precision::Q8);
    write(first.to_str().unwrap(), &second, Precision::Q8);
    let [first, second] =
        [first, second].map(|path| Checkpoint::open(path.to_str().unwrap()).unwrap());
    for part in Part::ALL {
        for (name, shape) in first.expected(part) {
            let values = |checkpoint: &Checkpoint| {
                let view = checkpoint.source(part).read(&name, &shape).unwrap();
                view.values(0..shape.iter().product())
            };
            let (a, b) = (values(&first), values(&second));
            let close = |(a, b): (&f32, &f32)| (a - b).abs() <= b.abs() * 1e-6;
            assert!(a.iter().zip(&b).all(close), "{name}");
        }
    }
}

#[test]
fn what_cannot_be_written_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::open("demo").unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("there.safetensors"), "mine").unwrap();
    for (name, precision, said) in [
        ("a.safetensors", Precision::Q8, ".gguf"),
        ("a.bin", Precision::F16, ".safetensors or .gguf"),
        ("there.safetensors", Precision::F16, "there already"),
        ("nowhere/a.safetensors", Precision::F16, "nowhere"),
    ] {
        let error = convert(&checkpoint, &at(name), precision, &mut |_, _| Ok(()));
        let error = error.unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    for name in ["a.safetensors", "a.gguf"] {
        let mut next = |done, _| match done {
            5 => Err(calotype::Error::Cancelled),
            _ => Ok(()),
        };
        let stopped = convert(&checkpoint, &at(name), Precision::F16, &mut next);
        assert!(
            matches!(stopped, Err(calotype::Error::Cancelled)),
            "{stopped:?}"
        );
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(std::fs::read(at("there.safetensors")).unwrap(), b"mine");
}
