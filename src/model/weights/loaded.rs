//! What of a part is on the device.

use super::Keeping;
use crate::Result;
use crate::gpu::{Buffer, Gpu};
use crate::graph::{Placed, Product};
use crate::kernel::View;
use crate::kernel::product::{Layout, WeightStorage};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

/// Bytes below which weights always stay: so few are not worth a piece of a stream.
const ALWAYS: u64 = 1 << 13;

/// The least bytes of a piece: many small products come together.
pub(super) const PIECE: u64 = 8 << 20;

/// Where products begin in a piece, at multiples.
const ALIGNMENT: u64 = 256;

/// What has been uploaded.
#[derive(Default)]
pub struct Loaded {
    pub(super) products: Mutex<HashMap<Product, Placed>>,
    pub(super) norms: Mutex<HashMap<String, [View; 2]>>,
    /// Tensors that stayed f32 since f16 would not hold them, and how far they reach.
    pub(super) wide: Mutex<BTreeMap<String, f32>>,
    pub(super) shares: Mutex<Shares>,
}

impl Loaded {
    /// Lets go of everything: the memory is free once no graph holds it.
    pub fn clear(&self) {
        lock(&self.products).clear();
        lock(&self.norms).clear();
        *lock(&self.shares) = Shares::default();
    }

    /// Lets go of what was made of these tensors, which have other values now. Where
    /// weights are streamed, of everything: they have their places together.
    pub fn forget(&self, tensors: &HashSet<String>) {
        let is_left = |name: &String| !tensors.contains(name);
        lock(&self.wide).retain(|name, _| is_left(name));
        if tensors.is_empty() {
            return;
        }
        if !lock(&self.shares).pieces.is_empty() {
            return self.clear();
        }
        let whole = |product: &Product| product.tensors().iter().all(|(name, _)| is_left(name));
        let mut gone = 0;
        lock(&self.products).retain(|product, placed| {
            let stays = whole(product);
            if !stays {
                gone += placed.packed().0.size;
            }
            stays
        });
        lock(&self.shares).leave(gone);
        let ends = ["weight", "bias"];
        let whole = |norm: &str| ends.iter().all(|end| is_left(&format!("{norm}.{end}")));
        lock(&self.norms).retain(|norm, _| whole(norm));
    }

    /// Tensors that stayed f32, though f16 was asked for, since they hold values
    /// beyond its range; and their largest magnitudes. All that ever were loaded.
    pub fn wide(&self) -> BTreeMap<String, f32> {
        lock(&self.wide).clone()
    }

    /// Bytes on the device: weights that stay, biases and norms.
    pub fn bytes(&self) -> u64 {
        let products = lock(&self.products);
        let stay = products.values().map(|placed| {
            let bias = placed.bias.as_ref().map_or(0, |view| view.size);
            match placed.piece {
                Some(_) => bias,
                None => bias + placed.packed().0.size,
            }
        });
        let norms = lock(&self.norms);
        let norms = norms.values().flatten().map(|view| view.size);
        stay.sum::<u64>() + norms.sum::<u64>()
    }

    /// Bytes on the device that products take turns in: where blocks are expanded to, and
    /// where pieces of a stream are brought to.
    pub fn shared_bytes(&self) -> u64 {
        lock(&self.shares).bytes()
    }

