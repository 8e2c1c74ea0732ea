//! Fusion: what is element by element goes into the epilogue of the product
//! before it, or into the group norm before it, where nobody else wants the
//! value in between.

use super::{Graph, Node, Op, Value};
use crate::kernel::Activation;

impl Graph {
    /// Fuses, and drops what no output needs. Values of the old graph do not
    /// name nodes of the new one.
    pub fn optimise(mut self) -> Graph {
        let mut uses = vec![0usize; self.nodes.len()];
        for node in &self.nodes {
            for x in &node.inputs {
                uses[x.0] += 1;
            }
        }
        for x in &self.outputs {
            uses[x.0] += 1;
        }
        for i in 0..self.nodes.len() {
            if let Some((producer, fused)) = self.fused(i, &uses) {
                // The fused node takes this node's place, so that every input is
                // there; the producer's becomes dead.
                uses[producer.0] = 0;
                self.nodes[i] = fused;
            }
        }
        self.without_dead_nodes()
    }

    /// The node that does what node `i` and its only producer do.
    fn fused(&self, i: usize, uses: &[usize]) -> Option<(Value, Node)> {
        let node = &self.nodes[i];
        let sole = |x: Value| (uses[x.0] == 1).then(|| self.node(x));
        match &node.op {
            Op::Activate(kind) => {
                let x = node.inputs[0];
                let fused = with_activation(sole(x)?, *kind)?;
                Some((x, self.timed(i, fused)))
            }
            Op::AddChannel => {
                let x = node.inputs[0];
                let mut fused = sole(x)?.clone();
                let Op::Product {
                    product,
                    channel,
                    activation: Activation::None,
                    residual: false,
                    ..
                } = &mut fused.op
                else {
                    return None;
                };
                if *channel || product.geglu {
                    return None;
                }
                *channel = true;
                fused.inputs.push(node.inputs[1]);
                Some((x, self.timed(i, fused)))
            }
            Op::Add => [(0, 1), (1, 0)].into_iter().find_map(|(a, b)| {
                let (x, other) = (node.inputs[a], node.inputs[b]);
                let mut fused = sole(x)?.clone();
                let Op::Product {
                    product, residual, ..
                } = &mut fused.op
                else {
                    return None;
                };
                // The kernel reads the residual at the output's own pitch.
                let dense = !matches!(self.node(other).op, Op::Columns { .. });
                if *residual || product.geglu || x == other || !dense {
                    return None;
                }
                *residual = true;
                fused.inputs.push(other);
                Some((x, self.timed(i, fused)))
            }),
            _ => None,
        }
    }

    fn timed(&self, i: usize, mut node: Node) -> Node {
        node.once = self.nodes[i].once;
        node
    }

    fn without_dead_nodes(self) -> Graph {
        let mut live = vec![false; self.nodes.len()];
        let mut stack = self.outputs.clone();
        while let Some(x) = stack.pop() {
            if !std::mem::replace(&mut live[x.0], true) {
                stack.extend(&self.nodes[x.0].inputs);
            }
        }
        let mut place = vec![Value(0); self.nodes.len()];
        let mut nodes: Vec<Node> = Vec::new();
        for (i, mut node) in self.nodes.into_iter().enumerate() {
            if live[i] {
                for x in &mut node.inputs {
                    *x = place[x.0];
                }
                place[i] = Value(nodes.len());
                nodes.push(node);
            }
        }
        let outputs = self.outputs.iter().map(|x| place[x.0]).collect();
        Graph {
            nodes,
            outputs,
            fault: self.fault,
        }
    }
}

fn with_activation(producer: &Node, kind: Activation) -> Option<Node> {
    let mut fused = producer.clone();
    match &mut fused.op {
        Op::Product {
            product,
            activation: activation @ Activation::None,
            residual: false,
            ..
        } if !product.geglu => *activation = kind,
        Op::GroupNorm {
            activation: activation @ Activation::None,
            ..
        } => *activation = kind,
        _ => return None,
    }
    Some(fused)
}

#[cfg(test)]
mod tests {
    use super::super::{Graph, Norm, Op, Product};
    use crate::kernel::Activation;

    #[test]
    fn epilogues_are_fused_and_dead_nodes_dropped() {
        let mut g = Graph::new();
        let x = g.input("x", [1, 4, 4, 8]);
        let t = g.input("t", [1, 1, 1, 8]);
        let norm = g.group_norm(x, Norm::new("n", 8, 1e-5), 2);
        let act = g.silu(norm);
        let y = g.linear(act, Product::linear("l", [8, 8]));
        let y = g.add_channel(y, t);
        let y = g.add(x, y);
        g.linear(y, Product::linear("dead", [8, 8]));
        g.output(y);
        let g = g.optimise();
        assert_eq!(g.nodes.len(), 4);
        assert!(matches!(
            g.nodes[2].op,
            Op::GroupNorm {
                activation: Activation::Silu,
                ..
            }
        ));
        assert!(matches!(
            g.nodes[3].op,
            Op::Product {
                channel: true,
                residual: true,
                ..
            }
        ));
        assert_eq!(g.nodes[3].inputs.len(), 3);
    }

    #[test]
    fn an_activation_of_a_sum_is_not_taken_for_one_before_it() {
        let mut g = Graph::new();
        let x = g.input("x", [1, 4, 1, 8]);
        let y = g.linear(x, Product::linear("l", [8, 8]));
        let y = g.add(y, x);
        let y = g.activate(y, Activation::Relu);
        g.output(y);
        let g = g.optimise();
        assert_eq!(g.nodes.len(), 3);
        assert!(matches!(
            g.nodes[1].op,
            Op::Product {
                activation: Activation::None,
                residual: true,
                ..
            }
        ));
        assert!(matches!(g.nodes[2].op, Op::Activate(Activation::Relu)));
    }

    #[test]
    fn a_value_that_others_want_is_kept() {
        let mut g = Graph::new();
        let x = g.input("x", [1, 4, 1, 8]);
        let y = g.linear(x, Product::linear("l", [8, 8]));
        let a = g.silu(y);
        let z = g.add(y, a);
        g.output(z);
        let g = g.optimise();
        assert_eq!(g.nodes.len(), 4);
    }
}
