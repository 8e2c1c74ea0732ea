//! What a node says of the weights it reads: names and shapes as the checkpoint has them.

use crate::kernel::product::Layout;

/// How a product's weights are shaped in the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// `[out, in]`.
    Linear,
    /// `[out, in, 1, 1]`.
    Conv1x1,
    /// `[out, in, 3, 3]`.
    Conv3x3,
}

impl Kernel {
    pub fn side(self) -> usize {
        match self {
            Kernel::Linear | Kernel::Conv1x1 => 1,
            Kernel::Conv3x3 => 3,
        }
    }

    pub fn taps(self) -> usize {
        self.side() * self.side()
    }
}

/// The weights of a linear layer or convolution: one checkpoint layer, or several
/// side by side.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Product {
    /// Layer names (`NAME.weight`, `NAME.bias`) with their output widths.
    pub parts: Vec<(String, usize)>,
    pub kernel: Kernel,
    /// Input channels.
    pub k: usize,
    /// Output channels of all parts, gates included.
    pub n: usize,
    pub bias: bool,
    /// The first half of the columns is gated by the second: `value * gelu(gate)`.
    pub geglu: bool,
}

impl Product {
    pub fn new(name: impl Into<String>, kernel: Kernel, [k, n]: [usize; 2], bias: bool) -> Self {
        Self {
            parts: vec![(name.into(), n)],
            kernel,
            k,
            n,
            bias,
            geglu: false,
        }
    }

    /// A linear layer with a bias.
    pub fn linear(name: impl Into<String>, [k, n]: [usize; 2]) -> Self {
        Self::new(name, Kernel::Linear, [k, n], true)
    }

    /// Layers of `n` columns each, side by side.
    pub fn side_by_side(names: &[String], [k, n]: [usize; 2], bias: bool) -> Self {
        Self {
            parts: names.iter().map(|name| (name.clone(), n)).collect(),
            kernel: Kernel::Linear,
            k,
            n: n * names.len(),
            bias,
            geglu: false,
        }
    }

    pub fn with_geglu(mut self) -> Self {
        self.geglu = true;
        self
    }

    /// Columns of the output.
    pub fn columns(&self) -> usize {
        if self.geglu { self.n / 2 } else { self.n }
    }

    /// How the weights are packed.
    pub fn layout(&self) -> Layout {
        Layout {
            taps: self.kernel.taps(),
            k: self.k,
            n: self.n,
            geglu: self.geglu,
        }
    }

    /// Names and shapes of the tensors in the checkpoint.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut all = Vec::new();
        for (name, n) in &self.parts {
            let mut shape = vec![*n, self.k];
            if self.kernel != Kernel::Linear {
                shape.extend([self.kernel.side(); 2]);
            }
            all.push((format!("{name}.weight"), shape));
            if self.bias {
                all.push((format!("{name}.bias"), vec![*n]));
            }
        }
        all
    }
}

/// The weights of a norm: `NAME.weight` and `NAME.bias`, `[channels]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Norm {
    pub name: String,
    pub channels: usize,
    pub eps: f32,
}

impl Norm {
    pub fn new(name: impl Into<String>, channels: usize, eps: f32) -> Self {
        Self {
            name: name.into(),
            channels,
            eps,
        }
    }
}
