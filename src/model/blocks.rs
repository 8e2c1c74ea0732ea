//! What UNet and VAE share: convolutions, residual blocks, resampling.

use crate::graph::{Graph, Kernel, Norm, Product, Value};
use crate::kernel::product::Conv;

pub(super) const SAME: Conv = Conv {
    stride: 1,
    pad: 1,
    upsample: false,
};

/// A 3x3 convolution of stride 1 that keeps the size.
pub(super) fn conv3x3(g: &mut Graph, name: &str, x: Value, n: usize) -> Value {
    let k = g.shape(x)[3];
    let product = Product::new(name, Kernel::Conv3x3, [k, n], true);
    g.conv2d(x, product, SAME, None)
}

/// A 1x1 convolution: a linear layer over the channels.
pub(super) fn conv1x1(g: &mut Graph, name: &str, x: Value, n: usize) -> Value {
    let k = g.shape(x)[3];
    g.linear(x, Product::new(name, Kernel::Conv1x1, [k, n], true))
}

/// Nearest 2x upsampling to `size`, then a 3x3 convolution (`Upsample2D`).
pub(super) fn upsample(g: &mut Graph, name: &str, x: Value, size: [usize; 2]) -> Value {
    let c = g.shape(x)[3];
    let product = Product::new(format!("{name}.conv"), Kernel::Conv3x3, [c, c], true);
    let conv = Conv {
        stride: 1,
        pad: 1,
        upsample: true,
    };
    g.conv2d(x, product, conv, Some(size))
}

/// A 3x3 convolution of stride 2 (`Downsample2D`). The UNet pads on all sides;
/// the VAE (`pad` 0) below and to the right only.
pub(super) fn downsample(g: &mut Graph, name: &str, x: Value, pad: usize) -> Value {
    let [_, h, w, c] = g.shape(x);
    let product = Product::new(format!("{name}.conv"), Kernel::Conv3x3, [c, c], true);
    let conv = Conv {
        stride: 2,
        pad,
        upsample: false,
    };
    let size = (pad == 0).then_some([h / 2, w / 2]);
    g.conv2d(x, product, conv, size)
}

/// How group norms are set up in a model.
#[derive(Clone, Copy)]
pub(super) struct Norms {
    pub groups: usize,
    pub eps: f32,
}

impl Norms {
    /// Group norm followed by SiLU.
    pub fn silu(self, g: &mut Graph, name: &str, x: Value) -> Value {
        let x = self.plain(g, name, x);
        g.silu(x)
    }

    pub fn plain(self, g: &mut Graph, name: &str, x: Value) -> Value {
        let c = g.shape(x)[3];
        g.group_norm(x, Norm::new(name, c, self.eps), self.groups)
    }
}

/// `ResnetBlock2D`: norm, SiLU, conv, time embedding, norm, SiLU, conv, plus the
/// input (through a 1x1 convolution where the channels change).
pub(super) fn resnet(
    g: &mut Graph,
    name: &str,
    x: Value,
    n: usize,
    time: Option<Value>,
    norms: Norms,
) -> Value {
    let k = g.shape(x)[3];
    let h = norms.silu(g, &format!("{name}.norm1"), x);
    let mut h = conv3x3(g, &format!("{name}.conv1"), h, n);
    if let Some(time) = time {
        h = g.add_channel(h, time);
    }
    let h = norms.silu(g, &format!("{name}.norm2"), h);
    let shortcut = if k == n {
        x
    } else {
        conv1x1(g, &format!("{name}.conv_shortcut"), x, n)
    };
    let h = conv3x3(g, &format!("{name}.conv2"), h, n);
    g.add(h, shortcut)
}
