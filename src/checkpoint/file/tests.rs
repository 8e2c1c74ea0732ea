//! Files in every format against what the formats' own libraries make of them
//! (`tools/make_file_fixtures.py`).

use super::*;
use crate::checkpoint::tensor::Extent;

fn open(name: &str) -> Result<TensorFile> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/files");
    TensorFile::open(&folder.join(name))
}

/// Compares all tensors that `wide` has in f32, but for those called `NAME.weight`
/// whose values are no more than `allowed` away.
fn same(file: &str, wide: &str, allowed: f32) {
    let (file, wide) = (open(file).unwrap(), open(wide).unwrap());
    assert!(!wide.names().is_empty());
    for name in wide.names() {
        let want = wide.entry(&name).unwrap();
        let want = want.view(want.shape).unwrap();
        let have = file.entry(&name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(have.shape, want.shape.as_slice(), "{name}");
        let (have, want) = match have.view(have.shape) {
            Some(view) => (view.values(0..view.count()), want.values(0..want.count())),
            None => {
                let have = have.numbers(usize::MAX).unwrap();
                let have = have.iter().map(|x| *x as f32).collect();
                (have, want.values(0..want.count()))
            }
        };
        assert_eq!(have.len(), want.len(), "{name}");
        for (i, (have, want)) in have.iter().zip(&want).enumerate() {
            let away = (have - want).abs();
            assert!(away <= allowed, "{name} at {i}: {have}, not {want}");
        }
    }
}

#[test]
fn gguf_is_dequantised_as_its_own_library_does() {
    same("types.gguf", "types.safetensors", 1e-6);
    let file = open("types.gguf").unwrap();
    assert_eq!(file.metadata("general.architecture"), Some("sdxl"));
}

#[test]
fn fp8_is_exact_with_and_without_a_scale() {
    same("fp8.safetensors", "fp8_wide.safetensors", 0.0);
    let file = open("fp8.safetensors").unwrap();
    let fits = |name: &str| file.entry(name).unwrap().fits_f16();
    assert!(fits("e4m3.weight") && fits("e5m2.weight"));
    assert!(!fits("e4m3_scaled.weight") && !fits("e5m2_scaled.weight"));
}

#[test]
fn codes_of_nan_are_counted() {
    for (dtype, count) in [(DType::F8E4M3, 2), (DType::F8E5M2, 8)] {
        let codes: Vec<u8> = (0..=255).collect();
        let view = TensorView::new(dtype, &[256], codes);
        let Extent { not_finite, .. } = view.extent();
        assert_eq!(not_finite, count, "{dtype:?}");
    }
}

#[test]
fn pickles_are_read_without_being_run() {
    same("pickle.ckpt", "pickle.safetensors", 0.0);
    for protocol in [3, 4] {
        same(&format!("protocol{protocol}.pt"), "pickle.safetensors", 0.0);
    }
    // What is turned is no row of values; what it was made of is.
    let file = open("turned.bin").unwrap();
    let turned = file.entry("turned").unwrap();
    assert_eq!((turned.precision(), turned.shape), (None, &[6, 4][..]));
    assert_eq!(turned.stored.to_string(), "f32 in strides [1, 6]");
    assert_eq!(file.entry("plain").unwrap().precision(), Some(DType::F32));
}

#[test]
fn old_pickles_are_refused_by_their_name() {
    let error = open("old.ckpt").unwrap_err().to_string();
    assert!(error.contains("an old PyTorch pickle"), "{error}");
}
