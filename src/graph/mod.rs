//! Typed ops with shape inference ([`Graph`]), fusion ([`Graph::optimise`]), a
//! memory plan by lifetimes, and an executor. Knows nothing of models.
//!
//! An op whose operands do not fit together is the graph's fault, which the executor
//! answers with: models are built without a `Result` at every op.

mod executor;
mod fuse;
mod params;
mod place;
mod plan;
mod print;
mod runner;
mod storage;

pub use executor::{Executor, Placed, SharedNorms, Weights};
pub use params::{Kernel, Norm, Product};
pub use print::Totals;
pub use runner::{Runner, Stream};
pub use storage::Activations;

use crate::kernel::product::{self as products, Conv, Storages, WeightStorage};
use crate::kernel::sinusoid::Sinusoid;
use crate::kernel::{self, Activation, Mode, attention};
use crate::{Error, Result};
use std::collections::HashSet;

/// A value of the graph: the output of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Value(usize);

/// `[n, h, w, c]`; tokens are `[n, tokens, 1, c]`.
pub type Shape = [usize; 4];

/// What a node computes. Inputs come in the order given here.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// Activations given from outside.
    Input { name: String },
    /// Scalars given from outside (a buffer of f32), embedded: no inputs.
    Sinusoid { source: String, sinusoid: Sinusoid },
    /// A linear layer or a convolution: x, then what is fused in: channel, residual.
    Product {
        product: Product,
        conv: Option<Conv>,
        channel: bool,
        activation: Activation,
        residual: bool,
    },
    /// x.
    GroupNorm {
        norm: Norm,
        groups: usize,
        activation: Activation,
    },
    /// x.
    LayerNorm { norm: Norm },
    /// q, k, v.
    Attention { heads: usize, causal: bool },
    /// x.
    Activate(Activation),
    /// Two of one shape.
    Add,
    /// `[n, h, w, c]` and `[n, 1, 1, c]`.
    AddChannel,
    /// Two that differ in their last dimension only.
    Concat,
    /// A range of the columns of x: a view, nothing is copied.
    Columns { first: usize },
    /// The same memory under another shape.
    Reshape,
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub op: Op,
    pub inputs: Vec<Value>,
    pub shape: Shape,
    /// The same in every run: computed once, before the first (see [`Graph::input_once`]).
    pub once: bool,
}

/// A directed acyclic graph in the order of its making.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    pub(crate) nodes: Vec<Node>,
    pub(crate) outputs: Vec<Value>,
    /// The first op whose operands did not fit together.
    pub(crate) fault: Option<String>,
}

impl Graph {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn shape(&self, x: Value) -> Shape {
        self.nodes[x.0].shape
    }

    fn node(&self, x: Value) -> &Node {
        &self.nodes[x.0]
    }

