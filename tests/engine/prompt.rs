//! Weighted and long prompts. `fixtures/prompts.json` holds what AUTOMATIC1111's
//! parser made of prompts, its chunker of long ones with Hugging Face's tokenizers
//! (ids up to the end of each chunk), and torch of weighted states.

use calotype::checkpoint::Checkpoint;
use calotype::text::{Chunk, Piece, Tokenizer, Weighting, chunks, pad_chunks, parse, weigh};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

fn fixture() -> Value {
    serde_json::from_str(include_str!("../fixtures/prompts.json")).unwrap()
}

fn floats(value: &Value) -> Vec<f32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn clip() -> [Tokenizer; 2] {
    ["<|endoftext|>", "!"].map(|pad| Tokenizer::clip(49408, pad).unwrap())
}

fn demo() -> [Tokenizer; 2] {
    let demo = Checkpoint::open("demo").unwrap();
    [demo.tokenizer.unwrap(), demo.tokenizer_2]
}

/// The chunks of one tokenizer.
fn split(prompt: &str, tokenizer: &Tokenizer) -> Vec<Chunk> {
    chunks(&parse(prompt), &[tokenizer], false)
        .unwrap()
        .remove(0)
}

/// Tokens of each chunk, without start, end and padding.
fn lengths(prompt: &str, tokenizer: &Tokenizer) -> Vec<usize> {
    let end = |chunk: &Chunk| chunk.ids.iter().position(|id| *id == tokenizer.eos());
    let found = split(prompt, tokenizer);
    found.iter().map(|c| end(c).unwrap() - 1).collect()
}

#[test]
fn pieces_are_those_of_automatic1111() {
    let fixture = fixture();
    let cases = fixture["pieces"].as_array().unwrap();
    assert!(cases.len() >= 200);
    for case in cases {
        let prompt = case[0].as_str().unwrap();
        let want: Vec<Option<(String, f64)>> = serde_json::from_value(case[1].clone()).unwrap();
        let got = parse(prompt);
        assert_eq!(got.len(), want.len(), "{prompt:?}: {got:?}");
        for (got, want) in got.iter().zip(want) {
            match (got, want) {
                (Piece::Break, None) => {}
                (Piece::Text { text, weight }, Some((wanted, expected))) => {
                    assert_eq!(*text, wanted, "{prompt:?}");
                    // JSON's numbers are read to the last digit but one.
                    let error = (weight - expected).abs();
                    assert!(error <= 1e-15 * expected.abs(), "{prompt:?}: {weight}");
                }
                (got, want) => panic!("{prompt:?}: {got:?}, not {want:?}"),
            }
        }
    }
}

