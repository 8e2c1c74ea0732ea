//! Prompts that change on the way and prompts of several parts.
//!
//! `fixtures/prompt-schedules.json` holds what AUTOMATIC1111's grammar, run by the
//! parser that its program uses (lark 1.1.2), made of prompts: the examples in its own
//! documentation and drawn ones, as far as ten hash seeds of Python agree; and how it
//! splits prompts at `AND`. `fixtures/prompts` are runs of diffusers with the texts of
//! every call written out by hand (`tools/record_prompts.py`).

use crate::case::{Case, F32, compare, generate, load, load_alone, relative, small_vae};
use calotype::kernel::product::Family;
use calotype::pipeline::{Dtype, LoadOptions, Output, Pipeline, RawRequest, Trace};
use calotype::text::{Timeline, compose, schedule};
use serde_json::Value;

const PLAIN: Timeline = Timeline {
    calls: 10,
    before: None,
};

fn fixture() -> Value {
    serde_json::from_str(include_str!("../fixtures/prompt-schedules.json")).unwrap()
}

#[test]
fn schedules_are_those_of_automatic1111() {
    let fixture = fixture();
    let cases = fixture["schedules"].as_array().unwrap();
    assert!(cases.len() >= 300);
    for case in cases {
        let (prompt, calls): (String, usize) =
            serde_json::from_value(Value::from(vec![case[0].clone(), case[1].clone()])).unwrap();
        let second = case[2].as_u64().map(|calls| calls as usize);
        let timeline = Timeline {
            calls: second.unwrap_or(calls),
            before: second.map(|_| calls),
        };
        let want: Vec<(usize, String)> = serde_json::from_value(case[3].clone()).unwrap();
        assert_eq!(
            schedule(&prompt, timeline).stretches(),
            want,
            "{prompt:?} {timeline:?}"
        );
    }
}

#[test]
fn parts_are_those_of_automatic1111() {
    let fixture = fixture();
    let cases = fixture["parts"].as_array().unwrap();
    assert!(cases.len() >= 20);
    for case in cases {
        let prompt = case[0].as_str().unwrap();
        let mut want: Vec<(String, f64)> = serde_json::from_value(case[1].clone()).unwrap();
        want.iter_mut()
            .for_each(|(_, weight)| *weight = weight.clamp(-1000.0, 1000.0));
        let got: Vec<_> = compose(prompt).unwrap();
        let got: Vec<_> = got
            .into_iter()
            .map(|part| (part.text, part.weight))
            .collect();
        assert_eq!(got, want, "{prompt:?}");
    }
}

#[test]
fn stretches_begin_where_automatic1111_counts_them() {
    let said = |prompt: &str| -> String {
        let schedule = schedule(prompt, PLAIN);
        (0..10).map(|k| schedule.at(k)).collect()
    };
    assert_eq!(said("[a:b:5]"), "aaaaaabbbb");
    assert_eq!(said("[a:b:0.5]"), "aaaaaabbbb");
    assert_eq!(said("[a|b]"), "aababababa");
    assert_eq!(said("[a:b:0]"), "bbbbbbbbbb");
    assert_eq!(said("[a:b:10]"), "aaaaaaaaaa");
    // More calls than it counts on: the first text is back, as there.
    assert_eq!(schedule("[a:b:5]", PLAIN).at(11), "a");
}

#[test]
fn no_prompt_panics_or_takes_long() {
    for text in [
        "[", "(", "[a:", "[a|", "[]", "[:1]", "((a:", "\\", "|", "]", "[|",
    ] {
        let long = text.repeat(20_000);
        schedule(&long, PLAIN);
        schedule(&(long.clone() + &"]".repeat(20_000)), PLAIN);
        schedule(&(long + &":1]".repeat(20_000)), PLAIN);
    }
    let deep = "[a:".repeat(20_000) + "b" + &":3]".repeat(20_000);
    let found = schedule(&deep, PLAIN);
    assert_eq!(found.stretches().len(), 2);
    assert_eq!(found.at(9).len(), 1);
}

#[test]
fn pasted_text_has_the_ids_of_the_slow_tokenizer() {
    let rows: Vec<(String, Vec<u32>, Option<Vec<u32>>)> =
        serde_json::from_str(include_str!("../fixtures/slow-tokens.json")).unwrap();
    assert!(rows.len() >= 30);
    let tokenizers =
        ["<|endoftext|>", "!"].map(|pad| calotype::text::Tokenizer::clip(49408, pad).unwrap());
    for (prompt, first, second) in rows {
        let wanted = [&first, second.as_ref().unwrap_or(&first)];
        for (tokenizer, wanted) in tokenizers.iter().zip(wanted) {
            let got = tokenizer.cleaned_tokens(&prompt).unwrap();
            let got = &got[..got.len().min(75)];
            assert_eq!(got, &wanted[1..wanted.len() - 1], "{prompt:?}");
        }
    }
}

fn options() -> LoadOptions {
    LoadOptions {
        model: "demo".into(),
        dtype: Dtype::F32,
        ..Default::default()
    }
}

/// Those of tests that compare no pictures from the model's VAE.
fn quick() -> LoadOptions {
    LoadOptions {
        vae: Some(small_vae()),
        ..options()
    }
}

