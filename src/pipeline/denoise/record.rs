//! What loops leave behind: the tensors of every step, and what they cost.

use super::{LoopStats, Shape};
use crate::pipeline::Trace;
use crate::pipeline::route::Leg;
use std::collections::BTreeMap;

/// Tensors of every picture, one after another, by name.
#[derive(Default)]
pub(in crate::pipeline) struct Gathered(BTreeMap<String, Vec<f32>>);

impl Gathered {
    pub(super) fn put(&mut self, name: &str, values: &[f32]) {
        self.0
            .entry(name.to_string())
            .or_default()
            .extend_from_slice(values);
    }

    /// Writes down what was gathered of a leg, its names after `prefix`.
    pub fn record(self, prefix: &str, leg: &Leg, shape: Shape, trace: &mut Trace) {
        let Shape { h, w, c } = shape;
        for (name, values) in &self.0 {
            let samples = values.len() / shape.count().max(1);
            trace.put_f32(format!("{prefix}{name}"), &[samples, c, h, w], values);
        }
        let timesteps = &leg.grid.timesteps;
        trace.put_f32(format!("{prefix}timesteps"), &[timesteps.len()], timesteps);
        if !leg.grid.sigmas.is_empty() {
            let sigmas = &leg.grid.sigmas;
            trace.put_f32(format!("{prefix}sigmas"), &[sigmas.len()], sigmas);
        }
    }
}

/// What the loops of a request did to the device.
pub(in crate::pipeline) struct Tally {
    pub(super) wall: f64,
    pub(super) busy: Option<f64>,
    pub(super) buffers: u64,
    pub(super) pipelines: u64,
    pub(super) multiply_adds: u64,
    pub(super) streamed: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            wall: 0.0,
            busy: Some(0.0),
            buffers: 0,
            pipelines: 0,
            multiply_adds: 0,
            streamed: 0,
        }
    }
}

impl Tally {
    /// Takes in what loops of a batch did, `pictures` of whose `all` pictures are counted
    /// here: of the arithmetic a share, of all else the whole, which cannot be told apart.
    pub fn add(&mut self, batch: &Self, pictures: usize, all: usize) {
        self.wall += batch.wall;
        self.busy = self.busy.zip(batch.busy).map(|(a, b)| a + b);
        self.buffers += batch.buffers;
        self.pipelines += batch.pipelines;
        let share = u128::from(batch.multiply_adds) * pictures as u128 / all.max(1) as u128;
        self.multiply_adds += share as u64;
        self.streamed += batch.streamed;
    }

    pub fn stats(&self) -> LoopStats {
        LoopStats {
            gpu_busy: self
                .busy
                .filter(|_| self.wall > 0.0)
                .map(|busy| busy / self.wall),
            loop_buffers_created: self.buffers,
            loop_pipelines_created: self.pipelines,
            unet_multiply_adds: self.multiply_adds,
            streamed_bytes: self.streamed,
        }
    }
}
