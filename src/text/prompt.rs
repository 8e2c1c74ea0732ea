//! Weighted prompts in AUTOMATIC1111's grammar.
//!
//! `(a)` weighs 1.1 times, `[a]` 1/1.1 times, `(a:1.3)` 1.3 times; brackets
//! inside brackets multiply; `\( \) \[ \] \: \| \\` are those characters themselves; a
//! bracket left open lasts to the end, one that closes nothing is text. `BREAK`
//! as a word of its own separates chunks.
//!
//! Where that program stumbles this one does not: `BREAK` inside brackets still
//! separates, a backslash before any other character stays (it drops it), and
//! `(a:1.2.3)`, which is no number, is `(a:1.2.3` closed by a plain bracket.

use regex::Regex;
use std::sync::LazyLock;

/// Largest magnitude of a weight. Ten times what any prompt can use, and still
/// small enough for a text encoder's states to stay within 16-bit floats.
pub const WEIGHT_MOST: f64 = 1000.0;

/// How many brackets of one kind, counted from the outside, weigh. 1.1 to this
/// power is 445; deeper ones are paired and dropped but change no weight, which
/// keeps the work proportional to the prompt's length.
const DEPTH: usize = 64;

const ROUND: f64 = 1.1;
const SQUARE: f64 = 1.0 / 1.1;

/// A part of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Text without the grammar's own characters, and its weight: finite, exactly
    /// 1 outside of all brackets.
    Text { text: String, weight: f64 },
    /// The end of a chunk.
    Break,
}

impl Piece {
    /// Text of weight 1.
    pub fn plain(text: impl Into<String>) -> Self {
        Piece::Text {
            text: text.into(),
            weight: 1.0,
        }
    }
}

/// Splits a prompt into pieces; neighbours of equal weight are one. A prompt
/// without any text gives one empty piece, so there is always one.
pub fn parse(prompt: &str) -> Vec<Piece> {
    let mut parser = Parser::default();
    for found in LEXER.captures_iter(prompt) {
        let whole = found.get_match().as_str();
        if let Some(escaped) = found.name("escaped") {
            parser.push(escaped.as_str());
        } else if let Some(number) = found.name("weight") {
            parser.weighted_close(whole, number.as_str());
        } else {
            parser.plain(whole);
        }
    }
    parser.finish()
}

/// An escape; a bracket; a weight with the bracket it closes; text; a lone `:`
/// or `\`.
static LEXER: LazyLock<Regex> = LazyLock::new(|| {
    let pattern = r"(?xs)
        \\ (?<escaped> [()\[\]\\:|] )
        | [()\[\]]
        | : \s* (?<weight> [+-]? [.0-9]+ ) \s* \)
        | [^\\()\[\]:]+
        | .";
    Regex::new(pattern).expect("the grammar's pattern is valid")
});

static BREAK: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\s*\bBREAK\b\s*").expect("the word's pattern is valid"));

/// Parts in order with the weights that closed brackets have given them; `None`
/// for `BREAK`.
#[derive(Default)]
struct Parser<'a> {
    parts: Vec<(Option<&'a str>, f64)>,
    /// Where each open bracket's content begins in `parts`.
    round: Vec<usize>,
    square: Vec<usize>,
}

impl<'a> Parser<'a> {
    fn push(&mut self, text: &'a str) {
        self.parts.push((Some(text), 1.0));
    }

    /// A bracket, or text that may hold `BREAK`.
    fn plain(&mut self, token: &'a str) {
        match token {
            "(" => self.round.push(self.parts.len()),
            "[" => self.square.push(self.parts.len()),
            ")" if !self.round.is_empty() => self.close_round(ROUND),
            "]" if !self.square.is_empty() => {
                let depth = self.square.len();
                let start = self.square.pop();
                self.multiply(start, depth, SQUARE);
            }
            text => self.text(text),
        }
    }

    fn text(&mut self, text: &'a str) {
        for (i, part) in BREAK.split(text).enumerate() {
            if i > 0 {
                self.parts.push((None, 1.0));
            }
            self.push(part);
        }
    }

    /// `:1.3)`, given as a whole and as its number.
    fn weighted_close(&mut self, whole: &'a str, number: &str) {
        if self.round.is_empty() {
            return self.text(whole);
        }
        match number.parse::<f64>() {
            Ok(weight) => self.close_round(weight),
            Err(_) => {
                self.text(whole.strip_suffix(')').unwrap_or(whole));
                self.close_round(ROUND);
            }
        }
    }

    fn close_round(&mut self, factor: f64) {
        let depth = self.round.len();
        let start = self.round.pop();
        self.multiply(start, depth, factor);
    }

    fn multiply(&mut self, start: Option<usize>, depth: usize, factor: f64) {
        let Some(inside) = start.and_then(|start| self.parts.get_mut(start..)) else {
            return;
        };
        if depth > DEPTH {
            return;
        }
        for (_, weight) in inside {
            *weight = (*weight * factor).clamp(-WEIGHT_MOST, WEIGHT_MOST);
        }
    }

