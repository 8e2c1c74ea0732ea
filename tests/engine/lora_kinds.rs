//! Adapters of every kind against LyCORIS' own merge (and, of PEFT's DoRA, against
//! diffusers'). `lycoris.safetensors` is from `tools/make_lycoris.py`: adapters and, of
//! each tensor that they change, the first, middle and last row of what comes out.

use calotype::checkpoint::{Checkpoint, LoraFile, LoraUse, Part};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A tensor's shape and values.
type Tensor = (Vec<usize>, Vec<f32>);

/// An adapter and what it makes of the weights that it changes.
struct Case {
    name: String,
    weight: f64,
    adapter: BTreeMap<String, Tensor>,
    merged: BTreeMap<String, Tensor>,
}

fn cases() -> Vec<Case> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lora/lycoris.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let weights = &header.metadata().as_ref().unwrap()["cases"];
    let weights: BTreeMap<String, f64> = serde_json::from_str(weights).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let of = |start: String| {
        let named = file.tensors().into_iter().filter_map(move |(name, view)| {
            let name = name.strip_prefix(&start)?.to_owned();
            let values = bytemuck::pod_collect_to_vec(view.data());
            Some((name, (view.shape().to_vec(), values)))
        });
        named.collect()
    };
    let case = |(name, weight): (String, f64)| Case {
        adapter: of(format!("{name}/adapter/")),
        merged: of(format!("{name}/merged/")),
        name,
        weight,
    };
    weights.into_iter().map(case).collect()
}

