//! Self-attention with cooperative matrices: candidates, reference, timing.

use crate::device::{Device, Job, Kernel};
use anyhow::Result;
use half::f16;

/// A variant of attention.wgsl.
#[derive(Debug, Clone, Copy)]
pub struct Variant {
    pub f: u32,
    pub lanes: u32,
    /// Subgroups of a workgroup, queries of a subgroup, keys of a block.
    pub sg: u32,
    pub qr: u32,
    pub kb: u32,
    /// How far, in powers of two, a row's maximum may grow before sums are rescaled.
    pub slack: f32,
}

impl Variant {
    pub fn label(&self) -> String {
        format!(
            "{} subgroups x {} queries, {} keys, slack {}",
            self.sg, self.qr, self.kb, self.slack
        )
    }

    pub fn shared_bytes(&self) -> u32 {
        let rows = self.sg * self.qr;
        rows.max(2 * self.kb) * 144 + rows * (self.kb * 6 + 32)
    }

    pub fn kernel(&self, device: &Device, tokens: u32) -> Result<Kernel> {
        let t = self.sg * self.lanes;
        let rows = self.sg * self.qr;
        let per_row = self.lanes / self.qr;
        let chunks = 64u32.div_ceil(self.kb);
        let mut defines = [
            ("F", self.f),
            ("T", t),
            ("QR", self.qr),
            ("QB", rows),
            ("KB", self.kb),
            ("KV", rows.max(2 * self.kb) * 18),
            ("SS", rows * (self.kb / 4 + 1)),
            ("SP", rows * (self.kb / 4 + 2)),
            ("QU", rows * 8 / t),
            ("KU", self.kb * 8 / t),
            ("QF", self.qr / self.f),
            ("DF", 64 / self.f),
            ("KF", self.kb / self.f),
            ("OC", chunks),
            ("OD", 64 / chunks / self.f),
            ("LR", per_row),
            ("CV", self.kb / 4 / per_row),
            ("CH", self.kb / 8 / per_row),
        ]
        .map(|(name, value)| (name, value.to_string()))
        .to_vec();
        defines.push(("SLACK", format!("{:?}", self.slack)));
        let flags = [
            ("F16", true),
            ("PAIR", per_row == 2),
            ("MASK", !tokens.is_multiple_of(self.kb)),
        ];
        device.permutation(include_str!("attention.wgsl"), &defines, &flags)
    }
}

/// The candidates, the most promising first.
pub fn variants(device: &Device) -> Vec<Variant> {
    let lanes = device.info.subgroup_min_size;
    let v = |sg, qr, kb, slack| Variant {
        f: 16,
        lanes,
        sg,
        qr,
        kb,
        slack,
    };
    let mut all = vec![
        v(4, 16, 32, 8.0),
        v(4, 32, 32, 8.0),
        v(4, 16, 64, 8.0),
        v(8, 16, 32, 8.0),
        v(2, 32, 32, 8.0),
        v(2, 32, 64, 8.0),
        v(4, 16, 32, 0.0),
    ];
    if !device.matrices.iter().any(|m| m.m_size == 16) {
        all = [(4, 8, 32), (2, 8, 16)]
            .map(|(sg, qr, kb)| Variant {
                f: 8,
                lanes,
                sg,
                qr,
                kb,
                slack: 8.0,
            })
            .to_vec();
    }
    all.retain(|v| v.shared_bytes() <= device.shared);
    all
}

pub struct Operands {
    pub batch: u32,
    pub heads: u32,
    pub tokens: u32,
    x: Vec<f16>,
}

impl Operands {
    /// Roughly normal numbers; `loud` scales the queries, so that scores spread.
    pub fn new(batch: u32, heads: u32, tokens: u32, loud: f32) -> Self {
        let mut state = 77u32;
        let mut draw = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32
        };
        let width = (3 * heads * 64) as usize;
        let x = (0..(batch * tokens) as usize * width)
            .map(|i| {
                let z = (draw() + draw() + draw() + draw() - 2.0) * 1.7;
                f16::from_f32(if i % width < width / 3 { z * loud } else { z })
            })
            .collect();
        Self {
            batch,
            heads,
            tokens,
            x,
        }
    }

    fn at(&self, row: usize, which: usize, head: usize) -> &[f16] {
        let width = (3 * self.heads * 64) as usize;
        let from = row * width + (which * self.heads as usize + head) * 64;
        &self.x[from..from + 64]
    }

    /// One head of one query in f64.
    fn exact(&self, batch: usize, head: usize, query: usize) -> Vec<f64> {
        let base = batch * self.tokens as usize;
        let dot = |a: &[f16], b: &[f16]| {
            a.iter()
                .zip(b)
                .map(|(a, b)| a.to_f64() * b.to_f64())
                .sum::<f64>()
        };
        let q = self.at(base + query, 0, head);
        let scores: Vec<f64> = (0..self.tokens as usize)
            .map(|k| dot(q, self.at(base + k, 1, head)) / 8.0)
            .collect();
        let top = scores.iter().copied().fold(f64::MIN, f64::max);
        let mut out = vec![0.0; 64];
        let mut sum = 0.0;
        for (k, s) in scores.iter().enumerate() {
            let e = (s - top).exp();
            sum += e;
            for (o, v) in out.iter_mut().zip(self.at(base + k, 2, head)) {
                *o += e * v.to_f64();
            }
        }
        out.iter().map(|o| o / sum).collect()
    }

    pub fn flop(&self) -> f64 {
        4.0 * f64::from(self.batch * self.heads) * f64::from(self.tokens).powi(2) * 64.0
    }

    /// A dispatch of `variant`, and where its result goes.
    pub fn job(&self, device: &Device, kernel: &Kernel, variant: Variant) -> (Job, wgpu::Buffer) {
        let x = device.buffer(bytemuck::cast_slice(&self.x));
        let poison = vec![f16::NAN; self.x.len() / 3];
        let out = device.buffer(bytemuck::cast_slice(&poison));
        let p = device.uniform(&[self.tokens, self.heads]);
        let grid = [
            self.tokens.div_ceil(variant.sg * variant.qr),
            self.batch * self.heads,
        ];
        (device.job(kernel, &[&x, &out, &p], grid), out)
    }

    /// ||out - exact|| / ||exact|| over a sample of queries of all heads.
    pub fn error(&self, device: &Device, out: &wgpu::Buffer) -> Result<f64> {
        let width = (self.heads * 64) as usize;
        let (mut off, mut all) = (0.0, 0.0);
        for batch in 0..self.batch as usize {
            for query in [0, 1, self.tokens as usize / 2 + 5, self.tokens as usize - 1] {
                let row = batch * self.tokens as usize + query;
                let bytes = device.read(out, (row * width * 2) as u64, (width * 2) as u64)?;
                let got: Vec<u16> = bytemuck::pod_collect_to_vec(&bytes);
                for head in 0..self.heads as usize {
                    for (e, g) in self.exact(batch, head, query).iter().zip(&got[head * 64..]) {
                        off += (f16::from_bits(*g).to_f64() - e).powi(2);
                        all += e * e;
                    }
                }
            }
        }
        Ok((off / all).sqrt())
    }
}
