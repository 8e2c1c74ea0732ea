//! Weights on the device: read from the checkpoint tensor by tensor, repacked
//! once into the layout of the product kernel, uploaded in pieces.

use crate::checkpoint::{DType, Extent, TensorSource, TensorView};
use crate::gpu::Gpu;
use crate::graph::{Graph, Norm, Product, Weights};
use crate::kernel::View;
use crate::kernel::product::{Weight, WeightStorage};
use crate::{Error, Result};
use half::f16;
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

/// Names and shapes of every tensor that `graph` reads.
pub fn tensors(graph: &Graph) -> Vec<(String, Vec<usize>)> {
    let products = graph.products().flat_map(Product::tensors);
    let norms = graph.norms().flat_map(|norm| {
        ["weight", "bias"].map(|end| (format!("{}.{end}", norm.name), vec![norm.channels]))
    });
    products.chain(norms).collect()
}

/// The weights of one part on one device. Graphs of different sizes share them.
pub struct DeviceWeights<'a> {
    gpu: &'a Gpu,
    source: &'a dyn TensorSource,
    storage: WeightStorage,
    loaded: &'a Loaded,
    check: &'a dyn Fn() -> Result<()>,
}

/// What has been uploaded.
#[derive(Default)]
pub struct Loaded {
    products: Mutex<HashMap<String, (Weight, Option<View>)>>,
    norms: Mutex<HashMap<String, [View; 2]>>,
    /// Tensors that stayed f32 since f16 would not hold them, and how far they reach.
    wide: Mutex<BTreeMap<String, f32>>,
}

impl Loaded {
    /// Lets go of everything: the memory is free once no graph holds it.
    pub fn clear(&self) {
        lock(&self.products).clear();
        lock(&self.norms).clear();
    }

    /// Tensors that stayed f32, though f16 was asked for, since they hold values
    /// beyond its range; and their largest magnitudes. All that ever were loaded.
    pub fn wide(&self) -> BTreeMap<String, f32> {
        lock(&self.wide).clone()
    }
}

impl<'a> DeviceWeights<'a> {
    pub fn new(
        gpu: &'a Gpu,
        source: &'a dyn TensorSource,
        storage: WeightStorage,
        loaded: &'a Loaded,
    ) -> Self {
        Self {
            gpu,
            source,
            storage,
            loaded,
            check: &|| Ok(()),
        }
    }

    /// Asks `check` before every tensor whether to go on.
    pub fn while_ok(self, check: &'a dyn Fn() -> Result<()>) -> Self {
        Self { check, ..self }
    }

    fn upload(&self, label: &str, bytes: &[u8]) -> Result<View> {
        let buffer = Arc::new(self.gpu.buffer(label, bytes.len() as u64)?);
        self.gpu.upload(&buffer, bytes)?;
        Ok(View::whole(&buffer))
    }

    /// f32 values padded with zeros to a multiple of `multiple`.
    fn vector(&self, name: &str, values: Vec<f32>, multiple: usize) -> Result<View> {
        let mut values = values;
        values.resize(values.len().next_multiple_of(multiple), 0.0);
        self.upload(name, bytemuck::cast_slice(&values))
    }

    /// A tensor, all of whose values are finite.
    fn read(&self, name: &str, shape: &[usize]) -> Result<(TensorView<'_>, Extent)> {
        let view = self.source.read(name, shape)?;
        let extent = view.extent();
        match extent.not_finite {
            0 => Ok((view, extent)),
            _ => Err(Error::not_finite_tensor(name)),
        }
    }

