//! Single files in the original SDXL layout.

use crate::common::{Described, write_sparse};
use calotype::checkpoint::{Checkpoint, Layout, Part};
use calotype::schedule::Prediction;
use half::f16;
use std::path::Path;

fn fixture() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = folder.join("tests/fixtures/single.safetensors");
    path.to_str().unwrap().to_string()
}

/// The numbers that `tools/make_single_fixture.py` writes.
fn numbers(name: &str, count: usize) -> Vec<u8> {
    let places = name.bytes().zip(1usize..);
    let start: usize = places.map(|(b, place)| b as usize * place).sum();
    let number = |i: usize| f16::from_f32(((start + i) % 251) as f32).to_le_bytes();
    (0..count).flat_map(number).collect()
}

#[test]
fn every_tensor_has_the_values_of_its_diffusers_name() {
    let checkpoint = Checkpoint::open(&fixture()).unwrap();
    assert_eq!(checkpoint.layout, Layout::SingleFile);
    let mut count = 0;
    for part in Part::ALL {
        for (name, shape) in checkpoint.expected(part) {
            let view = checkpoint.source(part).read(&name, &shape).unwrap();
            let want = numbers(&name, shape.iter().product());
            assert!(*view.data == *want, "{part:?} {name}");
            assert_eq!(view.shape, shape);
            count += 1;
        }
    }
    assert_eq!(count, 635);
}

#[test]
fn values_are_borrowed_except_where_rows_and_columns_change_places() {
    let checkpoint = Checkpoint::open(&fixture()).unwrap();
    for part in Part::ALL {
        for (name, shape) in checkpoint.expected(part) {
            let view = checkpoint.source(part).read(&name, &shape).unwrap();
            let owned = matches!(view.data, std::borrow::Cow::Owned(_));
            assert_eq!(owned, name == "text_projection.weight", "{name}");
        }
    }
}

#[test]
fn the_metadata_tells_what_shapes_cannot() {
    let checkpoint = Checkpoint::open(&fixture()).unwrap();
    assert_eq!(checkpoint.unet.norm_num_groups, 4);
    assert_eq!(checkpoint.unet.num_attention_heads, [1, 2, 4]);
    assert_eq!(checkpoint.vae.scaling_factor(), 0.5);
    assert!(!checkpoint.vae.force_upcast());
    assert_eq!(checkpoint.native_size(), 48);
    let prediction = checkpoint.scheduler.prediction_type;
    assert_eq!(prediction, Prediction::V);
    let tokenizer = checkpoint.tokenizer.as_ref().unwrap();
    assert_eq!(
        (tokenizer.bos(), tokenizer.eos(), tokenizer.pad()),
        (512, 513, 513)
    );
    assert_eq!(checkpoint.tokenizer_2.pad(), 0);
}

/// Tensors of an original SDXL file, written out by its own numbering.
#[derive(Default)]
struct Original(Vec<Described>);

impl Original {
    fn add(&mut self, name: String, shape: &[usize]) {
        self.0.push((name, "F16", shape.to_vec()));
    }

    /// A weight of the given shape and its bias.
    fn pair(&mut self, name: &str, shape: &[usize]) {
        self.add(format!("{name}.weight"), shape);
        self.add(format!("{name}.bias"), &shape[..1]);
    }

    fn res(&mut self, name: &str, from: usize, to: usize, time: usize) {
        self.pair(&format!("{name}.in_layers.0"), &[from]);
        self.pair(&format!("{name}.in_layers.2"), &[to, from, 3, 3]);
        self.pair(&format!("{name}.emb_layers.1"), &[to, time]);
        self.pair(&format!("{name}.out_layers.0"), &[to]);
        self.pair(&format!("{name}.out_layers.3"), &[to, to, 3, 3]);
        if from != to {
            self.pair(&format!("{name}.skip_connection"), &[to, from, 1, 1]);
        }
    }

    fn spatial(&mut self, name: &str, width: usize, depth: usize, text: usize) {
        self.pair(&format!("{name}.norm"), &[width]);
        self.pair(&format!("{name}.proj_in"), &[width, width]);
        for i in 0..depth {
            let b = format!("{name}.transformer_blocks.{i}");
            for (attn, context) in [("attn1", width), ("attn2", text)] {
                self.add(format!("{b}.{attn}.to_q.weight"), &[width, width]);
                self.add(format!("{b}.{attn}.to_k.weight"), &[width, context]);
                self.add(format!("{b}.{attn}.to_v.weight"), &[width, context]);
                self.pair(&format!("{b}.{attn}.to_out.0"), &[width, width]);
            }
            for norm in ["norm1", "norm2", "norm3"] {
                self.pair(&format!("{b}.{norm}"), &[width]);
            }
            self.pair(&format!("{b}.ff.net.0.proj"), &[8 * width, width]);
            self.pair(&format!("{b}.ff.net.2"), &[width, 4 * width]);
        }
        self.pair(&format!("{name}.proj_out"), &[width, width]);
    }

