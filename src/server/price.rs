//! What a request costs.

use crate::pipeline::{Refinement, Request};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// The price of a request, in credits:
///
/// `max(minimum, ⌈samples · (picture + step · steps · pixels / native pixels) · r⌉)`
///
/// where `r` is `refiner` if the refiner takes part, and 1 if not.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Price {
    /// For every picture, whatever its steps.
    pub picture: f64,
    /// For every step of a picture of the model's native size.
    pub step: f64,
    /// Factor where the refiner takes part.
    pub refiner: f64,
    /// At least so much a request.
    pub minimum: i64,
}

impl Default for Price {
    fn default() -> Self {
        Self {
            picture: 0.0,
            step: 0.04,
            refiner: 1.25,
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

    /// Credits for `request` on a model of `native` width and height.
    pub fn of(&self, request: &Request, native: (usize, usize)) -> i64 {
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
        let all = request.samples as f64 * one * factor;
        ((all - ROUNDING).ceil() as i64).max(self.minimum)
    }
}

#[cfg(test)]
mod tests {
    use super::super::order::Prepared;
    use super::*;

    #[test]
    fn a_price_follows_samples_steps_size_and_refiner() {
        let native = (128, 128);
        let mut request = Prepared::for_test().request;
        let price = Price::default();
        assert_eq!((request.steps, price.of(&request, native)), (25, 1));
        request.samples = 4;
        assert_eq!(price.of(&request, native), 4);
        request.width = 256;
        assert_eq!(price.of(&request, native), 8);
        request.refinement = Refinement::Ensemble {
            high_noise_fraction: 0.8,
        };
        assert_eq!(price.of(&request, native), 10);
        request.refinement = Refinement::Ensemble {
            high_noise_fraction: 1.0,
        };
        request.steps = 1;
        request.samples = 1;
        assert_eq!(price.of(&request, native), 1);
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
