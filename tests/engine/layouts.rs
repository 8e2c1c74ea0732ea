//! The same weights in every layout draw the same picture, byte for byte: the
//! demo embedded, as a folder in shards, and as a single file.

use calotype::pipeline::{Dtype, LoadOptions, RawRequest};
use safetensors::tensor::TensorView;
use safetensors::{Dtype as FileDtype, SafeTensors};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A tensor of f16: name, shape, bytes.
type Tensor = (String, Vec<usize>, Vec<u8>);

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo/base")
}

fn read(path: &Path) -> Vec<Tensor> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.tensors()
        .into_iter()
        // Position ids, which some files have, are no weights.
        .filter(|(_, t)| t.dtype() == FileDtype::F16)
        .map(|(name, t)| (name, t.shape().to_vec(), t.data().to_vec()))
        .collect()
}

fn save(path: &Path, tensors: &[Tensor], metadata: Option<HashMap<String, String>>) {
    let views = tensors.iter().map(|(name, shape, data)| {
        let view = TensorView::new(FileDtype::F16, shape.clone(), data).unwrap();
        (name.as_str(), view)
    });
    fs::write(path, safetensors::serialize(views, metadata).unwrap()).unwrap();
}

fn replace(name: &str, pairs: &[(&str, &str)]) -> String {
    let one = |name: String, (from, to): &(&str, &str)| name.replace(from, to);
    pairs.iter().fold(name.to_owned(), one)
}

/// The demo's UNet: three levels of two layers, written out by the original's
/// numbers.
fn unet_name(name: &str) -> String {
    const BLOCKS: [(&str, &str); 32] = [
        ("conv_in.", "input_blocks.0.0."),
        ("conv_norm_out.", "out.0."),
        ("conv_out.", "out.2."),
        ("time_embedding.linear_1.", "time_embed.0."),
        ("time_embedding.linear_2.", "time_embed.2."),
        ("add_embedding.linear_1.", "label_emb.0.0."),
        ("add_embedding.linear_2.", "label_emb.0.2."),
        ("down_blocks.0.resnets.0.", "input_blocks.1.0."),
        ("down_blocks.0.resnets.1.", "input_blocks.2.0."),
        ("down_blocks.0.downsamplers.0.conv.", "input_blocks.3.0.op."),
        ("down_blocks.1.resnets.0.", "input_blocks.4.0."),
        ("down_blocks.1.attentions.0.", "input_blocks.4.1."),
        ("down_blocks.1.resnets.1.", "input_blocks.5.0."),
        ("down_blocks.1.attentions.1.", "input_blocks.5.1."),
        ("down_blocks.1.downsamplers.0.conv.", "input_blocks.6.0.op."),
        ("down_blocks.2.resnets.0.", "input_blocks.7.0."),
        ("down_blocks.2.attentions.0.", "input_blocks.7.1."),
        ("down_blocks.2.resnets.1.", "input_blocks.8.0."),
        ("down_blocks.2.attentions.1.", "input_blocks.8.1."),
        ("mid_block.resnets.0.", "middle_block.0."),
        ("mid_block.attentions.0.", "middle_block.1."),
        ("mid_block.resnets.1.", "middle_block.2."),
        ("up_blocks.0.upsamplers.0.", "output_blocks.2.2."),
        ("up_blocks.0.resnets.", "output_blocks.{0}.0."),
        ("up_blocks.0.attentions.", "output_blocks.{0}.1."),
        ("up_blocks.1.upsamplers.0.", "output_blocks.5.2."),
        ("up_blocks.1.resnets.", "output_blocks.{3}.0."),
        ("up_blocks.1.attentions.", "output_blocks.{3}.1."),
        ("up_blocks.2.resnets.", "output_blocks.{6}.0."),
        ("up_blocks.2.attentions.", "output_blocks.{6}.1."),
        ("down_blocks.0.attentions.0.", "input_blocks.1.1."),
        ("down_blocks.0.attentions.1.", "input_blocks.2.1."),
    ];
    let (block, original) = BLOCKS.iter().find(|(b, _)| name.starts_with(b)).unwrap();
    let mut rest = name[block.len()..].to_owned();
    let mut original = original.to_string();
    if let Some(open) = original.find('{') {
        // The layer's number is counted on from the level's first.
        let first: usize = original[open + 1..open + 2].parse().unwrap();
        let (layer, tail) = rest.split_once('.').unwrap();
        let number = first + layer.parse::<usize>().unwrap();
        original.replace_range(open..open + 3, &number.to_string());
        rest = tail.to_owned();
    }
    if block.contains("resnets") {
        rest = replace(
            &rest,
            &[
                ("norm1", "in_layers.0"),
                ("conv1", "in_layers.2"),
                ("time_emb_proj", "emb_layers.1"),
                ("norm2", "out_layers.0"),
                ("conv2", "out_layers.3"),
                ("conv_shortcut", "skip_connection"),
            ],
        );
    }
    format!("model.diffusion_model.{original}{rest}")
}

