//! The product with cooperative matrices: candidates, exact reference, timing.

use crate::device::{Device, Job, Kernel};
use anyhow::Result;
use half::f16;

/// A variant of product.wgsl.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Variant {
    /// Sides of a matrix.
    pub f: u32,
    pub lanes: u32,
    pub bm: u32,
    pub bn: u32,
    pub bk: u32,
    /// Subgroups along rows and columns.
    pub wm: u32,
    pub wn: u32,
    pub stages: u32,
    /// Scalar arrays in shared memory.
    pub flat: bool,
}

impl Variant {
    pub const fn new(bm: u32, bn: u32, bk: u32, wm: u32, wn: u32) -> Self {
        Self {
            f: 16,
            lanes: 32,
            bm,
            bn,
            bk,
            wm,
            wn,
            stages: 1,
            flat: false,
        }
    }

    pub fn label(&self) -> String {
        let extra = [(self.stages == 2, " two"), (self.flat, " flat")];
        let extra: String = extra.iter().filter(|e| e.0).map(|e| e.1).collect();
        format!(
            "{}x{}x{} {}x{}{extra}",
            self.bm, self.bn, self.bk, self.wm, self.wn
        )
    }

    fn threads(&self) -> u32 {
        self.wm * self.wn * self.lanes
    }

    pub fn shared_bytes(&self) -> u32 {
        self.stages * (self.bm + self.bn) * (self.bk + 8) * 2 + self.wm * self.wn * 1024
    }

    pub fn valid(&self, device: &Device) -> bool {
        let t = self.threads();
        self.bm.is_multiple_of(16 * self.wm)
            && self.bn.is_multiple_of(16 * self.wn)
            && self.bk.is_multiple_of(self.f)
            && t <= 1024
            && (self.bm * self.bk / 8).is_multiple_of(t)
            && self.shared_bytes() <= device.shared
            && device.matrices.iter().any(|m| {
                (m.m_size, m.n_size, m.k_size) == (self.f, self.f, self.f)
                    && m.ab_type == wgpu::wgt::CooperativeScalarType::F16
                    && m.cr_type == wgpu::wgt::CooperativeScalarType::F32
            })
    }

    pub fn kernel(&self, device: &Device, gather: bool) -> Result<Kernel> {
        let t = self.threads();
        let (tm, tn) = (self.bm / self.wm, self.bn / self.wn);
        let element = if self.flat { 1 } else { 4 };
        let half = |rows: u32| rows * (self.bk + 8) / element;
        let mut defines = [
            ("F", self.f),
            ("LANES", self.lanes),
            ("BM", self.bm),
            ("BN", self.bn),
            ("BK", self.bk),
            ("WN", self.wn),
            ("T", t),
            ("TM", tm),
            ("TN", tn),
            ("BI", tm / 16),
            ("BJ", tn / 16),
            ("Q", 16 / self.f),
            ("KS", self.bk / self.f),
            ("AU", self.bm * self.bk / 8 / t),
            ("WU", (self.bn * self.bk / 8).div_ceil(t)),
            ("HA", half(self.bm)),
            ("HW", half(self.bn)),
            ("SA", self.stages * half(self.bm)),
            ("SW", self.stages * half(self.bn)),
            ("SPILL", self.wm * self.wn * 256 / element),
        ]
        .map(|(name, value)| (name, value.to_string()))
        .to_vec();
        let of = if self.flat { "f32" } else { "vec4<f32>" };
        defines.push(("SPILL_OF", of.into()));
        let flags = [
            ("F16", true),
            ("FLAT", self.flat),
            ("TWO", self.stages == 2),
            ("GATHER", gather),
        ];
        device.permutation(include_str!("product.wgsl"), &defines, &flags)
    }
}

/// What is multiplied: rows, columns, depth of a tap; with a side, 3x3 patches of square pictures.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub m: u32,
    pub n: u32,
    pub k: u32,
    pub side: Option<u32>,
}

impl Shape {
    pub const fn linear(m: u32, n: u32, k: u32) -> Self {
        Self {
            m,
            n,
            k,
            side: None,
        }
    }

    pub const fn conv(pictures: u32, side: u32, n: u32, k: u32) -> Self {
        Self {
            m: pictures * side * side,
            n,
            k,
            side: Some(side),
        }
    }

    pub fn taps(&self) -> u32 {
        if self.side.is_some() { 9 } else { 1 }
    }

    pub fn label(&self) -> String {
        let kind = if self.side.is_some() {
            "conv"
        } else {
            "linear"
        };
        format!("{kind} {}x{}x{}", self.m, self.n, self.k * self.taps())
    }

    pub fn flop(&self) -> f64 {
        2.0 * f64::from(self.m) * f64::from(self.n) * f64::from(self.k * self.taps())
    }

    /// The row of a that output row `row` multiplies with tap `tap`.
    fn source(&self, row: u32, tap: u32) -> Option<u32> {
        let Some(side) = self.side else {
            return Some(row);
        };
        let (picture, at) = (row / (side * side), row % (side * side));
        let (y, x) = (
            (at / side + tap / 3).checked_sub(1)?,
            (at % side + tap % 3).checked_sub(1)?,
        );
        (y < side && x < side).then(|| (picture * side + y) * side + x)
    }
}

