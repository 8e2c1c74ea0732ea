//! Checkpoints as folders, embedded and random, and every kind of bad input.

use crate::common::{write_header, write_sparse};
use crate::folder::copy;
use crate::forms::is_long;
use crate::spoilt::{ENCODER, ENCODER_2, Model, UNET};
use calotype::checkpoint::convert::{Precision, convert};
use calotype::checkpoint::{Checkpoint, DType, Layout, Part};
use calotype::schedule::Spacing;
use safetensors::{Dtype, tensor::TensorView};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A copy of the demo base's folder that a test may damage.
struct Copy {
    _temp: tempfile::TempDir,
    folder: PathBuf,
}

impl Copy {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("copy");
        copy(&demo_folder(), &folder);
        Copy {
            _temp: temp,
            folder,
        }
    }

    fn open(&self) -> calotype::Result<Checkpoint> {
        Checkpoint::open(self.folder.to_str().unwrap())
    }

    fn error(&self) -> String {
        let message = self.open().unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    }

    /// Sets one key of a JSON file and gives the error, the file then restored.
    fn with(&self, file: &str, key: &str, value: serde_json::Value) -> String {
        let path = self.folder.join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
        json[key] = value;
        std::fs::write(&path, json.to_string()).unwrap();
        let message = self.error();
        std::fs::write(&path, text).unwrap();
        message
    }
}

fn demo_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo/base")
}

/// Checks that two checkpoints hold the same values.
fn assert_equal(a: &Checkpoint, b: &Checkpoint) {
    for part in Part::ALL {
        for (name, shape) in a.expected(part) {
            let x = a.source(part).read(&name, &shape).unwrap();
            let y = b.source(part).read(&name, &shape).unwrap();
            assert_eq!(x.dtype, y.dtype);
            assert!(x.data == y.data, "{part:?} {name}");
        }
    }
}

#[test]
fn the_demo_opens_and_is_complete() {
    let demo = Checkpoint::open("demo").unwrap();
    assert_eq!(demo.layout, Layout::Embedded);
    assert_eq!((demo.is_refiner(), demo.native_size()), (false, 128));
    assert_eq!(demo.unet.norm_num_groups, 8);
    assert_eq!(demo.scheduler.timestep_spacing, Spacing::Leading);
    assert_eq!(demo.scheduler.steps_offset, 1);
    assert!(demo.force_zeros_for_empty_prompt && !demo.requires_aesthetics_score);
    let report = demo.report();
    assert_eq!(report.problems, Vec::<String>::new());
    let counts: Vec<u64> = report.parts.iter().map(|p| p.parameters).collect();
    assert_eq!(counts, [315_904, 745_728, 3_536_516, 807_111]);
}

#[test]
fn the_demo_refiner_opens_and_is_complete() {
    let refiner = Checkpoint::open("demo-refiner").unwrap();
    assert!(refiner.is_refiner() && refiner.requires_aesthetics_score);
    assert!(!refiner.force_zeros_for_empty_prompt && refiner.tokenizer.is_none());
    let report = refiner.report();
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!(
        report.parts.iter().map(|p| p.parameters).sum::<u64>(),
        3_906_155
    );
    let first = refiner.source(Part::TextEncoder);
    assert!(
        !first.contains("x") && first.check("x", &[]).is_err() && first.read("x", &[]).is_err()
    );
}

#[test]
fn the_folder_and_the_embedded_demo_are_the_same() {
    let folder = Checkpoint::open(demo_folder().to_str().unwrap()).unwrap();
    let embedded = Checkpoint::open("demo").unwrap();
    assert_eq!(folder.layout, Layout::DiffusersFolder);
    assert_eq!(folder.name, "base");
    assert_eq!(folder.unet, embedded.unet);
    assert_equal(&folder, &embedded);
}

#[test]
fn random_checkpoints_have_sdxls_own_counts() {
    let base = Checkpoint::inspect("random:sdxl-base").unwrap();
    let counts: Vec<u64> = base.parts.iter().map(|p| p.parameters).collect();
    assert_eq!(
        counts,
        [123_060_480, 694_659_840, 2_567_463_684, 83_653_863]
    );
    assert_eq!(base.native_size, 1024);
    let refiner = Checkpoint::inspect("random:sdxl-refiner").unwrap();
    let counts: Vec<u64> = refiner.parts.iter().map(|p| p.parameters).collect();
    assert_eq!(counts, [694_659_840, 2_259_526_660, 83_653_863]);
}

