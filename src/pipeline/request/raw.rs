//! A request before it is checked.

use crate::checkpoint::lora;
use crate::picture::{Mask, Picture};
use crate::text::{LoraTag, Style, Styles, extract_loras};
use crate::{Error, Field, Result};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Number, Value};
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
    /// Every so many steps the whole UNet runs, else its shallow layers alone.
    pub cache_interval: Option<i64>,
    /// In the range of `torch.Generator.manual_seed`, -2^63 to 2^64 - 1; -1 draws one.
    #[serde(deserialize_with = "wide")]
    pub seed: Option<i128>,
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
    /// How many steps a strength keeps: `diffusers` or `webui`.
    pub strength_steps: Option<String>,
    /// The picture to start from.
    #[serde(skip)]
    pub image: Option<Arc<Picture>>,
    /// Where that picture is painted anew; of its size.
    #[serde(skip)]
    pub mask: Option<Arc<Mask>>,
    /// The mask's black is painted anew, not its white.
    pub mask_invert: Option<bool>,
    /// Standard deviations in pixels, along rows and columns, of the Gaussian that
    /// softens the mask.
    pub mask_blur: Option<[f64; 2]>,
    /// A mask of another size than the picture's is stretched; else it is refused.
    #[serde(skip)]
    pub mask_stretch: bool,
    /// What is painted over: `original`, `fill`, `latent_noise` or `latent_nothing`.
    pub masked_content: Option<String>,
    /// Lays the original over the result where the mask keeps it.
    pub keep_unmasked: Option<bool>,
    /// Draws only the part around what is painted, with so many pixels of its
    /// surroundings, at the request's size, and puts it back into the original.
    pub padding_mask_crop: Option<i64>,
    /// How picture and mask are brought to the request's size.
    pub fit: Option<String>,
    pub loras: Vec<Lora>,
}

/// A whole number beyond 64 bits' signs; serde's own way fails inside a flattened
/// structure, as the request is in a picture's settings.
fn wide<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i128>, D::Error> {
    let number: Option<Number> = Option::deserialize(deserializer)?;
    let whole = |n: Number| {
        n.as_i128()
            .ok_or_else(|| D::Error::custom("no whole number"))
    };
    number.map(whole).transpose()
}

impl RawRequest {
    /// Takes the tags `<lora:name:weight>` out of the prompts; the files that they
    /// name, which lie in `folder`, join `loras`. A style's tags join them too, once.
    /// Returns what the user should know.
    ///
    /// # Errors
    /// [`Error::Invalid`] about `lora` where a tag names no file, or there is no folder;
    /// about the tag where it is malformed.
    pub fn take_lora_tags(
        &mut self,
        folder: Option<&Path>,
        styles: &Styles,
    ) -> Result<Vec<String>> {
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
        let file = |tag: LoraTag| {
            let Some(folder) = folder else {
                let allowed = "there is no folder of LoRAs here; take the tag out";
                return Err(Error::invalid(
                    Field::LoraTag,
                    format!("{:?}", tag.name),
                    allowed,
                ));
            };
            Ok(Lora {
                path: lora::find(&tag.name, folder)?,
                unet_weight: tag.unet_weight,
                text_weight: tag.text_weight,
            })
        };
        for tag in tags {
            self.loras.push(file(tag)?);
        }
        // A picture's own settings name those of its style already.
        let style = self
            .style
            .as_deref()
            .and_then(|name| styles.find(name).ok());
        for tag in style.map_or(Ok(Vec::new()), Style::loras)? {
            let lora = file(tag)?;
            if self.loras.iter().all(|other| other.path != lora.path) {
                self.loras.push(lora);
            }
        }
        let negatives = [
            ("negative_prompt", &self.negative_prompt),
            ("negative_prompt_2", &self.negative_prompt_2),
        ];
        let mut warnings = Vec::new();
        for (field, text) in negatives {
            let (_, found) = extract_loras(text.as_deref().unwrap_or_default())?;
            if let Some(tag) = found.first() {
                let name = &tag.name;
                warnings.push(format!(
                    "{field} holds a tag of the LoRA {name:?}, which is read as words there; \
                     tags belong in the prompt"
                ));
            }
        }
        Ok(warnings)
    }
}
