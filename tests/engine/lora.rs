//! LoRA adapters against diffusers' own merging; bad ones are tests/engine/lora_errors.rs.
//!
//! `one` (in the names of the original release) and `one-peft` are one adapter, `two` is
//! another; they are from `tools/make_lora.py`, the recorded values from
//! `tools/record_lora.py`.

use calotype::checkpoint::{Checkpoint, DType, LoraFile, LoraUse, Part};
use half::f16;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const PARTS: [Part; 3] = [Part::UNet, Part::TextEncoder, Part::TextEncoder2];

fn fixture(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lora");
    folder.join(name).with_extension("safetensors")
}

/// A tensor of a file: name, shape and values.
type Tensor = (String, Vec<usize>, Vec<f32>);

fn tensors(path: &Path) -> Vec<Tensor> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let all = file.tensors().into_iter();
    all.map(|(name, view)| {
        let data = view.data();
        let values = match view.dtype() {
            Dtype::F16 => {
                let halves = data.chunks_exact(2);
                halves
                    .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())
                    .collect()
            }
            _ => bytemuck::pod_collect_to_vec(data),
        };
        (name, view.shape().to_vec(), values)
    })
    .collect()
}

fn save(path: &Path, tensors: &[Tensor]) {
    let bytes: Vec<&[u8]> = tensors.iter().map(|t| bytemuck::cast_slice(&t.2)).collect();
    let views = tensors.iter().zip(bytes).map(|((name, shape, _), bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
        (name.clone(), view)
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

fn used(path: &Path, weight: f64) -> LoraUse {
    LoraUse {
        file: LoraFile::open(path).unwrap(),
        unet_weight: weight,
        text_weight: weight,
    }
}

fn demo_with(uses: &[LoraUse]) -> Checkpoint {
    let mut demo = Checkpoint::open("demo").unwrap();
    let report = demo.set_loras(uses, false).unwrap();
    assert_eq!(report.warnings(), Vec::<String>::new());
    demo
}

/// All weights that adapters could change, by PART.TENSOR.
fn weights(checkpoint: &Checkpoint) -> HashMap<String, (DType, Vec<usize>, Vec<f32>)> {
    let mut all = HashMap::new();
    for part in PARTS {
        for (name, shape) in checkpoint.expected(part) {
            let view = checkpoint.source(part).read(&name, &shape).unwrap();
            let count = shape.iter().product();
            let name = format!("{}.{name}", part.folder());
            all.insert(name, (view.dtype, shape, view.values(0..count)));
        }
    }
    all
}

/// Compares the first, middle and last row of every recorded weight; gives how many
/// there were and the largest difference.
fn compare(checkpoint: &Checkpoint, recorded: &str) -> (usize, f32) {
    let weights = weights(checkpoint);
    let (mut count, mut most) = (0, 0.0f32);
    for (name, shape, expected) in tensors(&fixture(recorded)) {
        let Some((dtype, full, values)) = weights.get(&name) else {
            continue;
        };
        assert_eq!(*dtype, DType::F32, "{name}");
        assert_eq!(shape[1..], full[1..], "{name}");
        let (rows, columns) = (full[0], values.len() / full[0]);
        let mut places = vec![0, rows / 2, rows - 1];
        places.dedup();
        for (row, expected) in places.into_iter().zip(expected.chunks_exact(columns)) {
            for (x, y) in values[row * columns..].iter().zip(expected) {
                most = most.max((x - y).abs());
            }
        }
        count += 1;
    }
    (count, most)
}

#[test]
fn merged_weights_are_those_of_diffusers() {
    for name in ["one", "one-peft"] {
        let (count, most) = compare(&demo_with(&[used(&fixture(name), 0.8)]), "recorded-one");
        println!("{name}: {count} weights, largest difference {most:e}");
        assert_eq!(count, 18);
        assert!(most < 1e-6, "{most}");
    }
    let uses = [used(&fixture("one"), 0.8), used(&fixture("two"), -0.5)];
    let (count, most) = compare(&demo_with(&uses), "recorded-two");
    println!("both: {count} weights, largest difference {most:e}");
    assert_eq!(count, 4);
    assert!(most < 1e-6, "{most}");
}

/// The definition, in f64, over every value of every weight.
#[test]
fn merged_weights_are_those_of_the_definition() {
    let plain = weights(&Checkpoint::open("demo").unwrap());
    let merged = weights(&demo_with(&[used(&fixture("one-peft"), -1.5)]));
    let pairs: HashMap<_, _> = tensors(&fixture("one-peft"))
        .into_iter()
        .map(|(name, shape, values)| (name, (shape, values)))
        .collect();
    let mut changed = 0;
    for (name, (dtype, shape, values)) in &merged {
        let base = &plain[name].2;
        let module = name.strip_suffix(".weight").unwrap_or(name);
        let Some((_, up)) = pairs.get(&format!("{module}.lora_B.weight")) else {
            assert_eq!(*dtype, DType::F16, "{name}");
            assert!(values == base, "{name}");
            continue;
        };
        let (rank, down) = &pairs[&format!("{module}.lora_A.weight")];
        let (rank, columns) = (rank[0], values.len() / shape[0]);
        for (i, value) in values.iter().enumerate() {
            let (row, column) = (i / columns, i % columns);
            let product: f64 = (0..rank)
                .map(|r| f64::from(up[row * rank + r]) * f64::from(down[r * columns + column]))
                .sum();
            // alpha is 1.
            let expected = f64::from(base[i]) - 1.5 / rank as f64 * product;
            assert!((f64::from(*value) - expected).abs() < 1e-6, "{name} {i}");
        }
        changed += 1;
    }
    assert_eq!(changed, 18);
}

/// The adapter `one` under other names: each module's part, name and what its two
/// matrices end with; alphas are added where the form has them.
fn rewritten(path: &Path, alphas: bool, name: impl Fn(&str, &str) -> String, ends: [&str; 2]) {
    let mut all = Vec::new();
    for (key, shape, mut values) in tensors(&fixture("one-peft")) {
        let (part, rest) = key.split_once('.').unwrap();
        let (module, end) = rest.split_once(".lora_").unwrap();
        let up = end == "B.weight";
        if up && !alphas {
            // alpha / rank is a half.
            values.iter_mut().for_each(|x| *x /= 2.0);
        }
        let module = name(part, module);
        if up && alphas {
            all.push((format!("{module}.alpha"), vec![], vec![1.0]));
        }
        all.push((format!("{module}{}", ends[usize::from(up)]), shape, values));
    }
    save(path, &all);
}

#[test]
fn every_form_gives_the_same_weights() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("form.safetensors");
    let expected = weights(&demo_with(&[used(&fixture("one"), 0.8)]));
    let same = |path: &Path, label: &str| {
        let found = weights(&demo_with(&[used(path, 0.8)]));
        for (name, weight) in &expected {
            assert!(found[name] == *weight, "{label}: {name}");
        }
    };
    same(&fixture("one-peft"), "peft");

    let kohya = |part: &str, module: &str| {
        let short = match part {
            "text_encoder" => "te1",
            "text_encoder_2" => "te2",
            _ => part,
        };
        format!("lora_{short}_{}", module.replace('.', "_"))
    };
    let ends = [".lora_down.weight", ".lora_up.weight"];
    rewritten(&path, true, kohya, ends);
    same(&path, "kohya");

    let dotted = |part: &str, module: &str| format!("{part}.{module}");
    rewritten(&path, true, dotted, [".lora_A.weight", ".lora_B.weight"]);
    same(&path, "peft with alphas");
    rewritten(
        &path,
        false,
        dotted,
        [".lora.down.weight", ".lora.up.weight"],
    );
    same(&path, "diffusers");
    let ends = [
        ".lora_linear_layer.down.weight",
        ".lora_linear_layer.up.weight",
    ];
    rewritten(&path, false, dotted, ends);
    same(&path, "diffusers' text encoders");

    let bare = |part: &str, module: &str| match part {
        "unet" => format!("base_model.model.{module}"),
        _ => format!("base_model.model.{part}.{module}"),
    };
    let ends = [".lora_A.default.weight", ".lora_B.default.weight"];
    rewritten(&path, false, bare, ends);
    same(&path, "peft");

    let comfy = |part: &str, module: &str| match part {
        "unet" => format!("diffusion_model.{module}"),
        "text_encoder" => format!("text_encoders.clip_l.transformer.{module}"),
        _ => format!("text_encoders.clip_g.transformer.{module}"),
    };
    let ends = [".lora_down.weight", ".lora_up.weight"];
    rewritten(&path, true, comfy, ends);
    same(&path, "ComfyUI");

    let omi = |part: &str, module: &str| match part {
        "unet" => format!("unet.{module}"),
        "text_encoder" => format!("clip_l.{module}"),
        _ => format!("clip_g.{module}"),
    };
    rewritten(&path, true, omi, ends);
    same(&path, "OneTrainer");

    let old = |part: &str, module: &str| {
        let module = module.replace("attn1.", "attn1.processor.");
        let module = module
            .replace("attn2.", "attn2.processor.")
            .replace("to_out.0", "to_out");
        let module = match module.split_once("self_attn.") {
            Some((layer, which)) => format!("{layer}self_attn.to_{}", which.replace("_proj", "")),
            None => module,
        };
        format!("{part}.{module}")
    };
    rewritten(&path, false, old, ["_lora.down.weight", "_lora.up.weight"]);
    same(&path, "attention processors");
}

#[test]
fn linear_layers_and_small_convolutions_stand_for_one_another() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("conv.safetensors");
    let mut all = tensors(&fixture("one"));
    for (name, shape, _) in &mut all {
        if name.contains("proj_in") && shape.len() == 2 {
            shape.extend([1, 1]);
        }
        if name.contains("skip_connection") {
            shape.truncate(2);
        }
    }
    save(&path, &all);
    let a = weights(&demo_with(&[used(&path, 0.8)]));
    assert!(a == weights(&demo_with(&[used(&fixture("one"), 0.8)])));
}

#[test]
fn convolutions_in_three_factors_are_merged() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("mid.safetensors");
    let numbers = |n: usize, step: usize| -> Vec<f32> {
        (0..n)
            .map(|i| ((i * step) % 11) as f32 / 8.0 - 0.5)
            .collect()
    };
    let (down, mid, up) = (numbers(3 * 4, 3), numbers(3 * 3 * 9, 5), numbers(32 * 3, 7));
    let key = |end: &str| format!("lora_unet_conv_in.{end}");
    save(
        &path,
        &[
            (key("alpha"), vec![1], vec![6.0]),
            (key("lora_down.weight"), vec![3, 4, 1, 1], down.clone()),
            (key("lora_mid.weight"), vec![3, 3, 3, 3], mid.clone()),
            (key("lora_up.weight"), vec![32, 3, 1, 1], up.clone()),
        ],
    );
    let name = "unet.conv_in.weight";
    let base = &weights(&Checkpoint::open("demo").unwrap())[name].2;
    let found = &weights(&demo_with(&[used(&path, 0.5)]))[name].2;
    for (at, value) in found.iter().enumerate() {
        let (out, input, tap) = (at / 36, at / 9 % 4, at % 9);
        let mut sum = f64::from(base[at]);
        for a in 0..3 {
            for b in 0..3 {
                // alpha / rank is 2, the weight a half.
                let product = up[out * 3 + a] * mid[(a * 3 + b) * 9 + tap] * down[b * 4 + input];
                sum += f64::from(product);
            }
        }
        assert!((f64::from(*value) - sum).abs() < 1e-6, "{at}");
    }
}

