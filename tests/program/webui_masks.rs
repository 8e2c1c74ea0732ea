//! Inpainting through AUTOMATIC1111's API, and a request of it that is ended early.

use crate::server::{Server, keys};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use calotype::picture::{Format, Picture};
use image::{DynamicImage, ImageFormat, RgbaImage};
use serde_json::{Value, json};
use std::io::Cursor;
use std::time::{Duration, Instant};

const SIDE: usize = 64;

fn encoded(picture: &Picture) -> String {
    STANDARD.encode(Format::Png.encode(picture, None).unwrap())
}

/// A picture whose pixels are given by their places.
fn picture(side: usize, pixel: impl Fn(usize, usize) -> [u8; 3]) -> Picture {
    let places = (0..side * side).map(|at| (at % side, at / side));
    Picture {
        width: side,
        height: side,
        rgb: places.flat_map(|(x, y)| pixel(x, y)).collect(),
    }
}

/// Colours that a small VAE does not give back exactly.
fn original(side: usize) -> Picture {
    picture(side, |x, y| {
        [(x * 4) as u8, (y * 4) as u8, ((x * y) % 251) as u8]
    })
}

/// White from 24 to 40 along both sides.
fn box_mask() -> Picture {
    picture(SIDE, |x, y| {
        match (24..40).contains(&x) && (24..40).contains(&y) {
            true => [255; 3],
            false => [0; 3],
        }
    })
}

/// The pictures of an answer, and its `info`.
fn answer(server: &Server, path: &str, body: &Value) -> (Vec<Picture>, Value) {
    let answer = server.post(path, body, None);
    let log = server.log();
    assert_eq!(answer.status, 200, "{}: {log}", answer.json());
    let answer = answer.json();
    let pictures = answer["images"].as_array().unwrap().iter().map(|text| {
        let bytes = STANDARD.decode(text.as_str().unwrap()).unwrap();
        Picture::from_bytes("image", &bytes).unwrap()
    });
    let info = serde_json::from_str(answer["info"].as_str().unwrap()).unwrap();
    (pictures.collect(), info)
}

fn img2img(server: &Server, more: Value) -> (Picture, Value) {
    let mut body = json!({
        "prompt": "a red circle", "seed": 5, "steps": 4, "denoising_strength": 0.9,
        "width": SIDE, "height": SIDE, "init_images": [encoded(&original(SIDE))],
        "mask": encoded(&box_mask()), "mask_blur": 0, "inpaint_full_res": false,
        "inpainting_fill": 1, "sampler_name": "Euler",
    });
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    let (mut pictures, info) = answer(server, "/sdapi/v1/img2img", &body);
    (pictures.remove(0), info)
}

/// Mean difference of the pixels at which `counts` holds, in levels.
fn difference(a: &Picture, b: &Picture, counts: impl Fn(usize, usize) -> bool) -> f64 {
    assert_eq!((a.width, a.height), (b.width, b.height));
    let (mut sum, mut count) = (0, 0);
    for (at, (a, b)) in a.rgb.chunks(3).zip(b.rgb.chunks(3)).enumerate() {
        if counts(at % 64, at / 64) {
            sum += a
                .iter()
                .zip(b)
                .map(|(a, b)| u32::from(a.abs_diff(*b)))
                .sum::<u32>();
            count += 3;
        }
    }
    f64::from(sum) / f64::from(count.max(1))
}

fn inside(x: usize, y: usize) -> bool {
    (24..40).contains(&x) && (24..40).contains(&y)
}

fn warnings(info: &Value) -> String {
    info["warnings"].to_string()
}

