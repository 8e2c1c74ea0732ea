//! What a front door calls the fields of a request.

use crate::error::{Field, Remedy, Wording};
use std::borrow::Cow;

/// The fields that a door has another name for than the canonical one.
pub struct Names(pub &'static [(Field, &'static str)]);

impl Names {
    fn has_own(&self, field: &Field) -> Option<&'static str> {
        let found = self.0.iter().find(|(known, _)| known == field);
        found.map(|(_, name)| *name)
    }
}

impl Wording for Names {
    fn field<'a>(&self, field: &'a Field) -> Cow<'a, str> {
        self.has_own(field).unwrap_or(field.name()).into()
    }

    /// What the model is loaded with is not the sender's to choose.
    fn remedy(&self, remedy: &Remedy) -> String {
        match remedy {
            Remedy::Set { field, .. } | Remedy::Give { field, .. } | Remedy::Other(field)
                if field.is_of_loading() =>
            {
                format!("ask the operator to {}", self.imperative(remedy))
            }
            Remedy::UpdateDriver => format!("ask the operator to {}", self.imperative(remedy)),
            _ => self.imperative(remedy),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{automatic1111, hugging_face, openai, sdxl_torch, stability};
    use super::*;
    use crate::error::Code;
    use crate::server::work::Failure;
    use axum::http::StatusCode;
    use serde_json::Value;

    type Refusal = fn(Failure, &str) -> (StatusCode, Value);

    /// The doors, and where their bodies hold message and code.
    const DOORS: [(Refusal, &str, &str); 5] = [
        (sdxl_torch::refusal, "/error", "/code"),
        (automatic1111::refusal, "/detail", "/code"),
        (openai::refusal, "/error/message", "/error/code"),
        (stability::refusal, "/message", "/code"),
        (hugging_face::refusal, "/error", "/code"),
    ];

    /// What each door says, and that its code is `code`.
    fn said(failure: &Failure, code: Code) -> [String; 5] {
        DOORS.map(|(refusal, message, place)| {
            let (_, body) = refusal(failure.clone(), "id");
            let text = |place| {
                body.pointer(place)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
            };
            assert_eq!(text(place), code.as_str(), "{body}");
            text(message).to_owned()
        })
    }

    #[test]
    fn each_door_has_its_own_names_of_fields() {
        for (field, names) in [
            (
                Field::Width,
                ["img_width", "width", "size", "width", "parameters.width"],
            ),
            (
                Field::Size,
                [
                    "img_width x img_height",
                    "width x height",
                    "size",
                    "width x height",
                    "parameters.width x parameters.height",
                ],
            ),
            (
                Field::Steps,
                [
                    "num_inference_steps",
                    "steps",
                    "steps",
                    "steps",
                    "parameters.num_inference_steps",
                ],
            ),
            (
                Field::Scheduler,
                [
                    "scheduler",
                    "sampler_name",
                    "scheduler",
                    "sampler",
                    "parameters.scheduler",
                ],
            ),
            (
                Field::SchedulerOptions,
                [
                    "scheduler_options",
                    "scheduler",
                    "scheduler_options",
                    "scheduler_options",
                    "scheduler_options",
                ],
            ),
            (
                Field::GuidanceScale,
                [
                    "guidance_scale",
                    "cfg_scale",
                    "guidance_scale",
                    "cfg_scale",
                    "parameters.guidance_scale",
                ],
            ),
            (
                Field::PromptWeighting,
                [
                    "prompt_weighting",
                    "override_settings.emphasis",
                    "prompt_weighting",
                    "prompt_weighting",
                    "prompt_weighting",
                ],
            ),
            (
                Field::Samples,
                [
                    "samples",
                    "batch_size times n_iter",
                    "n",
                    "samples",
                    "samples",
                ],
            ),
            (
                Field::LoraTag,
                [
                    "a LoRA tag of prompt",
                    "a LoRA tag of prompt",
                    "a LoRA tag of prompt",
                    "a LoRA tag of text_prompts",
                    "a LoRA tag of inputs",
                ],
            ),
            (
                // A door's own name, even where it is a canonical one of another field.
                Field::Named("scheduler".into()),
                ["scheduler"; 5],
            ),
        ] {
            let failure = Failure::invalid(&field, 1, "must be more");
            let wanted = names.map(|name| format!("{name} is 1: must be more"));
            assert_eq!(said(&failure, Code::InvalidValue), wanted, "{field}");
        }
    }

    #[test]
    fn each_door_words_remedies_with_its_fields() {
        let failed = |remedy: Remedy| Failure::Failed {
            code: Code::OutOfMemory,
            problem: "no memory".into(),
            remedy: remedy.into(),
        };
        for (remedy, wanted) in [
            (
                Remedy::SmallerPicture,
                [
                    "ask for a smaller img_width or img_height",
                    "ask for a smaller width or height",
                    "ask for a smaller size",
                    "ask for a smaller width or height",
                    "ask for a smaller parameters.width or parameters.height",
                ],
            ),
            (
                Remedy::LoraWeight,
                [
                    "lower the weights of the LoRA tags of prompt",
                    "lower the weights of the LoRA tags of prompt",
                    "lower the weights of the LoRA tags of prompt",
                    "lower the weights of the LoRA tags of text_prompts",
                    "lower the weights of the LoRA tags of inputs",
                ],
            ),
            (
                Remedy::HALF_PRECISION,
                ["ask the operator to set dtype to f16"; 5],
            ),
            (
                Remedy::OTHER_ADAPTER,
                ["ask the operator to choose another adapter"; 5],
            ),
            (
                Remedy::UpdateDriver,
                ["ask the operator to update the driver"; 5],
            ),
            (
                Remedy::give(Field::Vae, "an SDXL VAE"),
                ["ask the operator to point vae at an SDXL VAE"; 5],
            ),
            (Remedy::Plain("try again".into()), ["try again"; 5]),
        ] {
            let wanted = wanted.map(|phrase| format!("no memory; {phrase}"));
            assert_eq!(
                said(&failed(remedy.clone()), Code::OutOfMemory),
                wanted,
                "{remedy:?}"
            );
        }
    }
}