    /// Notes as the graph's fault that `holds` does not.
    fn expect(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.fault.get_or_insert_with(problem);
        }
    }

    /// # Errors
    /// [`Error::Internal`] where operands of an op did not fit together: such a graph
    /// cannot be run.
    pub(crate) fn check(&self) -> Result<()> {
        match &self.fault {
            None => Ok(()),
            Some(fault) => Err(Error::internal("graph", fault)),
        }
    }

    fn push(&mut self, op: Op, inputs: Vec<Value>, shape: Shape) -> Value {
        let once = match op {
            Op::Input { .. } | Op::Sinusoid { .. } => false,
            _ => inputs.iter().all(|x| self.node(*x).once),
        };
        self.push_timed(op, inputs, shape, once)
    }

    fn push_timed(&mut self, op: Op, inputs: Vec<Value>, shape: Shape, once: bool) -> Value {
        self.nodes.push(Node {
            op,
            inputs,
            shape,
            once,
        });
        Value(self.nodes.len() - 1)
    }

    /// Activations that change from run to run.
    pub fn input(&mut self, name: &str, shape: Shape) -> Value {
        self.push(Op::Input { name: name.into() }, vec![], shape)
    }

    /// Activations that stay the same over many runs. What follows from such
    /// inputs alone is computed once, before the runs.
    pub fn input_once(&mut self, name: &str, shape: Shape) -> Value {
        self.push_timed(Op::Input { name: name.into() }, vec![], shape, true)
    }

    /// The scalars of the buffer `source` as rows `[rows, 1, 1, per_row * dim]`.
    pub fn sinusoid(
        &mut self,
        source: &str,
        sinusoid: Sinusoid,
        [rows, per_row]: [usize; 2],
    ) -> Value {
        let op = Op::Sinusoid {
            source: source.into(),
            sinusoid,
        };
        self.push(op, vec![], [rows, 1, 1, per_row * sinusoid.dim])
    }

    /// `x W + b` over the last dimension.
    pub fn linear(&mut self, x: Value, product: Product) -> Value {
        let [n, h, w, c] = self.shape(x);
        self.expect_inputs(c, &product);
        let shape = [n, h, w, product.columns()];
        self.product(x, product, None, shape)
    }

    /// A convolution. Its output is `size` (height, width), with as many zeros
    /// below and to the right as that asks for, or else what `conv.pad` on all
    /// sides gives.
    pub fn conv2d(
        &mut self,
        x: Value,
        product: Product,
        conv: Conv,
        size: Option<[usize; 2]>,
    ) -> Value {
        let [n, h, w, c] = self.shape(x);
        self.expect_inputs(c, &product);
        let up = usize::from(conv.upsample);
        let side = product.kernel.side();
        let seen = |x: usize| (x << up) + 2 * conv.pad;
        self.expect(seen(h.min(w)) >= side && conv.stride > 0, || {
            format!("{:?} over {h}x{w}: {conv:?}", product.parts)
        });
        let even = |x: usize| seen(x).saturating_sub(side) / conv.stride.max(1) + 1;
        let [oh, ow] = size.unwrap_or([even(h), even(w)]);
        let shape = [n, oh, ow, product.columns()];
        self.product(x, product, Some(conv), shape)
    }

    fn expect_inputs(&mut self, c: usize, product: &Product) {
        self.expect(c == product.k, || {
            format!("{:?} takes {} channels, not {c}", product.parts, product.k)
        });
    }

    fn product(&mut self, x: Value, product: Product, conv: Option<Conv>, shape: Shape) -> Value {
        let op = Op::Product {
            product,
            conv,
            channel: false,
            activation: Activation::None,
            residual: false,
        };
        self.push(op, vec![x], shape)
    }

    pub fn group_norm(&mut self, x: Value, norm: Norm, groups: usize) -> Value {
        let shape = self.shape(x);
        self.expect(groups > 0 && shape[3].is_multiple_of(groups), || {
            format!("{}: {groups} groups of {} channels", norm.name, shape[3])
        });
        let op = Op::GroupNorm {
            norm,
            groups,
            activation: Activation::None,
        };
        self.push(op, vec![x], shape)
    }

    pub fn layer_norm(&mut self, x: Value, norm: Norm) -> Value {
        let shape = self.shape(x);
        self.push(Op::LayerNorm { norm }, vec![x], shape)
    }

    /// q `[n, queries, 1, heads * d]`, k and v `[n, keys, 1, heads * d]`.
    pub fn attention(&mut self, [q, k, v]: [Value; 3], heads: usize, causal: bool) -> Value {
        let shape = self.shape(q);
        let (keys, values) = (self.shape(k), self.shape(v));
        let whole = heads > 0 && shape[3].is_multiple_of(heads);
        let alike = keys == values && [keys[0], keys[3]] == [shape[0], shape[3]];
        self.expect(whole && alike, || {
            format!("attention of {heads} heads over {shape:?}, {keys:?} and {values:?}")
        });
        self.push(Op::Attention { heads, causal }, vec![q, k, v], shape)
    }

    pub fn activate(&mut self, x: Value, activation: Activation) -> Value {
        let shape = self.shape(x);
        self.push(Op::Activate(activation), vec![x], shape)
    }

    pub fn silu(&mut self, x: Value) -> Value {
        self.activate(x, Activation::Silu)
    }

    pub fn add(&mut self, a: Value, b: Value) -> Value {
        let shape = self.shape(a);
        let other = self.shape(b);
        self.expect(shape == other, || format!("{shape:?} + {other:?}"));
        self.push(Op::Add, vec![a, b], shape)
    }

    /// Adds one value a channel, `[n, 1, 1, c]`, to every pixel of `x`.
    pub fn add_channel(&mut self, x: Value, channel: Value) -> Value {
        let shape = self.shape(x);
        let each = self.shape(channel);
        self.expect(each == [shape[0], 1, 1, shape[3]], || {
            format!("{shape:?} + {each:?} for every picture")
        });
        self.push(Op::AddChannel, vec![x, channel], shape)
    }

    /// Side by side along the channels; the first has a multiple of 4 of them.
    pub fn concat(&mut self, a: Value, b: Value) -> Value {
        let ([n, h, w, c], other) = (self.shape(a), self.shape(b));
        let d = other[3];
        self.expect(other == [n, h, w, d] && c.is_multiple_of(4), || {
            format!("{:?} beside {other:?}", [n, h, w, c])
        });
        self.push(Op::Concat, vec![a, b], [n, h, w, c + d])
    }

    /// Columns `first .. first + count`; `first` is a multiple of 4.
    pub fn columns(&mut self, x: Value, first: usize, count: usize) -> Value {
        let [n, h, w, c] = self.shape(x);
        let within = first.is_multiple_of(4) && first.saturating_add(count) <= c;
        self.expect(within, || format!("{count} columns from {first} on of {c}"));
        self.push(Op::Columns { first }, vec![x], [n, h, w, count])
    }

    /// The same rows under another picture shape (pixels as tokens and back).
    pub fn reshape(&mut self, x: Value, [n, h, w]: [usize; 3]) -> Value {
        let shape = self.shape(x);
        self.expect(n * h * w == shape[0] * shape[1] * shape[2], || {
            format!("{shape:?} as {:?}", [n, h, w])
        });
        self.push(Op::Reshape, vec![x], [n, h, w, shape[3]])
    }

    /// Marks `x` as wanted after a run.
    pub fn output(&mut self, x: Value) {
        self.outputs.push(x);
    }

    /// Multiply-adds of one run, the part that is computed once left out.
    pub fn multiply_adds(&self) -> u64 {
        let all = self.nodes.iter().filter(|n| !n.once);
        all.map(|n| self.node_multiply_adds(n)).sum()
    }

    fn node_multiply_adds(&self, node: &Node) -> u64 {
        let [n, h, w, c] = node.shape;
        match &node.op {
            Op::Product { product, .. } => {
                let taps = product.kernel.taps();
                (n * h * w) as u64 * (product.k * taps * product.n) as u64
            }
            Op::Attention { .. } => {
                let keys = self.shape(node.inputs[1])[1];
                2 * (n * h * keys * c) as u64
            }
            _ => 0,
        }
    }

    /// Bytes of all activations, and of the largest, as the memory plan has them.
    pub fn planned_bytes(&self, mode: Mode, activations: impl Into<Activations>) -> (u64, u64) {
        let storages = activations.into().of(self);
        let plan = plan::Plan::new(self, mode, &storages);
        (plan.bytes(), plan.slots.iter().copied().max().unwrap_or(0))
    }

    /// The shapes of every product and attention whose kernel is chosen by measurement,
    /// without those that a measurement would find alike.
    pub fn measured_shapes(
        &self,
        activations: impl Into<Activations>,
        weights: WeightStorage,
    ) -> Vec<kernel::Shape> {
        let storages = activations.into().of(self);
        let nodes = self.nodes.iter().enumerate();
        let shapes = nodes.filter_map(|(i, node)| match &node.op {
            Op::Product {
                product,
                conv,
                activation,
                residual,
                ..
            } => Some(kernel::Shape::Product(products::Shape {
                a: self.shape(node.inputs[0]),
                out: node.shape,
                layout: product.layout(),
                conv: *conv,
                residual: *residual,
                activation: *activation,
                storages: Storages {
                    a: storages.operand(self, Value(i)),
                    weights,
                    out: storages.value(Value(i)),
                },
            })),
            Op::Attention { heads, causal } => {
                let keys = self.shape(node.inputs[1])[1];
                let storage = storages.value(Value(i));
                let shape = attention::Shape::new(node.shape, keys, *heads, *causal, storage);
                shape.map(kernel::Shape::Attention)
            }
            _ => None,
        });
        let mut known = HashSet::new();
        let new = |shape: &kernel::Shape| known.insert(shape.class());
        shapes.filter(new).collect()
    }

    /// Every set of weights that the graph reads.
    pub fn products(&self) -> impl Iterator<Item = &Product> {
        self.nodes.iter().filter_map(|n| match &n.op {
            Op::Product { product, .. } => Some(product),
            _ => None,
        })
    }

    /// Every norm that the graph reads.
    pub fn norms(&self) -> impl Iterator<Item = &Norm> {
        self.nodes.iter().filter_map(|n| match &n.op {
            Op::GroupNorm { norm, .. } | Op::LayerNorm { norm } => Some(norm),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each op alone, over operands that do not fit together: the graph remembers, also
    /// once it is optimised.
    #[test]
    fn operands_that_do_not_fit_together_are_the_graphs_fault() {
        const CONV: Conv = Conv {
            stride: 1,
            pad: 0,
            upsample: false,
        };
        let conv = |k| Product::new("c", Kernel::Conv3x3, [k, 8], true);
        type Build = Box<dyn Fn(&mut Graph, Value, Value) -> Value>;
        let good: [Build; 3] = [
            Box::new(|g, x, _| g.linear(x, Product::linear("l", [8, 4]))),
            Box::new(|g, x, y| g.concat(x, y)),
            Box::new(move |g, x, _| g.conv2d(x, conv(8), CONV, None)),
        ];
        let bad: [Build; 11] = [
            Box::new(|g, x, _| g.linear(x, Product::linear("l", [7, 4]))),
            Box::new(move |g, x, _| g.conv2d(x, conv(7), CONV, None)),
            Box::new(move |g, x, _| g.conv2d(x, conv(8), Conv { stride: 0, ..CONV }, None)),
            Box::new(|g, x, _| g.group_norm(x, Norm::new("n", 8, 1e-5), 3)),
            Box::new(|g, x, y| g.attention([x, x, y], 1, false)),
            Box::new(|g, x, _| g.attention([x; 3], 3, false)),
            Box::new(|g, x, y| g.add(x, y)),
            Box::new(|g, x, y| g.add_channel(x, y)),
            Box::new(|g, x, _| {
                let other = g.input("z", [1, 3, 4, 8]);
                g.concat(x, other)
            }),
            Box::new(|g, x, _| g.columns(x, 4, 8)),
            Box::new(|g, x, _| g.reshape(x, [1, 17, 1])),
        ];
        let check = |build: &Build| {
            let mut g = Graph::new();
            let (x, y) = (g.input("x", [1, 4, 4, 8]), g.input("y", [1, 4, 4, 4]));
            let made = build(&mut g, x, y);
            g.output(made);
            g.optimise().check()
        };
        assert!(good.iter().all(|build| check(build).is_ok()));
        for (i, build) in bad.iter().enumerate() {
            assert!(check(build).is_err(), "{i}");
        }
    }
}