    fn unet(&mut self, base: bool) {
        let u = "model.diffusion_model";
        let (first, adm, text) = if base {
            (320, 2816, 2048)
        } else {
            (384, 2560, 1280)
        };
        let time = 4 * first;
        self.pair(&format!("{u}.time_embed.0"), &[time, first]);
        self.pair(&format!("{u}.time_embed.2"), &[time, time]);
        self.pair(&format!("{u}.label_emb.0.0"), &[time, adm]);
        self.pair(&format!("{u}.label_emb.0.2"), &[time, time]);
        self.pair(&format!("{u}.input_blocks.0.0"), &[first, 4, 3, 3]);
        // (block, from, to, depth); depth 99 is a down- or upsampler.
        let base_in = [
            (1, 320, 320, 0),
            (2, 320, 320, 0),
            (3, 320, 320, 99),
            (4, 320, 640, 2),
            (5, 640, 640, 2),
            (6, 640, 640, 99),
            (7, 640, 1280, 10),
            (8, 1280, 1280, 10),
        ];
        let refiner_in = [
            (1, 384, 384, 0),
            (2, 384, 384, 0),
            (3, 384, 384, 99),
            (4, 384, 768, 4),
            (5, 768, 768, 4),
            (6, 768, 768, 99),
            (7, 768, 1536, 4),
            (8, 1536, 1536, 4),
            (9, 1536, 1536, 99),
            (10, 1536, 1536, 0),
            (11, 1536, 1536, 0),
        ];
        let blocks: &[_] = if base { &base_in } else { &refiner_in };
        for &(n, from, to, depth) in blocks {
            let name = format!("{u}.input_blocks.{n}");
            match depth {
                99 => self.pair(&format!("{name}.0.op"), &[to, to, 3, 3]),
                _ => self.res(&format!("{name}.0"), from, to, time),
            }
            if (1..99).contains(&depth) {
                self.spatial(&format!("{name}.1"), to, depth, text);
            }
        }
        let (last, depth) = if base { (1280, 10) } else { (1536, 4) };
        self.res(&format!("{u}.middle_block.0"), last, last, time);
        self.spatial(&format!("{u}.middle_block.1"), last, depth, text);
        self.res(&format!("{u}.middle_block.2"), last, last, time);
        // (block, from with its skip connection, to, depth, where an upsampler is)
        let base_out = [
            (0, 2560, 1280, 10, 0),
            (1, 2560, 1280, 10, 0),
            (2, 1920, 1280, 10, 2),
            (3, 1920, 640, 2, 0),
            (4, 1280, 640, 2, 0),
            (5, 960, 640, 2, 2),
            (6, 960, 320, 0, 0),
            (7, 640, 320, 0, 0),
            (8, 640, 320, 0, 0),
        ];
        let refiner_out = [
            (0, 3072, 1536, 0, 0),
            (1, 3072, 1536, 0, 0),
            (2, 3072, 1536, 0, 1),
            (3, 3072, 1536, 4, 0),
            (4, 3072, 1536, 4, 0),
            (5, 2304, 1536, 4, 2),
            (6, 2304, 768, 4, 0),
            (7, 1536, 768, 4, 0),
            (8, 1152, 768, 4, 2),
            (9, 1152, 384, 0, 0),
            (10, 768, 384, 0, 0),
            (11, 768, 384, 0, 0),
        ];
        let blocks: &[_] = if base { &base_out } else { &refiner_out };
        for &(n, from, to, depth, upsampler) in blocks {
            let name = format!("{u}.output_blocks.{n}");
            self.res(&format!("{name}.0"), from, to, time);
            if depth > 0 {
                self.spatial(&format!("{name}.1"), to, depth, text);
            }
            if upsampler > 0 {
                self.pair(&format!("{name}.{upsampler}.conv"), &[to, to, 3, 3]);
            }
        }
        self.pair(&format!("{u}.out.0"), &[first]);
        self.pair(&format!("{u}.out.2"), &[4, first, 3, 3]);
    }

    fn vae_res(&mut self, name: &str, from: usize, to: usize) {
        self.pair(&format!("{name}.norm1"), &[from]);
        self.pair(&format!("{name}.conv1"), &[to, from, 3, 3]);
        self.pair(&format!("{name}.norm2"), &[to]);
        self.pair(&format!("{name}.conv2"), &[to, to, 3, 3]);
        if from != to {
            self.pair(&format!("{name}.nin_shortcut"), &[to, from, 1, 1]);
        }
    }

