//! The memory plan: every value gets a slot of device memory for as long as it
//! is wanted. A slot is a buffer of its own, since a buffer cannot be read and
//! written by one dispatch in wgpu.
//!
//! A concatenation costs nothing for an operand that its product writes straight into
//! the columns of the result (see [`super::place`]).

use super::place::Places;
use super::storage::Storages;
use super::{Graph, Op, Value};
use crate::kernel::{Mode, Tensor, attention, narrow, norm};

/// Where values lie. Slot numbers index `slots`.
pub(crate) struct Plan {
    /// Bytes of each slot.
    pub slots: Vec<u64>,
    /// The slot of each node's value; views share their source's, and what lies in a
    /// concatenation that one's.
    pub value: Vec<usize>,
    /// Slots that a node uses while it runs, with the bytes it needs of each.
    pub scratch: Vec<Vec<(usize, u64)>>,
    /// Nodes in the order of execution: those computed once, then the others.
    pub order: Vec<Value>,
    /// How many of them are computed once.
    pub once: usize,
    /// What lies in a concatenation.
    pub places: Places,
    /// Of each slot, whether something in it outlives a run.
    pub lasting: Vec<bool>,
}

/// Never freed.
const FOREVER: usize = usize::MAX;

/// The slot of a value that has none yet.
const NOWHERE: usize = usize::MAX;

struct Allocator {
    slots: Vec<u64>,
    free: Vec<usize>,
}

impl Allocator {
    /// The smallest free slot that is large enough; otherwise the largest free
    /// one, grown; otherwise a new one.
    fn take(&mut self, bytes: u64) -> usize {
        let bytes = bytes.max(16).next_multiple_of(256);
        let fitting = (0..self.free.len())
            .filter(|i| self.slots[self.free[*i]] >= bytes)
            .min_by_key(|i| self.slots[self.free[*i]]);
        let best =
            fitting.or_else(|| (0..self.free.len()).max_by_key(|i| self.slots[self.free[*i]]));
        match best {
            Some(i) => {
                let slot = self.free.swap_remove(i);
                self.slots[slot] = self.slots[slot].max(bytes);
                slot
            }
            None => {
                self.slots.push(bytes);
                self.slots.len() - 1
            }
        }
    }
}

/// Bytes that a node needs beside its inputs and output.
pub(crate) fn scratch_bytes(graph: &Graph, x: Value, mode: Mode, storages: &Storages) -> Vec<u64> {
    let node = graph.node(x);
    match &node.op {
        Op::Product { product, .. } if storages.narrows(graph, x) => {
            let shape = graph.shape(node.inputs[0]);
            narrow::scratch_bytes(shape, product.layout()).to_vec()
        }
        Op::GroupNorm { .. } => norm::scratch_bytes(mode, node.shape).to_vec(),
        Op::Attention { heads, .. } => {
            let [n, queries, _, c] = node.shape;
            let keys = graph.shape(node.inputs[1])[1];
            let shape = [n, queries, keys];
            let storage = storages.value(x);
            attention::scratch_bytes(mode, storage, shape, [*heads, c / heads])
        }
        _ => Vec::new(),
    }
}

/// The node whose memory `x` is a view of.
pub(super) fn root(graph: &Graph, x: Value) -> Value {
    match graph.node(x).op {
        Op::Columns { .. } | Op::Reshape => root(graph, graph.node(x).inputs[0]),
        _ => x,
    }
}

impl Plan {
    /// Operands of concatenations lie in them where that takes no more memory.
    pub fn new(graph: &Graph, mode: Mode, storages: &Storages) -> Self {
        let mut best = Self::with(graph, mode, storages, Places::none(graph));
        for (x, place) in Places::candidates(graph) {
            let Some(places) = best.places.with(graph, x, place) else {
                continue;
            };
            let plan = Self::with(graph, mode, storages, places);
            if plan.bytes() <= best.bytes() {
                best = plan;
            }
        }
        best
    }

