//! Weights on the device: read from the checkpoint tensor by tensor, and packed into
//! the layout of the product kernel where the device copies from.

mod loaded;
mod packed;
mod stream;

pub use loaded::Loaded;
pub use stream::Streamed;

use crate::checkpoint::{Extent, TensorSource, TensorView};
use crate::gpu::{Gpu, Uploads};
use crate::graph::{Graph, Norm, Placed, Product, Weights};
use crate::kernel::View;
use crate::kernel::product::{BLOCK, BlockFormat, Layout, Weight, WeightBlocks, WeightStorage};
use crate::{Error, Result};
use half::f16;
use loaded::{PIECE, Shares, lock};
use packed::Packed;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

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

/// Values below which a product's weights stay as they are: blocks would save nothing.
const SMALL: usize = 1 << 14;

/// Columns of a product by which the error of its blocks is judged.
const SAMPLE: usize = 64;

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

/// What a product's weights are, on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain(WeightStorage),
    Blocks(BlockFormat),
}

impl Form {
    fn bytes(self, layout: Layout) -> u64 {
        match self {
            Form::Plain(storage) => layout.bytes(storage),
            Form::Blocks(format) => layout.block_bytes(format),
        }
    }

    fn panel_bytes(self, layout: Layout) -> u64 {
        match self {
            Form::Plain(storage) => layout.panel_bytes(storage),
            Form::Blocks(format) => layout.block_panel_bytes(format),
        }
    }
}

/// The largest error of blocks, `||q - w|| / ||w||`, at which a product is kept in them.
/// Normally distributed weights have 0.005 (q8) and 0.08 (q4).
fn tolerated(format: BlockFormat) -> f64 {
    match format {
        BlockFormat::Q8 => 0.02,
        BlockFormat::Q4 => 0.15,
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

/// The tensors of a product.
struct Tensors<'a> {
    /// `[n, k, taps]`, side by side.
    parts: Vec<TensorView<'a>>,
    bias: Vec<f32>,
    /// Names and largest magnitudes of those that f16 would make infinity of.
    wide: Vec<(String, f32)>,
}

/// A tensor, all of whose values are finite.
fn read<'a>(
    source: &'a dyn TensorSource,
    name: &str,
    shape: &[usize],
) -> Result<(TensorView<'a>, Extent)> {
    let view = source.read(name, shape)?;
    let extent = view.extent();
    match extent.not_finite {
        0 => Ok((view, extent)),
        _ => Err(Error::not_finite_tensor(name)),
    }
}

impl<'a> Tensors<'a> {
    fn read(source: &'a dyn TensorSource, product: &Product) -> Result<Self> {
        Self::read_some(source, product, |_| true)
    }

    /// Those whose shapes are `wanted`.
    fn read_some(
        source: &'a dyn TensorSource,
        product: &Product,
        wanted: impl Fn(&[usize]) -> bool,
    ) -> Result<Self> {
        let mut tensors = Tensors {
            parts: Vec::new(),
            bias: Vec::new(),
            wide: Vec::new(),
        };
        for (name, shape) in product.tensors() {
            if !wanted(&shape) {
                continue;
            }
            let (view, extent) = read(source, &name, &shape)?;
            match shape[..] {
                [n] => tensors.bias.extend(view.values(0..n)),
                _ => {
                    tensors.parts.push(view);
                    if extent.exceeds_f16() {
                        tensors.wide.push((name, extent.largest));
                    }
                }
            }
        }
        Ok(tensors)
    }

    fn columns(&self, layout: Layout) -> Packed<'_> {
        Packed::new(&self.parts, layout.k * layout.taps)
    }

    /// How they are kept where `asked` is asked for.
    fn form(&self, asked: Keeping, layout: Layout) -> Form {
        let all_f16 = self.parts.iter().all(TensorView::fits_f16);
        if let (Some(format), true) = (asked.blocks, self.wide.is_empty())
            && fits_blocks(layout)
            && layout.block_error(format, &self.columns(layout), SAMPLE) <= tolerated(format)
        {
            return Form::Blocks(format);
        }
        Form::Plain(match self.wide.is_empty() {
            _ if all_f16 => WeightStorage::F16,
            true => asked.storage,
            // f16 would make infinity of them.
            false => WeightStorage::F32,
        })
    }
}

/// Whether a layout has enough values for blocks to save anything.
fn fits_blocks(layout: Layout) -> bool {
    layout.k >= BLOCK && layout.n * layout.k * layout.taps >= SMALL
}