#[test]
fn a_report_is_json_and_readable() {
    let report = Checkpoint::inspect(demo_folder().to_str().unwrap()).unwrap();
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["kind"], "base");
    assert_eq!(json["layout"], "diffusers_folder");
    assert_eq!(json["parts"][2]["part"], "unet");
    assert_eq!(json["parts"][2]["precision"][0], "f16");
    assert_eq!(json["files"].as_array().unwrap().len(), 4);
    let text = report.to_string();
    assert!(text.contains("3,536,516") && text.contains("f16"), "{text}");
}

/// The tensors of a file as (name, shape, bytes).
fn tensors(path: &Path) -> Vec<(String, Vec<usize>, Vec<u8>)> {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let all = file.tensors().into_iter();
    all.map(|(name, view)| (name, view.shape().to_vec(), view.data().to_vec()))
        .collect()
}

fn save(path: &Path, dtype: Dtype, tensors: &[(String, Vec<usize>, Vec<u8>)]) {
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(dtype, shape.clone(), bytes).unwrap();
        (name.clone(), view)
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

#[test]
fn every_name_of_a_weight_file_is_found() {
    let demo = Checkpoint::open("demo").unwrap();
    let copy = Copy::new();
    let folder = copy.folder.join("unet");
    let variant = folder.join("diffusion_pytorch_model.fp16.safetensors");
    std::fs::rename(copy.folder.join(UNET), &variant).unwrap();
    assert_equal(&copy.open().unwrap(), &demo);

    let mut all = tensors(&variant);
    std::fs::remove_file(&variant).unwrap();
    let rest = all.split_off(200);
    let names = [
        "a-00001-of-00002.safetensors",
        "a-00002-of-00002.safetensors",
    ];
    let mut map = HashMap::new();
    for (name, shard) in names.into_iter().zip([&all, &rest]) {
        save(&folder.join(name), Dtype::F16, shard);
        map.extend(shard.iter().map(|(tensor, _, _)| (tensor.clone(), name)));
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map}).to_string();
    let indices = [
        "diffusion_pytorch_model.safetensors.index.json",
        "diffusion_pytorch_model.fp16.safetensors.index.json",
        "diffusion_pytorch_model.safetensors.index.fp16.json",
    ];
    for name in indices {
        std::fs::write(folder.join(name), &index).unwrap();
        let sharded = copy.open().unwrap();
        assert_equal(&sharded, &demo);
        assert_eq!(sharded.report().files.len(), 5);
        std::fs::remove_file(folder.join(name)).unwrap();
    }
}

