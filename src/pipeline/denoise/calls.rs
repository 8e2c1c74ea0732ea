//! How each step of a loop is taken: whom its UNet calls ask, and how much of the UNet
//! they run.

use super::numbers::is_guided;
use crate::kernel::{Tensor, View};
use crate::pipeline::Request;
use crate::pipeline::condition::Conditioning;
use crate::pipeline::route::Leg;

/// Whose text a part of a UNet call's batch is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Negative,
    /// A part of the prompt, by its place.
    Positive(usize),
}

/// A UNet call of a step.
pub(super) struct Call {
    /// Of the parts of its batch, as many pictures each.
    pub sides: Vec<Side>,
    /// The place of the first among the sides of the whole loop.
    pub first: usize,
    /// Where this call's prediction is kept for guidance.
    pub keep: Option<Tensor>,
    /// Where this call's feature is kept, unless it may stay where it is made.
    pub feature: Option<View>,
}

/// How a step is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Manner {
    /// With the negative prompt.
    pub guided: bool,
    /// By the shallow layers alone, with a feature from a step before.
    pub shallow: bool,
}

/// How every step of `leg` is taken. A step with which guidance sets in or ends, or the
/// text changes, runs the whole UNet, since no feature of before belongs to what it asks;
/// from there, as from the first step, every `request.cache_interval`th does. Steps are
/// calls of the UNet: a solver of second order has two for each of its own.
pub(super) fn manners(leg: &Leg, request: &Request, conditioning: &Conditioning) -> Vec<Manner> {
    let mut manners: Vec<Manner> = Vec::with_capacity(leg.steps.len());
    let mut age = 0;
    for k in 0..leg.steps.len() {
        let guided = needs_negative(leg, k, request, conditioning);
        age += 1;
        let fitting = manners.last().is_some_and(|last| last.guided == guided)
            && conditioning.cues[k] == conditioning.cues[k - 1];
        let shallow = fitting && age < request.cache_interval;
        if !shallow {
            age = 0;
        }
        manners.push(Manner { guided, shallow });
    }
    manners
}

/// Whether step `k` depends on what the UNet makes of the negative prompt. At scale 1
/// guidance gives the prediction of a prompt of one part itself.
fn needs_negative(leg: &Leg, k: usize, request: &Request, conditioning: &Conditioning) -> bool {
    let changes = is_guided(leg, k, request) && conditioning.scale as f32 != 1.0;
    conditioning.guided() && (changes || conditioning.weights != [1.0])
}

/// What a step asks for each picture, with the negative prompt or without.
pub(super) fn sides(conditioning: &Conditioning, guided: bool) -> Vec<Side> {
    let negative = guided.then_some(Side::Negative);
    let positive = (0..conditioning.weights.len()).map(Side::Positive);
    negative.into_iter().chain(positive).collect()
}

/// The UNet calls of a step that asks `sides`, the first of which has the place `first`
/// among those of the loop: one for all, or one each.
pub(super) fn calls(sides: &[Side], first: usize, batched: bool) -> Vec<Call> {
    let each = if batched { sides.len() } else { 1 };
    let call = |(i, sides): (usize, &[Side])| Call {
        sides: sides.to_vec(),
        first: first + i * each,
        keep: None,
        feature: None,
    };
    sides.chunks(each).enumerate().map(call).collect()
}
