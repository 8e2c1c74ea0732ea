//! What is timed: SDXL's own ops and shapes, and the work in each.

use calotype::kernel::Storage;

#[derive(Clone, Copy)]
pub enum Op {
    Conv {
        c: usize,
        co: usize,
        taps: usize,
        stride: usize,
        upsample: bool,
    },
    Linear {
        k: usize,
        n: usize,
        geglu: bool,
    },
    /// Against `keys` tokens, or against itself.
    Attention {
        heads: usize,
        d: usize,
        keys: Option<usize>,
        causal: bool,
    },
    GroupNorm {
        c: usize,
    },
    LayerNorm {
        c: usize,
    },
    Softmax {
        columns: usize,
    },
    Map {
        c: usize,
    },
    ToPlanes {
        c: usize,
    },
    Guidance,
    Update,
    /// Looks for values that are not finite.
    Watch {
        c: usize,
    },
    Sinusoid {
        dim: usize,
    },
}

/// An op over `n` pictures of `side` x `side` pixels, or as many tokens.
pub struct Case {
    pub name: &'static str,
    pub op: Op,
    pub n: usize,
    pub side: usize,
}

fn conv3(name: &'static str, side: usize, c: usize, co: usize) -> Case {
    conv(name, side, [c, co, 9, 1], false)
}

fn conv(
    name: &'static str,
    side: usize,
    [c, co, taps, stride]: [usize; 4],
    upsample: bool,
) -> Case {
    let op = Op::Conv {
        c,
        co,
        taps,
        stride,
        upsample,
    };
    case(name, op, side)
}

fn linear(name: &'static str, side: usize, k: usize, n: usize) -> Case {
    case(name, Op::Linear { k, n, geglu: false }, side)
}

fn attend(name: &'static str, side: usize, heads: usize, keys: Option<usize>) -> Case {
    let op = Op::Attention {
        heads,
        d: 64,
        keys,
        causal: false,
    };
    case(name, op, side)
}

fn case(name: &'static str, op: Op, side: usize) -> Case {
    Case {
        name,
        op,
        n: if name.starts_with("unet") { 2 } else { 1 },
        side,
    }
}

pub fn cases() -> Vec<Case> {
    let geglu = |k, n| Op::Linear { k, n, geglu: true };
    let clip = |heads| Op::Attention {
        heads,
        d: 64,
        keys: None,
        causal: true,
    };
    let middle = Op::Attention {
        heads: 1,
        d: 512,
        keys: None,
        causal: false,
    };
    vec![
        conv3("unet conv in", 128, 4, 320),
        conv3("unet conv", 128, 320, 320),
        conv3("unet conv", 128, 640, 320),
        conv3("unet conv", 128, 960, 320),
        conv("unet conv down", 128, [320, 320, 9, 2], false),
        conv3("unet conv", 64, 320, 640),
        conv3("unet conv", 64, 640, 640),
        conv3("unet conv", 64, 960, 640),
        conv3("unet conv", 64, 1280, 640),
        conv3("unet conv", 64, 1920, 640),
        conv("unet conv down", 64, [640, 640, 9, 2], false),
        conv("unet conv up", 64, [640, 640, 9, 1], true),
        conv3("unet conv", 32, 640, 1280),
        conv3("unet conv", 32, 1280, 1280),
        conv3("unet conv", 32, 1920, 1280),
        conv3("unet conv", 32, 2560, 1280),
        conv("unet conv up", 32, [1280, 1280, 9, 1], true),
        conv("unet shortcut", 128, [960, 320, 1, 1], false),
        conv3("unet conv out", 128, 320, 4),
        linear("unet q, out", 64, 640, 640),
        linear("unet qkv", 64, 640, 1920),
        case("unet ff geglu", geglu(640, 2560), 64),
        linear("unet ff out", 64, 2560, 640),
        linear("unet q, out", 32, 1280, 1280),
        linear("unet qkv", 32, 1280, 3840),
        case("unet ff geglu", geglu(1280, 5120), 32),
        linear("unet ff out", 32, 5120, 1280),
        linear("unet k, v of text", 9, 2048, 1280),
        linear("unet time", 1, 1280, 1280),
        attend("unet self attention", 64, 10, None),
        attend("unet self attention", 32, 20, None),
        attend("unet cross attention", 64, 10, Some(77)),
        attend("unet cross attention", 32, 20, Some(77)),
        case("clip attention", clip(12), 9),
        case("clip attention", clip(20), 9),
        case("unet group norm", Op::GroupNorm { c: 320 }, 128),
        case("unet group norm", Op::GroupNorm { c: 960 }, 128),
        case("unet group norm", Op::GroupNorm { c: 640 }, 64),
        case("unet group norm", Op::GroupNorm { c: 1280 }, 32),
        case("unet layer norm", Op::LayerNorm { c: 640 }, 64),
        case("unet layer norm", Op::LayerNorm { c: 1280 }, 32),
        case("unet softmax", Op::Softmax { columns: 1024 }, 64),
        case("unet silu + b", Op::Map { c: 320 }, 128),
        case("unet guidance", Op::Guidance, 128),
        case("unet update", Op::Update, 128),
        case("unet watch", Op::Watch { c: 4 }, 128),
        case("unet sinusoid", Op::Sinusoid { dim: 320 }, 1),
        conv3("vae conv", 128, 512, 512),
        case("vae attention", middle, 128),
        conv("vae conv up", 128, [512, 512, 9, 1], true),
        conv3("vae conv", 256, 512, 512),
        conv3("vae conv", 512, 512, 256),
        conv3("vae conv", 512, 256, 256),
        conv3("vae conv", 1024, 256, 128),
        conv3("vae conv", 1024, 128, 128),
        conv3("vae conv out", 1024, 128, 3),
        case("vae group norm", Op::GroupNorm { c: 512 }, 256),
        case("vae group norm", Op::GroupNorm { c: 256 }, 512),
        case("vae group norm", Op::GroupNorm { c: 128 }, 1024),
        case("vae watch", Op::Watch { c: 3 }, 1024),
        case("vae to planes", Op::ToPlanes { c: 3 }, 1024),
    ]
}

