//! The UNet, bound: the whole of it, and its shallow layers alone, for as many
//! predictions at a time as a step's calls ask for.

use super::{Setup, Tensors};
use crate::gpu::Gpu;
use crate::graph::{Executor, Graph};
use crate::kernel::{Program, Tensor, latent};
use crate::model::DeviceWeights;
use crate::model::unet::{self, FEATURE, SAMPLE, TIME};
use crate::pipeline::Pipeline;
use crate::pipeline::finite::Suspect;
use crate::pipeline::load::Model;
use crate::{Error, Result};
use std::collections::HashMap;

/// The output of a pass that keeps one: what shallow passes after it are given.
const KEPT: usize = 1;

/// A way through the UNet.
pub(super) struct Pass {
    pub unet: Executor,
    /// Brings the latents to the UNet's input.
    pub before: Program,
    /// The UNet's input that takes a step's rows of the time embedding.
    pub time: Tensor,
    /// Of one call.
    pub multiply_adds: u64,
}

impl Pass {
    /// The prediction.
    pub fn output(&self) -> &Tensor {
        self.unet.output(0)
    }
}

/// The whole UNet and its shallow layers, for calls of one size. The shallow pass reads
/// the feature where the whole one leaves it.
pub(super) struct Passes {
    /// Predictions of a call for each picture.
    pub sides: usize,
    pub whole: Pass,
    pub shallow: Option<Pass>,
}

impl Passes {
    /// The pass that a step runs.
    pub fn of(&self, shallow: bool) -> &Pass {
        match (&self.shallow, shallow) {
            (Some(pass), true) => pass,
            _ => &self.whole,
        }
    }

    /// Where the whole pass leaves the feature, and the shallow one reads it.
    pub fn feature(&self) -> Option<&Tensor> {
        self.shallow.as_ref().map(|_| self.whole.unet.output(KEPT))
    }
}

/// What passes are made of.
pub(super) struct Maker<'a> {
    pub pipeline: &'a Pipeline,
    pub model: &'a Model,
    pub setup: &'a Setup<'a>,
    pub weights: &'a DeviceWeights<'a>,
    pub tensors: &'a Tensors,
    pub suspect: &'a Suspect,
    pub cancelled: &'a dyn Fn() -> bool,
}

impl Maker<'_> {
    /// Passes of `sides` predictions of each picture, a `shallow` one too if asked for;
    /// `other` passes run at other times and lend their memory.
    pub fn make(&self, sides: usize, shallow: bool, other: Option<&Passes>) -> Result<Passes> {
        let host = other.map(|other| (&other.whole, None));
        let pass = if shallow {
            unet::Pass::Keeping
        } else {
            unet::Pass::Whole
        };
        let whole = self.pass(sides, pass, host)?;
        let shallow = match shallow {
            true => {
                let feature = (FEATURE, whole.unet.output(KEPT));
                let host = Some((&whole, Some(feature)));
                Some(self.pass(sides, unet::Pass::Shallow, host)?)
            }
            false => None,
        };
        Ok(Passes {
            sides,
            whole,
            shallow,
        })
    }

    fn pass(
        &self,
        sides: usize,
        pass: unet::Pass,
        host: Option<(&Pass, Option<(&str, &Tensor)>)>,
    ) -> Result<Pass> {
        let (pipeline, gpu) = (self.pipeline, &self.pipeline.gpu);
        let graph = graph(pipeline, self.model, self.setup, sides, pass);
        tracing::debug!("UNet, {pass:?}\n{graph}");
        let storage = pipeline.precision.activations;
        pipeline.tune_for(&graph, storage, self.cancelled)?;
        let context = &pipeline.context;
        let unet = match host {
            None => Executor::new(context, storage, &graph, self.weights, &HashMap::new()),
            Some((host, input)) => {
                Executor::beside(context, storage, &graph, self.weights, &host.unet, input)
            }
        };
        let unet = unet.map_err(|e| self.suspect.blamed(e))?;
        let sample = input(gpu, &unet, SAMPLE)?;
        let (latents, beside) = (&self.tensors.latents, &self.tensors.beside.view);
        let bring = latent::input(context.mode, latents, beside, &self.tensors.step, &sample)?;
        Ok(Pass {
            before: Program::new(gpu, vec![bring])?,
            time: input(gpu, &unet, TIME)?,
            multiply_adds: graph.multiply_adds(),
            unet,
        })
    }
}

