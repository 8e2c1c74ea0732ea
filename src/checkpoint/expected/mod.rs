//! Every tensor that a part has by its configuration, with its shape: what a
//! complete checkpoint must hold, under diffusers' names.
//!
//! The model graphs say the same of what they read, and the pipeline checks that.
//! This list is the one for `inspect`, which describes files: it knows of no graph
//! and also counts what no picture needs, such as the last layer of the first text
//! encoder. A test of the pipeline holds the two together.

mod tiny;

use super::config::{Autoencoder, ClipConfig, Middle, UNetConfig, VaeConfig};
use tiny::tiny;

/// A name and a shape in PyTorch's order.
pub(super) type Tensor = (String, Vec<usize>);

#[derive(Default)]
struct List(Vec<Tensor>);

impl List {
    fn add(&mut self, name: String, shape: &[usize]) {
        self.0.push((name, shape.to_vec()));
    }

    /// Scale and shift of a norm.
    fn norm(&mut self, name: &str, channels: usize) {
        self.add(format!("{name}.weight"), &[channels]);
        self.add(format!("{name}.bias"), &[channels]);
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize) {
        self.add(format!("{name}.weight"), &[outputs, inputs]);
        self.add(format!("{name}.bias"), &[outputs]);
    }

    /// A convolution with a square kernel of `side`.
    fn conv(&mut self, name: &str, outputs: usize, inputs: usize, side: usize) {
        self.add(format!("{name}.weight"), &[outputs, inputs, side, side]);
        self.add(format!("{name}.bias"), &[outputs]);
    }

    /// A residual block; `time` is the width of the time embedding, where there is one.
    fn resnet(&mut self, name: &str, outputs: usize, inputs: usize, time: Option<usize>) {
        self.norm(&format!("{name}.norm1"), inputs);
        self.conv(&format!("{name}.conv1"), outputs, inputs, 3);
        if let Some(time) = time {
            self.linear(&format!("{name}.time_emb_proj"), outputs, time);
        }
        self.norm(&format!("{name}.norm2"), outputs);
        self.conv(&format!("{name}.conv2"), outputs, outputs, 3);
        if inputs != outputs {
            self.conv(&format!("{name}.conv_shortcut"), outputs, inputs, 1);
        }
    }

    /// The UNet's attention: transformer blocks between two projections.
    fn transformer(&mut self, name: &str, channels: usize, depth: usize, c: &UNetConfig) {
        self.norm(&format!("{name}.norm"), channels);
        self.projection(&format!("{name}.proj_in"), channels, c);
        for i in 0..depth {
            let block = format!("{name}.transformer_blocks.{i}");
            self.norm(&format!("{block}.norm1"), channels);
            self.attention(&format!("{block}.attn1"), channels, channels);
            self.norm(&format!("{block}.norm2"), channels);
            self.attention(&format!("{block}.attn2"), channels, c.cross_attention_dim);
            self.norm(&format!("{block}.norm3"), channels);
            self.linear(&format!("{block}.ff.net.0.proj"), 8 * channels, channels);
            self.linear(&format!("{block}.ff.net.2"), channels, 4 * channels);
        }
        self.projection(&format!("{name}.proj_out"), channels, c);
    }

    fn projection(&mut self, name: &str, channels: usize, c: &UNetConfig) {
        match c.use_linear_projection {
            true => self.linear(name, channels, channels),
            false => self.conv(name, channels, channels, 1),
        }
    }

    fn attention(&mut self, name: &str, channels: usize, context: usize) {
        self.add(format!("{name}.to_q.weight"), &[channels, channels]);
        self.add(format!("{name}.to_k.weight"), &[channels, context]);
        self.add(format!("{name}.to_v.weight"), &[channels, context]);
        self.linear(&format!("{name}.to_out.0"), channels, channels);
    }