#[test]
fn a_checkpoint_goes_back_and_on() {
    let plain = weights(&Checkpoint::open("demo").unwrap());
    let mut demo = Checkpoint::open("demo").unwrap();
    let one = used(&fixture("one"), 0.8);
    demo.set_loras(std::slice::from_ref(&one), false).unwrap();
    let first = weights(&demo);
    assert!(first != plain);
    assert_eq!(demo.loras().len(), 1);
    assert!(Arc::ptr_eq(&demo.loras()[0].file, &one.file));
    demo.set_loras(&[used(&fixture("two"), 1.0)], false)
        .unwrap();
    assert!(weights(&demo) != first);
    demo.set_loras(&[one], false).unwrap();
    assert!(weights(&demo) == first);
    // An error changes nothing.
    let bad = used(&fixture("two"), f64::NAN);
    let message = demo.set_loras(&[bad], false).unwrap_err().to_string();
    assert!(message.contains("weight of LoRA two is NaN"), "{message}");
    assert!(weights(&demo) == first);
    assert_eq!(demo.loras()[0].file.name(), "one");
    demo.set_loras(&[], false).unwrap();
    assert!(weights(&demo) == plain && demo.loras().is_empty());
}

/// What has to be read again where other adapters are merged.
#[test]
fn what_changes_is_told() {
    let mut demo = Checkpoint::open("demo").unwrap();
    let (one, two) = (used(&fixture("one"), 0.8), used(&fixture("two"), 0.5));
    let mut last = weights(&demo);
    let weaker = used(&fixture("one"), 0.7);
    for uses in [
        vec![one.clone()],
        vec![one.clone(), two.clone()],
        vec![two.clone(), one.clone()],
        vec![weaker.clone(), two.clone()],
        vec![weaker],
        vec![],
    ] {
        let report = demo.set_loras(&uses, false).unwrap();
        let now = weights(&demo);
        for part in PARTS {
            for (name, _) in demo.expected(part) {
                let full = format!("{}.{name}", part.folder());
                let changed = now[&full] != last[&full];
                let told = report.changed[&part].contains(&name);
                // Order does not change sums, but that is not looked at.
                assert!(told || !changed, "{full}");
                assert!(changed || !told || uses.len() == 2, "{full}");
            }
        }
        last = now;
        let again = demo.set_loras(&uses, false).unwrap();
        assert!(again.changed.values().all(|names| names.is_empty()));
    }
}

#[test]
fn parts_have_weights_of_their_own() {
    let plain = weights(&Checkpoint::open("demo").unwrap());
    let mut one = used(&fixture("one"), 0.8);
    let both = weights(&demo_with(std::slice::from_ref(&one)));
    one.unet_weight = 0.0;
    let text = weights(&demo_with(&[one]));
    for (name, weight) in &text {
        let from = if name.starts_with("unet.") {
            &plain
        } else {
            &both
        };
        assert!(*weight == from[name], "{name}");
    }
}

#[test]
fn the_report_counts() {
    let mut demo = Checkpoint::open("demo").unwrap();
    let report = demo
        .set_loras(&[used(&fixture("one"), 0.8)], false)
        .unwrap();
    let file = &report.files[0];
    assert_eq!(
        (file.unet, file.text_encoder, file.text_encoder_2),
        (12, 3, 3)
    );
    assert_eq!(
        serde_json::to_value(&report).unwrap()["files"][0]["name"],
        "one"
    );
    let precision = &demo.report().parts[2].precision;
    assert_eq!(precision, &["f16", "f32"]);
}
