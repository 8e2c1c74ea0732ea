//! How the values of a graph are stored: all alike, or each as what reads it asks.

use super::plan::root;
use super::{Graph, Op, Value};
use crate::kernel::Storage;

/// How the values of a graph are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activations {
    /// All alike.
    All(Storage),
    /// In f16 what products and attention read and norms made, which is small; sums in
    /// f32. Where a product reads a sum, that is scaled by a power of two so that f16
    /// holds it (see [`crate::kernel::narrow`]). So nothing overflows whose
    /// normed values f16 holds, at the speed of f16's products.
    Mixed,
}

impl From<Storage> for Activations {
    fn from(storage: Storage) -> Self {
        Self::All(storage)
    }
}

/// The storage of every value of one graph.
pub(crate) struct Storages {
    values: Vec<Storage>,
    mixed: bool,
}

/// Channels from which on a product that reads a sum is worth narrowing it.
const WORTH: usize = 32;

impl Activations {
    pub(crate) fn of(self, graph: &Graph) -> Storages {
        let values = match self {
            Self::All(storage) => vec![storage; graph.nodes.len()],
            Self::Mixed => mixed(graph),
        };
        Storages {
            values,
            mixed: self == Self::Mixed,
        }
    }
}

impl Storages {
    pub fn value(&self, x: Value) -> Storage {
        self.values[x.0]
    }

    /// As what the product `x` reads its first input.
    pub fn operand(&self, graph: &Graph, x: Value) -> Storage {
        match self.narrows(graph, x) {
            true => Storage::F16,
            false => self.value(graph.node(x).inputs[0]),
        }
    }

    /// Whether the product `x` reads f32 values that are to be narrowed first.
    pub fn narrows(&self, graph: &Graph, x: Value) -> bool {
        let node = graph.node(x);
        let wide = || self.value(node.inputs[0]) == Storage::F32;
        match &node.op {
            Op::Product { product, .. } => self.mixed && product.k.is_multiple_of(WORTH) && wide(),
            _ => false,
        }
    }
}

/// f16 for what norms and attention make and for what attention alone reads, where
/// nothing else but products reads it; f32 for the rest.
fn mixed(graph: &Graph) -> Vec<Storage> {
    let count = graph.nodes.len();
    // Whether all that read a root can read it in f16, and whether all are attention.
    let (mut readable, mut attended) = (vec![true; count], vec![true; count]);
    let mut used = vec![false; count];
    for x in &graph.outputs {
        readable[root(graph, *x).0] = false;
    }
    let mut values = vec![Storage::F32; count];
    // Readers come after what they read.
    for (i, node) in graph.nodes.iter().enumerate().rev() {
        let half = readable[i]
            && used[i]
            && match node.op {
                Op::GroupNorm { .. } | Op::Attention { .. } => true,
                Op::Product { .. } => attended[i],
                _ => false,
            };
        if half {
            values[i] = Storage::F16;
        }
        for (place, input) in node.inputs.iter().enumerate() {
            let from = root(graph, *input).0;
            match node.op {
                // Views read nothing.
                Op::Columns { .. } | Op::Reshape => continue,
                Op::Product { .. } if place == 0 => attended[from] = false,
                Op::Attention { .. } if half => {}
                _ => readable[from] = false,
            }
            used[from] = true;
        }
    }
    for i in 0..count {
        values[i] = values[root(graph, Value(i)).0];
    }
    values
}
