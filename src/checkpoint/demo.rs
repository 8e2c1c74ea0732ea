//! The demonstration checkpoint: trained for this program, part of it, so that
//! nothing has to be downloaded. Each file is embedded once; the refiner takes
//! the text encoder, VAE and tokenizer of the base.

use super::tree::Tree;

macro_rules! file {
    ($path:literal) => {
        include_bytes!(concat!("../../models/demo/", $path))
    };
}

const VOCAB: &[u8] = file!("base/tokenizer/vocab.json");
const MERGES: &[u8] = file!("base/tokenizer/merges.txt");
static ENCODER: &[u8] = file!("base/text_encoder/model.safetensors");
static ENCODER_2: &[u8] = file!("base/text_encoder_2/model.safetensors");
static VAE: &[u8] = file!("base/vae/diffusion_pytorch_model.safetensors");
static UNET: &[u8] = file!("base/unet/diffusion_pytorch_model.safetensors");
static REFINER_UNET: &[u8] = file!("refiner/unet/diffusion_pytorch_model.safetensors");
const ENCODER_2_CONFIG: &[u8] = file!("base/text_encoder_2/config.json");
const VAE_CONFIG: &[u8] = file!("base/vae/config.json");
const TOKENIZER_2_CONFIG: &[u8] = file!("base/tokenizer_2/tokenizer_config.json");
const TOKENIZER_2_SPECIALS: &[u8] = file!("base/tokenizer_2/special_tokens_map.json");

/// The base model as a diffusers folder.
pub(super) fn base() -> Tree {
    Tree::Embedded {
        name: "demo",
        files: BASE,
    }
}

/// The refiner as a diffusers folder.
pub(super) fn refiner() -> Tree {
    Tree::Embedded {
        name: "demo-refiner",
        files: REFINER,
    }
}

static BASE: &[(&str, &[u8])] = &[
    ("model_index.json", file!("base/model_index.json")),
    (
        "scheduler/scheduler_config.json",
        file!("base/scheduler/scheduler_config.json"),
    ),
    ("tokenizer/vocab.json", VOCAB),
    ("tokenizer/merges.txt", MERGES),
    (
        "tokenizer/tokenizer_config.json",
        file!("base/tokenizer/tokenizer_config.json"),
    ),
    (
        "tokenizer/special_tokens_map.json",
        file!("base/tokenizer/special_tokens_map.json"),
    ),
    ("tokenizer_2/vocab.json", VOCAB),
    ("tokenizer_2/merges.txt", MERGES),
    ("tokenizer_2/tokenizer_config.json", TOKENIZER_2_CONFIG),
    ("tokenizer_2/special_tokens_map.json", TOKENIZER_2_SPECIALS),
    (
        "text_encoder/config.json",
        file!("base/text_encoder/config.json"),
    ),
    ("text_encoder/model.safetensors", ENCODER),
    ("text_encoder_2/config.json", ENCODER_2_CONFIG),
    ("text_encoder_2/model.safetensors", ENCODER_2),
    ("vae/config.json", VAE_CONFIG),
    ("vae/diffusion_pytorch_model.safetensors", VAE),
    ("unet/config.json", file!("base/unet/config.json")),
    ("unet/diffusion_pytorch_model.safetensors", UNET),
];

static REFINER: &[(&str, &[u8])] = &[
    ("model_index.json", file!("refiner/model_index.json")),
    (
        "scheduler/scheduler_config.json",
        file!("refiner/scheduler/scheduler_config.json"),
    ),
    ("tokenizer_2/vocab.json", VOCAB),
    ("tokenizer_2/merges.txt", MERGES),
    ("tokenizer_2/tokenizer_config.json", TOKENIZER_2_CONFIG),
    ("tokenizer_2/special_tokens_map.json", TOKENIZER_2_SPECIALS),
    ("text_encoder_2/config.json", ENCODER_2_CONFIG),
    ("text_encoder_2/model.safetensors", ENCODER_2),
    ("vae/config.json", VAE_CONFIG),
    ("vae/diffusion_pytorch_model.safetensors", VAE),
    ("unet/config.json", file!("refiner/unet/config.json")),
    ("unet/diffusion_pytorch_model.safetensors", REFINER_UNET),
];