#[test]
fn damaged_indices_are_errors() {
    let copy = Copy::new();
    std::fs::remove_file(copy.folder.join(UNET)).unwrap();
    let index = copy
        .folder
        .join("unet/diffusion_pytorch_model.safetensors.index.json");
    let texts = [
        ("", "index.json"),
        ("{}", "weight_map"),
        (r#"{"weight_map": {}}"#, "weight_map"),
        (r#"{"weight_map": {"a": 1}}"#, "no file name"),
        (
            r#"{"weight_map": {"a": "../vae/diffusion_pytorch_model.safetensors"}}"#,
            "no file name",
        ),
        (r#"{"weight_map": {"a": "/etc/passwd"}}"#, "no file name"),
        (
            r#"{"weight_map": {"a": "gone.safetensors"}}"#,
            "gone.safetensors",
        ),
    ];
    for (text, expected) in texts {
        std::fs::write(&index, text).unwrap();
        let message = copy.error();
        assert!(message.contains(expected), "{message}");
    }
    save(
        &copy.folder.join("unet/s.safetensors"),
        Dtype::F16,
        &[("b".to_string(), vec![1], vec![0, 0])],
    );
    std::fs::write(&index, r#"{"weight_map": {"a": "s.safetensors"}}"#).unwrap();
    let message = copy.error();
    assert!(
        message.contains("s.safetensors") && message.contains("tensor a"),
        "{message}"
    );
}

#[test]
fn bf16_and_f32_are_read_as_they_are() {
    let copy = Copy::new();
    let path = copy.folder.join(UNET);
    let halves = tensors(&path);
    save(&path, Dtype::BF16, &halves);
    let view_of = |checkpoint: &Checkpoint| {
        let source = checkpoint.source(Part::UNet);
        let view = source.read("conv_in.weight", &[32, 4, 3, 3]).unwrap();
        (view.dtype, view.data.into_owned())
    };
    let (dtype, data) = view_of(&copy.open().unwrap());
    assert_eq!((dtype, data.len()), (DType::BF16, 32 * 4 * 9 * 2));
    let doubled = halves
        .iter()
        .map(|(n, s, b)| (n.clone(), s.clone(), b.repeat(2)));
    save(&path, Dtype::F32, &doubled.collect::<Vec<_>>());
    let (dtype, data) = view_of(&copy.open().unwrap());
    assert_eq!((dtype, data.len()), (DType::F32, 32 * 4 * 9 * 4));
    assert_eq!(copy.open().unwrap().report().parts[2].precision, ["f32"]);
    save(&path, Dtype::I16, &halves);
    let problems = copy.open().unwrap().report().problems;
    assert!(
        problems[0].contains("I16") && problems[0].contains("conv_in.weight"),
        "{problems:?}"
    );
}

#[test]
fn tensors_that_are_missing_or_misshapen_are_named() {
    let copy = Copy::new();
    let path = copy.folder.join(UNET);
    let mut all = tensors(&path);
    all.retain(|(name, _, _)| name != "conv_in.bias");
    for (name, shape, _) in &mut all {
        if name == "conv_out.weight" {
            *shape = vec![4, 32, 9];
        }
    }
    save(&path, Dtype::F16, &all);
    let problems = copy.open().unwrap().report().problems;
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems[0].contains("tensor conv_in.bias: missing"),
        "{problems:?}"
    );
    assert!(
        problems[1].contains("conv_out.weight: its shape is [4, 32, 9]"),
        "{problems:?}"
    );
    let checkpoint = copy.open().unwrap();
    let unet = checkpoint.source(Part::UNet);
    assert!(unet.read("conv_in.bias", &[32]).is_err());
    assert!(unet.check("conv_out.weight", &[4, 32, 3, 3]).is_err());
}

#[test]
fn old_names_of_the_vaes_attention_are_known() {
    let copy = Copy::new();
    let path = copy.folder.join("vae/diffusion_pytorch_model.safetensors");
    let plain = tensors(&path);
    let olds = [
        [
            ("to_q", "query"),
            ("to_k", "key"),
            ("to_v", "value"),
            ("to_out.0", "proj_attn"),
        ],
        [
            ("to_q", "q"),
            ("to_k", "k"),
            ("to_v", "v"),
            ("to_out.0", "proj_out"),
        ],
    ];
    for names in olds {
        let mut all = plain.clone();
        for (name, shape, _) in &mut all {
            for (new, old) in names {
                if name.contains(&format!("attentions.0.{new}.")) {
                    *name = name.replace(new, old);
                    if shape.len() == 2 {
                        shape.extend([1, 1]);
                    }
                }
            }
        }
        save(&path, Dtype::F16, &all);
        assert_equal(&copy.open().unwrap(), &Checkpoint::open("demo").unwrap());
    }
}

#[test]
fn damaged_safetensors_are_errors() {
    let copy = Copy::new();
    let path = copy.folder.join(UNET);
    let whole = std::fs::read(&path).unwrap();
    let claim = |n: u64| [&n.to_le_bytes()[..], &whole[8..]].concat();
    let header = |text: &str| {
        [
            &(text.len() as u64).to_le_bytes()[..],
            text.as_bytes(),
            &[0; 8],
        ]
        .concat()
    };
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (Vec::new(), "too short"),
        (b"abc".to_vec(), "too short"),
        (
            b"This is a text, not weights. Nothing to see.".to_vec(),
            "a text",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0".to_vec(),
            "git lfs pull",
        ),
        (b"PK\x03\x04\0\0\0\0\0\0\0\0\0".to_vec(), "zip archive"),
        (claim(1 << 63), "9223372036854775808"),
        (claim(u64::MAX), "18446744073709551615"),
        (claim(whole.len() as u64), "truncated"),
        (whole[..whole.len() - 1].to_vec(), "truncated"),
        (whole[..1000].to_vec(), "truncated"),
        ([&whole[..], b"x"].concat(), "follow the last tensor"),
        (header("{"), "damaged"),
        (header("[]"), "damaged"),
        (header("\u{0}"), "damaged"),
        (
            header(
                r#"{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"F16","shape":[4],"data_offsets":[0,8]}}"#,
            ),
            "damaged",
        ),
        (
            header(r#"{"a":{"dtype":"F16","shape":[2],"data_offsets":[4,8]}}"#),
            "damaged",
        ),
        (
            header(r#"{"a":{"dtype":"F16","shape":[3],"data_offsets":[0,8]}}"#),
            "damaged",
        ),
        (
            header(r#"{"a":{"dtype":"X9","shape":[4],"data_offsets":[0,8]}}"#),
            "damaged",
        ),
        (
            header(r#"{"a":{"dtype":"F16","shape":[-4],"data_offsets":[0,8]}}"#),
            "damaged",
        ),
        (
            header(r#"{"a":{"dtype":"F16","shape":[9223372036854775807,4],"data_offsets":[0,8]}}"#),
            "damaged",
        ),
        (
            header(
                r#"{"a":{"dtype":"F16","shape":[4611686018427387904],"data_offsets":[0,9223372036854775808]}}"#,
            ),
            "damaged",
        ),
        (
            header(r#"{"a":{"dtype":"F16","shape":[8],"data_offsets":[0,16]}}"#),
            "truncated",
        ),
    ];
    for (bytes, expected) in cases {
        std::fs::write(&path, &bytes).unwrap();
        let message = copy.error();
        assert!(
            message.contains(expected) && message.contains(UNET),
            "{expected}: {message}"
        );
        let alone = Checkpoint::open(path.to_str().unwrap())
            .unwrap_err()
            .to_string();
        assert!(alone.contains(expected), "{alone}");
    }
}

#[test]
fn paths_that_lead_nowhere_are_errors() {
    let temp = tempfile::tempdir().unwrap();
    let error = |spec: &str| Checkpoint::open(spec).unwrap_err();
    let gone = error("/no/such/place");
    assert!(
        !gone.is_usage() && gone.to_string().contains("no such file"),
        "{gone}"
    );
    assert!(error("random:sd-turbo").is_usage());
    assert!(error("").to_string().contains("no such file"));
    let empty = error(temp.path().to_str().unwrap()).to_string();
    assert!(empty.contains("model_index.json"), "{empty}");
    let copy = Copy::new();
    for (file, expected) in [
        (UNET, "diffusion_pytorch_model.safetensors"),
        ("vae/config.json", "vae/config.json"),
        ("text_encoder/model.safetensors", "model.safetensors"),
        ("tokenizer_2/vocab.json", "tokenizer_2"),
    ] {
        let path = copy.folder.join(file);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let message = copy.error();
        assert!(message.contains(expected), "{message}");
        if file.ends_with(".safetensors") {
            let pickle = path.with_extension("bin");
            std::fs::write(&pickle, b"x").unwrap();
            assert!(copy.error().contains("too short"));
            std::fs::remove_file(pickle).unwrap();
        }
        std::fs::write(&path, bytes).unwrap();
    }
    copy.open().unwrap();
}

#[test]
fn configurations_that_cannot_be_are_named() {
    use serde_json::json;
    let copy = Copy::new();
    let unet = [
        ("block_out_channels", json!([-32, 64, 64])),
        ("block_out_channels", json!([0, 64, 64])),
        ("block_out_channels", json!([32, 64.5, 64])),
        ("block_out_channels", json!([])),
        ("block_out_channels", json!("wide")),
        ("block_out_channels", json!(vec![8; 99])),
        ("layers_per_block", json!([2, 2])),
        ("layers_per_block", json!(0)),
        ("layers_per_block", json!(1e12)),
        ("transformer_layers_per_block", json!([1, 2])),
        ("transformer_layers_per_block", json!([1, 1, 0])),
        ("transformer_layers_per_block", json!([[1], [1], [1]])),
        ("transformer_layers_per_block", json!([1, [1, 1], 1])),
        ("transformer_layers_per_block", json!([1, [1, 1, 1], 1])),
        ("attention_head_dim", json!([1, 3, 1])),
        ("num_attention_heads", json!(0)),
        (
            "down_block_types",
            json!(["DownBlock2D", "CrossAttnDownBlock2D"]),
        ),
        (
            "down_block_types",
            json!(["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"]),
        ),
        (
            "up_block_types",
            json!(["UpBlock2D", "UpBlock2D", "SkipUpBlock2D"]),
        ),
        ("norm_num_groups", json!(5)),
        ("norm_num_groups", json!(0)),
        ("norm_eps", json!(-1.0)),
        ("norm_eps", json!("small")),
        ("sample_size", json!(-1)),
        ("sample_size", json!(1e9)),
        ("cross_attention_dim", json!(191)),
        ("cross_attention_dim", json!([192, 128])),
        ("class_embed_type", json!("timestep")),
        ("addition_embed_type", json!("text")),
        ("addition_embed_type", json!(null)),
        ("time_cond_proj_dim", json!(255)),
        ("resnet_time_scale_shift", json!("scale_shift")),
        ("act_fn", json!("gelu")),
        ("dual_cross_attention", json!(true)),
        ("mid_block_type", json!("UNetMidBlock2DSimpleCrossAttn")),
        ("reverse_transformer_layers_per_block", json!([1, 2])),
        ("use_linear_projection", json!("yes")),
        ("addition_time_embed_dim", json!(255)),
        ("projection_class_embeddings_input_dim", json!(1408)),
        ("out_channels", json!(8)),
    ];
    for (key, value) in unet {
        let message = copy.with("unet/config.json", key, value.clone());
        let named =
            message.contains(key) || (key == "num_attention_heads" && message.contains("head"));
        assert!(named, "{key} {value}: {message}");
    }
    let vae = [
        ("block_out_channels", json!([32, 32, 32, -64])),
        ("down_block_types", json!(["DownEncoderBlock2D"])),
        ("up_block_types", json!(vec!["AttnUpDecoderBlock2D"; 4])),
        ("act_fn", json!("mish")),
        ("scaling_factor", json!(0)),
        ("latents_mean", json!([1.0])),
        ("latents_std", json!([1, 1, 1, 0])),
        ("latents_std", json!([1, 1, 1, 1])),
        ("in_channels", json!(4)),
        ("norm_num_groups", json!(7)),
        ("force_upcast", json!(1)),
    ];
    for (key, value) in vae {
        let message = copy.with("vae/config.json", key, value.clone());
        assert!(message.contains(key), "{key} {value}: {message}");
    }
    let clip = [
        ("hidden_act", json!("relu")),
        ("hidden_size", json!(-128)),
        ("num_attention_heads", json!(3)),
        ("num_hidden_layers", json!(0)),
        ("layer_norm_eps", json!(0)),
    ];
    for (key, value) in clip {
        let message = copy.with("text_encoder_2/config.json", key, value.clone());
        assert!(message.contains(key), "{key} {value}: {message}");
    }
    let short = copy.with("text_encoder/config.json", "vocab_size", json!(2513));
    assert!(short.contains("2513"), "{short}");
    let long = copy.with(
        "tokenizer/tokenizer_config.json",
        "model_max_length",
        json!(78),
    );
    assert!(long.contains("78"), "{long}");
    let scheduler = [
        ("beta_schedule", json!("cosine")),
        ("prediction_type", json!("flow")),
        ("timestep_spacing", json!(3)),
        ("num_train_timesteps", json!(0)),
        ("num_train_timesteps", json!(-1)),
        ("beta_start", json!(0)),
        ("beta_end", json!(2.0)),
        ("trained_betas", json!([0.1])),
        ("steps_offset", json!(1e9)),
    ];
    for (key, value) in scheduler {
        let message = copy.with("scheduler/scheduler_config.json", key, value.clone());
        assert!(message.contains(key), "{key} {value}: {message}");
    }
    for file in [
        "unet/config.json",
        "model_index.json",
        "scheduler/scheduler_config.json",
    ] {
        let path = copy.folder.join(file);
        let text = std::fs::read(&path).unwrap();
        for bad in ["", "[]", "nonsense", "{\"a\": "] {
            std::fs::write(&path, bad).unwrap();
            let message = copy.error();
            assert!(message.contains(file), "{message}");
        }
        std::fs::write(&path, text).unwrap();
    }
}

#[test]
fn numbers_and_lists_mean_the_same() {
    let copy = Copy::new();
    let path = copy.folder.join("unet/config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["layers_per_block"] = serde_json::json!([2, 2, 2.0]);
    json["attention_head_dim"] = serde_json::json!(1);
    json["sample_size"] = serde_json::Value::Null;
    json.as_object_mut().unwrap().remove("in_channels");
    std::fs::write(&path, json.to_string()).unwrap();
    let checkpoint = copy.open().unwrap();
    assert_eq!(checkpoint.unet.layers_per_block, [2, 2, 2]);
    assert_eq!(checkpoint.unet.num_attention_heads, [1, 1, 1]);
    assert_eq!(
        (checkpoint.unet.in_channels, checkpoint.unet.sample_size),
        (4, 128)
    );
}

#[test]
fn a_header_alone_is_no_checkpoint() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("empty.safetensors");
    write_header(&path, "{}");
    assert!(Checkpoint::open(path.to_str().unwrap()).is_err());
    write_sparse(&path, &[]);
    assert!(Checkpoint::open(path.to_str().unwrap()).is_err());
}

#[test]
fn strange_values_never_panic() {
    use serde_json::json;
    let copy = Copy::new();
    let values = [
        json!(-1),
        json!(0),
        json!(1),
        json!(7),
        json!(1048576),
        json!(1e300),
        json!(-0.5),
        json!(u64::MAX),
        json!(null),
        json!(true),
        json!(""),
        json!("x"),
        json!([]),
        json!([0]),
        json!([1, 1, 1]),
        json!([1, 1, 1, 1]),
        json!([1048576, 1048576, 1048576]),
        json!(["x"]),
        json!([[1]]),
        json!({}),
        json!({"content": 1}),
    ];
    let files = [
        "model_index.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder_2/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer_2/special_tokens_map.json",
    ];
    for file in files {
        let path = copy.folder.join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        for (index, key) in json.as_object().unwrap().keys().enumerate() {
            // Every seventh value by default, each key beginning with the next.
            let (first, every) = match is_long() {
                true => (0, 1),
                false => (index % 7, 7),
            };
            for value in values.iter().skip(first).step_by(every) {
                let mut changed = json.clone();
                changed[key] = value.clone();
                std::fs::write(&path, changed.to_string()).unwrap();
                match copy.open() {
                    Ok(checkpoint) => drop(checkpoint.report()),
                    Err(e) => assert!(!e.to_string().contains('\n'), "{e}"),
                }
            }
        }
        std::fs::write(&path, text).unwrap();
    }
}

/// By its fingerprint a fleet tells whether a worker draws what its front end means.
#[test]
fn a_fingerprint_tells_apart_what_draws_differently() {
    let print = |spec: &str| Checkpoint::open(spec).unwrap().fingerprint().unwrap();
    let base = Model::base();
    assert_eq!(print(base.path()), print("demo"));
    // What merging a LoRA changes, and a trained text encoder.
    let query = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight";
    let layer = "text_model.encoder.layers.0.mlp.fc1.weight";
    for (file, name) in [(UNET, query), (ENCODER, layer), (ENCODER_2, layer)] {
        let changed = Model::base().change(file, |tensors| {
            let (_, _, bytes) = tensors.get_mut(name).expect(name);
            bytes.iter_mut().step_by(2).for_each(|byte| *byte ^= 1);
        });
        assert_ne!(print(changed.path()), print("demo"), "{name}");
    }
    // The same values, kept with fewer bits.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("small.gguf");
    let demo = Checkpoint::open("demo").unwrap();
    convert(&demo, &file, Precision::Q8, &mut |_, _| Ok(())).unwrap();
    assert_ne!(print(file.to_str().unwrap()), print("demo"));
}
