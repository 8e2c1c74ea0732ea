//! What weights take on a device, before any are there.

use super::DeviceWeights;
use super::loaded::PIECE;
use super::tensors::{Form, fits_blocks};
use crate::graph::{Graph, Product};
use crate::kernel::product::WeightStorage;
use std::collections::HashSet;

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