fn save(path: &Path, tensors: &BTreeMap<String, Tensor>) {
    let views = tensors.iter().map(|(name, (shape, values))| {
        let bytes = bytemuck::cast_slice(values);
        (
            name,
            TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap(),
        )
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

/// A tensor of the UNet.
fn read(checkpoint: &Checkpoint, name: &str) -> Tensor {
    let expected = checkpoint.expected(Part::UNet);
    let (_, shape) = expected.iter().find(|(known, _)| known == name).unwrap();
    let view = checkpoint.source(Part::UNet).read(name, shape).unwrap();
    (shape.clone(), view.values(0..shape.iter().product()))
}

/// The rows of `tensor` that were recorded.
fn rows((shape, values): &Tensor) -> Vec<f32> {
    if shape.len() == 1 {
        return values.clone();
    }
    let columns = values.len() / shape[0];
    let places = [0, shape[0] / 2, shape[0] - 1];
    let rows = places.map(|row| &values[row * columns..(row + 1) * columns]);
    rows.concat()
}

/// |a - b| / |b|.
fn relative(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
    let difference = a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b));
    let own = b.iter().map(|b| f64::from(*b));
    (squares(&mut difference.into_iter()) / squares(&mut own.into_iter())).sqrt()
}

/// The demo with adapters in files of their own.
fn demo(folder: &Path, adapters: &[(&BTreeMap<String, Tensor>, f64)]) -> Checkpoint {
    let uses: Vec<LoraUse> = adapters
        .iter()
        .enumerate()
        .map(|(i, (adapter, weight))| {
            let path: PathBuf = folder.join(format!("{i}.safetensors"));
            save(&path, adapter);
            used(&path, *weight)
        })
        .collect();
    let mut demo = Checkpoint::open("demo").unwrap();
    let report = demo.set_loras(&uses, false).unwrap();
    assert_eq!(report.warnings(), Vec::<String>::new());
    demo
}

#[test]
fn every_kind_is_merged_as_lycoris_does() {
    let temp = tempfile::tempdir().unwrap();
    let plain = Checkpoint::open("demo").unwrap();
    let cases = cases();
    assert_eq!(cases.len(), 33);
    for case in &cases {
        let merged = demo(temp.path(), &[(&case.adapter, case.weight)]);
        assert!(!case.merged.is_empty());
        for (name, (_, expected)) in &case.merged {
            let found = rows(&read(&merged, name));
            let before = relative(&rows(&read(&plain, name)), expected);
            let error = relative(&found, expected);
            println!(
                "{:>18} {name}: {error:.1e} (without it {before:.1e})",
                case.name
            );
            assert!(error <= 1e-6, "{} {name}: {error:e}", case.name);
            assert!(before > 1e-2, "{} {name}", case.name);
        }
    }
}

fn case(name: &str) -> Case {
    cases().into_iter().find(|case| case.name == name).unwrap()
}

/// What DoRA makes of a weight `[rows, columns]` that counts `weight` times; alpha / rank
/// is a half.
fn decomposed(adapter: &BTreeMap<String, Tensor>, base: &Tensor, weight: f64) -> Vec<f32> {
    let get = |end: &str| {
        let mut found = adapter.iter().filter(|(name, _)| name.ends_with(end));
        let (_, (shape, values)) = found.next().unwrap();
        (
            shape.clone(),
            values.iter().map(|x| f64::from(*x)).collect(),
        )
    };
    let (_, down): (_, Vec<f64>) = get("lora_down.weight");
    let (up_shape, up): (Vec<usize>, Vec<f64>) = get("lora_up.weight");
    let (scale_shape, scale): (Vec<usize>, Vec<f64>) = get("dora_scale");
    let (rows, rank, columns) = (up_shape[0], up_shape[1], base.1.len() / up_shape[0]);
    let mut changed: Vec<f64> = base.1.iter().map(|x| f64::from(*x)).collect();
    for (i, x) in changed.iter_mut().enumerate() {
        let (row, column) = (i / columns, i % columns);
        let product = |r: usize| up[row * rank + r] * down[r * columns + column];
        *x += 0.5 * (0..rank).map(product).sum::<f64>();
    }
    let norm = |places: &mut dyn Iterator<Item = usize>| {
        places.map(|i| changed[i].powi(2)).sum::<f64>().sqrt()
    };
    let factors: Vec<f64> = match scale_shape[0] {
        1 => (0..columns)
            .map(|j| scale[j] / norm(&mut (j..rows * columns).step_by(columns)))
            .collect(),
        _ => (0..rows)
            .map(|i| scale[i] / norm(&mut (i * columns..(i + 1) * columns)))
            .collect(),
    };
    let pairs = base.1.iter().zip(&changed).enumerate();
    let merged = pairs.map(|(i, (base, changed))| {
        let place = match scale_shape[0] {
            1 => i % columns,
            _ => i / columns,
        };
        let base = f64::from(*base);
        (base + weight * (changed * factors[place] - base)) as f32
    });
    merged.collect()
}

#[test]
fn adapters_follow_one_another() {
    let temp = tempfile::tempdir().unwrap();
    let name = "down_blocks.1.attentions.0.proj_in.weight";
    let full = case("full").adapter;
    let after_full = read(&demo(temp.path(), &[(&full, 0.7)]), name);
    for kind in ["dora-output", "dora-input"] {
        let dora = case(kind).adapter;
        let found = read(&demo(temp.path(), &[(&full, 0.7), (&dora, -0.4)]), name);
        let error = relative(&found.1, &decomposed(&dora, &after_full, -0.4));
        println!("{kind} after a difference: {error:.1e}");
        assert!(error <= 1e-6, "{kind}: {error:e}");
        let other = read(&demo(temp.path(), &[(&dora, -0.4), (&full, 0.7)]), name);
        assert!(relative(&other.1, &found.1) > 1e-2);
    }
}

/// An adapter with another's factors renamed and in the form of another kind.
fn renamed(case: &Case, name: impl Fn(&str) -> String) -> BTreeMap<String, Tensor> {
    let all = case.adapter.iter();
    all.map(|(key, tensor)| (name(key), tensor.clone()))
        .collect()
}

#[test]
fn early_glora_has_its_factors_the_other_way_round() {
    let temp = tempfile::tempdir().unwrap();
    let case = case("glora");
    let early = renamed(&case, |key| {
        let (module, end) = key.split_once('.').unwrap();
        let end = match end {
            "a1.weight" => "a2.weight",
            "a2.weight" => "a1.weight",
            "b1.weight" => "b2.weight",
            "b2.weight" => "b1.weight",
            end => end,
        };
        format!("{module}.{end}")
    });
    for (name, (_, expected)) in &case.merged {
        let found = rows(&read(&demo(temp.path(), &[(&early, case.weight)]), name));
        assert!(relative(&found, expected) <= 1e-6);
    }
}

/// The module's name as others write it.
#[test]
fn lycoris_has_names_of_its_own() {
    let temp = tempfile::tempdir().unwrap();
    for kind in ["lokr", "group-norm", "full"] {
        let case = case(kind);
        for prefix in ["lycoris_", "lycoris_unet_"] {
            let other = renamed(&case, |key| key.replacen("lora_unet_", prefix, 1));
            let merged = demo(temp.path(), &[(&other, case.weight)]);
            for (name, (_, expected)) in &case.merged {
                let error = relative(&rows(&read(&merged, name)), expected);
                assert!(error <= 1e-6, "{prefix} {name}: {error:e}");
            }
        }
    }
}

/// Norms and biases under the original release's names, beside a LoRA's pair.
#[test]
fn biases_and_norms_go_with_a_lora() {
    let temp = tempfile::tempdir().unwrap();
    let (locon, full, norm) = (case("locon"), case("full-conv"), case("group-norm"));
    let original = |key: &str| {
        key.replace(
            "down_blocks_0_resnets_0_conv1",
            "input_blocks_1_0_in_layers_2",
        )
        .replace(
            "down_blocks_0_resnets_0_norm1",
            "input_blocks_1_0_in_layers_0",
        )
    };
    let mut all = renamed(&locon, original);
    all.extend(
        renamed(&full, original)
            .into_iter()
            .filter(|(key, _)| key.ends_with(".diff_b")),
    );
    all.extend(renamed(&norm, original));
    let merged = demo(temp.path(), &[(&all, 0.7)]);
    for (case, end) in [(&locon, ".weight"), (&norm, ".weight"), (&norm, ".bias")] {
        let (name, (_, expected)) = case.merged.iter().find(|(n, _)| n.ends_with(end)).unwrap();
        assert!(
            relative(&rows(&read(&merged, name)), expected) <= 1e-6,
            "{name}"
        );
    }
    let name = "down_blocks.0.resnets.0.conv1.bias";
    let plain = read(&Checkpoint::open("demo").unwrap(), name).1;
    let (_, diff) = &full.adapter["lora_unet_down_blocks_0_resnets_0_conv1.diff_b"];
    let expected: Vec<f32> = plain.iter().zip(diff).map(|(b, d)| b + 0.7 * d).collect();
    assert!(relative(&read(&merged, name).1, &expected) <= 1e-6);
}

/// 8-bit floats, e4m3: half, 1, -1, 2.
#[test]
fn adapters_of_8_bits_are_read() {
    const CODES: [(u8, f32); 4] = [(0x30, 0.5), (0x38, 1.0), (0xb8, -1.0), (0x40, 2.0)];
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("fp8.safetensors");
    let module = "lora_unet_down_blocks_1_attentions_0_proj_in";
    let shapes: [(&str, Vec<usize>); 3] = [
        ("alpha", vec![]),
        ("lora_down.weight", vec![2, 64]),
        ("lora_up.weight", vec![64, 2]),
    ];
    let mut wide = BTreeMap::new();
    let mut narrow: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for (end, shape) in shapes {
        let count = shape.iter().product::<usize>();
        let codes = (0..count).map(|i| CODES[(i * 7 + i / 5) % 4]);
        let values = codes.clone().map(|(_, value)| value).collect();
        let bytes = codes.map(|(code, _)| code).collect();
        let name = format!("{module}.{end}");
        wide.insert(name.clone(), (shape.clone(), values));
        narrow.push((name, shape, bytes));
    }
    let views = narrow.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F8_E4M3, shape.clone(), bytes).unwrap();
        (name, view)
    });
    safetensors::serialize_to_file(views, None, &path).unwrap();
    let name = "down_blocks.1.attentions.0.proj_in.weight";
    let mut merged = Checkpoint::open("demo").unwrap();
    merged.set_loras(&[used(&path, 0.7)], false).unwrap();
    let expected = read(&demo(temp.path(), &[(&wide, 0.7)]), name);
    assert_eq!(read(&merged, name), expected);
    assert_ne!(read(&Checkpoint::open("demo").unwrap(), name), expected);
}
