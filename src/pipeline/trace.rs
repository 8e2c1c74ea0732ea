//! The tensors of every stage, for comparison with another implementation.

use crate::picture::{check_file, write_file};
use crate::{Error, Result};
use safetensors::tensor::{Dtype, TensorView, serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Named tensors in the order NCHW, written as one safetensors file.
///
/// Names (B = pictures, S = 77 tokens, h = height/8, w = width/8, KKK = a
/// three-digit counter of UNet calls): `input_ids`, `input_ids_2`,
/// `negative_input_ids`, `negative_input_ids_2` i32 `[T, S]`; `prompt_embeds`,
/// `negative_prompt_embeds` `[T, S, C]`; `pooled_prompt_embeds`,
/// `negative_pooled_prompt_embeds` `[T, P]`; T are the texts that the prompt becomes
/// over the run, 1 where it is not edited. Where there are more, `prompt_schedule`
/// i32 `[calls, parts]` and `negative_prompt_schedule` `[calls, 1]` say which of them
/// each call is told. `unet_time_ids` `[2B, 6]`, negative half first, a further B rows
/// for every further part; `timesteps` `[N]`; `sigmas` `[N + 1]`; `latents.KKK` and
/// `noise_pred.KKK` (after guidance) `[B, 4, h, w]`; `base_latents`, what the base
/// hands to the refiner or the VAE, `[B, 4, h, w]`; `init_image` `[B, 3, H, W]` and
/// `mask` `[B, 1, H, W]`, where the request has them; `decoded` `[B, 3, H, W]` before
/// clamping. The refiner's part has the same names after `refiner.`.
///
/// `timesteps` and `sigmas` are the scheduler's whole lists, whichever part of them
/// ran. `latents.KKK` are as the scheduler leaves them; in inpainting what the mask
/// keeps is put back after that. S is a multiple of 77 for long prompts.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    tensors: BTreeMap<String, Tensor>,
    meta: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Clone)]
struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Trace {
    /// An empty trace.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps `values`, row-major, as `name`; a name used before is replaced.
    pub fn put_f32(&mut self, name: impl Into<String>, shape: &[usize], values: &[f32]) {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.put(name.into(), Dtype::F32, shape, bytes);
    }

    /// Keeps `values`, row-major, as `name`; a name used before is replaced.
    pub fn put_i32(&mut self, name: impl Into<String>, shape: &[usize], values: &[i32]) {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.put(name.into(), Dtype::I32, shape, bytes);
    }

    fn put(&mut self, name: String, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) {
        let shape = shape.to_vec();
        self.tensors.insert(
            name,
            Tensor {
                dtype,
                shape,
                bytes,
            },
        );
    }

    /// Adds to the JSON object `meta` in the file's header.
    pub fn put_meta(&mut self, key: impl Into<String>, value: impl Into<serde_json::Value>) {
        self.meta.insert(key.into(), value.into());
    }

    /// Shape and values of a float32 tensor that is kept.
    pub fn f32s(&self, name: &str) -> Option<(&[usize], Vec<f32>)> {
        let tensor = self.tensors.get(name).filter(|t| t.dtype == Dtype::F32)?;
        Some((&tensor.shape, bytemuck::pod_collect_to_vec(&tensor.bytes)))
    }

    /// Shape and values of an int32 tensor that is kept.
    pub fn i32s(&self, name: &str) -> Option<(&[usize], Vec<i32>)> {
        let tensor = self.tensors.get(name).filter(|t| t.dtype == Dtype::I32)?;
        Some((&tensor.shape, bytemuck::pod_collect_to_vec(&tensor.bytes)))
    }

    /// The names kept so far, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Checks before a run that [`Trace::write`] can write `path`.
    pub fn check(path: &Path) -> Result<()> {
        check_file(path)
    }

    /// Writes all tensors to `path`, whole or not at all, replacing what is there.
    pub fn write(&self, path: &Path) -> Result<()> {
        let bytes = self.serialize().map_err(|e| {
            Error::file(
                path,
                format!("cannot hold the trace: {e}"),
                "report this as a bug",
            )
        })?;
        write_file(path, &bytes)
    }

    fn serialize(&self) -> Result<Vec<u8>, safetensors::SafeTensorError> {
        let views = self
            .tensors
            .iter()
            .map(|(name, t)| Ok((name, TensorView::new(t.dtype, t.shape.clone(), &t.bytes)?)))
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
        let meta = serde_json::Value::Object(self.meta.clone()).to_string();
        serialize(views, Some(HashMap::from([("meta".to_owned(), meta)])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        let mut trace = Trace::new();
        trace.put_f32("latents.000", &[1, 2], &[0.5, -2.0]);
        trace.put_i32("input_ids", &[1, 3], &[1, 2, 3]);
        trace.put_meta("seed", 7);
        trace.write(&path).unwrap();

        let bytes = std::fs::read(&path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let latents = file.tensor("latents.000").unwrap();
        assert_eq!(
            (latents.dtype(), latents.shape()),
            (Dtype::F32, &[1, 2][..])
        );
        assert_eq!(
            latents.data(),
            [0.5f32.to_le_bytes(), (-2f32).to_le_bytes()].concat()
        );
        assert_eq!(file.tensor("input_ids").unwrap().dtype(), Dtype::I32);
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let meta = header.metadata().as_ref().unwrap();
        assert_eq!(meta["meta"], "{\"seed\":7}");
    }

    #[test]
    fn a_shape_that_does_not_fit_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let mut trace = Trace::new();
        trace.put_f32("x", &[3], &[0.0]);
        assert!(trace.write(&folder.path().join("t")).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
