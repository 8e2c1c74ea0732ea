//! Two ways to do the same, in turn on the same device, so that drift cancels: which is
//! faster?

use super::compare::Compared;
use super::measure::{Manner, Plan, Timed};
use super::statistics::{Ratio, median};
use crate::{Error, Result};
use std::time::{Duration, Instant};

/// Times that both are put on the device, in other buffers: where a buffer lies changes a
/// time for as long as it lies there.
const BLOCKS: usize = 16;

/// Blocks at the least, whatever the time.
const LEAST_BLOCKS: usize = 8;

/// Pairs of samples in a block.
const PAIRS: usize = 5;

/// Compares `b` with `a` in as many blocks as `time` allows, from 8 to 16. A verdict
/// needs a difference of more than `share`.
///
/// # Errors
/// What goes wrong on the device; [`Error::Cancelled`].
pub fn compare(
    [a, b]: [&Plan<'_>; 2],
    [manner_a, manner_b]: [Manner; 2],
    share: f64,
    time: Duration,
    cancelled: &dyn Fn() -> bool,
) -> Result<Compared> {
    let start = Instant::now();
    let mut blocks: Vec<Vec<f64>> = Vec::new();
    let mut seconds: [Vec<f64>; 2] = Default::default();
    for block in 0..BLOCKS {
        if block >= LEAST_BLOCKS && start.elapsed() > time {
            break;
        }
        // Who comes first on the device changes hands as well.
        let (mut one, mut two) = match block % 2 {
            0 => {
                let one = (a.prepare)()?;
                (one, (b.prepare)()?)
            }
            _ => {
                let two = (b.prepare)()?;
                ((a.prepare)()?, two)
            }
        };
        let sample = |timed: &mut Box<dyn Timed + '_>, manner: Manner| match cancelled() {
            true => Err(Error::Cancelled),
            false => Ok(manner.of(timed.sample()?)),
        };
        sample(&mut one, manner_a)?;
        sample(&mut two, manner_b)?;
        let mut pairs = Vec::new();
        for pair in 0..PAIRS {
            let (x, y) = match (block + pair) % 2 {
                0 => {
                    let x = sample(&mut one, manner_a)?;
                    (x, sample(&mut two, manner_b)?)
                }
                _ => {
                    let y = sample(&mut two, manner_b)?;
                    (sample(&mut one, manner_a)?, y)
                }
            };
            pairs.push(y / x);
            seconds[0].push(x);
            seconds[1].push(y);
        }
        blocks.push(pairs);
    }
    let ratio = Ratio::of_blocks(&blocks);
    let ratio = ratio.ok_or_else(|| Error::internal("bench ab", "no samples"))?;
    Ok(Compared {
        subject: a.subject.label(),
        medians: seconds.each_ref().map(|all| median(all)),
        ratio,
        verdict: ratio.verdict(share),
    })
}