fn vae_name(name: &str) -> String {
    let levels = [3, 2, 1, 0].map(|i| (format!("up_blocks.{i}."), format!("up.{}.", 3 - i)));
    let name = levels
        .iter()
        .fold(name.to_owned(), |n, (from, to)| n.replace(from, to));
    let pairs = [
        ("mid_block.attentions.0.group_norm.", "mid.attn_1.norm."),
        ("mid_block.attentions.0.to_q.", "mid.attn_1.q."),
        ("mid_block.attentions.0.to_k.", "mid.attn_1.k."),
        ("mid_block.attentions.0.to_v.", "mid.attn_1.v."),
        ("mid_block.attentions.0.to_out.0.", "mid.attn_1.proj_out."),
        ("mid_block.resnets.0.", "mid.block_1."),
        ("mid_block.resnets.1.", "mid.block_2."),
        ("down_blocks.", "down."),
        (".downsamplers.0.", ".downsample."),
        (".upsamplers.0.", ".upsample."),
        (".resnets.", ".block."),
        ("conv_shortcut", "nin_shortcut"),
        ("conv_norm_out", "norm_out"),
    ];
    format!("first_stage_model.{}", replace(&name, &pairs))
}

fn clip_g_name(name: &str) -> String {
    let pairs = [
        ("text_model.", ""),
        ("embeddings.token_embedding", "token_embedding"),
        (
            "embeddings.position_embedding.weight",
            "positional_embedding",
        ),
        ("final_layer_norm", "ln_final"),
        ("encoder.layers", "transformer.resblocks"),
        ("self_attn.q_proj.", "attn.in_proj_"),
        ("self_attn.out_proj", "attn.out_proj"),
        ("layer_norm1", "ln_1"),
        ("layer_norm2", "ln_2"),
        ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"),
        ("text_projection.weight", "text_projection"),
    ];
    format!("conditioner.embedders.1.model.{}", replace(name, &pairs))
}

/// OpenCLIP's tensors: q, k and v in one, the projection turned.
fn clip_g(tensors: Vec<Tensor>) -> Vec<Tensor> {
    let by_name: HashMap<_, _> = tensors
        .iter()
        .map(|(name, _, data)| (name.clone(), data.clone()))
        .collect();
    let separate = |name: &str| name.contains(".k_proj.") || name.contains(".v_proj.");
    tensors
        .into_iter()
        .filter(|(name, ..)| !separate(name))
        .map(|(name, mut shape, mut data)| {
            if name.contains(".q_proj.") {
                for part in ["k_proj", "v_proj"] {
                    data.extend(&by_name[&name.replace("q_proj", part)]);
                }
                shape[0] *= 3;
            }
            if name == "text_projection.weight" {
                let (h, w) = (shape[0], shape[1]);
                let at = |i: usize| 2 * ((i % h) * w + i / h);
                data = (0..h * w)
                    .flat_map(|i| [data[at(i)], data[at(i) + 1]])
                    .collect();
                shape.reverse();
            }
            (clip_g_name(&name), shape, data)
        })
        .collect()
}

