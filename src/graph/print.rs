//! A graph for people: ops, shapes, bytes, multiply-adds.

use super::plan::Plan;
use super::{Activations, Graph, Op, Value};
use crate::kernel::{Mode, Storage};
use std::fmt;

fn describe(op: &Op) -> String {
    match op {
        Op::Input { name } => format!("input {name}"),
        Op::Sinusoid { source, .. } => format!("sinusoid of {source}"),
        Op::Product {
            product,
            conv,
            channel,
            activation,
            residual,
        } => {
            let mut text = match conv {
                Some(_) => format!("conv {0}x{0}", product.kernel.side()),
                None => "linear".to_string(),
            };
            if conv.is_some_and(|c| c.stride > 1) {
                text.push_str(" stride 2");
            }
            if conv.is_some_and(|c| c.upsample) {
                text.push_str(" upsample");
            }
            for (part, on) in [
                (" + bias", product.bias),
                (" + channel", *channel),
                (" geglu", product.geglu),
                (" + residual", *residual),
            ] {
                if on {
                    text.push_str(part);
                }
            }
            format!("{text} {activation:?} {}", product.parts[0].0).replace(" None ", " ")
        }
        Op::GroupNorm {
            norm, activation, ..
        } => format!("group norm {activation:?} {}", norm.name).replace(" None ", " "),
        Op::LayerNorm { norm } => format!("layer norm {}", norm.name),
        Op::Attention { heads, causal } => format!(
            "attention {heads} heads{}",
            if *causal { ", causal" } else { "" }
        ),
        Op::Activate(kind) => format!("{kind:?}").to_lowercase(),
        Op::Add => "add".into(),
        Op::AddChannel => "add channel".into(),
        Op::Concat => "concat".into(),
        Op::Columns { first } => format!("columns from {first}"),
        Op::Reshape => "reshape".into(),
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, node) in self.nodes.iter().enumerate() {
            let [n, h, w, c] = node.shape;
            let inputs: Vec<String> = node.inputs.iter().map(|x| format!("%{}", x.0)).collect();
            writeln!(
                f,
                "%{i:<5} [{n}, {h}, {w}, {c}] {:>12} f32 bytes {:>8.1} M multiply-adds{}  {} ({})",
                n * h * w * c * 4,
                self.node_multiply_adds(node) as f64 / 1e6,
                if node.once { " once" } else { "" },
                describe(&node.op),
                inputs.join(", "),
            )?;
        }
        let Totals {
            nodes,
            multiply_adds,
            activation_bytes,
            concatenated_in_place: [placed, of],
        } = self.totals();
        writeln!(
            f,
            "{nodes} nodes, {:.3} G multiply-adds a run",
            multiply_adds as f64 / 1e9
        )?;
        let [f16, f32, mixed] = activation_bytes.map(|bytes| bytes as f64 / 1e6);
        write!(
            f,
            "{f16:.1} MB of activations in f16, {f32:.1} in f32, {mixed:.1} with f16 operands and f32 sums, on a GPU; {placed} of {of} operands of concatenations in place"
        )
    }
}

/// What a graph comes to.
#[derive(Debug, Clone)]
pub struct Totals {
    pub nodes: usize,
    /// Of one run.
    pub multiply_adds: u64,
    /// As the memory plan for a GPU has them: in f16, in f32, mixed.
    pub activation_bytes: [u64; 3],
    /// Operands of concatenations that are written where they belong, of how many.
    pub concatenated_in_place: [usize; 2],
}

impl Graph {
    pub fn totals(&self) -> Totals {
        let plan = |activations: Activations| {
            Plan::new(self, Mode { direct: false }, &activations.of(self))
        };
        let plans = [Storage::F16.into(), Storage::F32.into(), Activations::Mixed].map(plan);
        let values = (0..self.nodes.len()).map(Value);
        let placed = values.filter(|x| plans[0].places.of(*x).is_some());
        let concat = |node: &&super::Node| node.op == Op::Concat;
        let operands = self.nodes.iter().filter(concat).map(|n| n.inputs.len());
        Totals {
            nodes: self.nodes.len(),
            multiply_adds: self.multiply_adds(),
            activation_bytes: plans.each_ref().map(Plan::bytes),
            concatenated_in_place: [placed.count(), operands.sum()],
        }
    }
}
