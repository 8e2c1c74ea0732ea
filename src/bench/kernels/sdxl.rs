//! SDXL's own ops and shapes: a picture of 1024x1024, guided, so that the UNet sees two.

use super::attention::{Attend, Transpose};
use super::latent::{Latent, Op, Watch};
use super::norm::{Groups, LayerNorm, Softmax};
use super::product::{Expand, Layer, Parts};
use super::rows::{Added, Embed, Map, Narrow, Planes};
use super::{Case, Problem};
use crate::kernel::Activation;
use crate::kernel::norm::Mask;
use crate::kernel::product::{BlockFormat, Conv, Layout};
use crate::kernel::sinusoid::Sinusoid;

/// Of margins that matrices serve, and pictures that lose no line.
const SEED: u64 = 2;

/// Pictures of a guided step.
const GUIDED: usize = 2;

const SAME: Conv = Conv {
    stride: 1,
    pad: 1,
    upsample: false,
};

const DOWN: Conv = Conv { stride: 2, ..SAME };

const UP: Conv = Conv {
    upsample: true,
    ..SAME
};

/// Cases of one name.
struct Named<'a>(&'a mut Vec<Case>, &'static str);

impl Named<'_> {
    fn add(&mut self, problem: impl Problem + 'static) {
        self.0.push(Case {
            name: self.1,
            problem: Box::new(problem),
            of_sdxl: true,
        });
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    unet_convolutions(&mut all);
    linear_layers(&mut all);
    attentions(&mut all);
    norms(&mut all);
    expansions(&mut all);
    vae(&mut all);
    others(&mut all);
    all
}

fn conv(n: usize, side: usize, [c, co]: [usize; 2], conv: Conv) -> Layer {
    Layer {
        shape: [n, side, side, c],
        co,
        taps: if conv.pad == 1 { 9 } else { 1 },
        conv: Some(conv),
        parts: Parts::BIAS,
        seed: SEED,
    }
}

fn unet_convolutions(all: &mut Vec<Case>) {
    let mut add = |name, side, channels, kind| {
        Named(all, name).add(conv(GUIDED, side, channels, kind));
    };
    add("unet conv in", 128, [4, 320], SAME);
    for (side, c, co) in [
        (128, 320, 320),
        (128, 640, 320),
        (128, 960, 320),
        (64, 320, 640),
        (64, 640, 640),
        (64, 960, 640),
        (64, 1280, 640),
        (64, 1920, 640),
        (32, 640, 1280),
        (32, 1280, 1280),
        (32, 1920, 1280),
        (32, 2560, 1280),
    ] {
        add("unet conv", side, [c, co], SAME);
    }
    add("unet conv down", 128, [320, 320], DOWN);
    add("unet conv down", 64, [640, 640], DOWN);
    add("unet conv up", 64, [640, 640], UP);
    add("unet conv up", 32, [1280, 1280], UP);
    add("unet shortcut", 128, [960, 320], Conv { pad: 0, ..SAME });
    add("unet conv out", 128, [320, 4], SAME);
}

fn linear_layers(all: &mut Vec<Case>) {
    let mut add = |name, n, rows, [k, co]: [usize; 2], parts| {
        Named(all, name).add(Layer::linear([n, rows, k, co], parts, SEED));
    };
    let residual = Parts {
        residual: true,
        ..Parts::BIAS
    };
    for (tokens, c) in [(4096, 640), (1024, 1280)] {
        add("unet q", GUIDED, tokens, [c, c], Parts::default());
        add("unet attention out", GUIDED, tokens, [c, c], residual);
        add("unet qkv", GUIDED, tokens, [c, 3 * c], Parts::default());
        add("unet ff geglu", GUIDED, tokens, [c, 4 * c], Parts::GEGLU);
        add("unet ff out", GUIDED, tokens, [4 * c, c], residual);
        let text = [2048, 2 * c];
        add("unet k, v of text", GUIDED, 77, text, Parts::default());
    }
    add("unet time", GUIDED, 1, [1280, 1280], Parts::BIAS);
    let activations = [(768, Activation::QuickGelu), (1280, Activation::Gelu)];
    for (c, activation) in activations {
        let activated = Parts {
            activation,
            ..Parts::BIAS
        };
        add("clip qkv", 1, 77, [c, 3 * c], Parts::BIAS);
        add("clip attention out", 1, 77, [c, c], residual);
        add("clip mlp", 1, 77, [c, 4 * c], activated);
        add("clip mlp out", 1, 77, [4 * c, c], residual);
    }
}

fn attentions(all: &mut Vec<Case>) {
    let mut add = |name, attend: Attend| {
        Named(all, name).add(Attend {
            even: true,
            seed: SEED,
            ..attend
        });
    };
    for (tokens, heads) in [(4096, 10), (1024, 20)] {
        let own = Attend::fused([GUIDED, tokens], [heads, 64], false);
        add("unet self attention", own);
        let text = Attend::new([GUIDED, tokens, 77], [heads, 64], false);
        add("unet cross attention", text);
    }
    for heads in [12, 20] {
        add("clip attention", Attend::fused([1, 77], [heads, 64], true));
    }
    add("vae attention", Attend::fused([1, 16384], [1, 512], false));
    Named(all, "vae turned values").add(Transpose {
        n: 1,
        keys: 16384,
        heads: 1,
        d: 512,
        seed: SEED,
    });
}

