//! A request before it is checked.

use crate::Result;
use crate::checkpoint::lora;
use crate::picture::{Mask, Picture};
use crate::text::{LoraTag, extract_loras};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A LoRA that a request names, and how strongly it is merged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lora {
    /// The file.
    pub path: PathBuf,
    /// Factor for the UNet.
    pub unet_weight: f64,
    /// Factor for both text encoders.
    pub text_weight: f64,
}

/// A request as it comes in: every field may be missing, nothing is checked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RawRequest {
    pub prompt: Option<String>,
    /// For the second text encoder, where it is to read something else.
    pub prompt_2: Option<String>,
    pub negative_prompt: Option<String>,
    pub negative_prompt_2: Option<String>,
    pub style: Option<String>,
    pub prompt_weighting: Option<String>,
    /// Whether prompts are cleaned as ftfy does; they are where this is silent.
    pub normalise_prompt: Option<bool>,
    pub clip_skip: Option<i64>,
    pub width: Option<i64>,
    pub height: Option<i64>,
    /// Of a few-step checkpoint: what it asks for, where the request is silent.
    pub preset: Option<String>,
    pub steps: Option<i64>,
    pub scheduler: Option<String>,
    /// diffusers' keys, or the short ones that `calotype schedulers` lists.
    pub scheduler_options: Map<String, Value>,
    pub guidance_scale: Option<f64>,
    pub guidance_rescale: Option<f64>,
    /// Shares of the way between which guidance is on.
    pub guidance_start: Option<f64>,
    pub guidance_end: Option<f64>,
    pub seed: Option<i64>,
    pub rng: Option<String>,
    pub samples: Option<i64>,
    /// Whether the loaded refiner is used; where silent, it is.
    pub refiner: Option<bool>,
    pub high_noise_fraction: Option<f64>,
    /// Makes the refiner a second pass of its own.
    pub refiner_strength: Option<f64>,
    pub aesthetic_score: Option<f64>,
    pub negative_aesthetic_score: Option<f64>,
    /// `[height, width]`, as the next ones.
    pub original_size: Option<[i64; 2]>,
    /// `[top, left]`.
    pub crops_coords_top_left: Option<[i64; 2]>,
    pub target_size: Option<[i64; 2]>,
    pub negative_original_size: Option<[i64; 2]>,
    pub negative_crops_coords_top_left: Option<[i64; 2]>,
    pub negative_target_size: Option<[i64; 2]>,
    pub strength: Option<f64>,
    /// The picture to start from.
    #[serde(skip)]
    pub image: Option<Arc<Picture>>,
    /// Where that picture is painted anew; of its size.
    #[serde(skip)]
    pub mask: Option<Arc<Mask>>,
    /// How picture and mask are brought to the request's size.
    pub fit: Option<String>,
    pub loras: Vec<Lora>,
}

impl RawRequest {
    /// Takes the tags `<lora:name:weight>` out of the prompts; the files that they
    /// name, which lie in `folder`, join `loras`.
    ///
    /// # Errors
    /// Where a tag is malformed, or names no file.
    pub fn take_lora_tags(&mut self, folder: &Path) -> Result<()> {
        let mut tags: Vec<LoraTag> = Vec::new();
        for prompt in [&mut self.prompt, &mut self.prompt_2] {
            let Some(text) = prompt else { continue };
            let (rest, found) = extract_loras(text)?;
            if !found.is_empty() {
                *prompt = Some(rest);
            }
            // The second encoder's prompt may repeat what the first one's says.
            tags.extend(
                found
                    .into_iter()
                    .filter(|tag| !tags.contains(tag))
                    .collect::<Vec<_>>(),
            );
        }
        for tag in tags {
            self.loras.push(Lora {
                path: lora::find(&tag.name, folder)?,
                unet_weight: tag.unet_weight,
                text_weight: tag.text_weight,
            });
        }
        Ok(())
    }
}
