//! Textual inversions against diffusers in float32, recorded by
//! `tools/record_inversion.py`, and what is said of files and names that do not fit.

use crate::case::{fixtures, generate, load, relative};
use crate::common::{Described, write_sparse};
use calotype::checkpoint::embedding::Embeddings;
use calotype::pipeline::{Cancel, Dtype, LoadOptions, Lora, Observer, Pipeline, RawRequest, Trace};
use calotype::text::{Chunk, Tokenizer, Weighting, Word, Words, chunks_with};
use safetensors::{Dtype as FileDtype, SafeTensors, tensor::TensorView};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn ink() -> PathBuf {
    fixtures().join("embeddings/ink-splash.safetensors")
}

/// Shapes and values of a file's tensors.
fn tensors(path: &Path) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let all = file.tensors().into_iter();
    all.map(|(name, view)| {
        let values = bytemuck::pod_collect_to_vec(view.data());
        (name, (view.shape().to_vec(), values))
    })
    .collect()
}

fn save(path: &Path, tensors: &BTreeMap<String, (Vec<usize>, Vec<f32>)>) {
    let views = tensors.iter().map(|(name, (shape, values))| {
        let bytes = bytemuck::cast_slice(values);
        let view = TensorView::new(FileDtype::F32, shape.clone(), bytes).unwrap();
        (name, view)
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

fn prompts() -> Vec<String> {
    let bytes = std::fs::read(fixtures().join("embeddings/recorded.safetensors")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    serde_json::from_str(&header.metadata().as_ref().unwrap()["prompts"]).unwrap()
}

fn demo(embeddings: &[PathBuf]) -> Pipeline {
    let options = LoadOptions {
        model: "demo".into(),
        dtype: Dtype::F32,
        embeddings: embeddings.to_vec(),
        ..Default::default()
    };
    load(&options).unwrap()
}

fn raw(prompt: &str, negative: &str) -> RawRequest {
    RawRequest {
        prompt: Some(prompt.into()),
        negative_prompt: Some(negative.into()),
        width: Some(64),
        height: Some(64),
        steps: Some(1),
        seed: Some(1),
        ..Default::default()
    }
}

/// What the encoders make of a prompt and a negative one, the pooled vectors last.
fn encoded(pipeline: &mut Pipeline, raw: RawRequest) -> [Vec<f32>; 4] {
    let mut trace = Trace::new();
    generate(pipeline, raw, Some(&mut trace));
    [
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    ]
    .map(|name| trace.f32s(name).unwrap().1)
}

/// The error of a request.
fn refused(pipeline: &mut Pipeline, raw: RawRequest) -> String {
    let request = pipeline
        .resolve(raw, &calotype::text::Styles::builtin())
        .unwrap();
    let mut observer = Observer {
        events: &mut |_| {},
        cancel: &Cancel::default(),
        trace: None,
        preview_every: 0,
    };
    let error = pipeline.generate(&request, &mut observer).unwrap_err();
    error.to_string()
}

#[test]
fn the_encoders_read_what_diffusers_reads() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("deeper");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(ink(), folder.join("ink-splash.safetensors")).unwrap();
    let recorded = tensors(&fixtures().join("embeddings/recorded.safetensors"));
    for from in [ink(), temp.path().to_path_buf()] {
        let mut pipeline = demo(&[from]);
        let plain = encoded(&mut pipeline, raw("a red circle", "a red circle"));
        for name in [
            "embedding:ink-splash",
            "Ink-Splash",
            "EMBEDDING:ink-splash.safetensors",
        ] {
            for (i, prompt) in prompts().iter().enumerate() {
                let text = prompt.replace("NAME", name);
                let found = encoded(&mut pipeline, raw(&text, &text));
                let embeds = &recorded[&format!("{i}.prompt_embeds")].1;
                let pooled = &recorded[&format!("{i}.pooled")].1;
                for (found, expected) in found.iter().zip([embeds, embeds, pooled, pooled]) {
                    let error = relative(&found[..expected.len()], expected);
                    println!("{text}: {error:.1e}");
                    assert!(error <= 1e-5, "{text}: {error:e}");
                }
                assert!(relative(&plain[0][..embeds.len()], embeds) > 1e-2);
            }
        }
    }
}

#[test]
fn vectors_stay_in_one_chunk_and_take_weights() {
    let tokenizer = Tokenizer::clip(49408, "<|endoftext|>").unwrap();
    let word = Word {
        name: "ink-splash".into(),
        ids: (50000..50005).collect(),
    };
    let words = Words::new(vec![word], &tokenizer).unwrap();
    let of = |prompt: &str, mode: Weighting| -> Vec<Chunk> {
        let pieces = mode.parse(prompt);
        chunks_with(&pieces, &[(&tokenizer, &words)], true)
            .unwrap()
            .remove(0)
    };
    let place = |chunks: &[Chunk]| -> Vec<(usize, usize)> {
        let chunks = chunks.iter().enumerate();
        chunks
            .flat_map(|(c, chunk)| {
                let ids = chunk.ids.iter().enumerate();
                ids.filter(|(_, id)| **id >= 50000)
                    .map(move |(i, _)| (c, i))
            })
            .collect()
    };
    let five =
        |chunk: usize, first: usize| (first..first + 5).map(|i| (chunk, i)).collect::<Vec<_>>();
    for (before, expected) in [
        (0, five(0, 1)),
        (70, five(0, 71)),
        (71, five(1, 1)),
        (75, five(1, 1)),
    ] {
        let prompt = format!("{} ink-splash cat", "a ".repeat(before));
        let chunks = of(&prompt, Weighting::A1111);
        assert_eq!(place(&chunks), expected, "{before}");
        let total: usize = chunks
            .iter()
            .flat_map(|c| &c.ids)
            .filter(|id| **id == 320)
            .count();
        assert_eq!(total, before);
    }
    for form in [
        "(ink-splash:1.3)",
        "(embedding:ink-splash:1.3)",
        "a (Ink-Splash, b:1.3)",
    ] {
        let chunk = of(form, Weighting::A1111).remove(0);
        let at = place(std::slice::from_ref(&chunk));
        assert_eq!(at.len(), 5, "{form}");
        assert!(at.iter().all(|(_, i)| chunk.weights[*i] == 1.3), "{form}");
    }
    // A part of a longer word, or the words alone, are no name.
    for other in ["pink-splash", "ink-splashes", "ink splash", "embedding:ink"] {
        assert_eq!(place(&of(other, Weighting::Off)), [], "{other}");
    }
    assert_eq!(
        place(&of("x embedding:ink-splash.", Weighting::Off)).len(),
        5
    );
}

/// PyTorch's files hold the same vectors.
#[test]
fn pickles_are_read() {
    let folder = fixtures().join("embeddings");
    let widths = [Some(64), Some(128)];
    let read = |name: &str| {
        let all = Embeddings::list(&[folder.join(name)]).unwrap();
        all.read(all.names()[0], widths).unwrap().unwrap()
    };
    let [first, second] = read("ink-splash.safetensors");
    assert_eq!((first.len(), second.len()), (3 * 64, 3 * 128));
    assert_eq!(read("ink-both.pt"), [first.clone(), second]);
    assert_eq!(read("ink-one.pt"), [first, vec![]]);
    let all = Embeddings::list(&[folder]).unwrap();
    let names = all.names();
    assert_eq!(names, ["ink-both", "ink-one", "ink-splash", "recorded"]);
    // What is none is told when it is asked for.
    assert!(all.read("recorded", widths).is_err());
    assert_eq!(all.read("nothing", widths).unwrap(), None);
}

#[test]
fn names_that_are_not_there_are_errors() {
    let none = refused(&mut demo(&[]), raw("a embedding:ink-splash", ""));
    assert!(none.contains("no textual inversion is loaded"), "{none}");
    let mut pipeline = demo(&[ink()]);
    let other = refused(&mut pipeline, raw("a circle", "embedding:inky, blue"));
    assert!(
        other.contains("embedding:inky") && other.contains("there are ink-splash"),
        "{other}"
    );
    // Bare words that are no name are words.
    encoded(&mut pipeline, raw("inky, ink", ""));
}

#[test]
fn one_encoder_may_be_told_alone() {
    let temp = tempfile::tempdir().unwrap();
    let all = tensors(&ink());
    let path = |name: &str| temp.path().join(name).with_extension("safetensors");
    // Stable Diffusion 1.5's form, and diffusers' two files.
    let only = |key: &str, name: &str| BTreeMap::from([(name.to_owned(), all[key].clone())]);
    save(&path("first"), &only("clip_l", "emb_params"));
    save(&path("learned"), &only("clip_l", "<ink-splash>"));
    save(&path("learned_2"), &only("clip_g", "<ink-splash>"));
    let mut pipeline = demo(&[path("first"), path("learned"), path("learned_2")]);
    let [both, ..] = encoded(&mut pipeline, raw("a red <ink-splash> circle", ""));
    let recorded = tensors(&fixtures().join("embeddings/recorded.safetensors"));
    let expected = &recorded["0.prompt_embeds"].1;
    assert!(relative(&both[..expected.len()], expected) <= 1e-5);

    let [first, ..] = encoded(&mut pipeline, raw("a red embedding:first circle", ""));
    let [plain, ..] = encoded(&mut pipeline, raw("a red circle", ""));
    // 64 values of the first encoder, then the second one's.
    for token in 0..8 {
        let own = token * 192..token * 192 + 64;
        assert!(relative(&first[own.clone()], &both[own]) <= 1e-6);
        let other = token * 192 + 64..(token + 1) * 192;
        assert!(relative(&first[other.clone()], &plain[other]) <= 1e-6);
    }
    let output = generate(&mut pipeline, raw("a red embedding:first circle", ""), None);
    let told = |text: &String| text.contains("first has nothing for text encoder 2");
    assert!(output.warnings.iter().any(told), "{:?}", output.warnings);
}

#[test]
fn files_that_do_not_fit_are_named() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("bad.safetensors");
    let write = |tensors: &[(&str, &[usize])]| {
        let tensors: Vec<Described> = tensors
            .iter()
            .map(|(name, shape)| (name.to_string(), "F16", shape.to_vec()))
            .collect();
        write_sparse(&path, &tensors);
    };
    let listed = |tensors: &[(&str, &[usize])]| {
        write(tensors);
        Embeddings::list(std::slice::from_ref(&path))
            .unwrap_err()
            .to_string()
    };
    for (tensors, expected) in [
        (
            &[("a.weight", &[2, 2][..]), ("b.weight", &[2, 2])][..],
            "no textual inversion",
        ),
        (&[("a.weight", &[2, 2, 3, 3][..])], "no textual inversion"),
        (&[("t5xxl", &[2, 4096][..])], "no textual inversion"),
        (&[("clip_l", &[2, 2, 2][..])], "not [vectors, width]"),
        (
            &[("clip_l", &[0, 64][..]), ("clip_g", &[1, 128])],
            "not [vectors, width]",
        ),
    ] {
        let message = listed(tensors);
        assert!(
            message.contains(expected) && message.contains("bad"),
            "{message}"
        );
    }
    let nan = BTreeMap::from([("clip_l".to_owned(), (vec![1, 64], vec![f32::NAN; 64]))]);
    save(&path, &nan);
    let message = Embeddings::list(std::slice::from_ref(&path))
        .unwrap_err()
        .to_string();
    assert!(message.contains("not finite"), "{message}");
    for (tensors, expected) in [
        (
            &[("emb_params", &[2, 768][..])][..],
            "made for Stable Diffusion 1.5",
        ),
        (
            &[("clip_l", &[2, 768][..]), ("clip_g", &[2, 1280])],
            "text encoders take 64 and 128",
        ),
        (&[("clip_l", &[2, 128][..])], "128 numbers wide"),
        (
            &[("clip_l", &[76, 64][..]), ("clip_g", &[76, 128])],
            "room for 75",
        ),
    ] {
        write(tensors);
        let message = refused(
            &mut demo(std::slice::from_ref(&path)),
            raw("embedding:bad", ""),
        );
        assert!(
            message.contains(expected) && message.contains("bad"),
            "{message}"
        );
    }
    let gone = Embeddings::list(&[temp.path().join("gone.safetensors")]).unwrap_err();
    assert!(gone.to_string().contains("point embeddings at"), "{gone}");
}

#[test]
fn adapters_bring_their_own() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("bundle.safetensors");
    let mut all = BTreeMap::new();
    let bytes = std::fs::read(fixtures().join("lora/one.safetensors")).unwrap();
    for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
        let halves = view.data().chunks_exact(2);
        let values = halves.map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32());
        all.insert(name, (view.shape().to_vec(), values.collect()));
    }
    for (key, tensor) in tensors(&ink()) {
        all.insert(format!("bundle_emb.ink-splash.{key}"), tensor);
    }
    save(&path, &all);
    let mut pipeline = demo(&[]);
    let with = RawRequest {
        loras: vec![Lora {
            path,
            unet_weight: 1.0,
            text_weight: 0.0,
        }],
        ..raw("a red ink-splash circle", "")
    };
    let [found, ..] = encoded(&mut pipeline, with);
    let recorded = tensors(&fixtures().join("embeddings/recorded.safetensors"));
    let expected = &recorded["0.prompt_embeds"].1;
    assert!(relative(&found[..expected.len()], expected) <= 1e-5);
    // They leave with the adapter.
    let [without, ..] = encoded(&mut pipeline, raw("a red ink-splash circle", ""));
    assert!(relative(&without[..expected.len()], expected) > 1e-2);
}