fn groups(n: usize, side: usize, c: usize) -> Groups {
    Groups {
        size: [n, side, side],
        groups: 32,
        per: c / 32,
        activation: Activation::Silu,
        seed: SEED,
    }
}

fn norms(all: &mut Vec<Case>) {
    for (side, c) in [(128, 320), (128, 960), (64, 640), (32, 1280)] {
        Named(all, "unet group norm").add(groups(GUIDED, side, c));
    }
    for (name, rows, c) in [
        ("unet layer norm", GUIDED * 4096, 640),
        ("unet layer norm", GUIDED * 1024, 1280),
        ("clip layer norm", 77, 768),
        ("clip layer norm", 77, 1280),
    ] {
        let seed = SEED;
        Named(all, name).add(LayerNorm { rows, c, seed });
    }
    for (name, rows, c) in [("unet softmax", 8192, 1024), ("vae softmax", 2048, 16384)] {
        let mask = Mask {
            count: c,
            rows_per_head: rows,
            first: 0,
            causal: false,
        };
        Named(all, name).add(Softmax {
            rows,
            c,
            mask,
            level: None,
            seed: SEED,
        });
    }
}

fn vae(all: &mut Vec<Case>) {
    for (name, side, channels, kind) in [
        ("vae conv in", 128, [4, 512], SAME),
        ("vae conv", 128, [512, 512], SAME),
        ("vae conv up", 128, [512, 512], UP),
        ("vae conv", 256, [512, 512], SAME),
        ("vae conv up", 256, [512, 512], UP),
        ("vae conv", 512, [512, 256], SAME),
        ("vae conv", 512, [256, 256], SAME),
        ("vae conv up", 512, [256, 256], UP),
        ("vae conv", 1024, [256, 128], SAME),
        ("vae conv", 1024, [128, 128], SAME),
        ("vae conv out", 1024, [128, 3], SAME),
    ] {
        Named(all, name).add(conv(1, side, channels, kind));
    }
    for (side, c) in [(128, 512), (256, 512), (512, 256), (1024, 128)] {
        Named(all, "vae group norm").add(groups(1, side, c));
    }
    for (side, c) in [(128, 512), (512, 512), (1024, 256)] {
        // What the f16 products of a VAE with f32 activations read.
        Named(all, "vae narrow").add(Narrow {
            shape: [1, side, side, c],
            co: c / 2,
            size: 4e6,
            bias: true,
            product: false,
            seed: SEED,
        });
    }
}

/// The largest of the UNet's weights, and those of most of its layers.
fn expansions(all: &mut Vec<Case>) {
    for [taps, k, n] in [[1, 1280, 1280], [1, 1280, 10240], [9, 1280, 1280]] {
        for format in [BlockFormat::Q8, BlockFormat::Q4] {
            let layout = Layout {
                taps,
                k,
                n,
                geglu: false,
            };
            Named(all, "unet weights").add(Expand {
                layout,
                format,
                seed: SEED,
            });
        }
    }
}

fn others(all: &mut Vec<Case>) {
    for (side, c) in [(128, 320), (64, 640)] {
        Named(all, "unet silu + b").add(Map {
            shape: [GUIDED, side, side, c],
            activation: Activation::Silu,
            added: Added::Rows,
            seed: SEED,
        });
    }
    for (name, dim, rows, per_row) in [
        ("unet time embedding", 320, GUIDED, 1),
        ("unet size embedding", 256, GUIDED, 6),
    ] {
        let how = Sinusoid {
            dim,
            cos_first: true,
            shift: 0.0,
        };
        Named(all, name).add(Embed {
            rows,
            per_row,
            how,
            seed: SEED,
        });
    }
    for (name, op) in [
        (
            "unet input",
            Op::Input {
                copies: GUIDED,
                wide: 0,
            },
        ),
        ("unet guidance", Op::Guidance { parts: 1 }),
        ("unet rescale", Op::Rescale { off: false }),
        (
            "unet update",
            Op::Update {
                slots: 3,
                stores: 1,
                split: false,
            },
        ),
        ("unet threshold", Op::Threshold),
        ("unet mask", Op::Mask),
    ] {
        Named(all, name).add(Latent {
            op,
            n: 1,
            pixels: 128 * 128,
            c: 4,
            seed: SEED,
        });
    }
    for (name, count) in [
        ("unet watch", 128 * 128 * 4),
        ("vae watch", 1024 * 1024 * 3),
    ] {
        Named(all, name).add(Watch {
            count,
            spoilt: false,
            seed: SEED,
        });
    }
    for (name, back) in [("vae to pixels", false), ("vae to planes", true)] {
        Named(all, name).add(Planes {
            shape: [1, 3, 1024, 1024],
            affine: [0.5, 0.5],
            back,
            seed: SEED,
        });
    }
}