    /// The middle of the VAE's encoder or decoder.
    fn vae_middle(&mut self, name: &str, channels: usize, attends: bool) {
        self.resnet(&format!("{name}.resnets.0"), channels, channels, None);
        if attends {
            let attention = format!("{name}.attentions.0");
            self.norm(&format!("{attention}.group_norm"), channels);
            for part in ["to_q", "to_k", "to_v", "to_out.0"] {
                self.linear(&format!("{attention}.{part}"), channels, channels);
            }
        }
        self.resnet(&format!("{name}.resnets.1"), channels, channels, None);
    }
}

/// One level of the UNet: its width, and the transformer blocks after each resnet on
/// both ways.
struct Level<'a> {
    channels: usize,
    down: &'a [usize],
    up: &'a [usize],
}

fn levels(c: &UNetConfig) -> Vec<Level<'_>> {
    let depths = c.down_depths.iter().zip(c.up_depths.iter().rev());
    let both = c.block_out_channels.iter().zip(depths);
    both.map(|(channels, (down, up))| Level {
        channels: *channels,
        down,
        up,
    })
    .collect()
}

/// The UNet's tensors.
pub(super) fn unet(c: &UNetConfig) -> Vec<Tensor> {
    let mut list = List::default();
    let levels = levels(c);
    let (Some(first), Some(last)) = (levels.first(), levels.last()) else {
        return Vec::new();
    };
    let time = 4 * first.channels;
    list.conv("conv_in", first.channels, c.in_channels, 3);
    if let Some(dim) = c.time_cond_proj_dim {
        let name = "time_embedding.cond_proj.weight";
        list.add(name.to_string(), &[first.channels, dim]);
    }
    list.linear("time_embedding.linear_1", time, first.channels);
    list.linear("time_embedding.linear_2", time, time);
    list.linear(
        "add_embedding.linear_1",
        time,
        c.projection_class_embeddings_input_dim,
    );
    list.linear("add_embedding.linear_2", time, time);
    unet_down(&mut list, &levels, time, c);
    for i in 0..c.middle.resnets() {
        let name = format!("mid_block.resnets.{i}");
        list.resnet(&name, last.channels, last.channels, Some(time));
    }
    if let Middle::Attention(depth) = c.middle {
        list.transformer("mid_block.attentions.0", last.channels, depth, c);
    }
    unet_up(&mut list, &levels, time, c);
    list.norm("conv_norm_out", first.channels);
    list.conv("conv_out", c.out_channels, first.channels, 3);
    list.0
}