fn hold(options: &LoadOptions, names: &[&str]) {
    for name in names {
        let case = Case::open_in("prompts", name);
        let mut pipeline = load_alone(&case.options(options)).unwrap();
        let mut trace = Trace::new();
        let output = generate(&mut pipeline, case.raw(), Some(&mut trace));
        compare(name, &case, &trace, &F32);
        assert_eq!(output.stats.loop_pipelines_created, 0, "{name}");
    }
}

#[test]
fn every_call_hears_what_diffusers_was_told() {
    let names = [
        "share",
        "nested",
        "turns",
        "image",
        "refined",
        "second-pass",
        "second-prompts",
    ];
    hold(&options(), &names);
}

#[test]
fn parts_are_weighed_against_the_negative_prompt() {
    hold(
        &options(),
        &["parts", "parts-heun", "parts-unguided", "weight"],
    );
}

#[test]
fn parts_may_be_calls_of_their_own() {
    let options = LoadOptions {
        low_memory: true,
        ..options()
    };
    hold(&options, &["parts", "parts-heun", "turns", "refined"]);
}

#[test]
fn every_kernel_adds_parts() {
    for direct in [false, true] {
        let options = LoadOptions {
            kernels: Some(Family::of_direct(direct)),
            ..options()
        };
        hold(&options, &["parts-heun"]);
    }
}

fn small(prompt: &str) -> RawRequest {
    RawRequest {
        prompt: Some(prompt.into()),
        width: Some(64),
        height: Some(64),
        steps: Some(4),
        scheduler: Some("Euler".into()),
        seed: Some(3),
        ..Default::default()
    }
}

fn draw(pipeline: &mut Pipeline, raw: RawRequest) -> (Output, Vec<f32>) {
    let mut trace = Trace::new();
    let output = generate(pipeline, raw, Some(&mut trace));
    let last = trace.names().filter(|name| name.starts_with("latents."));
    let last = last.max().unwrap().to_owned();
    let latents = trace.f32s(&last).unwrap().1;
    (output, latents)
}

#[test]
fn pictures_without_a_trace_are_the_same() {
    let mut pipeline = load_alone(&quick()).unwrap();
    for prompt in ["a [red|blue] circle", "a red circle AND a star :0.5"] {
        let traced = draw(&mut pipeline, small(prompt)).0;
        let plain = generate(&mut pipeline, small(prompt), None);
        assert_eq!(plain.pictures, traced.pictures);
        assert_eq!(plain.stats.loop_buffers_created, 0);
        assert_eq!(plain.stats.loop_pipelines_created, 0);
    }
}

#[test]
fn long_texts_are_filled_up_to_the_longest() {
    let mut pipeline = load(&quick()).unwrap();
    let long = "red ".repeat(80);
    let prompt = format!("a [circle:{long} circle:2] AND a star");
    let (output, latents) = draw(&mut pipeline, small(&prompt));
    assert!(latents.iter().all(|x| x.is_finite()));
    assert_eq!(output.warnings, [""; 0]);
}

#[test]
fn what_is_text_is_said() {
    let mut pipeline = load(&quick()).unwrap();
    let said = |pipeline: &mut Pipeline, raw| generate(pipeline, raw, None).warnings.join("\n");
    let prompt = "a {red|blue} __shape__ [a:b:0.5]";
    let warnings = said(&mut pipeline, small(prompt));
    for part in ["prompt: {red|blue} is", "__shape__ is", "because of a |"] {
        assert!(warnings.contains(part), "{part}: {warnings}");
    }
    let off = RawRequest {
        prompt_weighting: Some("off".into()),
        ..small("a [red:blue:0.5] circle AND b :0.5")
    };
    let (output, literal) = draw(&mut pipeline, off);
    assert_eq!(output.warnings, [""; 0]);
    let edited = draw(&mut pipeline, small("a [red:blue:0.5] circle AND b :0.5")).1;
    assert!(relative(&literal, &edited) > 1e-2);
}

#[test]
fn normalising_can_be_switched_off() {
    let mut pipeline = load(&quick()).unwrap();
    let of = |pipeline: &mut Pipeline, prompt: &str, normalise_prompt| {
        let raw = RawRequest {
            normalise_prompt,
            ..small(prompt)
        };
        draw(pipeline, raw).1
    };
    let plain = of(&mut pipeline, "a 'red' circle", None);
    assert_eq!(
        of(&mut pipeline, "a \u{2018}red\u{2019} circle", None),
        plain
    );
    let raw = of(&mut pipeline, "a \u{2018}red\u{2019} circle", Some(false));
    assert!(relative(&raw, &plain) > 1e-3);
}

#[test]
fn prompts_for_both_encoders_need_as_many_parts() {
    let raw = RawRequest {
        prompt_2: Some("a AND b AND c".into()),
        ..small("a AND b")
    };
    let mut pipeline = load(&quick()).unwrap();
    let request = pipeline
        .resolve(raw, &calotype::text::Styles::builtin())
        .unwrap();
    let mut observer = calotype::pipeline::Observer {
        events: &mut |_| {},
        cancel: &calotype::pipeline::Cancel::default(),
        trace: None,
        preview_every: 0,
    };
    let message = pipeline.generate(&request, &mut observer).unwrap_err();
    assert!(
        message.to_string().contains("prompt_2 is 3 parts"),
        "{message}"
    );
}