#[test]
fn stated_weights() {
    for (prompt, want) in [
        ("(a)", &[("a", 1.1)][..]),
        ("[a]", &[("a", 1.0 / 1.1)]),
        ("(a:1.3)", &[("a", 1.3)]),
        ("((cinematic photo:1.3))", &[("cinematic photo", 1.43)]),
        ("((low light:1.4))", &[("low light", 1.54)]),
        ("((a))", &[("a", 1.21)]),
        ("[[b]]", &[("b", 0.826_446_281)]),
        ("(a (b:1.5):1.2)", &[("a ", 1.2), ("b", 1.8)]),
        ("(unbalanced", &[("unbalanced", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            &[
                ("a ", 1.0),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
                (".", 1.1),
            ],
        ),
    ] {
        let got = parse(prompt);
        assert_eq!(got.len(), want.len(), "{prompt}: {got:?}");
        for (got, (want, expected)) in got.iter().zip(want) {
            let Piece::Text { text, weight } = got else {
                panic!("{prompt}: {got:?}");
            };
            assert_eq!(text, want, "{prompt}");
            assert!((weight - expected).abs() < 1e-9, "{prompt}: {weight}");
        }
    }
}

/// Joins up to 40 drawn parts.
fn random_prompt(rng: &mut StdRng, parts: &[&str]) -> String {
    let n = rng.random_range(0..40);
    (0..n)
        .map(|_| parts[rng.random_range(0..parts.len())])
        .collect()
}

#[test]
fn no_prompt_panics_and_plain_ones_stay() {
    let wild = [
        "(",
        ")",
        "[",
        "]",
        ":",
        "\\",
        "1",
        ".",
        "-",
        "+",
        "9999999999",
        ":1.3)",
        ":1e9)",
        "BREAK",
        " ",
        "\n",
        ",",
        "é",
        "猫",
        "\u{301}",
        "\u{0}",
        "🐈",
        "cat",
        "<lora:",
        "<",
        ">",
        "{prompt}",
    ];
    let plain = [
        "a", " ", "red", ", ", ".", "\n", "é", "猫", "🐈", "<", "{", "1", "BREAKS", "'", "!",
    ];
    let mut rng = StdRng::seed_from_u64(11);
    let tokenizers = demo();
    for i in 0..20_000 {
        let prompt = random_prompt(&mut rng, &wild);
        let pieces = parse(&prompt);
        assert!(!pieces.is_empty());
        for piece in &pieces {
            if let Piece::Text { weight, .. } = piece {
                assert!(weight.is_finite() && weight.abs() <= 1000.0, "{prompt:?}");
            }
        }
        let _ = calotype::text::extract_loras(&prompt);
        if i % 20 == 0 {
            let found = chunks(&pieces, &[&tokenizers[0], &tokenizers[1]], false).unwrap();
            assert_eq!(found[0].len(), found[1].len(), "{prompt:?}");
            let all = found.iter().flatten();
            assert!(
                all.clone()
                    .all(|c| c.ids.len() == 77 && c.weights.len() == 77)
            );
            assert!(all.flat_map(|c| &c.weights).all(|w| w.is_finite()));
        }
        let prompt = random_prompt(&mut rng, &plain);
        assert_eq!(parse(&prompt), [Piece::plain(prompt.clone())], "{prompt:?}");
    }
}

#[test]
fn chunks_are_those_of_automatic1111() {
    let fixture = fixture();
    let cases = fixture["chunks"].as_array().unwrap();
    assert!(cases.len() >= 40);
    let tokenizers = clip();
    for case in cases {
        let prompt = case["prompt"].as_str().unwrap();
        for (tokenizer, key) in tokenizers.iter().zip(["clip", "clip_2"]) {
            // The second's are given where they differ.
            let want = match &case[key] {
                Value::Null => &case["clip"],
                own => own,
            };
            let got = split(prompt, tokenizer);
            assert_eq!(got.len(), want.as_array().unwrap().len(), "{prompt:?}");
            for (got, want) in got.iter().zip(want.as_array().unwrap()) {
                let mut ids: Vec<u32> = serde_json::from_value(want["ids"].clone()).unwrap();
                ids.resize(77, tokenizer.pad());
                assert_eq!(got.ids, ids, "{key} {prompt:?}");
                let mut weights = floats(&want["weights"]);
                weights.resize(77, 1.0);
                assert_eq!(got.weights, weights, "{key} {prompt:?}");
            }
        }
    }
}

#[test]
fn plain_prompts_that_fit_are_encoded_as_before() {
    let tokens = include_str!("../fixtures/tokens.json");
    let tokens: Value = serde_json::from_str(tokens).unwrap();
    let mut compared = 0;
    for tokenizer in clip().iter().chain(&demo()) {
        for prompt in tokens["prompts"].as_array().unwrap() {
            let prompt = prompt.as_str().unwrap();
            let encoded = tokenizer.encode(prompt).unwrap();
            let pieces =
                match prompt.contains(['(', ')', '[', ']', '\\']) || prompt.contains("BREAK") {
                    true => Weighting::Off.parse(prompt),
                    false => parse(prompt),
                };
            let found = chunks(&pieces, &[tokenizer], false).unwrap().remove(0);
            if encoded.truncated.is_none() {
                assert_eq!(found.len(), 1, "{prompt:?}");
                assert_eq!(found[0].ids, encoded.ids, "{prompt:?}");
                compared += 1;
            }
            assert!(found.iter().all(Chunk::is_plain));
        }
    }
    assert!(compared > 1000, "{compared}");
}

#[test]
fn counts_of_chunks() {
    for tokenizer in clip().iter().chain(&demo()) {
        let a = |n: usize| lengths(&"a ".repeat(n), tokenizer);
        assert_eq!(a(0), [0]);
        assert_eq!(a(1), [1]);
        assert_eq!(a(75), [75]);
        assert_eq!(a(76), [75, 1]);
        assert_eq!(a(150), [75, 75]);
        assert_eq!(a(400), [75, 75, 75, 75, 75, 25]);
        assert_eq!(split("", tokenizer), [Chunk::empty(tokenizer)]);
        assert_eq!(
            split("", tokenizer)[0].ids,
            tokenizer.encode("").unwrap().ids
        );
    }
}

#[test]
fn a_phrase_moves_on_whole_where_its_comma_is_near() {
    let [tokenizer, _] = clip();
    let with_comma_at = |at: usize, all: usize| {
        let words = format!("{}, {}", "a ".repeat(at), "b ".repeat(all - at - 1));
        lengths(&words, &tokenizer)
    };
    // The comma is token 55 from 0: 20 back from the 76th token.
    assert_eq!(with_comma_at(55, 76), [56, 20]);
    assert_eq!(with_comma_at(54, 76), [75, 1]);
    assert_eq!(with_comma_at(74, 76), [75, 1]);
    assert_eq!(with_comma_at(75, 77), [75, 2]);
    assert_eq!(with_comma_at(60, 75), [75]);
    // A comma that comes when the chunk is full opens the next one.
    assert_eq!(lengths(&"a,".repeat(80), &tokenizer), [75, 75, 10]);
}

#[test]
fn breaks_close_chunks() {
    let [tokenizer, _] = clip();
    let of = |prompt: &str| lengths(prompt, &tokenizer);
    assert_eq!(of("a b BREAK c"), [2, 1]);
    assert_eq!(of("a b BREAK"), [2]);
    assert_eq!(of("BREAK a"), [0, 1]);
    assert_eq!(of("a BREAK BREAK b"), [1, 0, 1]);
    assert_eq!(of("BREAK"), [0]);
    assert_eq!(of(&format!("{}BREAK b", "a ".repeat(75))), [75, 1]);
    assert_eq!(of(&format!("{}BREAK b", "a ".repeat(80))), [75, 5, 1]);
    assert_eq!(of("(a BREAK b:1.2)"), [1, 1]);
    let weights = &split("(a BREAK b:1.2)", &tokenizer)[1].weights;
    assert_eq!(weights[..3], [1.0, 1.2, 1.0]);
}

#[test]
fn tokenizers_that_split_differently_stay_level() {
    // One token for the first, 80 for the second, whose padding `!` is.
    let tokenizers = clip();
    let prompt = format!("{} BREAK a cat", "!".repeat(80));
    let both = [&tokenizers[0], &tokenizers[1]];
    let found = chunks(&parse(&prompt), &both, false).unwrap();
    assert_eq!((found[0].len(), found[1].len()), (3, 3));
    assert_eq!(found[0][1], Chunk::empty(&tokenizers[0]));
    let cat = tokenizers[0].tokens("a cat").unwrap();
    for found in &found {
        assert_eq!(found[2].ids[1..3], cat[..]);
    }
    let [mut short, mut long] = ["a", &prompt].map(|p| split(p, &tokenizers[1]));
    let count = long.len();
    pad_chunks(&mut short, count, &tokenizers[1]);
    pad_chunks(&mut long, 1, &tokenizers[1]);
    assert_eq!((short.len(), long.len()), (3, 3));
    assert_eq!(short[2], Chunk::empty(&tokenizers[1]));
}

#[test]
fn states_are_weighed_as_torch_does() {
    let fixture = &fixture()["weighting"];
    let [states, empty, weights] = ["states", "empty", "weights"].map(|k| floats(&fixture[k]));
    for name in ["default", "no-norm", "comfy"] {
        let mode: Weighting = name.parse().unwrap();
        assert_eq!(mode.name(), name);
        assert_eq!(mode.needs_empty(&weights), name == "comfy");
        let mut got = states.clone();
        weigh(&mut got, &weights, mode, Some(&empty)).unwrap();
        for (got, want) in got.iter().zip(floats(&fixture[name])) {
            assert!(
                (got - want).abs() <= 1e-6 * want.abs().max(1.0),
                "{name}: {got} {want}"
            );
        }
        assert_ne!(got, states);
        let mut same = states.clone();
        weigh(&mut same, &[1.0; 7], mode, None).unwrap();
        assert_eq!(same, states, "{name}");
    }
    let mut same = states.clone();
    weigh(&mut same, &weights, Weighting::Off, None).unwrap();
    assert_eq!(same, states);
}

#[test]
fn long_prompts_take_time_in_proportion() {
    // Quadratic work would take minutes here.
    let started = std::time::Instant::now();
    let deep = format!("{}{}", "(a[b".repeat(100_000), "])".repeat(100_000));
    assert!(parse(&deep).len() > 64);
    let wide = "(a:1.2) b, ".repeat(20_000);
    let [tokenizer, _] = demo();
    assert_eq!(split(&wide, &tokenizer).len(), 800);
    assert!(started.elapsed().as_secs() < 60);
}
