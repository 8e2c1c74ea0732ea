//! What kind of diffusion a checkpoint is of: marks and header of single files, and
//! what is refused by name.

use crate::tensors::Tensors;
use calotype::Result;
use calotype::checkpoint::{Autoencoder, Checkpoint};
use calotype::schedule::{Config, Prediction, SigmaCurve};
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/single.safetensors")
}

/// The little single file, whose header says nothing of a scheduler, with these tensors
/// and metadata beside.
fn open(marks: &[(&str, &[f32])], header: &[(&str, &str)]) -> Result<Checkpoint> {
    let all = marks.iter().map(|(name, values)| {
        let bytes = bytemuck::cast_slice(values).to_vec();
        (name.to_string(), (Dtype::F32, vec![values.len()], bytes))
    });
    open_with(all.collect(), header)
}

fn open_with(marks: Tensors, header: &[(&str, &str)]) -> Result<Checkpoint> {
    let bytes = std::fs::read(fixture()).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let config = &metadata.metadata().as_ref().unwrap()["calotype.config"];
    let mut config: Value = serde_json::from_str(config).unwrap();
    // What other programs' files would not say.
    config["scheduler"] = json!({});
    let keys = ["scaling_factor", "latents_mean", "latents_std"];
    let told = [("vae", &keys[..]), ("unet", &["time_cond_proj_dim"])];
    for (component, keys) in told {
        let component = config[component].as_object_mut().unwrap();
        component.retain(|key, _| !keys.contains(&key.as_str()));
    }
    let mut metadata = HashMap::from([("calotype.config".to_string(), config.to_string())]);
    metadata.extend(header.iter().map(|(k, v)| (k.to_string(), v.to_string())));
    let mut tensors = crate::tensors::read(&fixture());
    tensors.extend(marks);
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    let file = tempfile::Builder::new()
        .suffix(".safetensors")
        .tempfile()
        .unwrap();
    std::fs::write(file.path(), serialize(views, Some(metadata)).unwrap()).unwrap();
    Checkpoint::open(file.path().to_str().unwrap())
}

fn refused(opened: Result<Checkpoint>, names: &[&str]) {
    let message = opened.unwrap_err().to_string();
    let all = names.iter().all(|name| message.contains(name));
    assert!(all, "{names:?}: {message}");
}

const MEAN: &[f32] = &[-1.6574, 1.886, -1.383, 2.5155];
const STD: &[f32] = &[8.4927, 5.9022, 6.5498, 5.2299];

#[test]
fn without_marks_it_is_sdxls() {
    let checkpoint = open(&[], &[]).unwrap();
    assert_eq!(checkpoint.scheduler, Config::sdxl());
    let said = [("modelspec.prediction_type", "epsilon")];
    assert_eq!(open(&[], &said).unwrap().scheduler, Config::sdxl());
}

#[test]
fn playgrounds_marks() {
    // Merges may keep a mark of another kind, or a header.
    for (beside, header) in [
        (None, None),
        (Some("v_pred"), Some(("modelspec.predict_key", "v"))),
    ] {
        let mut marks = vec![("edm_mean", MEAN), ("edm_std", STD)];
        marks.extend(beside.map(|name| (name, &[][..])));
        let header: Vec<_> = header.into_iter().collect();
        let checkpoint = open(&marks, &header).unwrap();
        let edm = checkpoint.scheduler.edm.unwrap();
        assert_eq!((edm.sigma_data, edm.curve), (0.5, SigmaCurve::Karras));
        assert_eq!(checkpoint.scheduler.edm_range(), Some((0.002, 80.0)));
        assert_eq!(checkpoint.scheduler.prediction_type, Prediction::Epsilon);
        assert_eq!(checkpoint.vae.latents_mean_std(), Some((MEAN, STD)));
        assert_eq!(checkpoint.vae.scaling_factor(), 0.5);
        let report = serde_json::to_value(checkpoint.report()).unwrap();
        assert_eq!(report["diffusion"]["kind"], "edm");
        let text = checkpoint.report().to_string();
        assert!(
            text.contains("noise levels 0.002 to 80 (EDM, sigma_data 0.5)"),
            "{text}"
        );
    }
}

