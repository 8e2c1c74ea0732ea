//! `AutoencoderTiny` (TAESD): decoder and encoder of convolutions and ReLUs
//! alone. Its pictures are in 0..1 (see [`FROM_UNIT`]).

use super::blocks::{SAME, conv3x3};
use crate::checkpoint::TinyConfig;
use crate::graph::{Graph, Kernel, Product, Value};
use crate::kernel::Activation;
use crate::kernel::product::Conv;

/// Scale and shift from pictures in 0..1 to -1..1 (`DecoderTiny.forward`).
pub const FROM_UNIT: [f32; 2] = [2.0, -1.0];
/// The inverse (`EncoderTiny.forward`).
pub const TO_UNIT: [f32; 2] = [0.5, 0.5];

/// The decoder (`DecoderTiny`): input `latents` `[1, h, w, latent]` to the picture
/// `[1, 8 h, 8 w, out]` in 0..1.
pub fn decoder(config: &TinyConfig, [h, w]: [usize; 2]) -> Graph {
    let mut g = Graph::new();
    let c = config.decoder_block_out_channels;
    let x = g.input("latents", [1, h, w, config.latent_channels]);
    let x = g.activate(x, Activation::SoftClamp);
    let mut layers = Layers::new("decoder.layers");
    let x = conv3x3(&mut g, &layers.name(), x, c);
    // ReLU and upsampling count as layers, though they have no tensors.
    layers.name();
    let mut x = g.activate(x, Activation::Relu);
    for (stage, blocks) in config.num_decoder_blocks.iter().enumerate() {
        for _ in 0..*blocks {
            x = block(&mut g, &layers.name(), x);
        }
        if stage + 1 < config.num_decoder_blocks.len() {
            layers.name();
            x = upsample(&mut g, &layers.name(), x);
        }
    }
    x = conv3x3(&mut g, &layers.name(), x, config.out_channels);
    g.output(x);
    g
}

/// The encoder (`EncoderTiny`): input `picture` `[1, h, w, in]` in 0..1 to the
/// latents themselves, `[1, h / 8, w / 8, latent]`: there is no posterior.
pub fn encoder(config: &TinyConfig, [h, w]: [usize; 2]) -> Graph {
    let mut g = Graph::new();
    let c = config.encoder_block_out_channels;
    let picture = g.input("picture", [1, h, w, config.in_channels]);
    let mut layers = Layers::new("encoder.layers");
    let mut x = conv3x3(&mut g, &layers.name(), picture, c);
    for (stage, blocks) in config.num_encoder_blocks.iter().enumerate() {
        if stage > 0 {
            x = downsample(&mut g, &layers.name(), x);
        }
        for _ in 0..*blocks {
            x = block(&mut g, &layers.name(), x);
        }
    }
    x = conv3x3(&mut g, &layers.name(), x, config.latent_channels);
    g.output(x);
    g
}

/// Names of the layers of an `nn.Sequential`, in their order.
struct Layers {
    prefix: &'static str,
    count: usize,
}

impl Layers {
    fn new(prefix: &'static str) -> Self {
        Self { prefix, count: 0 }
    }

    fn name(&mut self) -> String {
        self.count += 1;
        format!("{}.{}", self.prefix, self.count - 1)
    }
}

/// `AutoencoderTinyBlock`: three convolutions with ReLUs between, plus the input,
/// and a last ReLU over the sum.
fn block(g: &mut Graph, name: &str, x: Value) -> Value {
    let c = g.shape(x)[3];
    let h = conv3x3(g, &format!("{name}.conv.0"), x, c);
    let h = g.activate(h, Activation::Relu);
    let h = conv3x3(g, &format!("{name}.conv.2"), h, c);
    let h = g.activate(h, Activation::Relu);
    let h = conv3x3(g, &format!("{name}.conv.4"), h, c);
    let sum = g.add(h, x);
    g.activate(sum, Activation::Relu)
}

/// Nearest 2x upsampling, then a convolution without bias.
fn upsample(g: &mut Graph, name: &str, x: Value) -> Value {
    let [_, h, w, _] = g.shape(x);
    let conv = Conv {
        upsample: true,
        ..SAME
    };
    without_bias(g, name, x, conv, [2 * h, 2 * w])
}

/// A convolution of stride 2 without bias.
fn downsample(g: &mut Graph, name: &str, x: Value) -> Value {
    let [_, h, w, _] = g.shape(x);
    let conv = Conv { stride: 2, ..SAME };
    without_bias(g, name, x, conv, [h.div_ceil(2), w.div_ceil(2)])
}

fn without_bias(g: &mut Graph, name: &str, x: Value, conv: Conv, size: [usize; 2]) -> Value {
    let c = g.shape(x)[3];
    let product = Product::new(name, Kernel::Conv3x3, [c, c], false);
    g.conv2d(x, product, conv, Some(size))
}
