//! LoRA adapters against diffusers' own merging, and every kind of bad adapter.
//!
//! `one` (in the names of the original release) and `one-peft` are one adapter, `two` is
//! another; they are from `tools/make_lora.py`, the recorded values from
//! `tools/record_lora.py`.

mod common;

use calotype::checkpoint::{Checkpoint, DType, LoraFile, LoraUse, Part, lora};
use common::{Described, write_header, write_sparse};
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
        ("hada_w1_a", "LoHa"),
        ("lokr_w1", "LoKr"),
        ("dora_scale", "DoRA"),
        ("lora_magnitude_vector.weight", "DoRA"),
        ("on_input", "IA3"),
        ("oft_blocks", "OFT"),
        ("diff", "full differences"),
        ("diff_b", "full differences"),
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
        "--lora-allow-unmatched",
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
        &[DOWN, "I16", "F16 and BF16"],
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
    let tensor = |name: &str, shape: &[usize], value: f32| {
        (
            name.to_string(),
            shape.to_vec(),
            vec![value; shape.iter().product()],
        )
    };
    let nan = [
        tensor(DOWN, &[2, 64], 0.0),
        tensor(UP, &[64, 2], 0.0),
        tensor(&alpha, &[], f32::NAN),
    ];
    save(&bad.path(), &nan);
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
    assert!(gone.to_string().contains("point --lora at"), "{gone}");
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
    assert!(gone.contains("--lora-dir"), "{gone}");
}