#[test]
fn cosxls_marks() {
    let (max, min): (&[f32], &[f32]) = (&[90.0], &[0.25]);
    let empty: &[f32] = &[];
    for (marks, range) in [
        (
            vec![("edm_vpred.sigma_max", max), ("edm_vpred.sigma_min", min)],
            (0.25, 90.0),
        ),
        (
            vec![
                ("edm_vpred.sigma_max", max),
                ("v_pred", empty),
                ("ztsnr", empty),
            ],
            (0.002, 90.0),
        ),
        (vec![("edm_vpred.sigma_min", min)], (0.25, 120.0)),
    ] {
        let scheduler = open(&marks, &[]).unwrap().scheduler;
        let edm = scheduler.edm.unwrap();
        assert_eq!((edm.sigma_data, edm.curve), (1.0, SigmaCurve::Exponential));
        assert_eq!(scheduler.edm_range(), Some(range));
        assert_eq!(scheduler.prediction_type, Prediction::V);
        assert!(!scheduler.rescale_betas_zero_snr);
    }
}

#[test]
fn marks_may_be_scalars_of_any_precision() {
    let half = half::f16::from_f32(96.0).to_le_bytes().to_vec();
    let double = 0.5f64.to_le_bytes().to_vec();
    let marks = Tensors::from([
        ("edm_vpred.sigma_max".into(), (Dtype::F16, vec![], half)),
        ("edm_vpred.sigma_min".into(), (Dtype::F64, vec![1], double)),
    ]);
    let scheduler = open_with(marks, &[]).unwrap().scheduler;
    assert_eq!(scheduler.edm_range(), Some((0.5, 96.0)));
}

#[test]
fn what_the_model_predicts() {
    let empty: &[f32] = &[];
    let (v, key) = ("modelspec.prediction_type", "modelspec.predict_key");
    for (marks, header, prediction, zero_snr) in [
        (vec![("v_pred", empty)], vec![], Prediction::V, false),
        (
            vec![("v_pred", empty), ("ztsnr", empty)],
            vec![],
            Prediction::V,
            true,
        ),
        (vec![("ztsnr", empty)], vec![], Prediction::Epsilon, true),
        (vec![], vec![(v, "v")], Prediction::V, false),
        (vec![], vec![(key, "v")], Prediction::V, false),
        (
            vec![],
            vec![(v, "v_prediction"), (key, "")],
            Prediction::V,
            false,
        ),
        (vec![("ztsnr", empty)], vec![(v, "v")], Prediction::V, true),
        (
            vec![("v_pred", empty)],
            vec![(v, "epsilon")],
            Prediction::V,
            false,
        ),
        (vec![], vec![(key, "epsilon")], Prediction::Epsilon, false),
    ] {
        let scheduler = open(&marks, &header).unwrap().scheduler;
        let what = format!("{marks:?} {header:?}");
        assert_eq!(scheduler.prediction_type, prediction, "{what}");
        assert_eq!(scheduler.rescale_betas_zero_snr, zero_snr, "{what}");
        assert!(scheduler.edm.is_none());
    }
}

#[test]
fn marks_and_headers_that_cannot_be_are_named() {
    refused(open(&[("edm_mean", MEAN)], &[]), &["edm_std", "missing"]);
    refused(open(&[("edm_std", STD)], &[]), &["edm_mean", "missing"]);
    let zero: &[f32] = &[1.0, 0.0, 1.0, 1.0];
    refused(
        open(&[("edm_mean", MEAN), ("edm_std", zero)], &[]),
        &["edm_std", "above 0"],
    );
    let nan: &[f32] = &[f32::NAN, 0.0, 1.0, 1.0];
    refused(
        open(&[("edm_mean", nan), ("edm_std", STD)], &[]),
        &["edm_mean", "finite"],
    );
    refused(
        open(&[("edm_mean", &MEAN[..3]), ("edm_std", &STD[..3])], &[]),
        &["latents_mean", "4"],
    );
    for bad in [&[][..], &[-1.0], &[f32::INFINITY], &[1.0, 2.0]] {
        refused(
            open(&[("edm_vpred.sigma_max", bad)], &[]),
            &["edm_vpred.sigma_max"],
        );
    }
    refused(
        open(&[("edm_vpred.sigma_max", &[0.001])], &[]),
        &["edm_vpred.sigma_max", "0.002"],
    );
    for kind in ["flow", "rectified_flow", "x-prediction"] {
        let header = [("modelspec.prediction_type", kind)];
        refused(open(&[], &header), &["modelspec.prediction_type", kind]);
    }
}

