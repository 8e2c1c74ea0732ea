//! Random numbers from a seed.

/// Values that a large operand repeats: a prime, so that no row is like another.
const PERIOD: usize = 1_048_573;

/// Numbers from a seed (splitmix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` to `high`, small numbers more often.
    pub fn size(&mut self, low: usize, high: usize) -> usize {
        let unit = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        low + (unit * unit * (high - low + 1) as f64) as usize
    }

    pub fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    /// `count` values between -1 and 1, none of them 0.
    pub fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count)
            .map(|_| (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0)
            .map(|v| if v == 0.0 { 0.5 } else { v })
            .collect()
    }

    /// [`Self::values`] that repeat after [`PERIOD`] ones, for operands of any size.
    pub fn numbers(&mut self, count: usize) -> Numbers {
        Numbers {
            block: self.values(count.clamp(1, PERIOD)),
            count,
        }
    }
}

/// Values of an operand by their places, in memory that does not grow with it.
#[derive(Debug, Clone)]
pub struct Numbers {
    block: Vec<f32>,
    count: usize,
}

impl Numbers {
    pub fn at(&self, i: usize) -> f32 {
        // A division would take most of the time.
        match self.block.get(i) {
            Some(value) => *value,
            None => self.block[i % self.block.len()],
        }
    }

    pub fn all(&self) -> Vec<f32> {
        (0..self.count).map(|i| self.at(i)).collect()
    }

    /// Each by `factor`.
    #[must_use]
    pub fn times(mut self, factor: f32) -> Self {
        self.block.iter_mut().for_each(|x| *x *= factor);
        self
    }

    /// As `storage` holds them.
    #[must_use]
    pub fn rounded(&self, storage: crate::kernel::Storage) -> Self {
        Self {
            block: storage.decode(&storage.encode(&self.block)),
            count: self.count,
        }
    }
}

/// Given values.
impl From<Vec<f32>> for Numbers {
    fn from(block: Vec<f32>) -> Self {
        let count = block.len();
        Self { block, count }
    }
}
