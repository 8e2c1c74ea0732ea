//! The command line around pictures: what goes in, what is written beside, and how
//! a picture is made again.

use crate::forms::is_long;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn run(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_calotype"))
        .args(args)
        .current_dir(folder)
        .env_remove("CALOTYPE_MODEL")
        .env_remove("CALOTYPE_LOG")
        .env_remove("RUST_LOG")
        .output()
        .unwrap()
}

/// Draws a small picture; gives the names that it prints.
fn draw(folder: &Path, extra: &[&str]) -> Vec<String> {
    let mut args = vec!["generate", "-q"];
    args.extend(extra);
    let output = run(folder, &args);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{extra:?}: {message}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// One line of error that names things, and nothing written.
fn refuses(code: i32, extra: &[&str], named: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let args = [&["generate", "a red circle"], extra].concat();
    let output = run(folder.path(), &args);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{extra:?}: {message}");
    assert_eq!(message.lines().count(), 1, "{extra:?}: {message}");
    assert!(message.starts_with("error: "), "{message}");
    for part in named {
        assert!(message.contains(part), "{extra:?} lacks {part}: {message}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{extra:?}");
    println!("{}", message.trim());
}

const SMALL: [&str; 6] = ["--width", "64", "--height", "64", "--steps", "3"];

#[test]
fn a_picture_is_made_again_from_its_settings() {
    let folder = tempfile::tempdir().unwrap();
    let star = fixtures().join("pictures/yellow-star-64.png");
    let mask = fixtures().join("pictures/mask-circle-64.png");
    let (star, mask) = (star.to_str().unwrap(), mask.to_str().unwrap());
    let lora = fixtures().join("lora");
    let ways: [(&[&str], &[&str]); 5] = [
        (
            &["a (red:1.2) circle, \"quoted\"\nNegative prompt: no"],
            &[],
        ),
        (
            &[
                "a heart",
                "--negative-prompt",
                "",
                "--refiner",
                "demo",
                "--style",
                "sai-anime",
                "--scheduler",
                "DPM++ 2M SDE Karras",
                "--clip-skip",
                "1",
                "--samples",
                "2",
                "--guidance-rescale",
                "0.3",
                "--rng",
                "cuda",
                "--dtype",
                "f16",
            ],
            &[],
        ),
        (
            &[
                "a heart",
                "--image",
                star,
                "--strength",
                "0.7",
                "--scheduler",
                "Euler a",
            ],
            &["--image", star],
        ),
        (
            &[
                "a heart",
                "--image",
                star,
                "--mask",
                mask,
                "--preset",
                "lcm",
                "--strength",
                "0.7",
            ],
            &["--image", star, "--mask", mask],
        ),
        (
            &[
                "a <lora:one:0.5> heart",
                "--lora-dir",
                lora.to_str().unwrap(),
            ],
            &["--lora-dir", lora.to_str().unwrap()],
        ),
    ];
    for (i, (way, again)) in ways.into_iter().enumerate() {
        // A lossy format keeps its settings as well; pixels are those of the format. One way
        // in all of them, the others by turns.
        let endings = ["png", "jpg", "webp"];
        let chosen = match i {
            0 => &endings[..],
            _ if is_long() => &endings[..],
            _ => &endings[i % 3..][..1],
        };
        for ending in chosen {
            let out = format!("{i}.{ending}");
            let first = draw(folder.path(), &[way, &SMALL, &["--out", &out]].concat());
            let last = first.last().unwrap();
            let name = format!("again-{i}.{ending}");
            let more = [&["--like", last, "--out", &name], again].concat();
            assert_eq!(draw(folder.path(), &more), std::slice::from_ref(&name));
            let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
            assert!(read(last) == read(&name), "{way:?} {ending}");
        }
    }
    // Flags overrule what a picture says.
    draw(
        folder.path(),
        &["--like", "0.png", "--seed", "3", "--out", "other.png"],
    );
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert_ne!(read("0.png"), read("other.png"));
    // What a picture cannot hold is asked for.
    let output = run(folder.path(), &["generate", "--like", "2.webp"]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        message.contains("--image") && message.contains("yellow-star-64.png"),
        "{message}"
    );
}

#[test]
fn grids_and_previews_lie_beside() {
    let folder = tempfile::tempdir().unwrap();
    let args = [
        &[
            "a red circle",
            "--samples",
            "3",
            "--grid",
            "--preview",
            "2",
            "--out",
            "x.png",
        ],
        &SMALL[..],
    ];
    let files = draw(folder.path(), &args.concat());
    assert_eq!(files, ["x-0.png", "x-1.png", "x-2.png", "x-grid.png"]);
    let size = |name: &str| image::image_dimensions(folder.path().join(name)).unwrap();
    assert_eq!(size("x-grid.png"), (128, 128));
    assert_eq!(size("x-preview.png"), (64, 64));
}

#[test]
fn bad_pictures_and_numbers_are_one_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let star = fixtures().join("pictures/yellow-star-64.png");
    let star = star.to_str().unwrap();
    let save = |name: &str, w, h| image::RgbImage::new(w, h).save(path(name)).unwrap();
    save("dot.png", 1, 1);
    save("mask.png", 32, 64);
    image::GrayImage::new(20_000, 20_000)
        .save(path("huge.png"))
        .unwrap();
    image::open(star)
        .unwrap()
        .to_rgb8()
        .save(path("whole.jpg"))
        .unwrap();
    let whole = fs::read(path("whole.jpg")).unwrap();
    fs::write(path("half.jpg"), &whole[..whole.len() / 2]).unwrap();
    fs::write(path("text.png"), "no picture").unwrap();

    for strength in ["0", "1.5", "nan", "-1"] {
        refuses(
            2,
            &["--image", star, "--strength", strength],
            &["--strength is", "above 0 and at most 1"],
        );
    }
    refuses(
        2,
        &["--image", star, "--strength", "0.01"],
        &["keeps none of 25 steps"],
    );
    refuses(2, &["--image", &path("dot.png")], &["1x1"]);
    refuses(1, &["--image", &path("huge.png")], &["20000x20000"]);
    refuses(1, &["--image", &path("half.jpg")], &["half.jpg"]);
    refuses(1, &["--image", &path("text.png")], &["text.png"]);
    refuses(1, &["--image", &path("none.png")], &["none.png"]);
    refuses(
        2,
        &["--image", star, "--mask", &path("mask.png")],
        &["32x64", "64x64"],
    );
    refuses(2, &["--mask", star], &["--image"]);
    refuses(2, &["--scheduler", "UniPCC"], &["UniPC"]);
    refuses(2, &["--style", "sai-anme"], &["anime"]);
    refuses(2, &["--scheduler", "DDIM Karras"], &["DDIM"]);
    refuses(2, &["--scheduler-option", "sigmas=karas"], &["karras"]);
    refuses(2, &["--scheduler-option", "sigmas"], &["KEY=VALUE"]);
    refuses(2, &["--refiner-strength", "0.3"], &["--refiner"]);
    refuses(
        2,
        &["--high-noise-fraction", "2", "--refiner", "demo"],
        &["--high-noise-fraction is 2"],
    );
    refuses(1, &["--refiner", "random:sdxl-base"], &["no refiner"]);
    refuses(2, &["--clip-skip", "3"], &["--clip-skip is 3", "0 to 2"]);
    refuses(2, &["--original-size", "0x64"], &["--original-size"]);
    refuses(2, &["--crop", "1"], &["TOP,LEFT"]);
    refuses(
        2,
        &["--guidance-start", "0.8", "--guidance-end", "0.2"],
        &["--guidance-start is 0.8"],
    );
    refuses(
        2,
        &["--aesthetic-score", "11"],
        &["--aesthetic-score is 11"],
    );
    refuses(2, &["--rng", "gpu"], &["cpu, cuda"]);
    refuses(2, &["--fit", "squeeze"], &["stretch"]);
    refuses(
        1,
        &["--lora", &path("none.safetensors")],
        &["none.safetensors"],
    );
    refuses(1, &["--like", &path("dot.png")], &["holds no settings"]);
    refuses(
        1,
        &["--vae", &path("none.safetensors")],
        &["none.safetensors"],
    );
    refuses(1, &["--styles-file", &path("none.json")], &["none.json"]);
}

#[test]
fn an_adapter_of_another_model_is_one_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sd15.safetensors");
    let name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k";
    let data = vec![0u8; 4 * 768 * 4];
    let view = |shape: [usize; 2]| {
        let bytes = &data[..shape[0] * shape[1] * 4];
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes)
            .unwrap()
    };
    let tensors = [
        (format!("{name}.lora_down.weight"), view([4, 768])),
        (format!("{name}.lora_up.weight"), view([320, 4])),
    ];
    fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
    refuses(
        1,
        &["--lora", path.to_str().unwrap()],
        &["sd15.safetensors", "Stable Diffusion 1.5"],
    );
}

#[test]
fn prompts_come_from_files() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("prompt.txt"), "a red circle\n").unwrap();
    let made = |args: &[&str], out: &str| {
        draw(
            folder.path(),
            &[args, &["--seed", "5", "--out", out], &SMALL].concat(),
        );
        fs::read(folder.path().join(out)).unwrap()
    };
    let file = made(&["--prompt-file", "prompt.txt"], "a.png");
    assert_eq!(file, made(&["a red circle"], "b.png"));
    refuses(2, &["--prompt-file", "prompt.txt"], &["--prompt-file"]);
}