#[test]
fn a_consistency_model_in_one_file() {
    for name in [
        "time_embed.cond_proj.weight",
        "time_embedding.cond_proj.weight",
    ] {
        let name = format!("model.diffusion_model.{name}");
        let plain = open(&[], &[]).unwrap();
        let shape = vec![plain.unet.block_out_channels[0], 64];
        let values: Vec<f32> = (0..shape[0] * 64).map(|i| i as f32).collect();
        let bytes: Vec<u8> = bytemuck::cast_slice(&values).to_vec();
        let marks = Tensors::from([(name, (Dtype::F32, shape.clone(), bytes.clone()))]);
        let checkpoint = open_with(marks, &[]).unwrap();
        assert_eq!(checkpoint.unet.time_cond_proj_dim, Some(64));
        assert_eq!(
            checkpoint.scheduler.class_name.as_deref(),
            Some("LCMScheduler")
        );
        assert!(!checkpoint.guides(8.0) && plain.guides(8.0));
        let source = checkpoint.source(calotype::checkpoint::Part::UNet);
        let read = source
            .read("time_embedding.cond_proj.weight", &shape)
            .unwrap();
        assert!(*read.data == bytes);
        assert!(checkpoint.report().problems.is_empty());
        assert!(
            checkpoint
                .report()
                .to_string()
                .contains("is told the guidance scale")
        );
    }
}

#[test]
fn another_vae_keeps_the_models_latents() {
    let mut playground = open(&[("edm_mean", MEAN), ("edm_std", STD)], &[]).unwrap();
    let plain = calotype::checkpoint::open_vae(fixture()).unwrap();
    assert_eq!(plain.config.latents_mean_std(), None);
    playground.replace_vae(plain).unwrap();
    assert_eq!(playground.vae.latents_mean_std(), Some((MEAN, STD)));
    assert_eq!(playground.vae.scaling_factor(), 0.5);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/taesd");
    let tiny = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let tiny = tiny.filter_map(|path| calotype::checkpoint::open_vae(path).ok());
    let tiny = tiny.filter(|vae| matches!(vae.config, Autoencoder::Tiny(_)));
    let mut count = 0;
    for vae in tiny {
        count += 1;
        let message = playground.replace_vae(vae).unwrap_err().to_string();
        assert!(message.contains("TAESD"), "{message}");
    }
    assert!(count > 0);
}

fn file(value: Value) -> Result<Config> {
    Config::from_json("scheduler/scheduler_config.json", &value)
}

#[test]
fn schedulers_of_other_kinds_of_diffusion_are_named() {
    for class in [
        "FlowMatchEulerDiscreteScheduler",
        "FlowMatchHeunDiscreteScheduler",
        "SASolverScheduler",
        "CosineDPMSolverMultistepScheduler",
        "MyScheduler",
    ] {
        let message = file(json!({"_class_name": class})).unwrap_err().to_string();
        for name in [
            "scheduler_config.json",
            class,
            "EulerDiscreteScheduler",
            "EDMEulerScheduler",
        ] {
            assert!(message.contains(name), "{name}: {message}");
        }
    }
    let edm = "EDMEulerScheduler";
    for (key, value) in [
        ("prediction_type", json!("flow_prediction")),
        ("prediction_type", json!("sample")),
        ("sigma_schedule", json!("beta")),
        ("sigma_data", json!(0.0)),
        ("sigma_min", json!(100.0)),
        ("rho", json!("seven")),
    ] {
        let message = file(json!({"_class_name": edm, key: value})).unwrap_err();
        assert!(message.to_string().contains(key), "{message}");
    }
}

#[test]
fn every_scheduler_goes_with_a_model_or_is_refused() {
    let edm = file(json!({"_class_name": "EDMEulerScheduler"})).unwrap();
    let svd = json!({"_class_name": "EulerDiscreteScheduler", "prediction_type": "v_prediction",
                     "timestep_type": "continuous"});
    let continuous = file(svd).unwrap();
    for (config, able) in [(&edm, 6), (&continuous, 1), (&Config::sdxl(), usize::MAX)] {
        let listed = calotype::schedule::list_for(config);
        let names: Vec<_> = listed.iter().map(|info| info.name).collect();
        for info in calotype::schedule::list() {
            let made = calotype::schedule::create(info.name, config);
            assert_eq!(made.is_ok(), names.contains(&info.name), "{}", info.name);
        }
        let all = calotype::schedule::list().len();
        assert_eq!(names.len(), able.min(all), "{names:?}");
        // What is listed can be said.
        assert!(listed[0].options.contains(&"prediction_type"));
    }
    let options = json!({"sigmas": "beta"});
    let options = options.as_object().unwrap();
    let scheduler = calotype::schedule::create_with("Euler", &edm, options).unwrap();
    let message = scheduler.grid(5).unwrap_err().to_string();
    assert!(
        message.contains("sigmas=beta") && message.contains("exponential"),
        "{message}"
    );
}