    fn vae(&mut self) {
        let v = "first_stage_model";
        self.pair(&format!("{v}.encoder.conv_in"), &[128, 3, 3, 3]);
        let down = [(0, 128, 128), (1, 128, 256), (2, 256, 512), (3, 512, 512)];
        for (i, from, to) in down {
            self.vae_res(&format!("{v}.encoder.down.{i}.block.0"), from, to);
            self.vae_res(&format!("{v}.encoder.down.{i}.block.1"), to, to);
            if i < 3 {
                self.pair(
                    &format!("{v}.encoder.down.{i}.downsample.conv"),
                    &[to, to, 3, 3],
                );
            }
        }
        let up = [(3, 512, 512), (2, 512, 512), (1, 512, 256), (0, 256, 128)];
        for (i, from, to) in up {
            self.vae_res(&format!("{v}.decoder.up.{i}.block.0"), from, to);
            self.vae_res(&format!("{v}.decoder.up.{i}.block.1"), to, to);
            self.vae_res(&format!("{v}.decoder.up.{i}.block.2"), to, to);
            if i > 0 {
                self.pair(
                    &format!("{v}.decoder.up.{i}.upsample.conv"),
                    &[to, to, 3, 3],
                );
            }
        }
        for side in ["encoder", "decoder"] {
            self.vae_res(&format!("{v}.{side}.mid.block_1"), 512, 512);
            self.vae_res(&format!("{v}.{side}.mid.block_2"), 512, 512);
            self.pair(&format!("{v}.{side}.mid.attn_1.norm"), &[512]);
            for part in ["q", "k", "v", "proj_out"] {
                self.pair(&format!("{v}.{side}.mid.attn_1.{part}"), &[512, 512, 1, 1]);
            }
        }
        self.pair(&format!("{v}.encoder.norm_out"), &[512]);
        self.pair(&format!("{v}.encoder.conv_out"), &[8, 512, 3, 3]);
        self.pair(&format!("{v}.quant_conv"), &[8, 8, 1, 1]);
        self.pair(&format!("{v}.post_quant_conv"), &[4, 4, 1, 1]);
        self.pair(&format!("{v}.decoder.conv_in"), &[512, 4, 3, 3]);
        self.pair(&format!("{v}.decoder.norm_out"), &[128]);
        self.pair(&format!("{v}.decoder.conv_out"), &[3, 128, 3, 3]);
    }

    fn clip_l(&mut self) {
        let t = "conditioner.embedders.0.transformer.text_model";
        self.add(
            format!("{t}.embeddings.token_embedding.weight"),
            &[49408, 768],
        );
        self.add(
            format!("{t}.embeddings.position_embedding.weight"),
            &[77, 768],
        );
        for i in 0..12 {
            let l = format!("{t}.encoder.layers.{i}");
            for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                self.pair(&format!("{l}.self_attn.{part}"), &[768, 768]);
            }
            self.pair(&format!("{l}.layer_norm1"), &[768]);
            self.pair(&format!("{l}.layer_norm2"), &[768]);
            self.pair(&format!("{l}.mlp.fc1"), &[3072, 768]);
            self.pair(&format!("{l}.mlp.fc2"), &[768, 3072]);
        }
        self.pair(&format!("{t}.final_layer_norm"), &[768]);
    }

    fn clip_g(&mut self, embedder: usize) {
        let t = format!("conditioner.embedders.{embedder}.model");
        self.add(format!("{t}.token_embedding.weight"), &[49408, 1280]);
        self.add(format!("{t}.positional_embedding"), &[77, 1280]);
        self.add(format!("{t}.text_projection"), &[1280, 1280]);
        self.add(format!("{t}.logit_scale"), &[]);
        for i in 0..32 {
            let b = format!("{t}.transformer.resblocks.{i}");
            self.add(format!("{b}.attn.in_proj_weight"), &[3840, 1280]);
            self.add(format!("{b}.attn.in_proj_bias"), &[3840]);
            self.pair(&format!("{b}.attn.out_proj"), &[1280, 1280]);
            self.pair(&format!("{b}.ln_1"), &[1280]);
            self.pair(&format!("{b}.ln_2"), &[1280]);
            self.pair(&format!("{b}.mlp.c_fc"), &[5120, 1280]);
            self.pair(&format!("{b}.mlp.c_proj"), &[1280, 5120]);
        }
        self.pair(&format!("{t}.ln_final"), &[1280]);
    }

    fn sdxl(base: bool) -> Vec<Described> {
        let mut original = Original::default();
        original.unet(base);
        original.vae();
        original.clip_g(usize::from(base));
        if base {
            original.clip_l();
        }
        original.0
    }
}

