//! What samples say: median, quartiles, drift, and whether two sets of them differ.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use statrs::statistics::{Data, OrderStatistics};

/// Spread or drift beyond which a figure is called noisy.
pub const NOISY: f64 = 0.05;

/// Sets of samples that a bootstrap draws.
const RESAMPLES: usize = 4000;

/// Probability that an interval of a ratio holds the true one.
pub const CONFIDENCE: f64 = 0.99;

/// The distribution of a row's samples, in their unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    pub median: f64,
    /// First and third quartile.
    pub quartiles: [f64; 2],
    pub least: f64,
    pub most: f64,
    /// Half the distance of the quartiles, as a share of the median.
    pub spread: f64,
    /// Median of the second half of the samples in the order of time against that of the
    /// first half, less 1: heat, or a clock that fell.
    pub drift: f64,
}

/// The quantile at `at` (0 to 1) by Hyndman and Fan's eighth definition, as statrs has it;
/// of nothing, NaN.
pub fn quantile(samples: &[f64], at: f64) -> f64 {
    let data = &mut Data::new(samples.to_vec());
    data.quantile(at)
}

/// As [`quantile`] at a half.
pub fn median(samples: &[f64]) -> f64 {
    let data = &mut Data::new(samples.to_vec());
    data.median()
}

impl Summary {
    /// Of samples in the order in which they were taken; `None` of none.
    pub fn of(samples: &[f64]) -> Option<Self> {
        if samples.is_empty() {
            return None;
        }
        let middle = median(samples);
        let quartiles = [0.25, 0.75].map(|at| quantile(samples, at));
        let (first, second) = samples.split_at(samples.len() / 2);
        let drift = match first {
            [] => 0.0,
            _ => median(second) / median(first) - 1.0,
        };
        let spread = (quartiles[1] - quartiles[0]) / 2.0 / middle;
        let finite = |x: f64| if x.is_finite() { x } else { 0.0 };
        Some(Self {
            median: middle,
            quartiles,
            least: samples.iter().copied().fold(f64::INFINITY, f64::min),
            most: samples.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            spread: finite(spread),
            drift: finite(drift),
        })
    }

    /// What should be said about the samples' noise, if anything.
    pub fn warning(&self) -> Option<String> {
        let percent = |x: f64| format!("{:.0} %", 100.0 * x);
        match (self.spread > NOISY, self.drift.abs() > NOISY) {
            (false, false) => None,
            (true, false) => Some(format!("spread {}", percent(self.spread))),
            (false, true) => Some(format!("drift {}", percent(self.drift))),
            (true, true) => Some(format!(
                "spread {}, drift {}",
                percent(self.spread),
                percent(self.drift)
            )),
        }
    }
}

/// How many times the time of A something takes, B's against A's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Ratio {
    /// B / A; above 1, B is slower.
    pub ratio: f64,
    /// Holds the true ratio with the probability [`CONFIDENCE`].
    pub interval: [f64; 2],
    /// Of a difference as large as this where there is none (two-sided, by bootstrap).
    pub p: f64,
}

/// What a [`Ratio`] comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Faster,
    Same,
    Slower,
}

