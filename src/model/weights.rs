//! Weights on the device: read from the checkpoint tensor by tensor, repacked
//! once into the layout of the product kernel, uploaded in pieces.

use crate::checkpoint::{DType, Extent, TensorSource, TensorView};
use crate::gpu::Gpu;
use crate::graph::{Graph, Norm, Product, Weights};
use crate::kernel::View;
use crate::kernel::product::{Layout, Weight, WeightStorage};
use crate::{Error, Result};
use half::f16;
use rayon::prelude::*;
use std::borrow::Cow;
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
    products: Mutex<HashMap<Product, (Weight, Option<View>)>>,
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
                _ => {
                    parts.push(view);
                    if self.storage == WeightStorage::F16 && extent.exceeds_f16() {
                        wide.push((name, extent.largest));
                    }
                }
            }
        }
        let layout = product.layout();
        let label = &product.parts[0].0;
        // Values that are f16 in the file lose nothing by staying f16.
        let all_f16 = parts.iter().all(|view| view.dtype == DType::F16);
        let storage = match wide.is_empty() {
            _ if all_f16 => WeightStorage::F16,
            true => self.storage,
            // f16 would make infinity of them.
            false => WeightStorage::F32,
        };
        let view = match storage {
            WeightStorage::F32 => {
                self.upload(label, bytemuck::cast_slice(&pack::<f32>(layout, &parts)))?
            }
            WeightStorage::F16 => {
                self.upload(label, bytemuck::cast_slice(&pack::<f16>(layout, &parts)))?
            }
        };
        let weight = Weight::packed(view, storage, layout);
        let bias = match product.bias {
            true => Some(self.upload(label, bytemuck::cast_slice(&layout.pack_bias(&bias)))?),
            false => None,
        };
        lock(&self.loaded.wide).extend(wide);
        Ok((weight, bias))
    }
}

impl Weights for DeviceWeights<'_> {
    fn product(&self, product: &Product) -> Result<(Weight, Option<View>)> {
        if let Some(found) = lock(&self.loaded.products).get(product) {
            return Ok(found.clone());
        }
        let made = self.load_product(product)?;
        lock(&self.loaded.products).insert(product.clone(), made.clone());
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

/// Packs the tensors of a product, each `[n, k, taps]`, side by side.
fn pack<T: Value>(layout: Layout, parts: &[TensorView<'_>]) -> Vec<T> {
    let converted: Vec<Cow<'_, [T]>> = parts
        .iter()
        .map(|view| match T::borrow(view) {
            Some(values) => values.into(),
            None => {
                let values: Vec<f32> = view.values(0..view.shape.iter().product());
                let values = values.into_par_iter().map(T::from_f32);
                values.collect::<Vec<_>>().into()
            }
        })
        .collect();
    let column = layout.k * layout.taps;
    let columns: Vec<&[T]> = converted
        .iter()
        .flat_map(|values| values.chunks_exact(column))
        .collect();
    layout.pack(&columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A product whose parts are of several precisions, as where an adapter changes the
    /// query alone: none loses anything in f32, all are rounded once in f16.
    #[test]
    fn parts_of_several_precisions_are_packed_alike() {
        let names = ["q", "k"].map(String::from);
        let layout = Product::side_by_side(&names, [8, 4], false).layout();
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
        let mixed = [full(), half()];
        assert_eq!(
            pack::<f32>(layout, &mixed),
            pack::<f32>(layout, &[full(), wide()])
        );
        assert_eq!(
            pack::<f16>(layout, &mixed),
            pack::<f16>(layout, &[half(), half()])
        );
    }

    /// Layers of 4 columns over 8 channels, all of whose values are their names' first byte.
    struct Layers;

    impl TensorSource for Layers {
        fn contains(&self, _: &str) -> bool {
            true
        }

        fn check(&self, _: &str, _: &[usize]) -> Result<()> {
            Ok(())
        }

        fn read(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>> {
            let values = vec![f32::from(name.as_bytes()[0]); shape.iter().product()];
            Ok(TensorView {
                dtype: DType::F32,
                shape: shape.to_vec(),
                data: bytemuck::cast_slice(&values).to_vec().into(),
            })
        }
    }

    /// The query alone beside query, key and value, and what else differs.
    #[test]
    fn products_that_share_a_layer_have_weights_of_their_own() {
        let gpu = Gpu::open(&Default::default()).unwrap();
        let loaded = Loaded::default();
        let weights = DeviceWeights::new(&gpu, &Layers, WeightStorage::F32, &loaded);
        let bytes = |view: &View| gpu.download(&view.buffer, view.offset, view.size).unwrap();
        let names = |all: &[&str]| all.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        let products = [
            Product::side_by_side(&names(&["q"]), [8, 4], false),
            Product::side_by_side(&names(&["q", "k", "v"]), [8, 4], false),
            Product::side_by_side(&names(&["q", "v", "k"]), [8, 4], false),
            Product::side_by_side(&names(&["q", "k"]), [8, 4], true),
            Product::side_by_side(&names(&["q", "k"]), [8, 4], true).with_geglu(),
        ];
        for product in &products {
            let (weight, bias) = weights.product(product).unwrap();
            let (fresh, fresh_bias) = weights.load_product(product).unwrap();
            assert_eq!(weight.n8, fresh.n8, "{product:?}");
            assert_eq!(bytes(&weight.view), bytes(&fresh.view), "{product:?}");
            assert_eq!(bias.is_some(), product.bias, "{product:?}");
            assert_eq!(bias.map(|b| bytes(&b)), fresh_bias.map(|b| bytes(&b)));
        }
        // Asked for again, they are not uploaded again.
        let (weight, _) = weights.product(&products[1]).unwrap();
        let (again, _) = weights.product(&products[1].clone()).unwrap();
        assert!(Arc::ptr_eq(&weight.view.buffer, &again.view.buffer));
        assert_eq!(lock(&loaded.products).len(), products.len());
    }
}
