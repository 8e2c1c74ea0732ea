//! Checkpoints in every kind of file that people have them in: the same tensors as in the
//! plain single file, of which each value is known by the tensor's name.

mod common;
#[path = "common/folder.rs"]
mod folder;

use calotype::checkpoint::{Autoencoder, Checkpoint, DType, Middle, Part, open_vae};
use calotype::pipeline::{Cancel, LoadOptions, Observer, Pipeline};
use common::{Described, write_sparse};
use folder::copy;
use half::f16;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const UNET: &str = "model.diffusion_model.";
const VAE: &str = "first_stage_model.";

/// Tensors as a file has them: name, type, shape, bytes.
type Tensors = Vec<(String, Dtype, Vec<usize>, Vec<u8>)>;

/// A file that a test changes.
#[derive(Clone)]
struct File {
    tensors: Tensors,
    metadata: Option<HashMap<String, String>>,
}

impl File {
    /// The small checkpoint of `tests/single_file.rs`.
    fn single() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/single.safetensors");
        let bytes = fs::read(path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file.tensors().into_iter();
        Self {
            tensors: tensors
                .map(|(name, t)| (name, t.dtype(), t.shape().to_vec(), t.data().to_vec()))
                .collect(),
            metadata: header.metadata().clone(),
        }
    }

    /// All of diffusers' parts below their folders' names.
    fn of_parts(prefix: impl Fn(Part) -> Option<String>) -> Self {
        let folder = TempDir::new().unwrap();
        let known = open(&Self::single().save(&folder, "known"));
        let mut file = Self {
            tensors: Vec::new(),
            metadata: Self::single().metadata,
        };
        for part in Part::ALL {
            for (name, shape) in known.expected(part) {
                let Some(prefix) = prefix(part) else { continue };
                let values = numbers(&name, shape.iter().product());
                let bytes = values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes());
                let bytes = bytes.collect();
                file.tensors
                    .push((format!("{prefix}{name}"), Dtype::F16, shape, bytes));
            }
        }
        file
    }

    fn keep(mut self, keep: impl Fn(&str) -> bool) -> Self {
        self.tensors.retain(|(name, ..)| keep(name));
        self
    }

    fn renamed(mut self, to: impl Fn(&str) -> String) -> Self {
        for (name, ..) in &mut self.tensors {
            *name = to(name);
        }
        self
    }

    /// Values of zero below a prefix.
    fn emptied(mut self, prefix: &str) -> Self {
        for (name, _, _, bytes) in &mut self.tensors {
            if name.starts_with(prefix) {
                bytes.fill(0);
            }
        }
        self
    }

    fn save(&self, folder: &TempDir, name: &str) -> PathBuf {
        let path = folder.path().join(format!("{name}.safetensors"));
        let views = self.tensors.iter().map(|(name, dtype, shape, bytes)| {
            let view = TensorView::new(*dtype, shape.clone(), bytes).unwrap();
            (name.as_str(), view)
        });
        let bytes = safetensors::serialize(views, self.metadata.clone()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// GGUF of version 3, its tensors f16 as they are.
    fn save_gguf(&self, folder: &TempDir, name: &str) -> PathBuf {
        let text = |to: &mut Vec<u8>, text: &str| {
            to.extend((text.len() as u64).to_le_bytes());
            to.extend(text.as_bytes());
        };
        let mut all = b"GGUF\x03\0\0\0".to_vec();
        let metadata = self.metadata.clone().unwrap_or_default();
        all.extend((self.tensors.len() as u64).to_le_bytes());
        all.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in &metadata {
            text(&mut all, key);
            all.extend(8u32.to_le_bytes());
            text(&mut all, value);
        }
        let mut values = Vec::new();
        for (name, dtype, shape, bytes) in &self.tensors {
            assert_eq!(*dtype, Dtype::F16);
            text(&mut all, name);
            all.extend((shape.len() as u32).to_le_bytes());
            for size in shape.iter().rev() {
                all.extend((*size as u64).to_le_bytes());
            }
            all.extend(1u32.to_le_bytes());
            all.extend((values.len() as u64).to_le_bytes());
            values.extend(bytes);
            values.resize(values.len().next_multiple_of(32), 0);
        }
        all.resize(all.len().next_multiple_of(32), 0);
        all.extend(values);
        let path = folder.path().join(format!("{name}.gguf"));
        fs::write(&path, all).unwrap();
        path
    }
}

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path.to_str().unwrap()).unwrap()
}

