//! What a request costs.

use crate::pipeline::{Refinement, Request};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// The price of a request, in credits:
///
/// `max(minimum, ⌈samples · (picture + step · steps · pixels / native pixels) · r + chunk ·
/// chunks + input · megapixels⌉)`
///
/// where `r` is `refiner` if the refiner takes part, and 1 if not; `chunks` are the 300
/// bytes of prompts (about 75 tokens) after the first 1200, begun ones whole; and
/// `megapixels` are those of the picture and the mask that are sent, after the first 8.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Price {
    /// For every picture, whatever its steps.
    pub picture: f64,
    /// For every step of a picture of the model's native size.
    pub step: f64,
    /// Factor where the refiner takes part.
    pub refiner: f64,
    /// For every further chunk of the prompts.
    pub chunk: f64,
    /// For every further megapixel of the picture and the mask that are sent.
    pub input: f64,
    /// At least so much a request.
    pub minimum: i64,
}

/// What a request brings that is work before its first step.
#[derive(Debug, Clone, Copy, Default)]
pub struct Inputs {
    /// Bytes of all its prompts.
    pub prompt_bytes: usize,
    /// Pixels of its picture and mask.
    pub pixels: usize,
}

impl Default for Price {
    fn default() -> Self {
        Self {
            picture: 0.0,
            step: 0.04,
            refiner: 1.25,
            chunk: 0.04,
            input: 0.02,
            minimum: 1,
        }
    }
}

impl Price {
    /// Refuses prices below zero and above what the books hold.
    pub fn check(&self) -> Result<()> {
        const MOST: f64 = 1e6;
        for (field, value) in [
            ("price.picture", self.picture),
            ("price.step", self.step),
            ("price.refiner", self.refiner),
            ("price.chunk", self.chunk),
            ("price.input", self.input),
            ("price.minimum", self.minimum as f64),
        ] {
            if !(0.0..=MOST).contains(&value) {
                return Err(Error::invalid(
                    field,
                    value,
                    format!("must be from 0 to {MOST}"),
                ));
            }
        }
        Ok(())
    }

    /// Credits for `request`, which brings `inputs`, on a model of `native` width and
    /// height.
    pub fn of(&self, request: &Request, inputs: Inputs, native: (usize, usize)) -> i64 {
        /// What a usual request brings is in the price of its steps.
        const FREE_BYTES: usize = 1200;
        const FREE_PIXELS: usize = 8_000_000;
        const CHUNK: usize = 300;
        /// A price that is whole but for rounding is not raised.
        const ROUNDING: f64 = 1e-9;
        let pixels = (request.width * request.height) as f64;
        let share = pixels / (native.0 * native.1) as f64;
        let refined = match request.refinement {
            Refinement::None => false,
            Refinement::Ensemble {
                high_noise_fraction,
            } => high_noise_fraction < 1.0,
            Refinement::SecondPass { .. } => true,
        };
        let factor = if refined { self.refiner } else { 1.0 };
        let one = self.picture + self.step * request.steps as f64 * share;
        let chunks = inputs
            .prompt_bytes
            .saturating_sub(FREE_BYTES)
            .div_ceil(CHUNK);
        let megapixels = inputs.pixels.saturating_sub(FREE_PIXELS) as f64 / 1e6;
        let all = request.samples as f64 * one * factor
            + self.chunk * chunks as f64
            + self.input * megapixels;
        ((all - ROUNDING).ceil() as i64).max(self.minimum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::work::Prepared;

    #[test]
    fn long_prompts_and_large_pictures_cost_more() {
        let request = Prepared::for_test().request;
        let of = |prompt_bytes, pixels| {
            let inputs = Inputs {
                prompt_bytes,
                pixels,
            };
            Price::default().of(&request, inputs, (128, 128))
        };
        assert_eq!([of(0, 0), of(1200, 8_000_000)], [1, 1]);
        assert_eq!([of(1201, 0), of(16_384, 0), of(0, 60_000_000)], [2, 4, 3]);
    }

    #[test]
    fn a_price_follows_samples_steps_size_and_refiner() {
        let native = (128, 128);
        let mut request = Prepared::for_test().request;
        let price = Price::default();
        assert_eq!(
            (request.steps, price.of(&request, Inputs::default(), native)),
            (25, 1)
        );
        request.samples = 4;
        assert_eq!(price.of(&request, Inputs::default(), native), 4);
        request.width = 256;
        assert_eq!(price.of(&request, Inputs::default(), native), 8);
        request.refinement = Refinement::Ensemble {
            high_noise_fraction: 0.8,
        };
        assert_eq!(price.of(&request, Inputs::default(), native), 10);
        request.refinement = Refinement::Ensemble {
            high_noise_fraction: 1.0,
        };
        request.steps = 1;
        request.samples = 1;
        assert_eq!(price.of(&request, Inputs::default(), native), 1);
    }

    #[test]
    fn prices_are_checked() {
        for step in [-1.0, f64::NAN, f64::INFINITY] {
            let price = Price {
                step,
                ..Default::default()
            };
            assert!(price.check().is_err(), "{step}");
        }
    }
}
