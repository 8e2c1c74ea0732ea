//! Steps that are alike in whom they ask: their UNet calls, and what follows those.

use super::calls::{Call, Manner, Side, calls, sides};
use super::passes::{Maker, Pass, Passes};
use super::tensors::Guidance;
use super::{Marks, is_thresholded};
use crate::Result;
use crate::gpu::Gpu;
use crate::kernel::{Program, Tensor, View};
use std::sync::Arc;

/// How steps are taken that are alike in whom they ask.
pub(super) struct Form {
    /// With the negative prompt.
    pub guided: bool,
    pub calls: Vec<Call>,
    /// The place of their passes.
    pub passes: usize,
    /// What follows the calls of a step: after the whole UNet, and after a shallow pass;
    /// each for a step whose first store is not thresholded, and for one where it is.
    after: [[Program; 2]; 2],
}

impl Form {
    /// What follows the UNet calls of a step.
    pub fn after(&self, shallow: bool, thresholded: bool) -> &Program {
        &self.after[usize::from(shallow)][usize::from(thresholded)]
    }
}

impl Maker<'_> {
    /// The forms of a loop's steps, and their passes.
    pub fn forms(&self, manners: &[Manner], marks: &Marks) -> Result<(Vec<Form>, Vec<Passes>)> {
        let negative = manners.iter().any(|manner| manner.guided);
        let (mut forms, mut passes) = (Vec::new(), Vec::new());
        // The larger first: the other finds its memory there.
        for guided in [true, false] {
            let mut alike = manners.iter().filter(|manner| manner.guided == guided);
            if alike.clone().next().is_some() {
                let shallow = alike.any(|manner| manner.shallow);
                let sides = sides(self.setup.conditioning, guided);
                // The prompt's own come after the negative one's.
                let first = usize::from(negative && !guided);
                let calls = calls(&sides, first, self.setup.batched);
                forms.push(self.form(guided, calls, shallow, &mut passes, marks)?);
            }
        }
        Ok((forms, passes))
    }

    fn form(
        &self,
        guided: bool,
        mut calls: Vec<Call>,
        shallow: bool,
        passes: &mut Vec<Passes>,
        marks: &Marks,
    ) -> Result<Form> {
        let gpu = &self.pipeline.gpu;
        let place = self.passes_for(calls[0].sides.len(), shallow, passes)?;
        let made = &passes[place];
        let (last, several) = (calls.len() - 1, calls.len() > 1);
        for (i, call) in calls.iter_mut().enumerate() {
            if i < last {
                call.keep = Some(twin(gpu, "a prompt's prediction", made.whole.output())?);
            }
            if let (Some(feature), true) = (made.feature(), several) {
                call.feature = Some(twin(gpu, "a prompt's feature", feature)?.view);
            }
        }
        let after = |pass: Option<&Pass>| -> Result<[Program; 2]> {
            let nothing = || Program::new(gpu, vec![]);
            let Some(pass) = pass else {
                return Ok([nothing()?, nothing()?]);
            };
            let after = |thresholded| self.after(&calls, pass, thresholded, marks);
            let thresholds = self.setup.leg.steps.iter().any(is_thresholded);
            Ok([
                after(false)?,
                match thresholds {
                    true => after(true)?,
                    false => nothing()?,
                },
            ])
        };
        let after = [after(Some(&made.whole))?, after(made.shallow.as_ref())?];
        Ok(Form {
            guided,
            after,
            calls,
            passes: place,
        })
    }

    /// The place of the passes of `sides` predictions of each picture, which join
    /// `passes` where they are not among them.
    fn passes_for(&self, sides: usize, shallow: bool, passes: &mut Vec<Passes>) -> Result<usize> {
        let fits = |made: &Passes| made.sides == sides && (made.shallow.is_some() || !shallow);
        if let Some(place) = passes.iter().position(fits) {
            return Ok(place);
        }
        let made = self.make(sides, shallow, passes.first())?;
        passes.push(made);
        Ok(passes.len() - 1)
    }

    /// Guidance and the scheduler's update after `calls` that ran `pass`.
    fn after(
        &self,
        calls: &[Call],
        pass: &Pass,
        thresholded: bool,
        marks: &Marks,
    ) -> Result<Program> {
        let setup = self.setup;
        let mut guidance = Guidance {
            negative: None,
            positive: Vec::new(),
            rescaled: setup.request.guidance_rescale > 0.0,
        };
        for call in calls {
            for (i, side) in call.sides.iter().enumerate() {
                let tensor = call.keep.as_ref().unwrap_or(pass.output());
                let place = i * setup.pictures;
                match side {
                    Side::Negative => guidance.negative = Some((tensor, place)),
                    Side::Positive(part) => {
                        let weight = setup.conditioning.weights[*part];
                        guidance.positive.push((tensor, place, weight));
                    }
                }
            }
        }
        let (gpu, mode) = (&self.pipeline.gpu, self.pipeline.context.mode);
        self.tensors.after(gpu, mode, &guidance, thresholded, marks)
    }
}

/// A dense tensor like `tensor` in a buffer of its own.
fn twin(gpu: &Gpu, label: &str, tensor: &Tensor) -> Result<Tensor> {
    let buffer = Arc::new(gpu.buffer(label, tensor.view.size)?);
    Ok(Tensor {
        view: View::whole(&buffer),
        ..tensor.clone()
    })
}