    fn finish(mut self) -> Vec<Piece> {
        for (open, factor) in [
            (std::mem::take(&mut self.round), ROUND),
            (std::mem::take(&mut self.square), SQUARE),
        ] {
            for (i, start) in open.into_iter().enumerate() {
                self.multiply(Some(start), i + 1, factor);
            }
        }
        let mut pieces: Vec<Piece> = Vec::new();
        for (part, weight) in self.parts {
            match (part, pieces.last_mut()) {
                (None, _) => pieces.push(Piece::Break),
                (Some(""), _) => {}
                (Some(more), Some(Piece::Text { text, weight: last })) if *last == weight => {
                    text.push_str(more);
                }
                (Some(text), _) => pieces.push(Piece::Text {
                    text: text.to_string(),
                    weight,
                }),
            }
        }
        if pieces.is_empty() {
            pieces.push(Piece::plain(""));
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::{Piece, WEIGHT_MOST, parse};

    /// Pieces as text and weight, `BREAK` as a weight of none.
    fn read(prompt: &str) -> Vec<(String, Option<f64>)> {
        let pair = |piece| match piece {
            Piece::Text { text, weight } => (text, Some(weight)),
            Piece::Break => ("BREAK".to_string(), None),
        };
        parse(prompt).into_iter().map(pair).collect()
    }

    /// One piece's weight.
    fn weight(prompt: &str) -> f64 {
        match &parse(prompt)[..] {
            [Piece::Text { weight, .. }] => *weight,
            other => panic!("{prompt}: {other:?}"),
        }
    }

    #[test]
    fn numbers_come_in_all_forms() {
        for (prompt, want) in [
            ("(a:1.3)", 1.3),
            ("(a:.5)", 0.5),
            ("(a:2.)", 2.0),
            ("(a:+1.3)", 1.3),
            ("(a:-1.3)", -1.3),
            ("(a: 1.3 )", 1.3),
            ("(a:\t1.3\n)", 1.3),
            ("(a:0)", 0.0),
        ] {
            assert_eq!(read(prompt), [("a".to_string(), Some(want))], "{prompt}");
        }
        let text = |prompt, text: &str, weight| {
            assert_eq!(read(prompt), [(text.to_string(), Some(weight))], "{prompt}");
        };
        text("(a:1.2.3)", "a:1.2.3", 1.1);
        text("(a:.)", "a:.", 1.1);
        text("(a:1e3)", "a:1e3", 1.1);
        text("a:1.3)", "a:1.3)", 1.0);
        text("[a:1.3]", "a:1.3", 1.0 / 1.1);
    }

    #[test]
    fn kinds_of_brackets_pair_apart() {
        let want = [
            ("a ", 1.1),
            ("b", 1.1 * (1.0 / 1.1)),
            (" c", 1.0 / 1.1),
            (" d", 1.0),
        ];
        let want = want.map(|(text, weight)| (text.to_string(), Some(weight)));
        assert_eq!(read("(a [b) c] d"), want);
        assert_eq!(weight(")]a"), 1.0);
        assert_eq!(read(")]a")[0].0, ")]a");
    }

    #[test]
    fn backslashes_keep_what_they_stand_before() {
        for (prompt, want) in [
            (r"\(a\) \[b\] \\", r"(a) [b] \"),
            (r"C:\path", r"C:\path"),
            (r"end\", r"end\"),
        ] {
            assert_eq!(read(prompt), [(want.to_string(), Some(1.0))], "{prompt}");
        }
        assert_eq!(read(r"(a\))"), [("a)".to_string(), Some(1.1))]);
    }

    #[test]
    fn break_is_a_word_of_its_own() {
        let of = |prompt| -> Vec<String> { read(prompt).into_iter().map(|p| p.0).collect() };
        assert_eq!(of("a BREAK b"), ["a", "BREAK", "b"]);
        assert_eq!(of("a,BREAK\nb"), ["a,", "BREAK", "b"]);
        assert_eq!(of("BREAK"), ["BREAK"]);
        assert_eq!(of("BREAK BREAK"), ["BREAK", "BREAK"]);
        for text in ["BREAKFAST", "a break", "BREAK_", "1BREAK", "éBREAK"] {
            assert_eq!(of(text), [text]);
        }
        let inside = read("(a BREAK b)");
        assert_eq!(inside[0], ("a".to_string(), Some(1.1)));
        assert_eq!(inside[1].1, None);
        assert_eq!(inside[2], ("b".to_string(), Some(1.1)));
    }

    #[test]
    fn weights_stay_finite_however_deep() {
        let deep = |n: usize, open: &str, close: &str| {
            weight(&format!("{}a{}", open.repeat(n), close.repeat(n)))
        };
        let most = 1.1_f64.powi(64);
        assert!((deep(64, "(", ")") / most - 1.0).abs() < 1e-12);
        for n in [65, 5000, 100_000] {
            assert_eq!(deep(n, "(", ")"), deep(64, "(", ")"));
            assert_eq!(deep(n, "(", ""), deep(64, "(", ")"));
            assert_eq!(deep(n, "[", "]"), deep(64, "[", "]"));
        }
        assert_eq!(deep(40, "(", ":9)"), WEIGHT_MOST);
        assert_eq!(weight(&format!("(a:-{})", "9".repeat(400))), -WEIGHT_MOST);
    }
}