impl Ratio {
    /// From samples that were taken at different times: the ratio of their medians.
    /// Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    pub fn of_sets(a: &[f64], b: &[f64]) -> Option<Self> {
        if a.is_empty() || b.is_empty() {
            return None;
        }
        let mut random = StdRng::seed_from_u64(1);
        let mut draw = |samples: &[f64]| {
            let set = (0..samples.len()).map(|_| samples[random.random_range(0..samples.len())]);
            median(&set.collect::<Vec<f64>>())
        };
        let logs = (0..RESAMPLES).map(|_| (draw(b) / draw(a)).ln()).collect();
        Some(Self::from_logs((median(b) / median(a)).ln(), logs))
    }

    /// From ratios of neighbours in time, in blocks with their own buffers: where a buffer
    /// lies changes a time for as long as it lies there, so that blocks are what is drawn.
    pub fn of_blocks(blocks: &[Vec<f64>]) -> Option<Self> {
        let logs: Vec<f64> = blocks
            .iter()
            .filter(|pairs| !pairs.is_empty())
            .map(|pairs| median(pairs).ln())
            .collect();
        if logs.is_empty() {
            return None;
        }
        let mean = |set: &[f64]| set.iter().sum::<f64>() / set.len() as f64;
        let centre = mean(&logs);
        let mut random = StdRng::seed_from_u64(1);
        // A bootstrap's spread is too small by this factor for few blocks.
        let wider = (logs.len() as f64 / (logs.len() as f64 - 1.0).max(0.5)).sqrt();
        let means = (0..RESAMPLES).map(|_| {
            let set: Vec<f64> = (0..logs.len())
                .map(|_| logs[random.random_range(0..logs.len())])
                .collect();
            centre + wider * (mean(&set) - centre)
        });
        Some(Self::from_logs(centre, means.collect()))
    }

    fn from_logs(centre: f64, logs: Vec<f64>) -> Self {
        let beyond = logs.iter().filter(|x| **x <= 0.0).count() as f64 / logs.len() as f64;
        let least = 1.0 / logs.len() as f64;
        let tail = (1.0 - CONFIDENCE) / 2.0;
        Self {
            ratio: centre.exp(),
            interval: [tail, 1.0 - tail].map(|at| quantile(&logs, at).exp()),
            p: (2.0 * beyond.min(1.0 - beyond)).clamp(least, 1.0),
        }
    }

    /// Whether B differs from A by more than `share` (0.05 are 5 %), as far as the
    /// interval tells.
    pub fn verdict(&self, share: f64) -> Verdict {
        match self.interval {
            [low, _] if low > 1.0 + share => Verdict::Slower,
            [_, high] if high < 1.0 / (1.0 + share) => Verdict::Faster,
            _ => Verdict::Same,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64, count: usize, around: f64) -> Vec<f64> {
        let mut random = StdRng::seed_from_u64(seed);
        let value = |_| around * (1.0 + 0.04 * (random.random::<f64>() - 0.5));
        (0..count).map(value).collect()
    }

    #[test]
    fn a_summary_has_quartiles_spread_and_drift() {
        let s = Summary::of(&[4.0, 1.0, 3.0, 2.0, 5.0]).unwrap();
        assert_eq!((s.median, s.least, s.most), (3.0, 1.0, 5.0));
        assert!(s.quartiles[0] < 2.01 && s.quartiles[1] > 3.99, "{s:?}");
        let warming: Vec<f64> = (0..10).map(|i| 1.0 + 0.02 * f64::from(i)).collect();
        let s = Summary::of(&warming).unwrap();
        assert!((0.08..0.11).contains(&s.drift), "{s:?}");
        assert!(s.warning().unwrap().contains("drift"));
        assert_eq!(Summary::of(&[2.0; 5]).unwrap().warning(), None);
        assert_eq!(Summary::of(&[7.0]).unwrap().median, 7.0);
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn a_difference_is_found_and_equals_are_not_called_different() {
        let mut wrong = 0;
        for seed in 0..40 {
            let (a, b) = (noise(seed, 20, 1.0), noise(seed + 1000, 20, 1.0));
            wrong += usize::from(Ratio::of_sets(&a, &b).unwrap().verdict(0.0) != Verdict::Same);
            let slow = noise(seed + 2000, 20, 1.1);
            let found = Ratio::of_sets(&a, &slow).unwrap();
            assert_eq!(found.verdict(0.0), Verdict::Slower, "{found:?}");
            assert_eq!(found.verdict(0.2), Verdict::Same, "{found:?}");
            assert!(
                found.p < 0.05 && (found.ratio - 1.1).abs() < 0.02,
                "{found:?}"
            );
            let back = Ratio::of_sets(&slow, &a).unwrap();
            assert_eq!(back.verdict(0.0), Verdict::Faster, "{back:?}");
        }
        assert!(wrong <= 2, "{wrong} of 40 pairs of equals differ");
    }

    /// Every block is off by up to 3 % in all of its pairs, as buffers make it.
    #[test]
    fn blocks_that_are_off_as_a_whole_are_no_difference() {
        let block = |seed: u64, by: f64| -> Vec<f64> {
            let off = noise(seed, 1, by)[0];
            vec![off * 1.0005, off, off * 0.9995]
        };
        let mut wrong = 0;
        for seed in 0..40 {
            let blocks = |by: f64| {
                (0..12)
                    .map(|i| block(100 * seed + i, by))
                    .collect::<Vec<_>>()
            };
            let same = Ratio::of_blocks(&blocks(1.0)).unwrap();
            wrong += usize::from(same.verdict(0.0) != Verdict::Same);
            let slow = Ratio::of_blocks(&blocks(1.1)).unwrap();
            assert_eq!(slow.verdict(0.0), Verdict::Slower, "{slow:?}");
        }
        assert!(wrong <= 2, "{wrong} of 40 pairs of equals differ");
    }
}
