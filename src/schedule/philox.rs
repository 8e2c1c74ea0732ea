//! Standard normal noise as PyTorch draws it on CUDA.

use super::noise::NoiseGenerator;
use std::f64::consts::TAU;

/// `torch.Generator("cuda")` and `torch.randn` in float32, the way AUTOMATIC1111's
/// web UI draws it without a CUDA device.
///
/// Philox4x32-10 (Salmon et al. 2011) with the seed as key; element `i` of draw `d`
/// has the counter `(d, 0, i, 0)`, and its first two words make one normal number by
/// Box-Muller. On real devices a tensor longer than the launch of their kernel
/// is drawn in another order.
#[derive(Debug, Clone)]
pub struct PhiloxGenerator {
    key: [u32; 2],
    draws: u32,
}

impl PhiloxGenerator {
    /// Seeds as `manual_seed` does: all 64 bits count.
    pub fn new(seed: u64) -> Self {
        PhiloxGenerator {
            key: [seed as u32, (seed >> 32) as u32],
            draws: 0,
        }
    }
}

impl NoiseGenerator for PhiloxGenerator {
    fn randn(&mut self, n: usize) -> Vec<f32> {
        let draw = self.draws;
        self.draws = self.draws.wrapping_add(1);
        (0..n)
            .map(|i| {
                let [x, y, ..] = philox([draw, 0, i as u32, 0], self.key);
                box_muller(x, y)
            })
            .collect()
    }
}

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    let wide = |word: u32, factor: u64| {
        let product = u64::from(word) * factor;
        ((product >> 32) as u32, product as u32)
    };
    for _ in 0..10 {
        let (high0, low0) = wide(counter[0], 0xd251_1f53);
        let (high1, low1) = wide(counter[2], 0xcd9e_8d57);
        counter = [
            high1 ^ counter[1] ^ key[0],
            low1,
            high0 ^ counter[3] ^ key[1],
            low0,
        ];
        key[0] = key[0].wrapping_add(0x9e37_79b9);
        key[1] = key[1].wrapping_add(0xbb67_ae85);
    }
    counter
}

/// The sine of the pair, from the middles of the words' intervals, with the constants
/// that cuRAND rounds to f32.
fn box_muller(x: u32, y: u32) -> f32 {
    const STEP: f64 = 1.0 / 4_294_967_296.0;
    const TURN: f64 = (TAU as f32) as f64 * STEP;
    let u = f64::from(x) * STEP + STEP / 2.0;
    let v = f64::from(y) * TURN + TURN / 2.0;
    ((-2.0 * u.ln()).sqrt() * v.sin()) as f32
}