/// What a row is measured in.
#[derive(Clone, Copy, PartialEq)]
pub enum Work {
    Flops(u64),
    Bytes(u64),
}

impl Case {
    /// Pictures get an eighth of their side, attention a quarter.
    pub fn quick(mut self) -> Self {
        let divisor = match self.op {
            _ if self.side < 10 => 1,
            Op::Attention { .. } => 4,
            Op::Conv { .. } | Op::Linear { .. } => 8,
            _ => 2,
        };
        self.side /= divisor;
        self.n = 1;
        self
    }

    pub fn rows(&self) -> usize {
        self.n * self.side * self.side
    }

    pub fn shape(&self) -> String {
        let (n, s, rows) = (self.n, self.side, self.rows());
        match self.op {
            Op::Conv {
                c,
                co,
                taps,
                stride,
                upsample,
            } => {
                let side = if taps == 9 { 3 } else { 1 };
                let stride = if stride == 2 { " /2" } else { "" };
                let up = if upsample { " x2" } else { "" };
                format!("{n}x{s}x{s}x{c}->{co} {side}x{side}{stride}{up}")
            }
            Op::Linear { k, n, geglu } => {
                let n = if geglu { 2 * n } else { n };
                format!("{rows}x{k}->{n}")
            }
            Op::Attention { heads, d, keys, .. } => {
                let queries = rows / n;
                format!("{n}x{heads}x{queries}x{}, d {d}", keys.unwrap_or(queries))
            }
            Op::GroupNorm { c } => format!("{n}x{s}x{s}x{c}"),
            Op::LayerNorm { c } | Op::Map { c } => format!("{rows}x{c}"),
            Op::Softmax { columns } => format!("{rows}x{columns}"),
            Op::ToPlanes { c } => format!("{n}x{c}x{s}x{s}"),
            Op::Watch { c } => format!("{s}x{s}x{c}"),
            Op::Guidance | Op::Update => format!("{s}x{s}x4"),
            Op::Sinusoid { dim } => format!("{rows}x{dim}"),
        }
    }

    pub fn work(&self, storage: Storage) -> Work {
        let (rows, bytes) = (self.rows() as u64, storage.bytes() as u64);
        let through = |c: usize, times: u64| Work::Bytes(rows * c as u64 * bytes * times);
        match self.op {
            Op::Conv {
                c,
                co,
                taps,
                stride,
                upsample,
            } => {
                let pixels = rows * if upsample { 4 } else { 1 } / (stride * stride) as u64;
                Work::Flops(2 * pixels * (taps * c * co) as u64)
            }
            Op::Linear { k, n, geglu } => {
                Work::Flops((rows * (k * n) as u64) << (1 + u32::from(geglu)))
            }
            Op::Attention { heads, d, keys, .. } => {
                let keys = keys.unwrap_or(self.rows() / self.n);
                Work::Flops(4 * rows * (keys * heads * d) as u64)
            }
            Op::GroupNorm { c } => through(c, 3),
            Op::LayerNorm { c } => through(c, 2),
            Op::Softmax { columns } => through(columns, 2),
            Op::Map { c } => through(c, 3),
            Op::ToPlanes { c } => Work::Bytes(rows * c as u64 * (bytes + 4)),
            Op::Guidance => Work::Bytes(rows / self.n as u64 * 4 * (2 * bytes + 4)),
            Op::Update => Work::Bytes(rows / self.n as u64 * 48),
            Op::Watch { c } => Work::Bytes(rows / self.n as u64 * 4 * c as u64),
            Op::Sinusoid { dim } => through(dim, 1),
        }
    }

    /// Whether the op has weights, and so a row for each way to store them.
    pub fn has_weights(&self) -> bool {
        matches!(self.op, Op::Conv { .. } | Op::Linear { .. })
    }
}
