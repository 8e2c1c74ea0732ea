//! The time embedding of SDXL's UNet, with `text_time` conditioning: a graph apart,
//! since the rows of many steps cost little more than one's.

use super::unet::resnets;
use crate::checkpoint::UNetConfig;
use crate::graph::{Graph, Kernel, Product, Value};
use crate::kernel::sinusoid::Sinusoid;

/// Names of the graph's inputs. `TIMESTEPS` and `TIME_IDS` are buffers of f32.
pub const TEXT_EMBEDS: &str = "text_embeds";
pub const TIMESTEPS: &str = "timesteps";
pub const TIME_IDS: &str = "time_ids";
/// Of consistency models: the embedded guidance scale (see [`guidance_embedding`]).
pub const TIMESTEP_COND: &str = "timestep_cond";

/// The guidance scale as consistency models are told it: sines, then cosines, of
/// `1000 (scale - 1)` at falling frequencies, `dim` numbers (diffusers'
/// `get_guidance_scale_embedding`; Luo et al. 2023, section 4.1).
pub fn guidance_embedding(scale: f64, dim: usize) -> Vec<f32> {
    let half = dim / 2;
    let step = 10_000f64.ln() / (half.max(2) - 1) as f64;
    let angle = |i: usize| 1000.0 * (scale - 1.0) * (-step * i as f64).exp();
    let sines = (0..half).map(|i| angle(i).sin() as f32);
    sines
        .chain((0..half).map(|i| angle(i).cos() as f32))
        .collect()
}

/// The graph: `rows` timesteps, each with its text_embeds `[rows, 1, 1, pooled]`, `ids`
/// numbers of micro-conditioning (6; the refiner's 5) and, of consistency models, its
/// guidance `[rows, 1, 1, dim]`, to what every residual block of the UNet adds, side by
/// side: `[rows, 1, 1, width]`.
pub fn graph(config: &UNetConfig, ids: usize, rows: usize) -> Graph {
    let mut g = Graph::new();
    let time = embedding(&mut g, config, ids, rows);
    let blocks = resnets(config);
    let k = g.shape(time)[3];
    let product = Product {
        parts: blocks
            .iter()
            .map(|(name, n)| (format!("{name}.time_emb_proj"), *n))
            .collect(),
        kernel: Kernel::Linear,
        k,
        n: blocks.iter().map(|block| block.1).sum(),
        bias: true,
        geglu: false,
    };
    let all = g.linear(time, product);
    g.output(all);
    g
}

/// `silu(time_embedding(t) + add_embedding(text, ids))`, as all blocks want it.
fn embedding(g: &mut Graph, config: &UNetConfig, ids: usize, rows: usize) -> Value {
    let sinusoid = |dim| Sinusoid {
        dim,
        cos_first: config.flip_sin_to_cos,
        shift: config.freq_shift,
    };
    let c = config.block_out_channels[0];
    let t = g.sinusoid(TIMESTEPS, sinusoid(c), [rows, 1]);
    let t = match config.time_cond_proj_dim {
        Some(dim) => {
            let guidance = g.input(TIMESTEP_COND, [rows, 1, 1, dim]);
            let product = Product::new("time_embedding.cond_proj", Kernel::Linear, [dim, c], false);
            let guidance = g.linear(guidance, product);
            g.add(t, guidance)
        }
        None => t,
    };
    let t = mlp(g, "time_embedding", t, 4 * c);
    let dim = config.addition_time_embed_dim;
    let pooled = config.projection_class_embeddings_input_dim - ids * dim;
    let text = g.input(TEXT_EMBEDS, [rows, 1, 1, pooled]);
    let ids = g.sinusoid(TIME_IDS, sinusoid(dim), [rows, ids]);
    let both = g.concat(text, ids);
    let added = mlp(g, "add_embedding", both, 4 * c);
    let sum = g.add(t, added);
    g.silu(sum)
}

fn mlp(g: &mut Graph, name: &str, x: Value, n: usize) -> Value {
    let k = g.shape(x)[3];
    let h = g.linear(x, Product::linear(format!("{name}.linear_1"), [k, n]));
    let h = g.silu(h);
    g.linear(h, Product::linear(format!("{name}.linear_2"), [n, n]))
}