/// Packs a product's values to `view`.
fn pack_weight(
    gpu: &Gpu,
    uploads: &mut Uploads,
    (layout, form): (Layout, Form),
    columns: &Packed<'_>,
    view: &View,
) -> Result<()> {
    let bytes = form.panel_bytes(layout);
    let panels = layout.panels();
    let at_a_time = (Uploads::AT_A_TIME / bytes).max(1) as usize;
    for first in (0..panels).step_by(at_a_time) {
        let some = first..(first + at_a_time).min(panels);
        let (offset, size) = (some.start as u64 * bytes, some.len() as u64 * bytes);
        let offset = view.offset + offset;
        uploads.write(gpu, &view.buffer, offset, size, |to| match form {
            Form::Plain(WeightStorage::F32) => layout.pack_panels::<f32>(some, columns, to),
            Form::Plain(WeightStorage::F16) => layout.pack_panels::<f16>(some, columns, to),
            Form::Blocks(format) => layout.pack_blocks(format, some, columns, to),
        })?;
    }
    Ok(())
}

impl Placed {
    /// Where the values are packed to, and how.
    fn packed(&self) -> (&View, Form) {
        match &self.blocks {
            Some(blocks) => (&blocks.view, Form::Blocks(blocks.format)),
            None => (&self.weight.view, Form::Plain(self.weight.storage)),
        }
    }
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
        match self.keeping.storage {
            // Values that f16 holds lose nothing by being f16.
            _ if names().all(|name| self.source.fits_f16(&name)) => {
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
        let form = tensors.form(self.keeping, product.layout());
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

/// Bytes of weights on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WeightSizes {
    /// Of all products.
    pub weights: u64,
    /// Of a piece, if they are streamed.
    pub largest: u64,
    /// Biases and norms, which always stay.
    pub others: u64,
    /// What blocks are expanded to.
    pub plane: u64,
}

impl std::iter::Sum for WeightSizes {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |a, b| Self {
            weights: a.weights + b.weights,
            largest: a.largest.max(b.largest),
            others: a.others + b.others,
            plane: a.plane.max(b.plane),
        })
    }
}