    fn with(graph: &Graph, mode: Mode, storages: &Storages, places: Places) -> Self {
        let bytes = |x: Value| Tensor::bytes_of(storages.value(x), graph.shape(x));
        let home = |x: Value| places.home(graph, x);
        let all = (0..graph.nodes.len()).map(Value);
        let (first, rest): (Vec<_>, Vec<_>) = all.partition(|x| graph.node(*x).once);
        let once = first.len();
        let order: Vec<Value> = first.into_iter().chain(rest).collect();
        let last_use = last_uses(graph, &places, &order, once);
        let mut done_after = vec![Vec::new(); order.len()];
        for (x, last) in last_use.iter().enumerate() {
            if *last != FOREVER {
                done_after[*last].push(x);
            }
        }
        let mut allocator = Allocator {
            slots: Vec::new(),
            free: Vec::new(),
        };
        let mut value = vec![NOWHERE; graph.nodes.len()];
        let mut scratch = vec![Vec::new(); graph.nodes.len()];
        // Inputs are written before their phase begins, so they are there from
        // its start.
        for (phase, range) in [(true, 0..once), (false, once..order.len())] {
            for x in &order[range.clone()] {
                let node = graph.node(*x);
                if matches!(node.op, Op::Input { .. }) && node.once == phase {
                    value[x.0] = allocator.take(bytes(*x));
                }
            }
            for at in range {
                let x = order[at];
                let node = graph.node(x);
                match node.op {
                    Op::Input { .. } => {}
                    Op::Columns { .. } | Op::Reshape => value[x.0] = value[home(x).0],
                    _ => {
                        let home = home(x);
                        if value[home.0] == NOWHERE {
                            value[home.0] = allocator.take(bytes(home));
                        }
                        value[x.0] = value[home.0];
                        let wanted = scratch_bytes(graph, x, mode, storages);
                        let taken: Vec<_> = wanted
                            .iter()
                            .map(|bytes| (allocator.take(*bytes), *bytes))
                            .collect();
                        allocator.free.extend(taken.iter().map(|(slot, _)| slot));
                        scratch[x.0] = taken;
                    }
                }
                allocator
                    .free
                    .extend(done_after[at].iter().map(|x| value[*x]));
            }
        }
        let mut lasting = vec![false; allocator.slots.len()];
        for x in &order {
            let home = home(*x);
            lasting[value[home.0]] |= last_use[home.0] == FOREVER;
        }
        Self {
            slots: allocator.slots,
            lasting,
            value,
            scratch,
            order,
            once,
            places,
        }
    }

    /// Bytes of all slots.
    pub fn bytes(&self) -> u64 {
        self.slots.iter().sum()
    }
}

/// For every value with a slot of its own the place in `order` of its last use; views and
/// values that outlive the run have none.
fn last_uses(graph: &Graph, places: &Places, order: &[Value], once: usize) -> Vec<usize> {
    let mut last = vec![FOREVER; graph.nodes.len()];
    for (at, x) in order.iter().enumerate() {
        if root(graph, *x) == *x {
            last[places.home(graph, *x).0] = at;
        }
        for input in &graph.node(*x).inputs {
            last[places.home(graph, *input).0] = at;
        }
    }
    for (node, last) in graph.nodes.iter().zip(&mut last) {
        // What is computed once and used in every run must survive them all.
        if node.once && *last >= once {
            *last = FOREVER;
        }
    }
    for x in &graph.outputs {
        last[places.home(graph, *x).0] = FOREVER;
    }
    last
}

#[cfg(test)]
mod tests {
    use super::super::{Activations, Graph, Product};
    use super::*;
    use crate::kernel::Storage;

    /// Values that are alive at the same time must not share a slot.
    #[test]
    fn live_values_have_slots_of_their_own() {
        let mut g = Graph::new();
        let once = g.input_once("context", [1, 7, 1, 16]);
        let k = g.linear(once, Product::linear("k", [16, 8]));
        let mut x = g.input("x", [1, 9, 1, 8]);
        let skip = x;
        for i in 0..6 {
            x = g.linear(x, Product::linear(format!("l{i}"), [8, 8]));
            x = g.attention([x, k, k], 1, false);
        }
        let x = g.concat(x, skip);
        g.output(x);
        let g = g.optimise();
        let storages = Activations::from(Storage::F32).of(&g);
        let plan = Plan::new(&g, Mode { direct: true }, &storages);
        let last = last_uses(&g, &plan.places, &plan.order, plan.once);
        for (at, x) in plan.order.iter().enumerate() {
            for (earlier, y) in plan.order[..at].iter().enumerate() {
                let alive = last[y.0] >= at || (g.node(*y).once && last[y.0] == FOREVER);
                let apart = plan.places.home(&g, *x) != plan.places.home(&g, *y);
                if alive && apart && root(&g, *y) == *y && root(&g, *x) == *x {
                    assert_ne!(plan.value[x.0], plan.value[y.0], "{at} over {earlier}");
                }
            }
            for (slot, _) in &plan.scratch[x.0] {
                assert_ne!(*slot, plan.value[x.0]);
                for input in &g.node(*x).inputs {
                    assert_ne!(*slot, plan.value[root(&g, *input).0]);
                }
            }
        }
        // Six layers reuse what they leave behind.
        assert!(plan.slots.len() <= 8, "{} slots", plan.slots.len());
    }
}