/// What the shapes do not tell, as `tools/to_single_file.py` writes it.
fn metadata() -> HashMap<String, String> {
    let object = |file: &str| -> Map<String, Value> {
        serde_json::from_slice(&fs::read(demo().join(file)).unwrap()).unwrap()
    };
    let mut all = Map::new();
    for part in ["unet", "vae", "text_encoder", "text_encoder_2"] {
        all.insert(part.into(), object(&format!("{part}/config.json")).into());
    }
    let scheduler = object("scheduler/scheduler_config.json");
    all.insert("scheduler".into(), scheduler.into());
    for part in ["tokenizer", "tokenizer_2"] {
        let config = object(&format!("{part}/tokenizer_config.json"));
        all.insert(part.into(), config.into());
    }
    all.insert(
        "model_index".into(),
        json!({"force_zeros_for_empty_prompt": true}),
    );
    HashMap::from([("calotype.config".into(), Value::Object(all).to_string())])
}

fn single_file(path: &Path) {
    const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";
    let renamed = |file: String, rename: fn(&str) -> String| -> Vec<Tensor> {
        let tensors = read(&demo().join(file)).into_iter();
        tensors.map(|(n, s, d)| (rename(&n), s, d)).collect()
    };
    let mut all = renamed(format!("unet/{WEIGHTS}"), unet_name);
    for (name, mut shape, data) in renamed(format!("vae/{WEIGHTS}"), vae_name) {
        if name.contains("attn_1") && shape.len() == 2 {
            shape.extend([1, 1]);
        }
        all.push((name, shape, data));
    }
    all.extend(renamed("text_encoder/model.safetensors".into(), |name| {
        format!("conditioner.embedders.0.transformer.{name}")
    }));
    all.extend(clip_g(read(
        &demo().join("text_encoder_2/model.safetensors"),
    )));
    save(path, &all, Some(metadata()));
}

/// The demo's folder, every part's weights in three shards with an index.
fn sharded(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            sharded(&path, &target);
        } else if path.extension().is_some_and(|e| e == "safetensors") {
            let stem = path.file_stem().unwrap().to_str().unwrap();
            let tensors = read(&path);
            let mut map = Map::new();
            for (i, part) in tensors.chunks(tensors.len().div_ceil(3)).enumerate() {
                let name = format!("{stem}-{:05}-of-00003.safetensors", i + 1);
                save(&to.join(&name), part, None);
                map.extend(part.iter().map(|t| (t.0.clone(), json!(name))));
            }
            let index = json!({"weight_map": map}).to_string();
            fs::write(to.join(format!("{stem}.safetensors.index.json")), index).unwrap();
        } else {
            fs::copy(&path, target).unwrap();
        }
    }
}

fn draw(model: &str) -> calotype::picture::Picture {
    let options = LoadOptions {
        model: model.into(),
        dtype: Dtype::F32,
        ..Default::default()
    };
    let mut pipeline = crate::case::load(&options).unwrap();
    let raw = RawRequest {
        prompt: Some("a yellow star on a green background".into()),
        width: Some(88),
        height: Some(120),
        steps: Some(3),
        seed: Some(4),
        ..Default::default()
    };
    let mut output = crate::case::generate(&mut pipeline, raw, None);
    output.pictures.remove(0)
}

#[test]
fn every_layout_draws_the_same_picture() {
    let temp = tempfile::tempdir().unwrap();
    let (folder, file) = (
        temp.path().join("sharded"),
        temp.path().join("one.safetensors"),
    );
    sharded(&demo(), &folder);
    single_file(&file);
    let embedded = draw("demo");
    for path in [&demo(), &folder, &file] {
        assert!(
            draw(path.to_str().unwrap()) == embedded,
            "{}",
            path.display()
        );
    }
}
