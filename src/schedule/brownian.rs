//! Brownian motion whose value at a time does not depend on which times were asked
//! for before: the `BrownianInterval` of torchsde, as diffusers uses it.

use super::noise::{NoiseGenerator, TorchCpuGenerator};

/// Times are rounded to this many digits after the point.
const DIGITS: usize = 6;
/// Words of the entropy pool of each node's seeds.
const POOL: usize = 24;

/// Draws the increments of one Brownian motion from time to time, each divided by
/// the root of the time that passes.
///
/// The motion's end is drawn first, and then the middles of halves (Li et al. 2020,
/// section 4), every one from a seed of its own that numpy's `SeedSequence` finds from
/// the seed and the node's place. Equal to torchsde within the rounding of its sums.
#[derive(Debug, Clone)]
pub struct BrownianTree {
    seed: u64,
    range: (f32, f32),
    /// Where the motion goes, from the second time on.
    times: std::vec::IntoIter<f32>,
    now: f32,
    /// The motion's value now, for a tensor of this length.
    value: Option<Vec<f64>>,
}

impl BrownianTree {
    /// A motion between the times `range`, the lower one first, that goes through
    /// `times` in their order. After the last of them, draws are zeros.
    pub fn new(seed: u64, range: (f32, f32), times: Vec<f32>) -> Self {
        let mut times = times.into_iter();
        BrownianTree {
            seed,
            range,
            now: times.next().unwrap_or(range.0),
            times,
            value: None,
        }
    }

    /// The motion since `range.0`, for a tensor of `n` elements.
    fn at(&self, time: f32, n: usize) -> Vec<f64> {
        let (from, to) = (f64::from(self.range.0), f64::from(self.range.1));
        let (mut start, mut end) = (round(from), round(to));
        let time = round(f64::from(time).clamp(start, end.max(start)));
        let mut base = vec![0.0; n];
        let mut across = normals(seed_of(self.seed, None), n);
        scale(&mut across, (to - from).max(0.0).sqrt());
        let (mut place, mut depth) = (0u64, 0u64);
        while time > start && time < end {
            let middle = round(0.5 * (start + end));
            let (left, right) = (middle - start, end - middle);
            let noise = normals(seed_of(self.seed, Some((place, depth))), n);
            let (mean, deviation) = (left / (end - start), (left * right / (end - start)).sqrt());
            let goes_left = time <= middle;
            for ((across, base), noise) in across.iter_mut().zip(&mut base).zip(noise) {
                let half = mean * *across + deviation * noise;
                match goes_left {
                    true => *across = half,
                    false => {
                        *base += half;
                        *across -= half;
                    }
                }
            }
            match goes_left {
                true => end = middle,
                false => start = middle,
            }
            place = 2 * place + u64::from(!goes_left);
            depth += 1;
        }
        if time >= end {
            base.iter_mut().zip(across).for_each(|(b, a)| *b += a);
        }
        base
    }
}

impl NoiseGenerator for BrownianTree {
    fn randn(&mut self, n: usize) -> Vec<f32> {
        let Some(next) = self.times.next() else {
            return vec![0.0; n];
        };
        let before = match self.value.take() {
            Some(value) if value.len() == n => value,
            _ => self.at(self.now, n),
        };
        let after = self.at(next, n);
        let passed = f64::from((next - self.now).abs()).sqrt();
        let scale = if passed > 0.0 { 1.0 / passed } else { 0.0 };
        let draw = before
            .iter()
            .zip(&after)
            .map(|(before, after)| ((after - before) * scale) as f32)
            .collect();
        self.now = next;
        self.value = Some(after);
        draw
    }
}

/// Python's `round(x, 6)`: the nearest number with so many digits.
fn round(x: f64) -> f64 {
    format!("{x:.DIGITS$}").parse().unwrap_or(x)
}

fn normals(seed: u32, n: usize) -> Vec<f64> {
    let values = TorchCpuGenerator::new(u64::from(seed)).randn(n);
    values.into_iter().map(f64::from).collect()
}

fn scale(values: &mut [f64], factor: f64) {
    values.iter_mut().for_each(|x| *x *= factor);
}

/// The first word of numpy's `SeedSequence(seed, spawn_key=node, pool_size=24)`
/// (O'Neill 2015, "Developing a seed_seq alternative").
fn seed_of(seed: u64, node: Option<(u64, u64)>) -> u32 {
    let mut entropy = words(seed);
    if let Some((place, depth)) = node {
        entropy.resize(POOL.max(entropy.len()), 0);
        entropy.extend(words(place));
        entropy.extend(words(depth));
    }
    let mut hash = Hash(0x43b0_d7e5);
    let mut pool: Vec<u32> = (0..POOL)
        .map(|i| hash.of(entropy.get(i).copied().unwrap_or(0)))
        .collect();
    for from in 0..POOL {
        for to in (0..POOL).filter(|to| *to != from) {
            pool[to] = mix(pool[to], hash.of(pool[from]));
        }
    }
    for word in entropy.iter().skip(POOL) {
        for to in &mut pool {
            *to = mix(*to, hash.of(*word));
        }
    }
    const FIRST: u32 = 0x8b51_f9dd;
    let word = (pool[0] ^ FIRST).wrapping_mul(FIRST.wrapping_mul(0x58f3_8ded));
    word ^ (word >> 16)
}

/// A number as words, the lowest first; zero has one.
fn words(number: u64) -> Vec<u32> {
    match number >> 32 {
        0 => vec![number as u32],
        high => vec![number as u32, high as u32],
    }
}

struct Hash(u32);

impl Hash {
    fn of(&mut self, word: u32) -> u32 {
        let word = word ^ self.0;
        self.0 = self.0.wrapping_mul(0x931e_8875);
        let word = word.wrapping_mul(self.0);
        word ^ (word >> 16)
    }
}

fn mix(x: u32, y: u32) -> u32 {
    let word = x
        .wrapping_mul(0xca01_f9dd)
        .wrapping_sub(y.wrapping_mul(0x4973_f715));
    word ^ (word >> 16)
}