#[test]
fn the_original_lies_around_what_is_painted() {
    let server = Server::start(&[]);
    let (kept, painted) = (original(SIDE), |x, y| inside(x, y));
    let (hard, info) = img2img(&server, json!({}));
    assert_eq!(difference(&hard, &kept, |x, y| !inside(x, y)), 0.0);
    assert!(difference(&hard, &kept, painted) > 10.0);
    assert_eq!(warnings(&info), "[]");

    // A soft edge: as hard inside, exactly the original beyond 2.5 times its width, and
    // something of both in between.
    let (soft, _) = img2img(&server, json!({"mask_blur": 4}));
    let far = |x: usize, y: usize| !(14..50).contains(&x) || !(14..50).contains(&y);
    assert_eq!(difference(&soft, &kept, far), 0.0);
    let edge = |x: usize, y: usize| !inside(x, y) && !far(x, y);
    let at_edge = difference(&soft, &kept, edge);
    assert!(
        at_edge > 0.5 && at_edge < difference(&soft, &kept, painted),
        "{at_edge}"
    );
    let (one_way, _) = img2img(
        &server,
        json!({"mask_blur": null, "mask_blur_x": 4, "mask_blur_y": 0}),
    );
    let above = |_: usize, y: usize| !(24..40).contains(&y);
    assert_eq!(difference(&one_way, &kept, above), 0.0);

    // Inverted, the inside is what is kept.
    let (around, _) = img2img(&server, json!({"inpainting_mask_invert": 1}));
    assert_eq!(difference(&around, &kept, painted), 0.0);
    assert!(difference(&around, &kept, |x, y| !inside(x, y)) > 10.0);

    // A brush of black over nothing is painted where it is opaque.
    let mut brush = RgbaImage::new(64, 64);
    for (x, y) in (24..40).flat_map(|x| (24..40).map(move |y| (x, y))) {
        brush.put_pixel(x, y, image::Rgba([0, 0, 0, 255]));
    }
    let mut png = Cursor::new(Vec::new());
    DynamicImage::ImageRgba8(brush)
        .write_to(&mut png, ImageFormat::Png)
        .unwrap();
    let (brushed, _) = img2img(&server, json!({"mask": STANDARD.encode(png.get_ref())}));
    assert_eq!(brushed, hard);
    // Half the size, the same place.
    let half = picture(32, |x, y| {
        match (12..20).contains(&x) && (12..20).contains(&y) {
            true => [255; 3],
            false => [0; 3],
        }
    });
    let (stretched, _) = img2img(&server, json!({"mask": encoded(&half)}));
    let far = |x: usize, y: usize| !(18..46).contains(&x) || !(18..46).contains(&y);
    assert_eq!(difference(&stretched, &kept, far), 0.0);
    assert!(difference(&stretched, &kept, painted) > 10.0);
}

#[test]
fn what_the_mask_covers_is_drawn_over_as_asked() {
    let server = Server::start(&[]);
    let kept = original(SIDE);
    let drawn: Vec<Picture> = (0..4)
        .map(|fill| {
            img2img(
                &server,
                json!({"inpainting_fill": fill, "denoising_strength": 0.4}),
            )
            .0
        })
        .collect();
    for (fill, picture) in drawn.iter().enumerate() {
        assert_eq!(
            difference(picture, &kept, |x, y| !inside(x, y)),
            0.0,
            "{fill}"
        );
        for other in &drawn[..fill] {
            assert_ne!(picture, other, "{fill}");
        }
    }
    // Silence is 0, as in that program, and only what is masked is drawn: on a picture
    // twice as large as what is drawn, whose size stays.
    let large = original(2 * SIDE);
    let mask = picture(2 * SIDE, |x, y| {
        match (8..24).contains(&x) && (96..120).contains(&y) {
            true => [255; 3],
            false => [0; 3],
        }
    });
    let (part, info) = img2img(
        &server,
        json!({"init_images": [encoded(&large)], "mask": encoded(&mask), "inpaint_full_res": null,
               "inpainting_fill": null, "inpaint_full_res_padding": 8}),
    );
    assert_eq!((part.width, part.height), (2 * SIDE, 2 * SIDE));
    let mut changed = 0;
    for (at, (a, b)) in part.rgb.chunks(3).zip(large.rgb.chunks(3)).enumerate() {
        let (x, y) = (at % (2 * SIDE), at / (2 * SIDE));
        match (8..24).contains(&x) && (96..120).contains(&y) {
            true => changed += usize::from(a != b),
            false => assert_eq!(a, b, "{x} {y}"),
        }
    }
    assert!(changed > 300, "{changed}");
    let text = info["infotexts"][0].as_str().unwrap();
    for pair in [
        "Inpaint area: Only masked",
        "Masked area padding: 8",
        "Masked content: fill",
    ] {
        assert!(text.contains(pair), "{pair} in {text}");
    }
    let body =
        json!({"init_images": [encoded(&large)], "mask": encoded(&mask), "inpainting_fill": 4});
    let refused = server.post("/sdapi/v1/img2img", &body, None);
    assert_eq!(refused.status, 400);
    assert!(
        refused
            .error()
            .starts_with("inpainting_fill is 4: choose 0"),
        "{}",
        refused.error()
    );
}

