//! What a file is that is not what was asked for, by the names of its tensors, and what
//! to do with it.

use super::vae;
use crate::checkpoint::file::TensorFile;
use crate::{Error, Field, Remedy};

/// A kind of file: whether the names of a file's tensors are its, what it is, and where
/// it belongs.
struct Kind {
    fits: fn(&Keys) -> bool,
    what: &'static str,
    belongs: Belongs,
}

/// What to do with a file of a kind.
enum Belongs {
    /// Give it under another option.
    To(Field, &'static str),
    /// Something else.
    Told(&'static str),
}

/// The names of a file's tensors.
struct Keys(Vec<String>);

impl Keys {
    fn begin(&self, starts: &[&str]) -> bool {
        let begins = |name: &String| starts.iter().any(|start| name.starts_with(start));
        self.0.iter().any(begins)
    }

    fn contain(&self, parts: &[&str]) -> bool {
        let contains = |name: &String| parts.iter().any(|part| name.contains(part));
        self.0.iter().any(contains)
    }

    fn has(&self, key: &str) -> bool {
        self.0.iter().any(|name| name == key)
    }
}

const UNET: &str = "a UNet alone";

const SDXL: Belongs = Belongs::Told("use an SDXL model");
const NOT_YET: Belongs = Belongs::Told("there is no use for it here yet");

/// The first that fits is taken: the more particular come first.
const KINDS: [Kind; 19] = [
    Kind {
        fits: |keys| {
            let marks = [
                ".lora_down",
                ".lora_up",
                ".lora_A",
                ".lora_B",
                "_lora.down",
                ".hada_w1",
                ".lokr_w",
                ".dora_scale",
                ".oft_blocks",
            ];
            keys.contain(&marks) || keys.begin(&["lora_unet_", "lora_te", "lycoris_"])
        },
        what: "an adapter (LoRA)",
        belongs: Belongs::To(Field::Loras, "this file, beside a model"),
    },
    Kind {
        fits: |keys| {
            keys.begin(&["string_to_param.", "emb_params"])
                || keys
                    .0
                    .iter()
                    .all(|name| matches!(name.as_str(), "clip_l" | "clip_g"))
                || (keys.0.len() <= 2 && keys.begin(&["<"]))
        },
        what: "a textual inversion (embedding)",
        belongs: Belongs::To(Field::Embeddings, "this file, beside a model"),
    },
    Kind {
        fits: |keys| keys.begin(&["ip_adapter.", "image_proj."]),
        what: "an IP-Adapter",
        belongs: NOT_YET,
    },
    Kind {
        fits: |keys| {
            keys.begin(&[
                "control_model.",
                "controlnet_",
                "input_hint_block.",
                "zero_convs.",
            ])
        },
        what: "a ControlNet",
        belongs: NOT_YET,
    },
    Kind {
        fits: |keys| {
            keys.begin(&[
                "adapter.body.",
                "body.0.in_conv",
                "body.0.resnets.",
                "body.0.block1",
            ])
        },
        what: "a T2I-Adapter",
        belongs: NOT_YET,
    },
    Kind {
        fits: |keys| {
            keys.begin(&[
                "RRDB_trunk.",
                "model.1.sub.",
                "body.0.rdb1",
                "params_ema.body.",
            ]) || (keys.has("conv_first.weight") && keys.begin(&["body."]))
        },
        what: "an upscaler (ESRGAN)",
        belongs: NOT_YET,
    },
    Kind {
        fits: |keys| keys.contain(&["motion_modules."]),
        what: "a motion module (AnimateDiff)",
        belongs: NOT_YET,
    },
    Kind {
        fits: |keys| {
            keys.contain(&["joint_blocks.", "pos_embed.proj."])
                || keys.has("context_embedder.weight")
                    && !keys.begin(&["single_transformer_blocks."])
        },
        what: "a Stable Diffusion 3 model",
        belongs: SDXL,
    },
    Kind {
        fits: |keys| keys.contain(&["double_blocks.", "single_transformer_blocks."]),
        what: "a Flux model",
        belongs: SDXL,
    },
    Kind {
        fits: |keys| keys.begin(&["cond_stage_model.transformer."]),
        what: "a Stable Diffusion 1 checkpoint",
        belongs: SDXL,
    },
    Kind {
        fits: |keys| keys.begin(&["cond_stage_model."]),
        what: "a Stable Diffusion 2 checkpoint",
        belongs: SDXL,
    },
    Kind {
        fits: |keys| {
            let unet = keys.contain(&[
                "input_blocks.1.0.in_layers.",
                "down_blocks.0.resnets.0.time_emb_proj",
            ]);
            unet && !keys.contain(&["label_emb.", "add_embedding."])
        },
        what: "the UNet of Stable Diffusion 1 or 2",
        belongs: SDXL,
    },
    Kind {
        fits: |keys| {
            keys.contain(&["input_blocks.0.0.weight"])
                || keys.begin(&["down_blocks.", "mid_block.", "up_blocks."])
        },
        what: UNET,
        belongs: Belongs::To(Field::Unet, "this file, and a whole model beside it"),
    },
    Kind {
        fits: |keys| {
            keys.contain(&["decoder.up.0.block.", "decoder.up_blocks.0.resnets."])
                || keys.begin(&["decoder.layers.", "taesd_decoder.", "taesd_encoder."])
                || (keys.has("1.weight") && keys.has("3.conv.0.weight"))
        },
        what: "a VAE",
        belongs: Belongs::To(Field::Vae, "this file, beside a model"),
    },
    Kind {
        fits: |keys| keys.contain(&["encoder.down.0.block.", "encoder.down_blocks.0.resnets."]),
        what: "a VAE's encoder alone",
        belongs: Belongs::To(Field::Vae, "a VAE that also decodes"),
    },
    Kind {
        fits: |keys| keys.has("0.weight") && keys.has("1.conv.0.weight"),
        what: "TAESD's encoder alone",
        belongs: Belongs::To(
            Field::Vae,
            "its decoder's file; the encoder is found beside it",
        ),
    },
    Kind {
        fits: |keys| keys.begin(&["visual.", "vision_model."]),
        what: "an image encoder (CLIP vision)",
        belongs: NOT_YET,
    },
    Kind {
        fits: |keys| keys.contain(&["text_model.encoder.layers.", "transformer.resblocks."]),
        what: "a text encoder alone",
        belongs: Belongs::Told("use a whole SDXL model, which has its own"),
    },
    Kind {
        fits: |keys| keys.begin(&["unet.", "text_encoder."]),
        what: "an adapter (LoRA)",
        belongs: Belongs::To(Field::Loras, "this file, beside a model"),
    },
];

impl Kind {
    fn find(file: &TensorFile) -> Option<&'static Kind> {
        let keys = Keys(file.names());
        KINDS.iter().find(|kind| (kind.fits)(&keys))
    }

    fn remedy(&self) -> Remedy {
        match &self.belongs {
            Belongs::To(field, what) => Remedy::give(field.clone(), *what),
            Belongs::Told(what) => Remedy::Plain((*what).into()),
        }
    }
}

/// The error for a file that is given in place of something else: what it is, or
/// `unknown` where that cannot be told.
fn error(file: &TensorFile, wanted: &str, unknown: String, remedy: Remedy) -> Error {
    match Kind::find(file) {
        Some(kind) => {
            let problem = format!("{}, not {wanted}", kind.what);
            Error::file(file.path(), problem, kind.remedy())
        }
        None => Error::file(file.path(), unknown, remedy),
    }
}

/// The error for a file that is not a whole checkpoint.
pub(super) fn no_checkpoint(file: &TensorFile) -> Error {
    let sdxl = "conditioner.embedders.*.model.token_embedding.weight";
    let unknown = format!("not an SDXL checkpoint: it has no {sdxl}");
    let remedy = Remedy::give(Field::Model, "an SDXL checkpoint");
    error(file, "a whole checkpoint", unknown, remedy)
}

/// The error for a file of another kind than a UNet or a whole checkpoint, if it is one.
pub(super) fn other_than_unet(file: &TensorFile) -> Option<Error> {
    let kind = Kind::find(file).filter(|kind| kind.what != UNET)?;
    let problem = format!("{}, not a UNet", kind.what);
    Some(Error::file(file.path(), problem, kind.remedy()))
}

/// The error for a file without a UNet.
pub(super) fn no_unet(file: &TensorFile) -> Error {
    let problem = "no UNet: it has neither input_blocks.* nor down_blocks.*";
    let remedy = Remedy::give(Field::Unet, "a file with an SDXL UNet");
    Error::file(file.path(), problem, remedy)
}

/// The error for a file without a VAE's decoder.
pub(super) fn no_vae(file: &TensorFile) -> Error {
    let remedy = Remedy::give(Field::Vae, "an SDXL VAE or TAESD");
    let kind = Kind::find(file);
    let is_unet = kind.is_some_and(|kind| kind.what == UNET);
    if is_unet || file.names().iter().any(|n| n.starts_with(vae::PREFIX)) {
        let problem = "another part of a checkpoint, without a VAE";
        return Error::file(file.path(), problem, remedy);
    }
    let unknown = "no VAE of SDXL's kind: it has neither decoder.up_blocks.*, nor decoder.up.*, nor TAESD's layers";
    match kind {
        Some(kind) => {
            let problem = format!("{}, not a VAE that decodes", kind.what);
            Error::file(file.path(), problem, remedy)
        }
        None => Error::file(file.path(), unknown, remedy),
    }
}