fn input(gpu: &Gpu, unet: &Executor, name: &str) -> Result<Tensor> {
    let input = unet.input(name).cloned();
    input.ok_or_else(|| -> Error { gpu.error("the UNet lacks an input", "report this bug") })
}

/// The graph of a pass for `sides` predictions of each of the setup's pictures.
fn graph(
    pipeline: &Pipeline,
    model: &Model,
    setup: &Setup<'_>,
    sides: usize,
    pass: unet::Pass,
) -> Graph {
    let shape = pipeline.latent_shape(setup.request);
    let size = unet::Size {
        batch: sides * setup.pictures,
        height: shape.h,
        width: shape.w,
        tokens: setup.conditioning.tokens,
    };
    unet::graph_of(&model.checkpoint.unet, size, pass).optimise()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Part;
    use crate::graph::Runner;
    use crate::model::unet::CONTEXT;
    use crate::pipeline::{Cancel, LoadOptions, Observer};

    /// With the feature of its own step the shallow pass makes what the whole UNet made,
    /// to the bit; and in the memory that it lends, neither spoils what the other keeps.
    #[test]
    fn a_shallow_pass_with_its_own_steps_feature_is_the_whole() {
        for model in ["demo", "demo-refiner"] {
            let options = LoadOptions {
                model: model.into(),
                ..Default::default()
            };
            let mut observer = Observer {
                events: &mut |_| {},
                cancel: &Cancel::default(),
                trace: None,
                preview_every: 0,
            };
            let pipeline = Pipeline::load(&options, &mut observer).unwrap();
            let (gpu, checkpoint) = (&pipeline.gpu, &pipeline.base.checkpoint);
            let storage = pipeline.precision.activations;
            let source = checkpoint.source(Part::UNet);
            let weights =
                DeviceWeights::new(gpu, source, pipeline.precision.weights, &pipeline.base.unet);
            let size = unet::Size {
                batch: 2,
                height: 9,
                width: 10,
                tokens: 77,
            };
            let graph = |pass| unet::graph_of(&checkpoint.unet, size, pass).optimise();
            let none = HashMap::new();
            let keeping = graph(unet::Pass::Keeping);
            let context = &pipeline.context;
            let whole = Executor::new(context, storage, &keeping, &weights, &none).unwrap();
            let feature = (FEATURE, whole.output(KEPT));
            let graph = graph(unet::Pass::Shallow);
            let shallow =
                Executor::beside(context, storage, &graph, &weights, &whole, Some(feature));
            let shallow = shallow.unwrap();
            assert!(shallow.bytes() * 10 < whole.bytes(), "{}", shallow.bytes());

            let mut runner = Runner::new(gpu, false).unwrap();
            let mut run = |unet: &Executor, step: usize| {
                for (i, name) in [SAMPLE, TIME].into_iter().enumerate() {
                    let input = unet.input(name).unwrap();
                    let at = |j| ((j + 31 * i + 7 * step) as f32).sin();
                    let values: Vec<f32> = (0..input.rows() * input.c).map(at).collect();
                    unet.write(gpu, name, &values).unwrap();
                }
                runner.run(|_| {}, &[unet.step()], &|| false).unwrap();
                runner.finish().unwrap();
                unet.read(gpu, 0).unwrap()
            };
            let count = whole
                .input(CONTEXT)
                .map_or(0, |input| input.rows() * input.c);
            let text: Vec<f32> = (0..count).map(|i| (i as f32).cos()).collect();
            whole.write(gpu, CONTEXT, &text).unwrap();
            whole.once().run(gpu).unwrap();
            let first = run(&whole, 0);
            assert!(first.iter().any(|x| *x != 0.0) && first.iter().all(|x| x.is_finite()));
            assert!(run(&shallow, 0) == first, "{model}");
            let next = run(&shallow, 1);
            assert!(next != first && next != run(&whole, 1), "{model}");
            assert!(run(&shallow, 1) != next, "{model}: the feature is another");
            assert!(run(&whole, 0) == first, "{model}");
        }
    }
}