/// The error of opening a file or folder as a model.
fn refused(path: &Path) -> String {
    Checkpoint::open(path.to_str().unwrap())
        .unwrap_err()
        .to_string()
}

fn load(options: &LoadOptions) -> calotype::Result<Pipeline> {
    let cancel = Cancel::default();
    let mut observer = Observer {
        events: &mut |_| {},
        cancel: &cancel,
        trace: None,
        preview_every: 0,
    };
    Pipeline::load(options, &mut observer)
}

/// The values that `tools/make_single_fixture.py` writes.
fn numbers(name: &str, count: usize) -> Vec<f32> {
    let places = name.bytes().zip(1usize..);
    let start: usize = places.map(|(b, place)| b as usize * place).sum();
    (0..count).map(|i| ((start + i) % 251) as f32).collect()
}

/// Checks every value of the parts, and gives how many tensors there were.
fn check(checkpoint: &Checkpoint, parts: &[Part]) -> usize {
    let mut count = 0;
    for part in parts {
        for (name, shape) in checkpoint.expected(*part) {
            let view = checkpoint.source(*part).read(&name, &shape).unwrap();
            let want = numbers(&name, shape.iter().product());
            assert_eq!(view.values(0..want.len()), want, "{part:?} {name}");
            count += 1;
        }
    }
    count
}

#[test]
fn a_checkpoint_without_a_vae_takes_another() {
    let folder = TempDir::new().unwrap();
    let bare = File::single().keep(|name| !name.starts_with(VAE));
    let path = bare.save(&folder, "bare");
    let mut checkpoint = open(&path);
    assert!(!checkpoint.has_vae());
    assert!(checkpoint.expected(Part::Vae).is_empty());
    check(
        &checkpoint,
        &[Part::TextEncoder, Part::TextEncoder2, Part::UNet],
    );
    let report = checkpoint.report();
    let parts: Vec<_> = report.parts.iter().map(|part| part.part).collect();
    assert_eq!(parts, ["text_encoder", "text_encoder_2", "unet"]);
    assert_eq!(report.problems, Vec::<String>::new());

    let options = LoadOptions {
        model: path.to_str().unwrap().into(),
        ..LoadOptions::default()
    };
    let error = load(&options).err().unwrap().to_string();
    assert!(
        error.contains("no VAE in this checkpoint; point vae at"),
        "{error}"
    );

    let vae = File::single().keep(|name| name.starts_with(VAE));
    let vae = open_vae(vae.save(&folder, "vae")).unwrap();
    checkpoint.replace_vae(vae).unwrap();
    assert!(checkpoint.has_vae());
    check(&checkpoint, &Part::ALL);
}

#[test]
fn a_folder_and_a_refiner_without_a_vae_are_opened() {
    let folder = TempDir::new().unwrap();
    let demo = demo_in(&folder, "demo");
    fs::remove_dir_all(demo.join("vae")).unwrap();
    assert!(!open(&demo).has_vae());
    // A refiner's VAE is never used.
    let refiner = folder.path().join("refiner");
    copy(&models().join("refiner"), &refiner);
    for part in ["tokenizer_2", "text_encoder_2"] {
        copy(&demo.join(part), &refiner.join(part));
    }
    let options = LoadOptions {
        model: "demo".into(),
        refiner: Some(refiner.to_str().unwrap().into()),
        ..LoadOptions::default()
    };
    assert!(load(&options).unwrap().has_refiner());
}

