//! Every kind of bad adapter, and how adapters are found. Good ones are tests/engine/lora.rs.

use crate::common::{Described, write_header, write_sparse};
use calotype::checkpoint::{Checkpoint, LoraFile, LoraUse, lora};
use safetensors::{Dtype, tensor::TensorView};
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lora");
    folder.join(name).with_extension("safetensors")
}

/// A small adapter for the demo that a test may spoil.
struct Bad {
    temp: tempfile::TempDir,
}

const DOWN: &str =
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight";
const UP: &str = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight";

impl Bad {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        Bad { temp }
    }

    fn path(&self) -> PathBuf {
        self.temp.path().join("bad.safetensors")
    }

    /// Opens and merges a file of these tensors, all zeros.
    fn set(
        &self,
        model: &str,
        allow: bool,
        tensors: &[(&str, &'static str, &[usize])],
    ) -> Result<Vec<String>, String> {
        let tensors: Vec<Described> = tensors
            .iter()
            .map(|(name, dtype, shape)| (name.to_string(), *dtype, shape.to_vec()))
            .collect();
        write_sparse(&self.path(), &tensors);
        self.merge(model, allow)
    }

    fn merge(&self, model: &str, allow: bool) -> Result<Vec<String>, String> {
        let merged = LoraFile::open(self.path()).and_then(|file| {
            let one = LoraUse {
                file,
                unet_weight: 1.0,
                text_weight: 1.0,
            };
            Checkpoint::open(model)?.set_loras(&[one], allow)
        });
        merged.map(|report| report.warnings()).map_err(|e| {
            let message = e.to_string();
            assert!(
                !message.contains('\n') && message.contains("bad.safetensors"),
                "{message}"
            );
            message
        })
    }

    fn error(&self, tensors: &[(&str, &'static str, &[usize])], expected: &[&str]) {
        let message = self.set("demo", false, tensors).unwrap_err();
        for part in expected {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
}

#[test]
fn other_kinds_of_adapters_are_refused() {
    let bad = Bad::new();
    let kinds = [
        ("oft_blocks", "OFT"),
        ("ia3_l", "IA3 in PEFT's form"),
        ("lokr_t1", "LoKr"),
        ("lora_up.bias", "biases"),
        ("lora_B.bias", "biases"),
    ];
    for (end, kind) in kinds {
        let key = format!("lora_unet_conv_in.{end}");
        let tensors: [(&str, _, &[usize]); 3] = [
            (DOWN, "F16", &[2, 64]),
            (UP, "F16", &[64, 2]),
            (&key, "F16", &[2]),
        ];
        bad.error(&tensors, &[kind, &key, "another kind"]);
    }
}

/// Whole modules of every kind, each with a tensor left out or of another shape.
#[test]
fn modules_that_are_not_whole_are_errors() {
    let bad = Bad::new();
    let to_q = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q";
    let name = |end: &str| format!("{to_q}.{end}");
    type Ends<'a> = &'a [(&'static str, &'static [usize])];
    let set = |ends: Ends<'_>| {
        let named: Vec<_> = ends
            .iter()
            .map(|(end, shape)| (name(end), *shape))
            .collect();
        let tensors: Vec<(&str, _, &[usize])> = named
            .iter()
            .map(|(key, shape)| (key.as_str(), "F16", *shape))
            .collect();
        bad.set("demo", false, &tensors)
    };
    let whole: [Ends<'_>; 7] = [
        &[
            ("hada_w1_a", &[64, 2]),
            ("hada_w1_b", &[2, 64]),
            ("hada_w2_a", &[64, 2]),
            ("hada_w2_b", &[2, 64]),
        ],
        &[
            ("lokr_w1", &[4, 8]),
            ("lokr_w2_a", &[16, 2]),
            ("lokr_w2_b", &[2, 8]),
        ],
        &[("weight", &[64]), ("on_input", &[])],
        &[("diff", &[64, 64])],
        &[
            ("a1.weight", &[64, 2]),
            ("a2.weight", &[2, 64]),
            ("b1.weight", &[64, 2]),
            ("b2.weight", &[2, 64]),
        ],
        &[
            ("lora_down.weight", &[2, 64]),
            ("lora_up.weight", &[64, 2]),
            ("dora_scale", &[64, 1]),
        ],
        &[
            ("lora_down.weight", &[2, 64]),
            ("lora_up.weight", &[64, 2]),
            ("dora_scale", &[1, 64]),
        ],
    ];
    for ends in whole {
        assert_eq!(set(ends), Ok(Vec::new()), "{ends:?}");
        for (i, (end, shape)) in ends.iter().enumerate() {
            let mut spoilt = ends.to_vec();
            spoilt.remove(i);
            let optional = *end == "dora_scale" || ends.len() == 1;
            assert!(optional || set(&spoilt).is_err(), "without {end}");
            let mut longer = shape.to_vec();
            match longer.first_mut() {
                Some(first) => *first += 1,
                None => continue,
            }
            let longer: &'static [usize] = longer.leak();
            spoilt.insert(i, (*end, longer));
            let message = set(&spoilt).unwrap_err();
            assert!(message.contains(to_q), "{message}");
            spoilt[i] = (*end, &[]);
            assert!(set(&spoilt).is_err(), "{end}");
        }
    }
    // to_q has no bias, and is no norm.
    let pair: [(&'static str, &'static [usize]); 2] =
        [("lora_down.weight", &[2, 64]), ("lora_up.weight", &[64, 2])];
    let of = |more: (&'static str, &'static [usize])| set(&[pair[0], pair[1], more]).unwrap_err();
    assert!(of(("diff_b", &[64])).contains("bias"));
    assert!(of(("diff", &[64, 64])).contains("LoRA"));
    assert!(of(("w_norm", &[64])).contains("difference"));
    let message = of(("lora_A.weight", &[2, 64]));
    assert!(message.contains("says the same of its module"), "{message}");
    let norm = "lora_unet_mid_block_attentions_0_norm";
    let keys = ["lora_down.weight", "lora_up.weight"].map(|end| format!("{norm}.{end}"));
    let tensors: [(&str, _, &[usize]); 2] =
        [(&keys[0], "F16", &[2, 1]), (&keys[1], "F16", &[64, 2])];
    bad.error(
        &tensors,
        &[norm, "[64] asks for a difference of its own shape"],
    );
}

#[test]
fn half_a_pair_is_an_error() {
    let bad = Bad::new();
    bad.error(&[(DOWN, "F16", &[2, 64])], &[DOWN, "lora_up", "missing"]);
    bad.error(&[(UP, "F16", &[64, 2])], &[UP, "lora_down", "missing"]);
    let alpha = "lora_unet_conv_in.alpha";
    bad.error(&[(alpha, "F32", &[])], &[alpha, "missing"]);
}

#[test]
fn keys_that_match_nothing_are_errors_unless_allowed() {
    let bad = Bad::new();
    let tensors: [(&str, _, &[usize]); 6] = [
        (DOWN, "F16", &[2, 64]),
        (UP, "F16", &[64, 2]),
        ("lora_unet_nowhere.lora_down.weight", "F16", &[2, 64]),
        ("lora_unet_nowhere.lora_up.weight", "F16", &[64, 2]),
        ("lora_unet_nowhere.alpha", "F16", &[]),
        ("bundle_emb.x", "F16", &[2]),
    ];
    let expected = [
        "4 of its keys name nothing in this checkpoint",
        "the first is bundle_emb.x",
        "lora_allow_unmatched",
    ];
    bad.error(&tensors, &expected);
    let warnings = bad.set("demo", true, &tensors).unwrap();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].starts_with("LoRA bad: 4 keys"), "{warnings:?}");
    assert!(
        warnings[0].ends_with("lora_unet_nowhere.lora_down.weight and 1 more"),
        "{warnings:?}"
    );
}

#[test]
fn shapes_that_do_not_fit_are_named() {
    let bad = Bad::new();
    let target = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight of [64, 64]";
    bad.error(
        &[(DOWN, "F16", &[2, 32]), (UP, "F16", &[64, 2])],
        &[DOWN, "[2, 32]", target, "[2, 64]"],
    );
    bad.error(
        &[(DOWN, "F16", &[2, 64]), (UP, "F16", &[32, 2])],
        &[UP, "[32, 2]", target, "64 rows"],
    );
    bad.error(
        &[(DOWN, "F16", &[2, 64, 3, 3]), (UP, "F16", &[64, 2])],
        &[DOWN, "[2, 64, 3, 3]"],
    );
    bad.error(
        &[(DOWN, "F16", &[3, 64]), (UP, "F16", &[64, 2])],
        &[UP, "does not fit", "[3, 64]"],
    );
    bad.error(
        &[(DOWN, "F16", &[64]), (UP, "F16", &[64, 2])],
        &[DOWN, "[rank, inputs]"],
    );
    bad.error(
        &[(DOWN, "F16", &[0, 64]), (UP, "F16", &[64, 0])],
        &[DOWN, "[0, 64]"],
    );
    let conv =
        ["lora_down", "lora_mid", "lora_up"].map(|end| format!("lora_unet_conv_in.{end}.weight"));
    let [down, mid, up] = &conv;
    let three = |kernel: &'static [usize]| -> [(&str, &str, &[usize]); 3] {
        [
            (down, "F16", &[2, 4, 1, 1]),
            (mid, "F16", kernel),
            (up, "F16", &[32, 2, 1, 1]),
        ]
    };
    assert!(bad.set("demo", false, &three(&[2, 2, 3, 3])).is_ok());
    bad.error(&three(&[2, 2, 5, 5]), &[mid, "[2, 2, 5, 5]", "[3, 3]"]);
    bad.error(&three(&[2, 3, 3, 3]), &[up, "does not fit"]);
    bad.error(&three(&[2, 2]), &[mid, "[rank, rank, kh, kw]"]);
}

#[test]
fn types_and_alphas_are_checked() {
    let bad = Bad::new();
    bad.error(
        &[(DOWN, "I16", &[2, 64]), (UP, "F16", &[64, 2])],
        &[DOWN, "I16", "F16, BF16 and fp8"],
    );
    let alpha = DOWN.replace("lora_down.weight", "alpha");
    bad.error(
        &[
            (DOWN, "F16", &[2, 64]),
            (UP, "F16", &[64, 2]),
            (&alpha, "F16", &[2]),
        ],
        &[&alpha, "[2]", "one finite number"],
    );
    let zeros = [0u8; 2 * 64 * 4];
    let nan = f32::NAN.to_le_bytes();
    let view = |shape: &[usize], bytes| TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap();
    let views = [
        (DOWN, view(&[2, 64], &zeros[..])),
        (UP, view(&[64, 2], &zeros[..])),
        (&alpha, view(&[], &nan[..])),
    ];
    safetensors::serialize_to_file(views, None, &bad.path()).unwrap();
    let message = bad.merge("demo", false).unwrap_err();
    assert!(message.contains("one finite number"), "{message}");
}

#[test]
fn one_weight_changed_twice() {
    let bad = Bad::new();
    let peft = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q";
    let (a, b) = (
        format!("{peft}.lora_A.weight"),
        format!("{peft}.lora_B.weight"),
    );
    let twice: [(&str, _, &[usize]); 4] = [
        (DOWN, "F16", &[2, 64]),
        (UP, "F16", &[64, 2]),
        (&a, "F16", &[2, 64]),
        (&b, "F16", &[64, 2]),
    ];
    bad.error(&twice, &["changes the same weight as lora_unet_mid_block"]);
    // Under the original release's names it is the same adapter again.
    let original = "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q";
    let keys = ["lora_down.weight", "lora_up.weight"].map(|end| format!("{original}.{end}"));
    let both: [(&str, _, &[usize]); 4] = [
        (DOWN, "F16", &[2, 64]),
        (UP, "F16", &[64, 2]),
        (&keys[0], "F16", &[2, 64]),
        (&keys[1], "F16", &[64, 2]),
    ];
    assert_eq!(bad.set("demo", false, &both).unwrap(), Vec::<String>::new());
}

#[test]
fn adapters_for_other_models_are_told() {
    let bad = Bad::new();
    let attention = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k";
    let keys = ["lora_down.weight", "lora_up.weight"].map(|end| format!("{attention}.{end}"));
    let of = |model: &str, width: usize| {
        let tensors: [(&str, _, &[usize]); 2] =
            [(&keys[0], "F16", &[2, width]), (&keys[1], "F16", &[64, 2])];
        bad.set(model, true, &tensors).unwrap_err()
    };
    for (model, width, expected) in [
        (
            "demo",
            768,
            "made for Stable Diffusion 1.5, not for SDXL: its text is 768",
        ),
        ("demo", 1024, "made for Stable Diffusion 2.x, not for SDXL"),
        (
            "random:sdxl-base",
            768,
            "made for Stable Diffusion 1.5, not for SDXL",
        ),
        (
            "random:sdxl-base",
            1280,
            "made for SDXL refiner, not for SDXL",
        ),
        (
            "random:sdxl-refiner",
            2048,
            "made for SDXL base, not for an SDXL refiner",
        ),
    ] {
        let message = of(model, width);
        assert!(message.contains(expected), "{message}");
    }
    for (module, expected) in [
        (
            "lora_unet_down_blocks_0_attentions_0_proj_in",
            "Stable Diffusion 1 or 2",
        ),
        (
            "lora_unet_input_blocks_1_1_proj_in",
            "Stable Diffusion 1 or 2",
        ),
        (
            "unet.up_blocks.3.attentions.0.transformer_blocks.0.attn1.to_q",
            "Stable Diffusion 1 or 2",
        ),
        ("lora_unet_double_blocks_0_img_attn_qkv", "Flux"),
        ("transformer.single_transformer_blocks.0.attn.to_q", "Flux"),
    ] {
        let keys = ["lora_down.weight", "lora_up.weight"].map(|end| format!("{module}.{end}"));
        let tensors: [(&str, _, &[usize]); 2] =
            [(&keys[0], "F16", &[2, 64]), (&keys[1], "F16", &[64, 2])];
        bad.error(&tensors, &[expected, module, "not for SDXL"]);
    }
}

#[test]
fn files_that_are_no_adapters_are_errors() {
    let bad = Bad::new();
    let message = |bytes: &[u8]| {
        std::fs::write(bad.path(), bytes).unwrap();
        bad.merge("demo", false).unwrap_err()
    };
    let whole = std::fs::read(fixture("two")).unwrap();
    assert!(message(&whole[..whole.len() - 1]).contains("truncated"));
    assert!(message(b"").contains("too short"));
    let text = message(b"<html><body>No such adapter, please log in.</body></html>");
    assert!(text.contains("a text, not"), "{text}");
    let bytes = std::fs::read(fixture("recorded-two")).unwrap();
    assert!(message(&bytes).contains("holds no LoRA"));
    write_header(&bad.path(), "{}");
    assert!(
        bad.merge("demo", false)
            .unwrap_err()
            .contains("holds no LoRA")
    );
    let header = format!(
        r#"{{"__metadata__":{{"lora_adapter_metadata":"[1]"}},"{DOWN}":{{"dtype":"F16","shape":[1,1],"data_offsets":[0,2]}},"{UP}":{{"dtype":"F16","shape":[1,1],"data_offsets":[2,4]}}}}"#
    );
    write_header(&bad.path(), &header);
    let file = std::fs::OpenOptions::new()
        .append(true)
        .open(bad.path())
        .unwrap();
    file.set_len(8 + header.len() as u64 + 4).unwrap();
    let metadata = bad.merge("demo", false).unwrap_err();
    assert!(metadata.contains("lora_adapter_metadata"), "{metadata}");
    let gone = LoraFile::open(bad.temp.path().join("gone.safetensors")).unwrap_err();
    assert!(gone.to_string().contains("point loras at"), "{gone}");
}

#[test]
fn other_files_are_named_for_what_they_are() {
    let bad = Bad::new();
    let place = bad.path();
    let place = place.to_str().unwrap();
    for (key, what, option) in [
        ("clip_g", "a textual inversion", "embeddings"),
        ("emb_params", "a textual inversion", "embeddings"),
        ("<cat>", "a textual inversion", "embeddings"),
        ("image_proj.proj.weight", "an IP-Adapter", ""),
        ("ip_adapter.1.to_k_ip.weight", "an IP-Adapter", ""),
        ("control_model.input_blocks.0.0.weight", "a ControlNet", ""),
        (
            "controlnet_cond_embedding.conv_in.weight",
            "a ControlNet",
            "",
        ),
        ("adapter.body.0.block1.weight", "a T2I-Adapter", ""),
        (
            "double_blocks.0.processor.qkv_lora1.down.weight",
            "made for Flux",
            "",
        ),
        (
            "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias",
            "a checkpoint",
            "model",
        ),
        ("model.diffusion_model.out.2.weight", "a UNet", "model"),
        ("down_blocks.0.resnets.0.conv1.weight", "a UNet", "model"),
        ("first_stage_model.decoder.conv_in.weight", "a VAE", "vae"),
        ("decoder.conv_in.weight", "a VAE", "vae"),
    ] {
        bad.error(&[(key, "F16", &[2, 64])], &[what]);
        if !option.is_empty() {
            let told = format!("set {option} to {place}");
            bad.error(&[(key, "F16", &[2, 64])], &[&told]);
        }
    }
}

#[test]
fn adapters_are_found_by_name() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    let find = |name: &str| lora::find(name, folder).map(|p| p.file_name().unwrap().to_owned());
    let message = |name: &str| find(name).unwrap_err().to_string();
    assert!(message("a").contains("holds no .safetensors"));
    for name in [
        "Pixel Art XL.safetensors",
        "detail.SAFETENSORS",
        "notes.txt",
        "Ink.safetensors",
        "ink-v2.safetensors",
        "water.v1.safetensors",
    ] {
        std::fs::write(folder.join(name), "").unwrap();
    }
    assert_eq!(find("pixel art xl").unwrap(), "Pixel Art XL.safetensors");
    assert_eq!(find("detail").unwrap(), "detail.SAFETENSORS");
    assert_eq!(find("INK").unwrap(), "Ink.safetensors");
    assert_eq!(find("water.v1").unwrap(), "water.v1.safetensors");
    assert_eq!(find("ink-v2.safetensors").unwrap(), "ink-v2.safetensors");
    let near = message("detial");
    assert!(near.contains("did you mean detail"), "{near}");
    assert!(find("notes").is_err() && find("../Ink").is_err() && find("").is_err());
    let gone = lora::find("a", &folder.join("gone"))
        .unwrap_err()
        .to_string();
    assert!(gone.contains("point lora_dir at"), "{gone}");
}
