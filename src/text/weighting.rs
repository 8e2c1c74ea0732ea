//! What weights do to a text encoder's hidden states.

use super::prompt::{self, Piece};
use crate::{Error, Field, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How the weights of a prompt are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Weighting {
    /// States times weights, then the chunk is scaled to the mean it had
    /// (AUTOMATIC1111's "Original").
    #[default]
    #[serde(rename = "default")]
    A1111,
    /// States times weights (AUTOMATIC1111's "No norm").
    #[serde(rename = "no-norm")]
    NoNorm,
    /// States move away from, or towards, those of the empty prompt (ComfyUI).
    #[serde(rename = "comfy")]
    Comfy,
    /// Brackets, `BREAK`, `AND` and `[a:b:0.5]` are text.
    #[serde(rename = "off")]
    Off,
}

impl Weighting {
    const ALL: [Self; 4] = [Self::A1111, Self::NoNorm, Self::Comfy, Self::Off];

    /// The name that [`FromStr`] reads.
    pub fn name(self) -> &'static str {
        match self {
            Weighting::A1111 => "default",
            Weighting::NoNorm => "no-norm",
            Weighting::Comfy => "comfy",
            Weighting::Off => "off",
        }
    }

    /// AUTOMATIC1111's name of it ("Emphasis"); none of ComfyUI's.
    pub fn emphasis(self) -> Option<&'static str> {
        match self {
            Weighting::A1111 => Some("Original"),
            Weighting::NoNorm => Some("No norm"),
            Weighting::Off => Some("None"),
            Weighting::Comfy => None,
        }
    }

    /// What AUTOMATIC1111's name stands for; none for "Ignore", which drops weights.
    pub fn of_emphasis(name: &str) -> Option<Self> {
        let means = |mode: &Self| {
            let own = mode.emphasis();
            own.is_some_and(|own| own.eq_ignore_ascii_case(name.trim()))
        };
        Self::ALL.into_iter().find(means)
    }

    /// The pieces of `prompt`.
    pub fn parse(self, prompt: &str) -> Vec<Piece> {
        match self {
            Weighting::Off => vec![Piece::plain(prompt)],
            _ => prompt::parse(prompt),
        }
    }

    /// Whether [`weigh`] needs the empty prompt's states for `weights`.
    pub fn needs_empty(self, weights: &[f32]) -> bool {
        self == Weighting::Comfy && !all_one(weights)
    }
}

impl fmt::Display for Weighting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Weighting {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|mode| mode.name().eq_ignore_ascii_case(text))
            .ok_or_else(|| {
                let allowed = "choose one of default, no-norm, comfy, off";
                Error::invalid(Field::PromptWeighting, format!("{text:?}"), allowed)
            })
    }
}

/// Applies `weights`, one a token, to one chunk's states of one encoder,
/// `[tokens, width]`: the penultimate layer's, before encoders are joined.
/// `empty` are the states of the empty prompt, of the same shape; only
/// [`Weighting::Comfy`] reads them. Weights that are all 1 change nothing.
///
/// An error where the lengths do not fit or `empty` is needed and not there.
pub fn weigh(
    states: &mut [f32],
    weights: &[f32],
    mode: Weighting,
    empty: Option<&[f32]>,
) -> Result<()> {
    if all_one(weights) || mode == Weighting::Off {
        return Ok(());
    }
    let width = states.len() / weights.len().max(1);
    if width * weights.len() != states.len() {
        let allowed = format!("must be a multiple of the {} weights", weights.len());
        return Err(Error::invalid("number of states", states.len(), allowed));
    }
    match mode {
        Weighting::Off => {}
        Weighting::NoNorm => multiply(states, weights, width),
        Weighting::A1111 => {
            let before = mean(states);
            multiply(states, weights, width);
            // In f32, as the reference divides them. Nothing can be scaled to or
            // from a mean of zero, or of too large numbers.
            let after = mean(states);
            let ratio = before / after;
            if after.is_finite() && ratio.is_finite() {
                states.iter_mut().for_each(|x| *x *= ratio);
            }
        }
        Weighting::Comfy => {
            let empty = empty.filter(|e| e.len() == states.len()).ok_or_else(|| {
                let allowed = format!("comfy weighting needs {}", states.len());
                let given = empty.map_or(0, <[f32]>::len);
                Error::invalid("number of the empty prompt's states", given, allowed)
            })?;
            move_from(states, weights, empty, width);
        }
    }
    Ok(())
}

fn all_one(weights: &[f32]) -> bool {
    weights.iter().all(|w| *w == 1.0)
}

fn multiply(states: &mut [f32], weights: &[f32], width: usize) {
    for (token, weight) in states.chunks_mut(width.max(1)).zip(weights) {
        token.iter_mut().for_each(|x| *x *= weight);
    }
}

/// e + (z - e) w, where the weight is not 1.
fn move_from(states: &mut [f32], weights: &[f32], empty: &[f32], width: usize) {
    let width = width.max(1);
    let rows = states.chunks_mut(width).zip(empty.chunks(width));
    for ((token, empty), weight) in rows.zip(weights) {
        if *weight != 1.0 {
            let pairs = token.iter_mut().zip(empty);
            pairs.for_each(|(z, e)| *z = (*z - e) * weight + e);
        }
    }
}

/// Summed in f64, so that the order does not matter, and rounded to f32.
fn mean(states: &[f32]) -> f32 {
    let sum: f64 = states.iter().copied().map(f64::from).sum();
    (sum / states.len().max(1) as f64) as f32
}

#[cfg(test)]
mod tests {
    use super::{Weighting, weigh};
    use crate::text::{Piece, parse};

    #[test]
    fn a_mean_of_nothing_is_left_alone() {
        for weights in [[0.0, 0.0], [1.0, -1.0]] {
            let mut states = [1.0, 2.0, 2.0, 1.0];
            weigh(&mut states, &weights, Weighting::A1111, None).unwrap();
            let want: Vec<f32> = [1.0, 2.0, 2.0, 1.0]
                .iter()
                .zip([weights[0], weights[0], weights[1], weights[1]])
                .map(|(x, w): (&f32, f32)| x * w)
                .collect();
            assert_eq!(states[..], want[..]);
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let mut states = vec![1.0; 6];
        let message = |result: crate::Result<()>| result.unwrap_err().to_string();
        let comfy = message(weigh(&mut states, &[2.0; 3], Weighting::Comfy, None));
        assert!(comfy.contains("empty prompt"), "{comfy}");
        let lengths = message(weigh(&mut states, &[2.0; 4], Weighting::A1111, None));
        assert!(lengths.contains("4 weights"), "{lengths}");
        let unknown = "nonorm".parse::<Weighting>().unwrap_err().to_string();
        let wanted = "prompt_weighting is \"nonorm\": choose one of default, no-norm";
        assert!(unknown.starts_with(wanted), "{unknown}");
        assert_eq!("No-Norm".parse::<Weighting>().unwrap(), Weighting::NoNorm);
    }

    #[test]
    fn off_takes_brackets_as_text() {
        let prompt = r"(a:1.3) \[b\] BREAK c";
        assert_eq!(Weighting::Off.parse(prompt), [Piece::plain(prompt)]);
        assert_eq!(Weighting::Comfy.parse("(a)"), parse("(a)"));
    }
}
