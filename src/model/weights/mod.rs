//! Weights on the device: read from the checkpoint tensor by tensor, and packed into
//! the layout of the product kernel where the device copies from.

mod loaded;
mod packed;
mod sizes;
mod stream;
mod tensors;
#[cfg(test)]
mod tests;

pub use loaded::Loaded;
pub use sizes::WeightSizes;
pub use stream::Streamed;

use crate::checkpoint::{TensorSource, TensorView};
use crate::gpu::{Gpu, Uploads};
use crate::graph::{Graph, Norm, Placed, Product, Weights};
use crate::kernel::View;
use crate::kernel::product::{BlockFormat, Layout, Weight, WeightBlocks, WeightStorage};
use crate::{Error, Result};
use loaded::{Shares, lock};
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tensors::{Form, Tensors, fits_blocks, pack_weight, read};

/// Names and shapes of every tensor that `graph` reads.
pub fn tensors(graph: &Graph) -> Vec<(String, Vec<usize>)> {
    let products = graph.products().flat_map(Product::tensors);
    let norms = graph.norms().flat_map(|norm| {
        ["weight", "bias"].map(|end| (format!("{}.{end}", norm.name), vec![norm.channels]))
    });
    products.chain(norms).collect()
}

/// Bytes that a disk is asked for ahead of their reading.
const AHEAD: u64 = 256 << 20;

/// How weights are kept on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeping {
    /// Of what is in no blocks.
    pub storage: WeightStorage,
    /// Between products; they are expanded before each.
    pub blocks: Option<BlockFormat>,
    /// Bytes of weights that stay on the device; the others are streamed, in every step.
    /// `None`: all stay.
    pub resident: Option<u64>,
}

impl From<WeightStorage> for Keeping {
    fn from(storage: WeightStorage) -> Self {
        Self {
            storage,
            blocks: None,
            resident: None,
        }
    }
}

/// The weights of one part on one device. Graphs of different sizes share them.
///
/// Where a checkpoint says how precise a tensor is, its place on the device is known
/// before its values are read: all values follow when the weights are filled, while
/// pipelines are compiled. Otherwise they are read at once.
pub struct DeviceWeights<'a> {
    gpu: &'a Gpu,
    source: &'a dyn TensorSource,
    keeping: Keeping,
    loaded: &'a Loaded,
    check: &'a dyn Fn() -> Result<()>,
    work: RefCell<Work>,
}

/// What has a place on the device already, but not all of its values.
#[derive(Default)]
struct Work {
    placed: HashMap<Product, Placed>,
    /// Those whose values were not read, in the order in which they were asked for.
    waiting: Vec<Product>,
    uploads: Uploads,
    /// What becomes of the loaded one's once all is there.
    shares: Option<Shares>,
}