    fn load_product(&self, product: &Product) -> Result<(Weight, Option<View>)> {
        (self.check)()?;
        let mut parts = Vec::new();
        let mut bias = Vec::new();
        let mut wide = Vec::new();
        for (name, shape) in product.tensors() {
            let (view, extent) = self.read(&name, &shape)?;
            match shape[..] {
                [n] => bias.extend(view.values(0..n)),
                [n, ..] => {
                    parts.push((view, n));
                    if self.storage == WeightStorage::F16 && extent.exceeds_f16() {
                        wide.push((name, extent.largest));
                    }
                }
                [] => {}
            }
        }
        let layout = Layout::new(product);
        let label = &product.parts[0].0;
        // Values that are f16 in the file lose nothing by staying f16.
        let all_f16 = parts.iter().all(|(view, _)| view.dtype == DType::F16);
        let storage = match wide.is_empty() {
            _ if all_f16 => WeightStorage::F16,
            true => self.storage,
            // f16 would make infinity of them.
            false => WeightStorage::F32,
        };
        let view = match storage {
            WeightStorage::F32 => {
                self.upload(label, bytemuck::cast_slice(&pack::<f32>(&layout, &parts)))?
            }
            WeightStorage::F16 => {
                self.upload(label, bytemuck::cast_slice(&pack::<f16>(&layout, &parts)))?
            }
        };
        let (taps, k) = (layout.taps, product.k);
        let weight = Weight::packed(view, storage, taps, k, layout.columns);
        let bias = if product.bias {
            let ordered = (0..layout.columns)
                .map(|j| layout.source(j).map_or(0.0, |from| bias[from]))
                .collect();
            Some(self.vector(label, ordered, 64)?)
        } else {
            None
        };
        lock(&self.loaded.wide).extend(wide);
        Ok((weight, bias))
    }
}