#[test]
fn the_service_lists_and_draws_them() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::copy(ink(), temp.path().join("ink-splash.safetensors")).unwrap();
    std::fs::write(temp.path().join("broken.safetensors"), "text").unwrap();
    let server = crate::server::Server::start(&["--embedding", temp.path().to_str().unwrap()]);
    let (status, body) = server.get("/sdapi/v1/embeddings");
    assert_eq!(status, 200);
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["loaded"]["ink-splash"]["vectors"], 3, "{body}");
    assert_eq!(body["loaded"]["ink-splash"]["shape"], 192, "{body}");
    assert!(body["skipped"]["broken"].is_object(), "{body}");
    let draw = |prompt: &str| {
        let body = json!({"prompt": prompt, "width": 64, "height": 64, "steps": 1, "seed": 1});
        server.post("/sdapi/v1/txt2img", &body, None)
    };
    let (plain, told) = (
        draw("a red circle"),
        draw("a red circle embedding:ink-splash"),
    );
    assert_eq!((plain.status, told.status), (200, 200));
    assert_ne!(plain.json()["images"], told.json()["images"]);
    let unknown = draw("embedding:nothing");
    assert_eq!(unknown.status, 400, "{}", unknown.error());
    assert!(unknown.error().contains("there are"), "{}", unknown.error());
}