impl DeviceWeights<'_> {
    /// What the weights of `graph` take, without a look at their values.
    pub fn sizes(&self, graph: &Graph) -> WeightSizes {
        let products: HashSet<&Product> = graph.products().collect();
        let products = products.into_iter().map(|product| {
            let layout = product.layout();
            let blocks = self.keeping.blocks.filter(|_| fits_blocks(layout));
            let form = match blocks {
                Some(format) => Form::Blocks(format),
                None => self
                    .known_form(product)
                    .unwrap_or(Form::Plain(self.keeping.storage)),
            };
            let bias = if product.bias {
                layout.bias_places()
            } else {
                0
            };
            WeightSizes {
                weights: form.bytes(layout),
                largest: form.bytes(layout).max(PIECE),
                others: 4 * bias as u64,
                plane: blocks.map_or(0, |_| layout.bytes(WeightStorage::F16)),
            }
        });
        let norms = graph.norms().map(|norm| WeightSizes {
            others: 2 * 4 * norm.channels.next_multiple_of(4) as u64,
            ..Default::default()
        });
        products.chain(norms).sum()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::DType;
    use crate::graph::Kernel;
    use crate::graph::{Executor, Runner};
    use crate::kernel::{Context, Mode, Storage};
    use half::bf16;
    use std::rc::Rc;

    /// The f32 values of a file's tensor, and its bytes in a precision.
    fn tensor(dtype: DType, count: usize, seed: usize) -> (Vec<f32>, Vec<u8>) {
        let values = (0..count).map(|i| ((i * 37 + seed * 101) % 4001) as f32 / 3.0 - 600.0);
        match dtype {
            DType::F32 => (values.clone().collect(), {
                values.flat_map(f32::to_le_bytes).collect()
            }),
            DType::F16 => {
                let halves: Vec<f16> = values.map(f16::from_f32).collect();
                let bytes = halves.iter().flat_map(|x| x.to_le_bytes()).collect();
                (halves.iter().map(|x| x.to_f32()).collect(), bytes)
            }
            DType::BF16 => {
                let brains: Vec<bf16> = values.map(bf16::from_f32).collect();
                let bytes = brains.iter().flat_map(|x| x.to_le_bytes()).collect();
                (brains.iter().map(|x| x.to_f32()).collect(), bytes)
            }
            // Any bytes are blocks; here with scales that stay small.
            blocks => {
                let bytes = blocks.bytes(count).unwrap();
                let bytes: Vec<u8> = (0..bytes).map(|i| ((i * 37 + seed) % 0x3b) as u8).collect();
                let mut values = vec![0.0; count];
                blocks.widen(&bytes, &mut values);
                (values, bytes)
            }
        }
    }

    /// Tensors by name.
    struct Named(HashMap<String, (DType, Vec<u8>)>, bool);

    impl TensorSource for Named {
        fn contains(&self, name: &str) -> bool {
            self.0.contains_key(name)
        }

        fn check(&self, _: &str, _: &[usize]) -> Result<()> {
            Ok(())
        }

        fn read(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>> {
            let (dtype, bytes) = &self.0[name];
            Ok(TensorView::new(*dtype, shape, bytes.as_slice()))
        }

        fn dtype(&self, name: &str) -> Option<DType> {
            self.1.then(|| self.0[name].0)
        }
    }

    /// What the device has, against every value put by itself where the kernels look
    /// for it: all precisions, odd sizes, gates, convolutions, layers side by side whose
    /// precisions differ, as where an adapter changes the query alone, and weights of
    /// which a panel is larger than what is uploaded at a time. Whether the values are
    /// read at once or follow changes nothing.
    #[test]
    fn every_value_is_where_the_kernels_look_for_it() {
        let gpu = Gpu::open(&Default::default()).unwrap();
        let (q, qkv) = (vec!["q".to_string()], ["q", "k", "v"].map(String::from));
        let conv = |k, n| Product::new("q", Kernel::Conv3x3, [k, n], true);
        let mut products: Vec<(Product, Vec<DType>)> = Vec::new();
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            products.extend([
                (Product::side_by_side(&q, [1, 1], true), vec![dtype]),
                (Product::side_by_side(&q, [203, 130], true), vec![dtype]),
                (Product::side_by_side(&qkv, [72, 66], false), vec![dtype; 3]),
                (conv(19, 70), vec![dtype]),
                (Product::linear("q", [37, 152]).with_geglu(), vec![dtype]),
            ]);
        }
        let mixed = vec![DType::F32, DType::F16, DType::BF16];
        products.push((Product::side_by_side(&qkv, [24, 10], true), mixed));
        products.push((conv(4000, 3), vec![DType::F16]));
        // Blocks that reach over columns, as where a convolution was quantised flat.
        for dtype in [DType::F8E4M3, DType::Q8_0, DType::Q5K] {
            let product = Product::side_by_side(&q, [48, 192], false);
            products.push((product, vec![dtype]));
        }
        for (product, dtypes) in products {
            let layout = product.layout();
            let (mut tensors, mut values) = (HashMap::new(), Vec::new());
            for (i, (name, shape)) in product.tensors().into_iter().enumerate() {
                let of_bias = shape.len() == 1;
                let part = product.parts.iter().position(|(p, _)| name.starts_with(p));
                let dtype = dtypes[part.unwrap()];
                let (wide, bytes) = tensor(dtype, shape.iter().product(), i);
                if !of_bias {
                    values.extend(wide);
                }
                tensors.insert(name, (dtype, bytes));
            }
            for (storage, known) in [
                (WeightStorage::F16, false),
                (WeightStorage::F16, true),
                (WeightStorage::F32, false),
                (WeightStorage::F32, true),
            ] {
                let source = Named(tensors.clone(), known);
                let loaded = Loaded::default();
                let weights = DeviceWeights::new(&gpu, &source, storage, &loaded);
                let Placed { weight, .. } = weights.product(&product).unwrap();
                weights.fill().unwrap();
                let all_f16 = dtypes.iter().all(|dtype| dtype.fits_f16());
                let storage = if all_f16 { WeightStorage::F16 } else { storage };
                assert_eq!(weight.storage, storage, "{product:?} {dtypes:?}");
                let bytes = gpu.download(&weight.view.buffer, 0, weight.view.size);
                let mut want = vec![0f32; layout.bytes(WeightStorage::F32) as usize / 4];
                for (j, column) in values.chunks(layout.k * layout.taps).enumerate() {
                    let half = layout.n / 2;
                    let place = match layout.geglu {
                        true => j % half / 4 * 8 + j / half * 4 + j % half % 4,
                        false => j,
                    };
                    for (i, value) in column.iter().enumerate() {
                        let (row, tap) = (i / layout.taps, i % layout.taps);
                        let k8 = (place / 64 * layout.taps + tap) * layout.k.div_ceil(8) + row / 8;
                        want[(k8 * 64 + place % 64) * 8 + row % 8] = *value;
                    }
                }
                let want: Vec<u8> = match storage {
                    WeightStorage::F32 => want.iter().flat_map(|x| x.to_le_bytes()).collect(),
                    WeightStorage::F16 => {
                        let halves = want.iter().map(|x| f16::from_f32(*x));
                        halves.flat_map(f16::to_le_bytes).collect()
                    }
                };
                assert!(bytes.unwrap() == want, "{product:?} {dtypes:?} {storage:?}");
            }
        }
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
            let bytes = bytemuck::cast_slice(&values).to_vec();
            Ok(TensorView::new(DType::F32, shape, bytes))
        }
    }

    /// More weights than two pieces hold: each layer finds its own, in every run.
    #[test]
    fn streamed_pieces_take_turns() {
        const SIDE: usize = 1024;
        let gpu = Gpu::open(&Default::default()).unwrap();
        let mut g = Graph::new();
        let x = g.input("x", [1, 3, 1, SIDE]);
        let layers = 'a'..='l';
        let mut sum = None;
        for name in layers.clone() {
            let y = g.linear(x, Product::linear(name.to_string(), [SIDE, SIDE]));
            sum = Some(match sum {
                Some(sum) => g.add(sum, y),
                None => y,
            });
        }
        g.output(sum.unwrap());
        let g = g.optimise();
        let keeping = Keeping {
            resident: Some(0),
            ..WeightStorage::F16.into()
        };
        let loaded = Loaded::default();
        let weights = DeviceWeights::new(&gpu, &Layers, keeping, &loaded);
        let context = Context::new(&gpu, Mode { direct: true }).unwrap();
        let none = HashMap::new();
        let executor = Executor::new(&context, Storage::F32, &g, &weights, &none).unwrap();
        executor
            .write(&gpu, "x", &[1.0 / SIDE as f32; 3 * SIDE])
            .unwrap();
        let stream = Rc::new(Streamed::new(&gpu, &Layers, &loaded));
        let runner = Runner::new(&gpu, false).unwrap();
        let mut runner = runner.with_stream(stream.clone());
        // Of each layer its value, times the sum of x, and its bias.
        let expected: f32 = layers.map(|name| 2.0 * f32::from(name as u8)).sum();
        for _ in 0..3 {
            runner.run(|_| {}, &[executor.step()], &|| false).unwrap();
            runner.finish().unwrap();
            let made = executor.read(&gpu, 0).unwrap();
            assert!(
                made.iter().all(|y| *y == expected),
                "{} {expected}",
                made[0]
            );
        }
        let once = loaded.streamed_bytes();
        assert_eq!(once, 12 * 2 * (SIDE * SIDE) as u64);
        assert!(stream.bytes() > 2 * once, "{} of {once}", stream.bytes());
        // Two pieces and the biases are all that is on the device.
        let there = loaded.bytes() + loaded.shared_bytes();
        assert!(there < once, "{there}");
        let none = Runner::new(&gpu, false)
            .unwrap()
            .run(|_| {}, &[executor.step()], &|| false);
        assert!(matches!(none, Err(Error::Internal { .. })));
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
            let Placed { weight, bias, .. } = weights.product(product).unwrap();
            weights.fill().unwrap();
            let again = Loaded::default();
            let alone = DeviceWeights::new(&gpu, &Layers, WeightStorage::F32, &again);
            let Placed {
                weight: fresh,
                bias: fresh_bias,
                ..
            } = alone.product(product).unwrap();
            alone.fill().unwrap();
            assert_eq!(weight.n8, fresh.n8, "{product:?}");
            assert_eq!(bytes(&weight.view), bytes(&fresh.view), "{product:?}");
            assert_eq!(bias.is_some(), product.bias, "{product:?}");
            assert_eq!(bias.map(|b| bytes(&b)), fresh_bias.map(|b| bytes(&b)));
        }
        // Asked for again, they are not uploaded again.
        let Placed { weight, .. } = weights.product(&products[1]).unwrap();
        let Placed { weight: again, .. } = weights.product(&products[1].clone()).unwrap();
        assert!(Arc::ptr_eq(&weight.view.buffer, &again.view.buffer));
        assert_eq!(lock(&loaded.products).len(), products.len());
    }
}