/// The UNet alone under the original names with and without their prefix, under
/// diffusers', and within a whole checkpoint.
#[test]
fn a_unet_of_every_layout_takes_the_place_of_the_model_s_own() {
    let folder = TempDir::new().unwrap();
    let model = File::single().emptied(UNET).save(&folder, "model");
    let ldm = File::single().keep(|name| name.starts_with(UNET));
    let cut = |name: &str| name.strip_prefix(UNET).unwrap().to_string();
    let files = [
        ldm.save(&folder, "ldm"),
        ldm.clone().renamed(cut).save(&folder, "bare"),
        ldm.clone().renamed(cut).save_gguf(&folder, "bare"),
        File::of_parts(|part| (part == Part::UNet).then(String::new)).save(&folder, "diffusers"),
        File::single().save(&folder, "whole"),
    ];
    for file in files {
        let mut checkpoint = open(&model);
        let own = checkpoint.unet.clone();
        checkpoint.replace_unet(&file).unwrap();
        assert_eq!(checkpoint.unet, own, "{}", file.display());
        check(&checkpoint, &Part::ALL);
        let files = checkpoint.report().files;
        assert_eq!(files.len(), 2);
    }
    let mut checkpoint = open(&model);
    let vae = File::single()
        .keep(|name| name.starts_with(VAE))
        .save(&folder, "vae");
    let error = checkpoint.replace_unet(vae).unwrap_err().to_string();
    assert!(error.contains("a VAE, not a UNet"), "{error}");
    // As the model itself they are named for what they are.
    for name in ["ldm", "bare", "diffusers"] {
        let error = refused(&folder.path().join(format!("{name}.safetensors")));
        assert!(
            error.contains("a UNet alone, not a whole checkpoint; point unet at"),
            "{error}"
        );
    }
}

/// Lightning models keep the model's own scheduler; a UNet that predicts v says so.
#[test]
fn a_unet_s_marks_say_what_it_predicts() {
    let folder = TempDir::new().unwrap();
    let mut model = File::single();
    if let Some(metadata) = &mut model.metadata {
        let mut config: Value = serde_json::from_str(&metadata["calotype.config"]).unwrap();
        config.as_object_mut().unwrap().remove("scheduler");
        metadata.insert("calotype.config".into(), config.to_string());
    }
    let plain = model.clone().keep(|name| name.starts_with(UNET));
    let mut marked = plain.clone();
    let mark = ("v_pred".into(), Dtype::F32, vec![0], Vec::new());
    marked.tensors.push(mark);
    let mut checkpoint = open(&model.save(&folder, "model"));
    let before = checkpoint.scheduler.prediction_type;
    checkpoint
        .replace_unet(plain.save(&folder, "plain"))
        .unwrap();
    assert_eq!(checkpoint.scheduler.prediction_type, before);
    checkpoint.replace_unet(marked.save(&folder, "v")).unwrap();
    assert_ne!(checkpoint.scheduler.prediction_type, before);
}

#[test]
fn all_of_diffusers_parts_in_one_file_are_a_checkpoint() {
    let folder = TempDir::new().unwrap();
    let file = File::of_parts(|part| Some(format!("{}.", part.folder())));
    let checkpoint = open(&file.save(&folder, "every"));
    let plain = open(&File::single().save(&folder, "plain"));
    assert_eq!(checkpoint.unet, plain.unet);
    assert_eq!(checkpoint.text_encoder, plain.text_encoder);
    assert_eq!(checkpoint.text_encoder_2, plain.text_encoder_2);
    assert_eq!(checkpoint.vae, plain.vae);
    assert_eq!(check(&checkpoint, &Part::ALL), 635);
}

#[test]
fn gguf_is_a_checkpoint() {
    let folder = TempDir::new().unwrap();
    let checkpoint = open(&File::single().save_gguf(&folder, "sdxl"));
    assert_eq!(check(&checkpoint, &Part::ALL), 635);
}

