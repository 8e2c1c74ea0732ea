//! Weights that are brought from the checkpoint in every step, since not all of them fit
//! the device.

use super::Loaded;
use super::loaded::lock;
use super::packed::Packed;
use super::tensors::{Tensors, pack_weight};
use crate::Result;
use crate::checkpoint::TensorSource;
use crate::gpu::{Gpu, Uploads};
use crate::graph::{Product, Stream};
use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

/// The pieces of a part's weights on their way to the device. Two pieces are there at a
/// time, so that one is packed while the other is computed with.
pub struct Streamed<'a> {
    gpu: &'a Gpu,
    source: &'a dyn TensorSource,
    loaded: &'a Loaded,
    state: RefCell<State>,
    bytes: AtomicU64,
}

#[derive(Default)]
struct State {
    /// The pieces that are on the device.
    there: [Option<usize>; 2],
    uploads: Uploads,
    /// Pieces whose values were found to be finite.
    sound: HashSet<usize>,
}

impl<'a> Streamed<'a> {
    pub fn new(gpu: &'a Gpu, source: &'a dyn TensorSource, loaded: &'a Loaded) -> Self {
        Self {
            gpu,
            source,
            loaded,
            state: RefCell::default(),
            bytes: AtomicU64::new(0),
        }
    }

    /// Bytes that were brought so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn expect(&self, products: &[(Product, super::Placed)]) {
        for (name, _) in products.iter().flat_map(|(product, _)| product.tensors()) {
            self.source.expect(&name);
        }
    }
}

impl Stream for Streamed<'_> {
    fn bring(&self, piece: usize) -> Result<()> {
        let mut state = self.state.borrow_mut();
        let State {
            there,
            uploads,
            sound,
        } = &mut *state;
        if there[piece % 2] == Some(piece) {
            return Ok(());
        }
        there[piece % 2] = None;
        let shares = lock(&self.loaded.shares);
        let none = || crate::Error::internal("a stream", format!("no piece {piece}"));
        let products = shares.pieces.get(piece).ok_or_else(none)?;
        if let Some(next) = shares.pieces.get(piece + 1) {
            self.expect(next);
        }
        for (product, placed) in products {
            let (view, form) = placed.packed();
            let layout = product.layout();
            let mut parts = Vec::new();
            match sound.contains(&piece) {
                false => parts = Tensors::read(self.source, product)?.parts,
                true => {
                    for (name, shape) in product.tensors() {
                        if shape.len() > 1 {
                            parts.push(self.source.read(&name, &shape)?);
                        }
                    }
                }
            }
            let columns = Packed::new(&parts, layout.k * layout.taps);
            pack_weight(self.gpu, uploads, (layout, form), &columns, view)?;
            self.bytes.fetch_add(view.size, Ordering::Relaxed);
        }
        uploads.flush(self.gpu)?;
        sound.insert(piece);
        there[piece % 2] = Some(piece);
        Ok(())
    }
}