#[test]
fn a_mask_that_paints_nothing_is_said() {
    let server = Server::start(&[]);
    let kept = original(SIDE);
    let black = encoded(&picture(SIDE, |_, _| [0; 3]));
    for full in [false, true] {
        let (same, info) = img2img(&server, json!({"mask": black, "inpaint_full_res": full}));
        assert_eq!(same, kept);
        assert!(
            warnings(&info).contains("the mask paints nothing"),
            "{info}"
        );
    }
    let (_, info) = img2img(&server, json!({"mask_blur": 64}));
    assert!(
        warnings(&info).contains("the mask paints nothing"),
        "{info}"
    );
    let dim = encoded(&picture(SIDE, |_, _| [127; 3]));
    let (_, info) = img2img(&server, json!({"mask": dim}));
    assert!(
        warnings(&info).contains("the mask paints nothing"),
        "{info}"
    );
    let job = json!({
        "prompt": "a", "num_inference_steps": 2, "image": encoded(&kept), "mask": black,
        "keep_unmasked": true, "strength": 0.9,
    });
    let id = server.post("/v1/jobs", &job, None).json()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let start = Instant::now();
    let done = loop {
        let view: Value = serde_json::from_slice(&server.get(&format!("/v1/jobs/{id}")).1).unwrap();
        match view["status"].as_str() {
            Some("done") => break view,
            _ => assert!(start.elapsed() < Duration::from_secs(60), "{view}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(
        done["warnings"]
            .to_string()
            .contains("the mask paints nothing"),
        "{done}"
    );
}

#[test]
fn a_strength_of_nothing_draws_one_step() {
    let server = Server::start(&[]);
    let ask = |strength: f64| {
        let body = json!({
            "prompt": "a red circle", "seed": 5, "steps": 8, "denoising_strength": strength,
            "width": SIDE, "height": SIDE, "init_images": [encoded(&original(SIDE))],
        });
        let (pictures, info) = answer(&server, "/sdapi/v1/img2img", &body);
        assert_eq!(info["denoising_strength"], strength);
        pictures.into_iter().next().unwrap()
    };
    let everywhere = |_: usize, _: usize| true;
    let (nothing, some) = (ask(0.0), ask(0.9));
    let (near, far) = (
        difference(&nothing, &original(SIDE), everywhere),
        difference(&some, &original(SIDE), everywhere),
    );
    println!("strength 0: {near:.1} levels, 0.9: {far:.1}");
    assert!(near < far);
    // Below one step in eight the same single step is drawn.
    assert_eq!(ask(0.1), nothing);
}

#[test]
fn an_interrupted_request_answers_with_the_picture_so_far() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.db");
    let key = keys(&file, &["add", "a", "--credits", "100000"]);
    // A credit for every four steps of a picture of 64 pixels on a model of 128.
    let config = folder.path().join("serve.toml");
    std::fs::write(&config, "[price]\npicture = 0.0\nstep = 1.0\n").unwrap();
    let start = [
        "--keys",
        file.to_str().unwrap(),
        "--config",
        config.to_str().unwrap(),
    ];
    let server = Server::start(&start);
    for (end, count) in [("interrupt", 1), ("skip", 2)] {
        let body = json!({
            "prompt": "a red circle", "seed": 5, "steps": 120, "width": SIDE, "height": SIDE,
            "n_iter": count, "sampler_name": "Euler",
        });
        let drawing = std::thread::scope(|scope| {
            let drawing = scope.spawn(|| server.post("/sdapi/v1/txt2img", &body, Some(&key)));
            let start = Instant::now();
            loop {
                let request = ureq::http::Request::get(format!("{}/sdapi/v1/progress", server.url))
                    .header("x-api-key", &key);
                let progress = server.send(request.body(Vec::new()).unwrap()).json();
                if progress["state"]["sampling_step"].as_u64() > Some(5) {
                    break;
                }
                assert!(start.elapsed() < Duration::from_secs(60), "{progress}");
                std::thread::sleep(Duration::from_millis(5));
            }
            let ended = server.post(&format!("/sdapi/v1/{end}"), &json!({}), Some(&key));
            assert_eq!(ended.status, 200);
            drawing.join().unwrap()
        });
        assert_eq!(drawing.status, 200, "{}", drawing.json());
        let answer = drawing.json();
        let info: Value = serde_json::from_str(answer["info"].as_str().unwrap()).unwrap();
        assert_eq!(info["interrupted"], true, "{info}");
        let images = answer["images"].as_array().unwrap();
        assert_eq!(images.len(), count, "{end}");
        assert_eq!(info["infotexts"].as_array().unwrap().len(), count);
        for text in images {
            let bytes = STANDARD.decode(text.as_str().unwrap()).unwrap();
            let picture = Picture::from_bytes("image", &bytes).unwrap();
            assert_eq!((picture.width, picture.height), (SIDE, SIDE));
            // Noise has about as many levels everywhere; a clean estimate is smooth.
            let steps = picture
                .rgb
                .chunks_exact(3 * SIDE)
                .flat_map(|row| row.windows(4));
            let mean = steps.map(|w| f64::from(w[0].abs_diff(w[3]))).sum::<f64>()
                / (3 * SIDE * SIDE) as f64;
            println!("{end}: neighbours differ by {mean:.1} levels");
            assert!(mean < 30.0, "{mean}");
        }
        let text = keys(&file, &["usage", "--json", "--last", "1"]);
        let charge: Value = serde_json::from_str(&text).unwrap();
        let charge = &charge["charges"][0];
        assert_eq!(charge["state"], "spent");
        let (amount, whole) = (charge["amount"].as_i64().unwrap(), 30 * count as i64);
        println!("{end}: {amount} of {whole} credits");
        // At least what was seen before it was ended; both pictures are drawn at once.
        let least = 2;
        assert!((least..whole).contains(&amount), "{charge}");
    }
    // The books add up, or the next start would refuse them.
    drop(server);
    drop(Server::start(&start));
}
