//! SDXL's UNet (`UNet2DConditionModel` with `text_time` conditioning), base and
//! refiner, of any depth, width and block list.

use super::blocks::{self, Norms, conv3x3, resnet};
use crate::checkpoint::{Middle, UNetConfig};
use crate::graph::{Graph, Kernel, Norm, Product, Value};
use std::collections::HashMap;

/// What a UNet graph is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Size {
    pub batch: usize,
    /// Of the latents.
    pub height: usize,
    pub width: usize,
    /// Of the text.
    pub tokens: usize,
}

/// Names of the graph's inputs. `CONTEXT` stays over many steps.
pub const SAMPLE: &str = "sample";
pub const CONTEXT: &str = "encoder_hidden_states";
/// What [`time::graph`](super::time::graph) makes.
pub const TIME: &str = "time";

/// What [`Pass::Shallow`] is given in place of the deep layers.
pub const FEATURE: &str = "feature";

/// How much of the UNet a graph runs (DeepCache, Ma, Fang and Wang 2023, arXiv
/// 2312.00858): what the deep layers make changes little from step to step, so that a
/// step may take it from one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pass {
    Whole,
    /// The whole; its second output is the [`FEATURE`].
    Keeping,
    /// `conv_in`, the last layer of the last block, which takes the feature and what
    /// `conv_in` makes, and the convolution after it: DeepCache's `cache_branch_id` 0.
    Shallow,
}

/// The norm inside transformers; diffusers fixes it.
const TRANSFORMER_EPS: f32 = 1e-6;
/// Layer norms' default.
const LAYER_EPS: f32 = 1e-5;

/// The graph: sample `[batch, h, w, in]`, context `[batch, tokens, 1, cross]`, and the
/// time's share of the residual blocks `[batch, 1, 1, width]` to the prediction
/// `[batch, h, w, out]`.
pub fn graph(config: &UNetConfig, size: Size) -> Graph {
    graph_of(config, size, Pass::Whole)
}

/// The graph of a pass. The feature is `[batch, h, w, c]`; everything else is as in
/// [`graph`].
pub fn graph_of(config: &UNetConfig, size: Size, pass: Pass) -> Graph {
    let mut builder = Builder {
        g: Graph::new(),
        config,
        size,
        norms: Norms {
            groups: config.norm_num_groups,
            eps: config.norm_eps,
        },
        context: Value::default(),
        times: HashMap::new(),
        feature: None,
    };
    let out = match pass {
        Pass::Whole | Pass::Keeping => builder.whole(),
        Pass::Shallow => builder.shallow(),
    };
    builder.g.output(out);
    if let (Pass::Keeping, Some(feature)) = (pass, builder.feature) {
        builder.g.output(feature);
    }
    builder.g
}

struct Builder<'a> {
    g: Graph,
    config: &'a UNetConfig,
    size: Size,
    norms: Norms,
    context: Value,
    /// The time embedding's share of every residual block, by its name.
    times: HashMap<String, Value>,
    /// What enters the last layer of the last block.
    feature: Option<Value>,
}