impl<'a> DeviceWeights<'a> {
    pub fn new(
        gpu: &'a Gpu,
        source: &'a dyn TensorSource,
        keeping: impl Into<Keeping>,
        loaded: &'a Loaded,
    ) -> Self {
        Self {
            gpu,
            source,
            keeping: keeping.into(),
            loaded,
            check: &|| Ok(()),
            work: RefCell::default(),
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

    /// How a product's weights will be kept, where that takes no look at their values.
    fn known_form(&self, product: &Product) -> Option<Form> {
        if self.keeping.blocks.is_some() && fits_blocks(product.layout()) {
            return None;
        }
        let names = || {
            let names = product.parts.iter();
            names.map(|(name, _)| format!("{name}.weight"))
        };
        if !names().all(|name| self.source.dtype(&name).is_some()) {
            return None;
        }
        let halves = self.gpu.capabilities().half_words;
        match self.keeping.storage {
            // Values that f16 holds lose nothing by being f16.
            _ if halves && names().all(|name| self.source.fits_f16(&name)) => {
                Some(Form::Plain(WeightStorage::F16))
            }
            WeightStorage::F32 => Some(Form::Plain(WeightStorage::F32)),
            WeightStorage::F16 => None,
        }
    }

    /// Room for a product: of its own, or in a piece of the stream.
    fn place(&self, shares: &mut Shares, product: &Product, form: Form) -> Result<Placed> {
        let layout = product.layout();
        let label = &product.parts[0].0;
        let room = |bytes| -> Result<View> {
            let buffer = Arc::new(self.gpu.buffer(label, bytes)?);
            Ok(View::whole(&buffer))
        };
        let bytes = form.bytes(layout);
        let (view, piece) = match shares.piece(bytes, self.keeping.resident) {
            Some((view, piece)) => (view, Some(piece)),
            None => (room(bytes)?, None),
        };
        let bias = match product.bias {
            true => Some(room(layout.bias_places() as u64 * 4)?),
            false => None,
        };
        let placed = match form {
            Form::Plain(storage) => Placed {
                weight: Weight::packed(view, storage, layout),
                blocks: None,
                bias,
                piece,
            },
            Form::Blocks(format) => Placed {
                weight: Weight::packed(shares.plane(layout)?, WeightStorage::F16, layout),
                blocks: Some(WeightBlocks {
                    format,
                    layout,
                    view,
                }),
                bias,
                piece,
            },
        };
        if let Some(piece) = piece {
            shares.join(piece, product, &placed);
        }
        Ok(placed)
    }

    /// Packs a product's values where it was placed; of what is streamed, the bias alone.
    fn pack(
        &self,
        uploads: &mut Uploads,
        product: &Product,
        tensors: &Tensors<'_>,
        placed: &Placed,
    ) -> Result<()> {
        let (gpu, layout) = (self.gpu, product.layout());
        if placed.piece.is_none() {
            let (view, form) = placed.packed();
            pack_weight(gpu, uploads, (layout, form), &tensors.columns(layout), view)?;
        }
        if let Some(bias) = &placed.bias {
            let values = layout.pack_bias(&tensors.bias);
            let values = bytemuck::cast_slice::<_, u8>(&values);
            let size = values.len() as u64;
            uploads.write(gpu, &bias.buffer, 0, size, |mut to| {
                to.copy_from_slice(values)
            })?;
        }
        Ok(())
    }

    /// Reads a product whose form depends on its values.
    fn read_now(
        &self,
        uploads: &mut Uploads,
        shares: &mut Shares,
        product: &Product,
    ) -> Result<Placed> {
        let tensors = Tensors::read(self.source, product)?;
        let halves = self.gpu.capabilities().half_words;
        let form = tensors.form(self.keeping, product.layout(), halves);
        let placed = self.place(shares, product, form)?;
        self.pack(uploads, product, &tensors, &placed)?;
        if self.keeping.storage == WeightStorage::F16 || self.keeping.blocks.is_some() {
            lock(&self.loaded.wide).extend(tensors.wide);
        }
        Ok(placed)
    }

    /// Reads a product that was placed without a look at its values.
    fn fill_one(&self, uploads: &mut Uploads, product: &Product, placed: &Placed) -> Result<()> {
        // Of what is streamed, biases alone.
        let streamed = placed.piece.is_some();
        let wanted = |shape: &[usize]| !streamed || shape.len() == 1;
        let tensors = Tensors::read_some(self.source, product, wanted)?;
        let all_f16 = tensors.parts.iter().all(TensorView::fits_f16);
        if placed.weight.storage == WeightStorage::F16 && !all_f16 {
            let name = &product.parts[0].0;
            return Err(Error::internal(name, "a tensor of another precision"));
        }
        self.pack(uploads, product, &tensors, placed)
    }

    /// Says that a product will be read soon; gives its bytes, as if they were f16.
    fn expect(&self, product: &Product) -> u64 {
        let names = product.tensors();
        names.iter().for_each(|(name, _)| self.source.expect(name));
        product.layout().bytes(WeightStorage::F16)
    }
}

impl Weights for DeviceWeights<'_> {
    fn prepare(&self, graph: &Graph) -> Result<()> {
        let known = lock(&self.loaded.products);
        let fresh = graph.products().filter(|p| !known.contains_key(*p));
        let layouts: Vec<Layout> = fresh.map(Product::layout).collect();
        lock(&self.loaded.shares).prepare(self.gpu, self.keeping, &layouts)
    }

    fn product(&self, product: &Product) -> Result<Placed> {
        if let Some(found) = lock(&self.loaded.products).get(product) {
            return Ok(found.clone());
        }
        let mut work = self.work.borrow_mut();
        let Work {
            placed,
            waiting,
            uploads,
            shares,
        } = &mut *work;
        if let Some(found) = placed.get(product) {
            return Ok(found.clone());
        }
        (self.check)()?;
        let shares = shares.get_or_insert_with(|| lock(&self.loaded.shares).clone());
        let made = match self.known_form(product) {
            Some(form) => {
                waiting.push(product.clone());
                self.place(shares, product, form)?
            }
            None => self.read_now(uploads, shares, product)?,
        };
        placed.insert(product.clone(), made.clone());
        Ok(made)
    }

    fn fill(&self) -> Result<()> {
        // All or nothing: what is half there is forgotten.
        let Work {
            placed,
            waiting,
            mut uploads,
            shares,
        } = self.work.take();
        let mut next = waiting.iter();
        let mut ahead = VecDeque::new();
        for product in &waiting {
            (self.check)()?;
            while ahead.iter().sum::<u64>() < AHEAD
                && let Some(product) = next.next()
            {
                ahead.push_back(self.expect(product));
            }
            ahead.pop_front();
            if let Some(placed) = placed.get(product) {
                self.fill_one(&mut uploads, product, placed)?;
            }
        }
        uploads.flush(self.gpu)?;
        lock(&self.loaded.products).extend(placed);
        if let Some(shares) = shares {
            *lock(&self.loaded.shares) = shares;
        }
        Ok(())
    }

    fn norm(&self, norm: &Norm) -> Result<[View; 2]> {
        if let Some(found) = lock(&self.loaded.norms).get(&norm.name) {
            return Ok(found.clone());
        }
        let load = |end: &str| {
            let name = format!("{}.{end}", norm.name);
            let (values, _) = read(self.source, &name, &[norm.channels])?;
            self.vector(&name, values.values(0..norm.channels), 4)
        };
        let made = [load("weight")?, load("bias")?];
        lock(&self.loaded.norms).insert(norm.name.clone(), made.clone());
        Ok(made)
    }
}
