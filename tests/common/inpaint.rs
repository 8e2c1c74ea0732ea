//! An inpainting model, whose UNet has 9 input channels, of the demonstration
//! base: `tools/make_inpaint_model.py` in Rust.

use safetensors::SafeTensors;
use std::fs;
use std::path::Path;

const WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";
const CONFIG: &str = "unet/config.json";
const NAME: &str = "conv_in.weight";

/// Makes `folder` that model, with the recorded `conv_in.weight`.
pub fn make(folder: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let base = root.join("models/demo/base");
    copy(&base, folder);

    let weights = fs::read(base.join(WEIGHTS)).unwrap();
    let recorded = fs::read(root.join("tests/fixtures/inpaint-conv-in.safetensors")).unwrap();
    let recorded = SafeTensors::deserialize(&recorded).unwrap();
    let mut tensors = SafeTensors::deserialize(&weights).unwrap().tensors();
    let first = tensors.iter_mut().find(|(name, _)| name == NAME);
    first.unwrap().1 = recorded.tensor(NAME).unwrap();
    let bytes = safetensors::serialize(tensors, None).unwrap();
    fs::write(folder.join(WEIGHTS), bytes).unwrap();

    let config = fs::read(base.join(CONFIG)).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    config["in_channels"] = 9.into();
    fs::write(folder.join(CONFIG), config.to_string()).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(fs::copy(&path, &target).unwrap()),
        }
    }
}