impl Builder<'_> {
    /// The inputs and `conv_in`.
    fn begin(&mut self) -> Value {
        let config = self.config;
        let Size {
            batch,
            height,
            width,
            tokens,
        } = self.size;
        let sample = self
            .g
            .input(SAMPLE, [batch, height, width, config.in_channels]);
        self.context = self
            .g
            .input_once(CONTEXT, [batch, tokens, 1, config.cross_attention_dim]);
        self.times = self.times();
        conv3x3(&mut self.g, "conv_in", sample, config.block_out_channels[0])
    }

    fn end(&mut self, x: Value) -> Value {
        let x = self.norms.silu(&mut self.g, "conv_norm_out", x);
        conv3x3(&mut self.g, "conv_out", x, self.config.out_channels)
    }

    fn whole(&mut self) -> Value {
        let config = self.config;
        let mut x = self.begin();
        let mut skips = vec![x];
        for level in 0..config.block_out_channels.len() {
            x = self.down_block(level, x, &mut skips);
        }
        x = self.mid_block(x);
        for block in 0..config.block_out_channels.len() {
            x = self.up_block(block, x, &mut skips);
        }
        self.end(x)
    }

    fn shallow(&mut self) -> Value {
        let mut skips = vec![self.begin()];
        let c = self.config.block_out_channels[0];
        let Size {
            batch,
            height,
            width,
            ..
        } = self.size;
        let x = self.g.input(FEATURE, [batch, height, width, c]);
        let (block, layer) = self.last_layer();
        let x = self.up_layer(block, layer, x, &mut skips);
        self.end(x)
    }

    /// The last block, and its last layer.
    fn last_layer(&self) -> (usize, usize) {
        let config = self.config;
        (
            config.block_out_channels.len() - 1,
            config.layers_per_block[0],
        )
    }

    /// The columns of the time's share that each residual block takes.
    fn times(&mut self) -> HashMap<String, Value> {
        let blocks = resnets(self.config);
        let width = blocks.iter().map(|block| block.1).sum();
        let all = self.g.input(TIME, [self.size.batch, 1, 1, width]);
        let mut first = 0;
        blocks
            .into_iter()
            .map(|(name, n)| {
                let part = self.g.columns(all, first, n);
                first += n;
                (name, part)
            })
            .collect()
    }

    fn resnet(&mut self, name: &str, x: Value, n: usize) -> Value {
        let time = self.times.get(name).copied();
        resnet(&mut self.g, name, x, n, time, self.norms)
    }

    fn down_block(&mut self, level: usize, mut x: Value, skips: &mut Vec<Value>) -> Value {
        let config = self.config;
        let name = format!("down_blocks.{level}");
        for i in 0..config.layers_per_block[level] {
            let n = config.block_out_channels[level];
            x = self.resnet(&format!("{name}.resnets.{i}"), x, n);
            let depth = config.down_depths[level][i];
            x = self.transformer(&format!("{name}.attentions.{i}"), x, level, depth);
            skips.push(x);
        }
        if level + 1 < config.block_out_channels.len() {
            x = blocks::downsample(&mut self.g, &format!("{name}.downsamplers.0"), x, 1);
            skips.push(x);
        }
        x
    }

    fn mid_block(&mut self, x: Value) -> Value {
        let last = self.config.block_out_channels.len() - 1;
        let n = self.config.block_out_channels[last];
        (0..self.config.middle.resnets()).fold(x, |x, i| {
            let x = match self.config.middle {
                Middle::Attention(depth) if i == 1 => {
                    self.transformer("mid_block.attentions.0", x, last, depth)
                }
                _ => x,
            };
            self.resnet(&format!("mid_block.resnets.{i}"), x, n)
        })
    }

    fn up_block(&mut self, block: usize, mut x: Value, skips: &mut Vec<Value>) -> Value {
        let config = self.config;
        let level = config.block_out_channels.len() - 1 - block;
        for i in 0..config.layers_per_block[level] + 1 {
            if (block, i) == self.last_layer() {
                self.feature = Some(x);
            }
            x = self.up_layer(block, i, x, skips);
        }
        if level > 0 {
            // Sizes that do not halve evenly come back as they were.
            let [_, h, w, _] = skips.last().map_or([0; 4], |s| self.g.shape(*s));
            let name = format!("up_blocks.{block}.upsamplers.0");
            x = blocks::upsample(&mut self.g, &name, x, [h, w]);
        }
        x
    }

    fn up_layer(&mut self, block: usize, i: usize, mut x: Value, skips: &mut Vec<Value>) -> Value {
        let config = self.config;
        let level = config.block_out_channels.len() - 1 - block;
        let name = format!("up_blocks.{block}");
        if let Some(skip) = skips.pop() {
            x = self.g.concat(x, skip);
        }
        let n = config.block_out_channels[level];
        x = self.resnet(&format!("{name}.resnets.{i}"), x, n);
        let depth = config.up_depths[block][i];
        self.transformer(&format!("{name}.attentions.{i}"), x, level, depth)
    }

    /// `Transformer2DModel` of `depth` blocks; without any, what comes in.
    fn transformer(&mut self, name: &str, x: Value, level: usize, depth: usize) -> Value {
        let config = self.config;
        if depth == 0 {
            return x;
        }
        let heads = config.num_attention_heads[level];
        let [n, h, w, c] = self.g.shape(x);
        let kernel = if config.use_linear_projection {
            Kernel::Linear
        } else {
            Kernel::Conv1x1
        };
        let norms = Norms {
            eps: TRANSFORMER_EPS,
            ..self.norms
        };
        let y = norms.plain(&mut self.g, &format!("{name}.norm"), x);
        let y = self.g.reshape(y, [n, h * w, 1]);
        let product = Product::new(format!("{name}.proj_in"), kernel, [c, c], true);
        let mut y = self.g.linear(y, product);
        for i in 0..depth {
            y = self.transformer_block(&format!("{name}.transformer_blocks.{i}"), y, heads);
        }
        let product = Product::new(format!("{name}.proj_out"), kernel, [c, c], true);
        let y = self.g.linear(y, product);
        let tokens = self.g.reshape(x, [n, h * w, 1]);
        let y = self.g.add(y, tokens);
        self.g.reshape(y, [n, h, w])
    }

    /// `BasicTransformerBlock`: self attention, cross attention, gated feed-forward.
    fn transformer_block(&mut self, name: &str, x: Value, heads: usize) -> Value {
        let g = &mut self.g;
        let c = g.shape(x)[3];
        let cross = g.shape(self.context)[3];
        let norm = |i: usize| Norm::new(format!("{name}.norm{i}"), c, LAYER_EPS);
        let layer = |part: &str| format!("{name}.{part}");

        let h = g.layer_norm(x, norm(1));
        let parts = ["to_q", "to_k", "to_v"].map(|p| layer(&format!("attn1.{p}")));
        let qkv = g.linear(h, Product::side_by_side(&parts, [c, c], false));
        let qkv = [0, c, 2 * c].map(|first| g.columns(qkv, first, c));
        let h = g.attention(qkv, heads, false);
        let h = g.linear(h, Product::linear(layer("attn1.to_out.0"), [c, c]));
        let x = g.add(h, x);

        let h = g.layer_norm(x, norm(2));
        let q = g.linear(
            h,
            Product::side_by_side(&[layer("attn2.to_q")], [c, c], false),
        );
        let parts = ["to_k", "to_v"].map(|p| layer(&format!("attn2.{p}")));
        let kv = g.linear(
            self.context,
            Product::side_by_side(&parts, [cross, c], false),
        );
        let [k, v] = [0, c].map(|first| g.columns(kv, first, c));
        let h = g.attention([q, k, v], heads, false);
        let h = g.linear(h, Product::linear(layer("attn2.to_out.0"), [c, c]));
        let x = g.add(h, x);

        let h = g.layer_norm(x, norm(3));
        let product = Product::linear(layer("ff.net.0.proj"), [c, 8 * c]).with_geglu();
        let h = g.linear(h, product);
        let h = g.linear(h, Product::linear(layer("ff.net.2"), [4 * c, c]));
        g.add(h, x)
    }
}

/// Names and output channels of all residual blocks, in the order of execution.
pub(super) fn resnets(config: &UNetConfig) -> Vec<(String, usize)> {
    let levels = config.block_out_channels.len();
    let mut all = Vec::new();
    for level in 0..levels {
        for i in 0..config.layers_per_block[level] {
            let name = format!("down_blocks.{level}.resnets.{i}");
            all.push((name, config.block_out_channels[level]));
        }
    }
    let last = config.block_out_channels[levels - 1];
    for i in 0..config.middle.resnets() {
        all.push((format!("mid_block.resnets.{i}"), last));
    }
    for block in 0..levels {
        let level = levels - 1 - block;
        for i in 0..config.layers_per_block[level] + 1 {
            let name = format!("up_blocks.{block}.resnets.{i}");
            all.push((name, config.block_out_channels[level]));
        }
    }
    all
}
