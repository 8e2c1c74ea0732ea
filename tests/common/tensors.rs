//! Safetensors files that tests read, change and write again.

// Not every test binary uses all of it.
#![allow(dead_code)]

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Tensors by name: type, shape, bytes.
pub type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// All tensors of a file.
pub fn read(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.tensors()
        .into_iter()
        .map(|(name, t)| (name, (t.dtype(), t.shape().to_vec(), t.data().to_vec())))
        .collect()
}

/// Writes a file; `config` goes into the header as `calotype.config`.
pub fn write(path: &Path, tensors: &Tensors, config: Option<&serde_json::Value>) {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    let metadata = config.map(|c| HashMap::from([("calotype.config".into(), c.to_string())]));
    std::fs::write(path, serialize(views, metadata).unwrap()).unwrap();
}

/// The tensors whose names `change` keeps, under the names it gives.
pub fn renamed(tensors: &Tensors, change: impl Fn(&str) -> Option<String>) -> Tensors {
    let all = tensors.iter();
    all.filter_map(|(name, tensor)| Some((change(name)?, tensor.clone())))
        .collect()
}

/// The values of a float32 tensor.
pub fn floats(tensors: &Tensors, name: &str) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(&tensors[name].2)
}

/// Root of the mean square difference over that of `expected`.
pub fn relative(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(expected);
    let off: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let all: f64 = expected.iter().map(|b| f64::from(*b).powi(2)).sum();
    (off / all).sqrt()
}
