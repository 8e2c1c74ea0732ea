//! Concatenation in place: a product writes straight into the columns of the result.

use super::plan::root;
use super::{Graph, Op, Value};

/// Columns of a concatenation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub concat: Value,
    pub first: usize,
}

/// Which values lie in a concatenation of theirs.
#[derive(Debug, Clone)]
pub(crate) struct Places(Vec<Option<Place>>);

impl Places {
    pub fn none(graph: &Graph) -> Self {
        Self(vec![None; graph.nodes.len()])
    }

    /// Where `x`, which is no view, lies, if in a concatenation.
    pub fn of(&self, x: Value) -> Option<Place> {
        self.0[x.0]
    }

    /// The value whose memory `x` is part of.
    pub fn home(&self, graph: &Graph, x: Value) -> Value {
        let root = root(graph, x);
        self.of(root).map_or(root, |place| place.concat)
    }

    /// The operands that could lie in their concatenation: what a product makes in every
    /// run, whole.
    pub fn candidates(graph: &Graph) -> Vec<(Value, Place)> {
        let mut all = Vec::new();
        for (i, node) in graph.nodes.iter().enumerate() {
            if node.op != Op::Concat {
                continue;
            }
            let mut first = 0;
            for input in &node.inputs {
                let (x, columns) = (root(graph, *input), graph.shape(*input)[3]);
                let made = graph.node(x);
                let product = matches!(made.op, Op::Product { .. });
                // Twice the same would have to lie in two places.
                let same = |other: &&Value| root(graph, **other) == x;
                let sole = node.inputs.iter().filter(same).count() == 1;
                if product && sole && made.once == node.once && made.shape[3] == columns {
                    let concat = Value(i);
                    all.push((x, Place { concat, first }));
                }
                first += columns;
            }
        }
        all
    }

    /// With `x` at `place` too; `None` where it lies elsewhere, or where a node would read
    /// the memory that it writes.
    pub fn with(&self, graph: &Graph, x: Value, place: Place) -> Option<Self> {
        if self.of(x).is_some() {
            return None;
        }
        let mut all = self.clone();
        all.0[x.0] = Some(place);
        let apart = |(i, node): (usize, &super::Node)| {
            let own = all.home(graph, Value(i));
            let view = root(graph, Value(i)) != Value(i);
            // What lies in a concatenation is not copied to it.
            let inside = |input: &Value| {
                let from = root(graph, *input);
                all.of(from).is_some_and(|p| p.concat == Value(i))
            };
            let read = |input: &Value| all.home(graph, *input) == own && !inside(input);
            view || !node.inputs.iter().any(read)
        };
        graph.nodes.iter().enumerate().all(apart).then_some(all)
    }
}

#[cfg(test)]
mod tests {
    use super::super::storage::Activations;
    use super::super::{Product, plan::Plan};
    use super::*;
    use crate::kernel::{Mode, Storage};

    fn linear(g: &mut Graph, name: &str, x: Value, n: usize) -> Value {
        let k = g.shape(x)[3];
        g.linear(x, Product::linear(name, [k, n]))
    }

    fn placed(g: Graph) -> Vec<Option<usize>> {
        let g = g.optimise();
        let storages = Activations::from(Storage::F32).of(&g);
        let plan = Plan::new(&g, Mode { direct: true }, &storages);
        let products = (0..g.nodes.len())
            .map(Value)
            .filter(|x| matches!(g.node(*x).op, Op::Product { .. }));
        products
            .map(|x| plan.places.of(x).map(|place| place.first))
            .collect()
    }

    #[test]
    fn what_is_concatenated_is_written_where_it_belongs() {
        let mut g = Graph::new();
        let x = g.input("x", [1, 9, 1, 16]);
        let skip = linear(&mut g, "skip", x, 8);
        let y = linear(&mut g, "y", skip, 16);
        let y = g.reshape(y, [1, 3, 3]);
        let skip = g.reshape(skip, [1, 3, 3]);
        let both = g.concat(y, skip);
        let z = linear(&mut g, "z", both, 8);
        g.output(z);
        // `y` reads `skip`, so that both cannot lie in one buffer.
        let places = placed(g);
        assert_eq!(places.iter().flatten().count(), 1, "{places:?}");
        let mut g = Graph::new();
        let x = g.input("x", [1, 9, 1, 16]);
        let left = linear(&mut g, "left", x, 16);
        let right = linear(&mut g, "right", x, 8);
        let both = g.concat(left, right);
        let z = linear(&mut g, "z", both, 8);
        g.output(z);
        assert_eq!(placed(g), [Some(0), Some(16), None]);
    }

    #[test]
    fn what_is_not_made_whole_by_a_product_is_copied() {
        let mut g = Graph::new();
        let x = g.input("x", [1, 9, 1, 16]);
        let wide = linear(&mut g, "wide", x, 16);
        let part = g.columns(wide, 8, 8);
        let both = g.concat(part, x);
        let both = g.concat(both, both);
        let z = linear(&mut g, "z", both, 8);
        g.output(z);
        assert_eq!(placed(g), [None, None]);
    }

    /// It cannot lie in two places, and a copy within one buffer cannot be bound.
    #[test]
    fn what_stands_on_both_sides_is_copied() {
        let mut g = Graph::new();
        let x = g.input("x", [1, 9, 1, 16]);
        let y = linear(&mut g, "y", x, 16);
        let both = g.concat(y, y);
        let z = linear(&mut g, "z", both, 8);
        g.output(z);
        assert_eq!(placed(g), [None, None]);
    }
}