#[test]
fn the_architecture_of_sdxl_is_read_from_the_shapes() {
    let folder = tempfile::tempdir().unwrap();
    for (base, name) in [(true, "random:sdxl-base"), (false, "random:sdxl-refiner")] {
        let path = folder.path().join("sdxl.safetensors");
        write_sparse(&path, &Original::sdxl(base));
        let single = Checkpoint::open(path.to_str().unwrap()).unwrap();
        let known = Checkpoint::open(name).unwrap();
        assert_eq!(single.unet, known.unet);
        assert_eq!(single.vae, known.vae);
        assert_eq!(single.text_encoder, known.text_encoder);
        assert_eq!(single.text_encoder_2, known.text_encoder_2);
        assert_eq!(single.scheduler.beta_end, known.scheduler.beta_end);
        assert_eq!(
            single.scheduler.timestep_spacing,
            known.scheduler.timestep_spacing
        );
        assert_eq!(single.requires_aesthetics_score, !base);
        assert_eq!(single.force_zeros_for_empty_prompt, base);
        let report = single.report();
        assert_eq!(report.problems, Vec::<String>::new());
        assert_eq!(report.parameters, known.report().parameters);
    }
}

#[test]
fn a_v_prediction_mark_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.safetensors");
    let mut tensors = Original::sdxl(true);
    tensors.push(("v_pred".to_string(), "F16", vec![0]));
    tensors.push(("ztsnr".to_string(), "F16", vec![0]));
    write_sparse(&path, &tensors);
    let scheduler = Checkpoint::open(path.to_str().unwrap()).unwrap().scheduler;
    assert_eq!(scheduler.prediction_type, Prediction::V);
    assert!(scheduler.rescale_betas_zero_snr);
}

/// The error of a file whose header holds `tensors`.
fn error(tensors: &[Described]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.safetensors");
    write_sparse(&path, tensors);
    match Checkpoint::open(path.to_str().unwrap()) {
        Err(e) => e.to_string(),
        Ok(checkpoint) => checkpoint.report().problems.join("; "),
    }
}

#[test]
fn other_files_are_told_apart() {
    let one = |name: &str| error(&[(name.to_string(), "F16", vec![8, 8])]);
    assert!(one("cond_stage_model.transformer.x").contains("Stable Diffusion 1"));
    assert!(one("lora_unet_down.weight").contains("LoRA"));
    assert!(one("down_blocks.0.resnets.0.conv1.weight").contains("a UNet alone"));
    assert!(one("something").contains("not an SDXL checkpoint"));
}

#[test]
fn tensors_that_are_missing_or_misshapen_are_named() {
    let whole = Original::sdxl(true);
    let names = [
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.1.attn2.to_k.weight",
        "model.diffusion_model.middle_block.1.proj_in.weight",
        "model.diffusion_model.label_emb.0.0.weight",
        "model.diffusion_model.out.2.weight",
        "first_stage_model.decoder.up.2.block.1.conv2.weight",
        "first_stage_model.encoder.down.0.block.0.conv1.weight",
        "conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_weight",
        "conditioner.embedders.1.model.text_projection",
        "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight",
    ];
    for name in names {
        let without: Vec<Described> = whole.iter().filter(|t| t.0 != name).cloned().collect();
        assert_eq!(without.len() + 1, whole.len());
        let message = error(&without);
        assert!(
            message.contains(name) && message.contains("missing"),
            "{name}: {message}"
        );
        let mut misshapen = whole.clone();
        for tensor in misshapen.iter_mut().filter(|t| t.0 == name) {
            tensor.2[0] += 7;
        }
        let message = error(&misshapen);
        assert!(!message.is_empty() && !message.contains('\n'), "{name}");
    }
}

#[test]
fn a_transformer_block_without_its_first_tensor_is_no_end() {
    let end = "output_blocks.4.1.transformer_blocks.1.attn1.to_q.weight";
    let tensors = Original::sdxl(true).into_iter();
    let tensors: Vec<Described> = tensors.filter(|t| !t.0.ends_with(end)).collect();
    let message = error(&tensors);
    assert!(
        message.contains(end) && message.contains("missing"),
        "{message}"
    );
}

#[test]
fn damaged_headers_never_panic() {
    let whole = std::fs::read(fixture()).unwrap();
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.safetensors");
    let mut state = 1u64;
    let mut random = |below: usize| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    let mut refused = 0;
    for _ in 0..400 {
        let mut bytes = whole.clone();
        for _ in 0..1 + random(3) {
            bytes[random(8 + header)] = b"0123456789[]{},:\"-ae\xff"[random(21)];
        }
        std::fs::write(&path, &bytes).unwrap();
        match Checkpoint::open(path.to_str().unwrap()) {
            Ok(checkpoint) => refused += usize::from(!checkpoint.report().problems.is_empty()),
            Err(e) => {
                assert!(!e.to_string().contains('\n'), "{e}");
                refused += 1;
            }
        }
    }
    assert!(refused > 300, "{refused}");
}

#[test]
fn a_checkpoint_can_be_used_by_several_threads() {
    fn check<T: Send + Sync>() {}
    check::<Checkpoint>();
}