/// Operands in device order, and the plain ones.
pub struct Operands {
    pub shape: Shape,
    a: Vec<f16>,
    w: Vec<f16>,
    bias: Vec<f32>,
}

/// Quarters between -1 and 1: with them every sum of a product is exact in f32.
fn quarters(count: usize, seed: u32) -> Vec<f16> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            let word = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737);
            f16::from_f32((((word >> 22) ^ word) % 9) as f32 / 4.0 - 1.0)
        })
        .collect()
}

impl Operands {
    pub fn new(shape: Shape, seed: u32) -> Self {
        let depth = (shape.k * shape.taps()) as usize;
        let columns = shape.n.next_multiple_of(64) as usize;
        Self {
            shape,
            a: quarters((shape.m * shape.k) as usize, seed),
            w: quarters(columns * depth, seed + 1),
            bias: quarters(columns, seed + 2)
                .into_iter()
                .map(f32::from)
                .collect(),
        }
    }

    fn weight(&self, k: u32, n: u32) -> f32 {
        let depth = self.shape.k * self.shape.taps();
        let at = ((n / 64 * (depth / 8) + k / 8) * 64 + n % 64) * 8 + k % 8;
        self.w[at as usize].to_f32()
    }

    /// Row `row` of the exact result, rounded to f16.
    pub fn row(&self, row: u32) -> Vec<f16> {
        let s = self.shape;
        let mut sums: Vec<f32> = self.bias[..s.n as usize].to_vec();
        for tap in 0..s.taps() {
            let Some(from) = s.source(row, tap) else {
                continue;
            };
            for k in 0..s.k {
                let x = self.a[(from * s.k + k) as usize].to_f32();
                for (n, sum) in sums.iter_mut().enumerate() {
                    *sum += x * self.weight(tap * s.k + k, n as u32);
                }
            }
        }
        sums.into_iter().map(f16::from_f32).collect()
    }

    /// Puts the operands on the device, the weights `copies` times. The result has
    /// `extra` rows behind it; all of it is poisoned.
    pub fn upload(&self, device: &Device, copies: usize, extra: u32) -> Bound {
        let s = self.shape;
        let mut bias = self.bias.clone();
        bias.resize(s.n as usize + 1024, 0.0);
        let poison = vec![f16::NAN; ((s.m + extra) * s.n) as usize];
        Bound {
            shape: s,
            a: device.buffer(bytemuck::cast_slice(&self.a)),
            w: (0..copies)
                .map(|_| device.buffer(bytemuck::cast_slice(&self.w)))
                .collect(),
            y: device.buffer(bytemuck::cast_slice(&poison)),
            bias: device.buffer(bytemuck::cast_slice(&bias)),
        }
    }
}

/// Operands and result on the device.
pub struct Bound {
    shape: Shape,
    a: wgpu::Buffer,
    w: Vec<wgpu::Buffer>,
    pub y: wgpu::Buffer,
    bias: wgpu::Buffer,
}

impl Bound {
    /// A dispatch of `variant` with each copy of the weights.
    pub fn jobs(
        &self,
        device: &Device,
        kernel: &Kernel,
        variant: Variant,
        raster: u32,
    ) -> Vec<Job> {
        let s = self.shape;
        let tiles = [s.m.div_ceil(variant.bm), s.n.div_ceil(variant.bn)];
        let side = s.side.unwrap_or(1);
        let words = [
            s.m,
            s.n,
            s.k / 8,
            s.taps(),
            tiles[0],
            tiles[1],
            raster,
            side,
            side,
        ];
        let p = device.uniform(&words);
        let job = |w| {
            device.job(
                kernel,
                &[&self.a, w, &self.y, &self.bias, &p],
                [tiles[0] * tiles[1], 1],
            )
        };
        self.w.iter().map(job).collect()
    }
}

/// How many of the sampled values differ from the exact result; rows past the end count as well.
pub fn wrong(
    device: &Device,
    operands: &Operands,
    y: &wgpu::Buffer,
    rows: &[(u32, Vec<f16>)],
    extra: u32,
) -> Result<usize> {
    let n = operands.shape.n as u64;
    let mut wrong = 0;
    for (row, exact) in rows {
        let bytes = device.read(y, u64::from(*row) * n * 2, n * 2)?;
        let got: Vec<u16> = bytemuck::pod_collect_to_vec(&bytes);
        wrong += got
            .iter()
            .zip(exact)
            .filter(|(g, e)| f16::from_bits(**g) != **e)
            .count();
    }
    if extra > 0 {
        let bytes = device.read(
            y,
            u64::from(operands.shape.m) * n * 2,
            u64::from(extra) * n * 2,
        )?;
        let after: Vec<u16> = bytemuck::pod_collect_to_vec(&bytes);
        wrong += after
            .iter()
            .filter(|v| !f16::from_bits(**v).is_nan())
            .count();
    }
    Ok(wrong)
}
