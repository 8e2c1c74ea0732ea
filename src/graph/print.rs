//! A graph for people: ops, shapes, bytes, multiply-adds.

use super::{Graph, Op};
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
        write!(
            f,
            "{} nodes, {:.3} G multiply-adds a run",
            self.nodes.len(),
            self.multiply_adds() as f64 / 1e9
        )
    }
}
