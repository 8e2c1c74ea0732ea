//! Checkpoints in every kind of file that people have them in: the same tensors as in the
//! plain single file, of which each value is known by the tensor's name.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/folder.rs"]
mod folder;
mod folders;
mod kinds;
mod made;

use crate::common::{Described, write_sparse};
use crate::folder::copy;
use calotype::checkpoint::{Autoencoder, Checkpoint, DType, Middle, Part, open_vae};
use calotype::pipeline::LoadOptions;
use folders::{demo_in, models};
use half::f16;
use made::*;
use safetensors::Dtype;
use serde_json::{Value, json};
use std::fs;
use tempfile::TempDir;

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