#[test]
fn fp8_is_read_and_its_codes_of_nan_are_named() {
    let folder = TempDir::new().unwrap();
    let mut file = File::single();
    // The upper byte of an f16 is an e5m2.
    for (name, dtype, _, bytes) in &mut file.tensors {
        if name.starts_with(UNET) {
            *bytes = bytes.iter().skip(1).step_by(2).copied().collect();
            *dtype = Dtype::F8_E5M2;
        }
    }
    let path = file.save(&folder, "fp8");
    let checkpoint = open(&path);
    for (name, shape) in checkpoint.expected(Part::UNet) {
        let source = checkpoint.source(Part::UNet);
        let view = source.read(&name, &shape).unwrap();
        assert_eq!(view.dtype, DType::F8E5M2);
        assert!(view.fits_f16() && source.fits_f16(&name));
        let want = numbers(&name, shape.iter().product());
        let want = want.iter().map(|x| f16::from_f32(*x).to_bits() & 0xff00);
        let want: Vec<f32> = want.map(|bits| f16::from_bits(bits).to_f32()).collect();
        assert_eq!(view.values(0..want.len()), want, "{name}");
    }
    let report = Checkpoint::inspect(path.to_str().unwrap()).unwrap();
    assert_eq!(report.parts[2].precision, ["fp8_e5m2"]);
    assert_eq!(report.problems, Vec::<String>::new());

    let key = format!("{UNET}input_blocks.0.0.weight");
    let tensor = file.tensors.iter_mut().find(|(name, ..)| *name == key);
    tensor.unwrap().3[5] = 0x7f;
    let path = file.save(&folder, "nan");
    let report = Checkpoint::inspect(path.to_str().unwrap()).unwrap();
    let [problem] = &report.problems[..] else {
        panic!("{:?}", report.problems)
    };
    assert!(
        problem.contains("unet: tensor conv_in.weight: 1 of"),
        "{problem}"
    );
}

#[test]
fn fp8_with_scales_is_multiplied() {
    let folder = TempDir::new().unwrap();
    let mut file = File::single();
    let mut scales = Vec::new();
    for (name, dtype, shape, bytes) in &mut file.tensors {
        if let Some(module) = name.strip_suffix(".weight")
            && name.starts_with(UNET)
            && shape.len() > 1
        {
            *bytes = vec![0x38; bytes.len() / 2];
            *dtype = Dtype::F8_E4M3;
            let scale = 0.1 + scales.len() as f32;
            let key = ["scale_weight", "weight_scale"][scales.len() % 2];
            let key = format!("{module}.{key}");
            scales.push((key, Dtype::F32, vec![1], scale.to_le_bytes().to_vec()));
        }
    }
    let count = scales.len();
    file.tensors.extend(scales);
    let checkpoint = open(&file.save(&folder, "scaled"));
    let mut found: Vec<f32> = Vec::new();
    for (name, shape) in checkpoint.expected(Part::UNet) {
        if shape.len() > 1 {
            let source = checkpoint.source(Part::UNet);
            assert!(!source.fits_f16(&name));
            let values = source.read(&name, &shape).unwrap().values(0..2);
            assert_eq!(values[0], values[1]);
            found.push(values[0]);
        }
    }
    found.sort_by(f32::total_cmp);
    let want: Vec<f32> = (0..count).map(|i| 0.1 + i as f32).collect();
    assert_eq!(found, want);
    // A scale for each row is another thing.
    let at = file.tensors.len() - 1;
    let (_, _, shape, bytes) = &mut file.tensors[at];
    (*shape, *bytes) = (vec![2], bytes.repeat(2));
    let error = refused(&file.save(&folder, "rows"));
    assert!(error.contains("a scale of shape [2]"), "{error}");
}