    /// Bytes that every run of all products streams.
    pub fn streamed_bytes(&self) -> u64 {
        let products = lock(&self.products);
        let streamed = products.values().filter(|placed| placed.piece.is_some());
        streamed.map(|placed| placed.packed().0.size).sum()
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Memory that products take turns in.
#[derive(Clone, Default)]
pub(super) struct Shares {
    /// Where blocks are expanded to.
    plane: Option<Arc<Buffer>>,
    /// Where pieces are brought to, by turns.
    slots: Option<[Arc<Buffer>; 2]>,
    /// The products of each piece.
    pub pieces: Vec<Vec<(Product, Placed)>>,
    /// Bytes of the last one.
    filled: u64,
    /// Bytes of weights that have a place, of those that stay, and of all that are known
    /// to come.
    placed: u64,
    stay: u64,
    total: u64,
}

impl Shares {
    fn bytes(&self) -> u64 {
        let slots = self.slots.iter().flatten().chain(&self.plane);
        slots.map(|buffer| buffer.size()).sum()
    }

    /// Makes room for products of `layouts`, which are to come.
    pub fn prepare(&mut self, gpu: &Gpu, keeping: Keeping, layouts: &[Layout]) -> Result<()> {
        let bytes = |layout: &Layout| match keeping.blocks {
            Some(format) if super::tensors::fits_blocks(*layout) => layout.block_bytes(format),
            _ => layout.bytes(keeping.storage),
        };
        if keeping.blocks.is_some() {
            let blocks = layouts
                .iter()
                .filter(|layout| super::tensors::fits_blocks(**layout));
            let wanted = blocks.map(|layout| layout.bytes(WeightStorage::F16)).max();
            let have = self.plane.as_ref().map_or(0, |plane| plane.size());
            // Products that were placed keep the one that they know.
            if let Some(wanted) = wanted.filter(|wanted| *wanted > have) {
                self.plane = Some(Arc::new(gpu.buffer("expanded weights", wanted)?));
            }
        }
        self.total = self.placed + layouts.iter().map(bytes).sum::<u64>();
        let Some(resident) = keeping.resident.filter(|resident| *resident < self.total) else {
            return Ok(());
        };
        tracing::debug!("{resident} of {} bytes of weights stay", self.total);
        if self.slots.is_none() {
            let largest = layouts.iter().map(bytes).max().unwrap_or(0).max(PIECE);
            let slot = || Ok::<_, crate::Error>(Arc::new(gpu.buffer("streamed weights", largest)?));
            self.slots = Some([slot()?, slot()?]);
        }
        Ok(())
    }

    /// Where the blocks of `layout` are expanded to.
    pub fn plane(&self, layout: Layout) -> Result<View> {
        let none = || crate::Error::internal("expanded weights", "no room for them");
        let plane = self.plane.as_ref().ok_or_else(none)?;
        View::whole(plane).first(layout.bytes(WeightStorage::F16))
    }

    /// A place in a piece for `bytes` of weights, and which piece; `None` where they stay
    /// on the device. What stays is spread evenly, so that pieces come while something
    /// else is computed.
    pub fn piece(&mut self, bytes: u64, resident: Option<u64>) -> Option<(View, usize)> {
        self.placed += bytes;
        let limit = resident.unwrap_or(u64::MAX);
        let share = (limit as f64 / self.total.max(1) as f64).min(1.0);
        let stays = self.stay + bytes <= limit
            && (self.stay + bytes) as f64 <= share * self.placed as f64 + 1.0;
        let slots = self.slots.as_ref();
        let slots = slots.filter(|slots| bytes >= ALWAYS && !stays && bytes <= slots[0].size());
        let Some(slots) = slots else {
            self.stay += bytes;
            return None;
        };
        let size = slots[0].size();
        let mut offset = self.filled.next_multiple_of(ALIGNMENT);
        if self.pieces.is_empty() || offset + bytes > size {
            self.pieces.push(Vec::new());
            offset = 0;
        }
        self.filled = offset + bytes;
        let piece = self.pieces.len() - 1;
        let view = View {
            buffer: slots[piece % 2].clone(),
            offset,
            size: bytes,
        };
        Some((view, piece))
    }

    /// Notes that so many bytes of weights, which stayed on the device, are gone.
    fn leave(&mut self, bytes: u64) {
        self.placed = self.placed.saturating_sub(bytes);
        self.stay = self.stay.saturating_sub(bytes);
    }

    /// Notes that `product` is one of a piece's.
    pub fn join(&mut self, piece: usize, product: &Product, placed: &Placed) {
        if let Some(products) = self.pieces.get_mut(piece) {
            products.push((product.clone(), placed.clone()));
        }
    }
}