impl Weights for DeviceWeights<'_> {
    fn product(&self, product: &Product) -> Result<(Weight, Option<View>)> {
        let key = &product.parts[0].0;
        if let Some(found) = lock(&self.loaded.products).get(key) {
            return Ok(found.clone());
        }
        let made = self.load_product(product)?;
        lock(&self.loaded.products).insert(key.clone(), made.clone());
        Ok(made)
    }

    fn norm(&self, norm: &Norm) -> Result<[View; 2]> {
        if let Some(found) = lock(&self.loaded.norms).get(&norm.name) {
            return Ok(found.clone());
        }
        let load = |end: &str| {
            let name = format!("{}.{end}", norm.name);
            let (values, _) = self.read(&name, &[norm.channels])?;
            self.vector(&name, values.values(0..norm.channels), 4)
        };
        let made = [load("weight")?, load("bias")?];
        lock(&self.loaded.norms).insert(norm.name.clone(), made.clone());
        Ok(made)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Where a packed column comes from.
struct Layout {
    taps: usize,
    k: usize,
    /// Columns of the source, gates included.
    n: usize,
    /// Packed columns.
    columns: usize,
    geglu: bool,
}

impl Layout {
    fn new(product: &Product) -> Self {
        let half = (product.n / 2).next_multiple_of(4);
        Self {
            taps: product.kernel.taps(),
            k: product.k,
            n: product.n,
            columns: if product.geglu { 2 * half } else { product.n },
            geglu: product.geglu,
        }
    }

    /// The source column of packed column `j`; `None` for padding. Gated layers
    /// alternate four values and four gates, so that both meet in one invocation.
    fn source(&self, j: usize) -> Option<usize> {
        if !self.geglu {
            return (j < self.n).then_some(j);
        }
        let half = self.n / 2;
        let column = j / 8 * 4 + j % 4;
        (column < half).then_some(if j % 8 < 4 { column } else { half + column })
    }
}

/// A value that weights are packed as.
trait Value: bytemuck::Pod + Send + Sync {
    fn from_f32(x: f32) -> Self;
    /// The tensor's values where no conversion is needed.
    fn borrow<'a>(view: &'a TensorView<'_>) -> Option<&'a [Self]>;
}

impl Value for f32 {
    fn from_f32(x: f32) -> Self {
        x
    }

    fn borrow<'a>(view: &'a TensorView<'_>) -> Option<&'a [Self]> {
        (view.dtype == DType::F32)
            .then(|| bytemuck::try_cast_slice(&view.data).ok())
            .flatten()
    }
}

impl Value for f16 {
    fn from_f32(x: f32) -> Self {
        f16::from_f32(x)
    }

    fn borrow<'a>(view: &'a TensorView<'_>) -> Option<&'a [Self]> {
        (view.dtype == DType::F16)
            .then(|| bytemuck::try_cast_slice(&view.data).ok())
            .flatten()
    }
}

/// Packs tensors `[n, k, taps]`, side by side, into panels of 64 columns
/// `[columns / 64, taps, k rounded up to 4, 64]` (see `kernel::product`).
fn pack<T: Value>(layout: &Layout, parts: &[(TensorView<'_>, usize)]) -> Vec<T> {
    let converted: Vec<std::borrow::Cow<'_, [T]>> = parts
        .iter()
        .map(|(view, n)| match T::borrow(view) {
            Some(values) => values.into(),
            None => {
                let count = n * layout.k * layout.taps;
                let values: Vec<f32> = view.values(0..count);
                values
                    .into_par_iter()
                    .map(T::from_f32)
                    .collect::<Vec<_>>()
                    .into()
            }
        })
        .collect();
    // The row of every source column.
    let row = layout.k * layout.taps;
    let rows: Vec<&[T]> = parts
        .iter()
        .zip(&converted)
        .flat_map(|((_, n), values)| (0..*n).map(move |i| &values[i * row..(i + 1) * row]))
        .collect();
    let k4 = layout.k.next_multiple_of(4);
    let panel = layout.taps * k4 * 64;
    let mut packed = vec![T::zeroed(); layout.columns.div_ceil(64) * panel];
    packed
        .par_chunks_mut(panel)
        .enumerate()
        .for_each(|(p, out)| pack_panel(layout, &rows, p, out));
    packed
}

/// Packs the panel `p`, a few rows of the output at a time, so that what is
/// written stays in the processor's first cache.
fn pack_panel<T: Value>(layout: &Layout, rows: &[&[T]], p: usize, out: &mut [T]) {
    let k4 = layout.k.next_multiple_of(4);
    let taps = layout.taps;
    for start in (0..layout.k).step_by(16) {
        let end = (start + 16).min(layout.k);
        for column in 0..64 {
            let place = p * 64 + column;
            if place >= layout.columns {
                break;
            }
            let Some(source) = layout.source(place) else {
                continue;
            };
            let values = &rows[source][start * taps..end * taps];
            for (k, values) in values.chunks_exact(taps).enumerate() {
                for (tap, value) in values.iter().enumerate() {
                    out[(tap * k4 + start + k) * 64 + column] = *value;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A product whose parts are of several precisions, as where an adapter changes the
    /// query alone: none loses anything in f32, all are rounded once in f16.
    #[test]
    fn parts_of_several_precisions_are_packed_alike() {
        let names = ["q", "k"].map(String::from);
        let layout = Layout::new(&Product::side_by_side(&names, [8, 4], false));
        let values: Vec<f32> = (0..32).map(|i| i as f32 / 3.0 - 4.0).collect();
        let halves: Vec<f16> = values.iter().map(|x| f16::from_f32(*x)).collect();
        let view = |dtype, bytes: &[u8]| TensorView {
            dtype,
            shape: vec![4, 8],
            data: bytes.to_vec().into(),
        };
        let full = || view(DType::F32, bytemuck::cast_slice(&values));
        let half = || view(DType::F16, bytemuck::cast_slice(&halves));
        let widened: Vec<f32> = halves.iter().map(|x| x.to_f32()).collect();
        let wide = || view(DType::F32, bytemuck::cast_slice(&widened));
        let mixed = [(full(), 4), (half(), 4)];
        assert_eq!(
            pack::<f32>(&layout, &mixed),
            pack::<f32>(&layout, &[(full(), 4), (wide(), 4)])
        );
        assert_eq!(
            pack::<f16>(&layout, &mixed),
            pack::<f16>(&layout, &[(half(), 4), (half(), 4)])
        );
    }
}
