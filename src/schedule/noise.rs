//! Standard normal noise, number for number as PyTorch draws it on the CPU.

use std::f32::consts::PI;

/// A source of standard normal numbers that goes on from where it stopped.
pub trait NoiseGenerator: Send {
    /// The next `n` numbers. Tensors are drawn in row-major order, `[N, C, H, W]`.
    fn randn(&mut self, n: usize) -> Vec<f32>;
}

/// `torch.Generator("cpu")` and `torch.randn` in float32.
///
/// Source: PyTorch, `aten/src/ATen/native/cpu/DistributionTemplates.h` and
/// `aten/src/ATen/core/DistributionsHelper.h`. Equal to PyTorch 2 within 1e-6:
/// its vectorised logarithm and cosine differ in the last bits.
#[derive(Debug, Clone)]
pub struct TorchCpuGenerator {
    engine: Mt19937,
    /// The second number of the last pair that a short draw made. Long draws
    /// neither use nor clear it.
    cached: Option<f64>,
}

/// Draws this long or longer go by blocks of this many numbers.
const BLOCK: usize = 16;

impl TorchCpuGenerator {
    /// Seeds as `manual_seed` does: only the low 32 bits count.
    pub fn new(seed: u64) -> Self {
        TorchCpuGenerator {
            engine: Mt19937::new(seed as u32),
            cached: None,
        }
    }

    /// 24 random bits in `[0, 1)`.
    fn uniform_f32(&mut self) -> f32 {
        (self.engine.next_u32() & 0x00ff_ffff) as f32 * (1.0 / 16_777_216.0)
    }

    /// 53 random bits in `[0, 1)`, the first word being the higher one.
    fn uniform_f64(&mut self) -> f64 {
        let high = u64::from(self.engine.next_u32());
        let low = u64::from(self.engine.next_u32());
        ((high << 32 | low) & ((1 << 53) - 1)) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }

    /// One number of a short draw: Box-Muller in double precision, two at a time.
    fn normal_f64(&mut self) -> f64 {
        if let Some(second) = self.cached.take() {
            return second;
        }
        let (u1, u2) = (self.uniform_f64(), self.uniform_f64());
        let radius = (-2.0 * (-u2).ln_1p()).sqrt();
        let theta = 2.0 * std::f64::consts::PI * u1;
        self.cached = Some(radius * theta.sin());
        radius * theta.cos()
    }

    fn fill_uniform(&mut self, values: &mut [f32]) {
        values.iter_mut().for_each(|x| *x = self.uniform_f32());
    }
}

impl NoiseGenerator for TorchCpuGenerator {
    fn randn(&mut self, n: usize) -> Vec<f32> {
        if n < BLOCK {
            return (0..n).map(|_| self.normal_f64() as f32).collect();
        }
        let mut values = vec![0.0; n];
        self.fill_uniform(&mut values);
        values.chunks_exact_mut(BLOCK).for_each(box_muller);
        if !n.is_multiple_of(BLOCK) {
            let tail = &mut values[n - BLOCK..];
            self.fill_uniform(tail);
            box_muller(tail);
        }
        values
    }
}

/// Turns 16 uniforms into 16 normals: element `j` is the radius and `j + 8` the
/// angle of the pair that replaces them.
fn box_muller(block: &mut [f32]) {
    let (radii, angles) = block.split_at_mut(BLOCK / 2);
    for (x, y) in radii.iter_mut().zip(angles) {
        // The inputs are rounded to f32 where PyTorch rounds them; the functions
        // are taken in f64, so that every libm gives the same picture.
        let radius = (-2.0 * (f64::from(1.0 - *x).ln() as f32)).sqrt();
        let theta = f64::from(2.0 * PI * *y);
        *x = radius * theta.cos() as f32;
        *y = radius * theta.sin() as f32;
    }
}

/// The Mersenne Twister of Matsumoto and Nishimura (1998), `init_genrand`.
#[derive(Debug, Clone)]
struct Mt19937 {
    state: Box<[u32; Self::N]>,
    next: usize,
}

impl Mt19937 {
    const N: usize = 624;
    const M: usize = 397;

    fn new(seed: u32) -> Self {
        let mut state = Box::new([seed; Self::N]);
        for i in 1..Self::N {
            let previous = state[i - 1];
            state[i] = 1_812_433_253u32
                .wrapping_mul(previous ^ (previous >> 30))
                .wrapping_add(i as u32);
        }
        Mt19937 {
            state,
            next: Self::N,
        }
    }

    fn refill(&mut self) {
        for i in 0..Self::N {
            let word =
                (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % Self::N] & 0x7fff_ffff);
            let twist = if word & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + Self::M) % Self::N] ^ (word >> 1) ^ twist;
        }
        self.next = 0;
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == Self::N {
            self.refill();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }
}