/// The decoder alone suffices for drawing.
#[test]
fn a_decoder_alone_is_a_vae() {
    let folder = TempDir::new().unwrap();
    let ldm = File::single().keep(|name| {
        name.starts_with(VAE)
            && !name.contains("encoder.") | name.contains("decoder.")
            && !name.contains(".quant_conv")
    });
    let diffusers = File::of_parts(|part| (part == Part::Vae).then(String::new))
        .keep(|name| !name.starts_with("encoder.") && !name.starts_with("quant_conv"));
    for (name, file) in [("ldm", ldm), ("diffusers", diffusers)] {
        let vae = open_vae(file.save(&folder, name)).unwrap();
        assert!(!vae.config.has_encoder(), "{name}");
        let mut checkpoint = open(&File::single().emptied(VAE).save(&folder, "model"));
        let whole = checkpoint.expected(Part::Vae).len();
        checkpoint.replace_vae(vae).unwrap();
        let count = check(&checkpoint, &[Part::Vae]);
        assert!(count > 0 && count < whole);
        let (Autoencoder::Kl(have), Autoencoder::Kl(want)) = (
            &checkpoint.vae,
            &open(&File::single().save(&folder, "plain")).vae,
        ) else {
            panic!()
        };
        assert_eq!(have.block_out_channels, want.block_out_channels);
        assert_eq!(have.layers_per_block, want.layers_per_block);
    }
}

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo")
}

/// The demo's folder, copied.
fn demo_in(folder: &TempDir, name: &str) -> PathBuf {
    let to = folder.path().join(name);
    copy(&models().join("base"), &to);
    to
}

#[test]
fn an_index_without_its_shards_is_passed_over() {
    let folder = TempDir::new().unwrap();
    let demo = demo_in(&folder, "demo");
    let unet = demo.join("unet");
    let weights = unet.join("diffusion_pytorch_model.safetensors");
    fs::rename(
        &weights,
        unet.join("diffusion_pytorch_model.fp16.safetensors"),
    )
    .unwrap();
    let index = unet.join("diffusion_pytorch_model.safetensors.index.json");
    let map = json!({"weight_map": {"conv_in.weight": "gone-00001-of-00002.safetensors"}});
    fs::write(&index, map.to_string()).unwrap();
    open(&demo);
    // Without another variant the missing shard is what is told of.
    fs::remove_file(unet.join("diffusion_pytorch_model.fp16.safetensors")).unwrap();
    assert!(refused(&demo).contains("gone-00001-of-00002.safetensors"));
}

/// Weights under the names of pickles, which transformers gives its own; what is in
/// them is found by their first bytes.
#[test]
fn a_folder_of_bin_files_is_opened() {
    let folder = TempDir::new().unwrap();
    let demo = demo_in(&folder, "demo");
    for (part, from, to) in [
        ("unet", "diffusion_pytorch_model", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model", "diffusion_pytorch_model"),
        ("text_encoder", "model", "pytorch_model"),
        ("text_encoder_2", "model", "pytorch_model"),
    ] {
        let part = demo.join(part);
        let from = part.join(format!("{from}.safetensors"));
        fs::rename(from, part.join(format!("{to}.bin"))).unwrap();
    }
    open(&demo);
}

fn inspect(arguments: &[&str], cache: &Path) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_calotype"))
        .arg("inspect")
        .args(arguments)
        .env("HF_HUB_CACHE", cache)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (output.status.success(), text)
}

#[test]
fn the_hub_s_cache_is_looked_in() {
    let folder = TempDir::new().unwrap();
    let repository = folder.path().join("models--someone--tiny-xl");
    let snapshot = repository.join("snapshots/abc");
    fs::create_dir_all(snapshot.parent().unwrap()).unwrap();
    fs::rename(demo_in(&folder, "demo"), &snapshot).unwrap();
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), "abc\n").unwrap();
    let (ok, text) = inspect(&["someone/tiny-xl"], folder.path());
    assert!(ok && text.contains("SDXL base"), "{text}");
    open(&repository);
    // One snapshot needs no name.
    fs::remove_file(repository.join("refs/main")).unwrap();
    open(&repository);
    let (ok, text) = inspect(&["someone/other-xl"], folder.path());
    assert!(
        !ok && text.contains("download it with `hf download someone/other-xl`"),
        "{text}"
    );
    // A path that is not there is no repository's name.
    let (_, text) = inspect(&["folder/model.safetensors"], folder.path());
    assert!(!text.contains("hf download"), "{text}");
}