fn unet_down(list: &mut List, levels: &[Level<'_>], time: usize, c: &UNetConfig) {
    let mut inputs = levels.first().map_or(0, |level| level.channels);
    for (i, level) in levels.iter().enumerate() {
        let block = format!("down_blocks.{i}");
        for (j, depth) in level.down.iter().enumerate() {
            list.resnet(
                &format!("{block}.resnets.{j}"),
                level.channels,
                inputs,
                Some(time),
            );
            inputs = level.channels;
            if *depth > 0 {
                let name = format!("{block}.attentions.{j}");
                list.transformer(&name, level.channels, *depth, c);
            }
        }
        if i + 1 < levels.len() {
            list.conv(
                &format!("{block}.downsamplers.0.conv"),
                level.channels,
                level.channels,
                3,
            );
        }
    }
}

fn unet_up(list: &mut List, levels: &[Level<'_>], time: usize, c: &UNetConfig) {
    let mut inputs = levels.last().map_or(0, |level| level.channels);
    for (i, level) in levels.iter().rev().enumerate() {
        let block = format!("up_blocks.{i}");
        // The last skip connection of a level comes from the level above it.
        let above = levels.len().saturating_sub(i + 2);
        let above = levels
            .get(above)
            .map_or(level.channels, |level| level.channels);
        for (j, depth) in level.up.iter().enumerate() {
            let skip = if j + 1 == level.up.len() {
                above
            } else {
                level.channels
            };
            list.resnet(
                &format!("{block}.resnets.{j}"),
                level.channels,
                inputs + skip,
                Some(time),
            );
            inputs = level.channels;
            if *depth > 0 {
                let name = format!("{block}.attentions.{j}");
                list.transformer(&name, level.channels, *depth, c);
            }
        }
        if i + 1 < levels.len() {
            list.conv(
                &format!("{block}.upsamplers.0.conv"),
                level.channels,
                level.channels,
                3,
            );
        }
    }
}

/// The VAE's tensors, encoder and decoder.
pub(super) fn autoencoder(c: &Autoencoder) -> Vec<Tensor> {
    match c {
        Autoencoder::Kl(c) => vae(c),
        Autoencoder::Tiny(c) => tiny(c),
    }
}

/// `AutoencoderKL`'s tensors, decoder and, where there is one, encoder.
fn vae(c: &VaeConfig) -> Vec<Tensor> {
    let mut list = List::default();
    let (Some(&first), Some(&last)) = (c.block_out_channels.first(), c.block_out_channels.last())
    else {
        return Vec::new();
    };
    let (latent, attends) = (c.latent_channels, c.mid_block_add_attention);
    if c.has_encoder {
        vae_encoder(&mut list, c, [first, last]);
    }
    if c.use_post_quant_conv {
        list.conv("post_quant_conv", latent, latent, 1);
    }
    list.conv("decoder.conv_in", last, latent, 3);
    list.vae_middle("decoder.mid_block", last, attends);
    vae_levels(
        &mut list,
        "decoder.up_blocks",
        "upsamplers",
        c.layers_per_block + 1,
        c.block_out_channels.iter().rev(),
    );
    list.norm("decoder.conv_norm_out", first);
    list.conv("decoder.conv_out", c.out_channels, first, 3);
    list.0
}

/// The encoder of `AutoencoderKL`, from the `first` width to the `last`.
fn vae_encoder(list: &mut List, c: &VaeConfig, [first, last]: [usize; 2]) {
    let (latent, attends) = (c.latent_channels, c.mid_block_add_attention);
    list.conv("encoder.conv_in", first, c.in_channels, 3);
    vae_levels(
        list,
        "encoder.down_blocks",
        "downsamplers",
        c.layers_per_block,
        c.block_out_channels.iter(),
    );
    list.vae_middle("encoder.mid_block", last, attends);
    list.norm("encoder.conv_norm_out", last);
    list.conv("encoder.conv_out", 2 * latent, last, 3);
    if c.use_quant_conv {
        list.conv("quant_conv", 2 * latent, 2 * latent, 1);
    }
}

/// The levels of one side of the VAE in the order of the work.
fn vae_levels<'a>(
    list: &mut List,
    name: &str,
    sampler: &str,
    layers: usize,
    widths: impl ExactSizeIterator<Item = &'a usize> + Clone,
) {
    let levels = widths.len();
    let mut inputs = widths.clone().next().copied().unwrap_or(0);
    for (i, &width) in widths.enumerate() {
        for j in 0..layers {
            list.resnet(&format!("{name}.{i}.resnets.{j}"), width, inputs, None);
            inputs = width;
        }
        if i + 1 < levels {
            list.conv(&format!("{name}.{i}.{sampler}.0.conv"), width, width, 3);
        }
    }
}

/// A text encoder's tensors.
pub(super) fn clip(c: &ClipConfig) -> Vec<Tensor> {
    let mut list = List::default();
    let width = c.hidden_size;
    let table = |name: &str| format!("text_model.embeddings.{name}_embedding.weight");
    list.add(table("token"), &[c.vocab_size, width]);
    list.add(table("position"), &[c.max_position_embeddings, width]);
    for i in 0..c.num_hidden_layers {
        let layer = format!("text_model.encoder.layers.{i}");
        list.norm(&format!("{layer}.layer_norm1"), width);
        for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            list.linear(&format!("{layer}.self_attn.{part}"), width, width);
        }
        list.norm(&format!("{layer}.layer_norm2"), width);
        list.linear(&format!("{layer}.mlp.fc1"), c.intermediate_size, width);
        list.linear(&format!("{layer}.mlp.fc2"), width, c.intermediate_size);
    }
    list.norm("text_model.final_layer_norm", width);
    if let Some(pooled) = c.projection_dim {
        list.add("text_projection.weight".to_string(), &[pooled, width]);
    }
    list.0
}
