//! LoRAs through the whole pipeline against diffusers in float32; their merging
//! alone is tests/engine/lora.rs. Recorded by `tools/record_lora.py`.

use crate::case::{fixtures, generate, load, relative};
use calotype::pipeline::{Dtype, LoadOptions, Lora, Pipeline, RawRequest, Trace};
use calotype::text::Styles;
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::PathBuf;

struct Recorded {
    bytes: Vec<u8>,
    meta: Value,
}

impl Recorded {
    fn open(name: &str) -> Self {
        let bytes = std::fs::read(fixtures().join("lora").join(name)).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let meta = header.metadata().as_ref().unwrap()["meta"].clone();
        Self {
            meta: serde_json::from_str(&meta).unwrap(),
            bytes,
        }
    }

    fn get(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        bytemuck::pod_collect_to_vec(file.tensor(name).unwrap().data())
    }

    fn loras(&self) -> Vec<Lora> {
        let all = self.meta["loras"].as_array().unwrap().iter();
        let lora = |entry: &Value| Lora {
            path: file(entry["file"].as_str().unwrap()),
            unet_weight: entry["weight"].as_f64().unwrap(),
            text_weight: entry["weight"].as_f64().unwrap(),
        };
        all.map(lora).collect()
    }

    fn raw(&self) -> RawRequest {
        RawRequest {
            prompt: self.meta["prompt"].as_str().map(str::to_owned),
            width: self.meta["width"].as_i64(),
            height: self.meta["height"].as_i64(),
            steps: self.meta["steps"].as_i64(),
            guidance_scale: self.meta["guidance_scale"].as_f64(),
            seed: self.meta["seed"].as_i64().map(i128::from),
            scheduler: Some("Euler".into()),
            loras: self.loras(),
            ..Default::default()
        }
    }

    fn holds(&self, pipeline: &mut Pipeline) {
        let mut trace = Trace::new();
        generate(pipeline, self.raw(), Some(&mut trace));
        for name in ["prompt_embeds", "pooled_prompt_embeds", "noise_pred.000"] {
            let expected = self.get(name);
            let found = trace.f32s(name).unwrap().1;
            // Of the embeddings only the first tokens were kept.
            let error = relative(&found[..expected.len()], &expected);
            println!("{name} {error:.1e}");
            assert!(error <= 1e-4, "{name} {error:e}");
        }
    }
}

fn file(name: &str) -> PathBuf {
    fixtures().join("lora").join(name)
}

fn demo() -> Pipeline {
    let options = LoadOptions {
        model: "demo".into(),
        dtype: Dtype::F32,
        ..Default::default()
    };
    load(&options).unwrap()
}

#[test]
fn what_the_unet_predicts_is_diffusers() {
    let mut pipeline = demo();
    let [one, two] = ["recorded-one.safetensors", "recorded-two.safetensors"].map(Recorded::open);
    let plain = RawRequest {
        loras: Vec::new(),
        ..one.raw()
    };
    let before = generate(&mut pipeline, plain.clone(), None).pictures;
    // One set of adapters follows another on the same pipeline, and none at last.
    one.holds(&mut pipeline);
    two.holds(&mut pipeline);
    one.holds(&mut pipeline);
    let with = generate(&mut pipeline, one.raw(), None).pictures;
    assert_ne!(with, before);
    assert_eq!(generate(&mut pipeline, plain, None).pictures, before);
}

#[test]
fn tags_in_the_prompt_name_adapters() {
    let mut raw = RawRequest {
        prompt: Some("a red <lora:one:0.8> circle".into()),
        prompt_2: Some("<lora:one:0.8>a circle <lora:two>".into()),
        ..Default::default()
    };
    raw.take_lora_tags(Some(&fixtures().join("lora")), &Styles::builtin())
        .unwrap();
    assert_eq!(raw.prompt.as_deref(), Some("a red  circle"));
    assert_eq!(raw.prompt_2.as_deref(), Some("a circle "));
    let found: Vec<_> = raw.loras.iter().map(|lora| lora.unet_weight).collect();
    assert_eq!(found, [0.8, 1.0]);
    assert_eq!(raw.loras[1].path, file("two.safetensors"));

    raw.prompt = Some("a <lora:tow:1> circle".into());
    let message = raw
        .take_lora_tags(Some(&fixtures().join("lora")), &Styles::builtin())
        .unwrap_err()
        .to_string();
    assert!(message.contains("two"), "{message}");
}