/// The UNets of SSD-1B, Segmind-Vega and KOALA-700M, by their published configurations
/// and by the shapes of their tensors.
#[test]
fn pruned_unets_have_a_depth_for_each_attention() {
    let folder = TempDir::new().unwrap();
    let configs = [
        (
            "ssd-1b",
            json!({
                "transformer_layers_per_block": [0, [2, 2], [4, 4]],
                "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
                "mid_block_type": "UNetMidBlock2D",
            }),
            vec![vec![0; 2], vec![2; 2], vec![4; 2]],
            vec![vec![4, 4, 10], vec![2, 1, 1], vec![0; 3]],
            Middle::Resnet,
        ),
        (
            "vega",
            json!({
                "transformer_layers_per_block": [1, 1, 2],
                "mid_block_type": "UNetMidBlock2D",
            }),
            vec![vec![0; 2], vec![1; 2], vec![2; 2]],
            vec![vec![2; 3], vec![1; 3], vec![0; 3]],
            Middle::Resnet,
        ),
        (
            "koala-700m",
            json!({
                "transformer_layers_per_block": [1, 2, 5],
                "layers_per_block": 1,
                "mid_block_type": null,
            }),
            vec![vec![0], vec![2], vec![5]],
            vec![vec![5; 2], vec![2; 2], vec![0; 2]],
            Middle::None,
        ),
    ];
    for (name, changes, down, up, middle) in configs {
        let demo = demo_in(&folder, name);
        let path = demo.join("unet/config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config
            .as_object_mut()
            .unwrap()
            .extend(changes.as_object().unwrap().clone());
        // Heads and groups as shapes are taken to have them.
        config["attention_head_dim"] = json!([1, 1, 1]);
        config["norm_num_groups"] = json!(32);
        fs::write(&path, config.to_string()).unwrap();
        let checkpoint = open(&demo);
        assert_eq!(checkpoint.unet.down_depths, down, "{name}");
        assert_eq!(checkpoint.unet.up_depths, up, "{name}");
        assert_eq!(checkpoint.unet.middle, middle, "{name}");
        // The file of such a UNet says the same by its shapes.
        let tensors = checkpoint.expected(Part::UNet).into_iter();
        let tensors: Vec<Described> = tensors.map(|(name, shape)| (name, "F16", shape)).collect();
        let path = folder.path().join(format!("{name}.safetensors"));
        write_sparse(&path, &tensors);
        let mut other = Checkpoint::open("demo").unwrap();
        other.replace_unet(&path).unwrap();
        assert_eq!(other.unet, checkpoint.unet, "{name}");
        let report = other.report();
        assert_eq!(report.problems, Vec::<String>::new());
    }
}

/// Files that are no whole checkpoint are named for what they are, with what to do.
#[test]
fn every_kind_of_file_is_named() {
    let folder = TempDir::new().unwrap();
    let lora = "lora_unet_down_blocks_1_attentions_0_proj_in.lora_down.weight";
    let kinds: &[(&[&str], &str)] = &[
        (
            &[lora],
            "an adapter (LoRA), not a whole checkpoint; point loras at this file",
        ),
        (&["unet.conv_in.lora_A.weight"], "an adapter (LoRA)"),
        (&["a.b.hada_w1_a"], "an adapter (LoRA)"),
        (
            &["clip_l", "clip_g"],
            "a textual inversion (embedding), not a whole checkpoint; point embeddings at",
        ),
        (&["emb_params"], "a textual inversion"),
        (
            &["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"],
            "an IP-Adapter",
        ),
        (&["control_model.input_blocks.0.0.weight"], "a ControlNet"),
        (
            &["controlnet_cond_embedding.conv_in.weight", "conv_in.weight"],
            "a ControlNet",
        ),
        (&["adapter.body.0.resnets.0.block1.weight"], "a T2I-Adapter"),
        (
            &["model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight"],
            "an upscaler (ESRGAN)",
        ),
        (
            &["conv_first.weight", "body.0.rdb1.conv1.weight"],
            "an upscaler (ESRGAN)",
        ),
        (
            &["model.diffusion_model.joint_blocks.0.x.weight"],
            "a Stable Diffusion 3 model",
        ),
        (&["double_blocks.0.img_attn.qkv.weight"], "a Flux model"),
        (
            &["single_transformer_blocks.0.attn.to_q.weight"],
            "a Flux model",
        ),
        (
            &[
                "cond_stage_model.transformer.text_model.x",
                "model.diffusion_model.out.2.weight",
            ],
            "a Stable Diffusion 1 checkpoint",
        ),
        (
            &["cond_stage_model.model.ln_final.weight"],
            "a Stable Diffusion 2 checkpoint",
        ),
        (
            &[
                "input_blocks.1.0.in_layers.2.weight",
                "input_blocks.0.0.weight",
                "out.2.weight",
            ],
            "the UNet of Stable Diffusion 1 or 2",
        ),
        (
            &["decoder.up.0.block.0.conv1.weight"],
            "a VAE, not a whole checkpoint; point vae at this file",
        ),
        (&["decoder.layers.0.weight"], "a VAE"),
        (
            &["encoder.down.0.block.0.conv1.weight"],
            "a VAE's encoder alone",
        ),
        (
            &["text_model.encoder.layers.0.mlp.fc1.weight"],
            "a text encoder alone",
        ),
        (&["visual.proj"], "an image encoder"),
        (&["something.else"], "not an SDXL checkpoint"),
    ];
    for (keys, want) in kinds {
        let tensors: Vec<Described> = keys
            .iter()
            .map(|key| (key.to_string(), "F16", vec![1]))
            .collect();
        let path = folder.path().join("file.safetensors");
        write_sparse(&path, &tensors);
        let message = refused(&path);
        assert!(message.contains(want), "{keys:?}: {message}");
    }
    for (bytes, want) in [
        (
            &b"<!DOCTYPE html><html><body>Not found</body></html>"[..],
            "a text",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "a git-lfs pointer",
        ),
        (
            b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.",
            "an old PyTorch pickle",
        ),
        (b"GGUF\x03\0\0\0", "GGUF: truncated"),
        (
            b"PK\x03\x04 and no more of it",
            "a zip archive without its directory",
        ),
    ] {
        let path = folder.path().join("file.ckpt");
        fs::write(&path, bytes).unwrap();
        let message = refused(&path);
        assert!(message.contains(want), "{message}");
    }
}

#[test]
fn an_instruct_pix2pix_model_is_named() {
    let folder = TempDir::new().unwrap();
    let demo = demo_in(&folder, "demo");
    let path = demo.join("unet/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["in_channels"] = json!(8);
    fs::write(&path, config.to_string()).unwrap();
    assert!(refused(&demo).contains("an instruct-pix2pix model"));
}

/// What SDXL's own files say where a folder's are missing: the second tokenizer pads with
/// `!`, and the scheduler is Euler over SDXL's betas.
#[test]
fn files_that_are_missing_are_sdxl_s_own() {
    let folder = TempDir::new().unwrap();
    let whole = demo_in(&folder, "whole");
    let bare = demo_in(&folder, "bare");
    for part in ["tokenizer", "tokenizer_2"] {
        for file in ["tokenizer_config.json", "special_tokens_map.json"] {
            fs::remove_file(bare.join(part).join(file)).unwrap();
        }
    }
    fs::remove_dir_all(bare.join("scheduler")).unwrap();
    let (whole, bare) = (open(&whole), open(&bare));
    let pads = |c: &Checkpoint| [c.tokenizer.as_ref().unwrap().pad(), c.tokenizer_2.pad()];
    assert_eq!(pads(&bare), pads(&whole));
    assert_eq!(bare.scheduler.beta_end, 0.012);
}
