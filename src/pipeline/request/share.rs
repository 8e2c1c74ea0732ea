//! Which requests may go through the UNet together.

use super::Request;

impl Request {
    /// Whether pictures of both may be drawn in one UNet batch, as far as requests say:
    /// they take the same steps at the same size, from noise or both from a picture, with
    /// the same guidance, LoRAs and refiner, and no mask. What is told to the UNet (texts,
    /// style, weighting, layers that are skipped, sizes and crop, scores), seeds, their
    /// generator and the number of pictures may differ. Nothing is read or encoded here:
    /// what only the texts' tokens show makes [`Pipeline::generate_together`](crate::pipeline::Pipeline::generate_together)
    /// draw such requests apart.
    pub fn may_share(&self, other: &Self) -> bool {
        // Named one by one, so that a new field asks to be thought of.
        let Self {
            prompt: _,
            prompt_2: _,
            negative_prompt: _,
            negative_prompt_2: _,
            style: _,
            prompt_weighting: _,
            normalise_prompt: _,
            clip_skip: _,
            width,
            height,
            steps,
            scheduler,
            scheduler_options,
            guidance_scale,
            guidance_rescale,
            guidance_start,
            guidance_end,
            cache_interval,
            seed: _,
            rng: _,
            samples: _,
            refinement,
            aesthetic_score: _,
            negative_aesthetic_score: _,
            micro: _,
            negative_micro: _,
            strength,
            strength_steps,
            fit: _,
            image,
            mask,
            masking: _,
            overlay: _,
            loras,
        } = self;
        let from_alike = match (image, &other.image) {
            (None, None) => true,
            (Some(_), Some(_)) => {
                *strength == other.strength && *strength_steps == other.strength_steps
            }
            _ => false,
        };
        from_alike
            && mask.is_none()
            && other.mask.is_none()
            && [*width, *height] == [other.width, other.height]
            && *steps == other.steps
            && *scheduler == other.scheduler
            && *scheduler_options == other.scheduler_options
            && *guidance_scale == other.guidance_scale
            && *guidance_rescale == other.guidance_rescale
            && [*guidance_start, *guidance_end] == [other.guidance_start, other.guidance_end]
            && *cache_interval == other.cache_interval
            && *refinement == other.refinement
            && *loras == other.loras
    }
}

#[cfg(test)]
mod tests {
    use crate::pipeline::{Context, Preset, RawRequest, Request};
    use crate::text::Styles;

    fn request(change: impl FnOnce(&mut RawRequest)) -> Request {
        let mut raw = RawRequest {
            prompt: Some("a red circle".into()),
            seed: Some(1),
            ..Default::default()
        };
        change(&mut raw);
        let context = Context {
            native: (128, 128),
            preset: Preset::default(),
            refiner: true,
            styles: &Styles::builtin(),
        };
        Request::resolve(raw, &context).unwrap()
    }

    #[test]
    fn what_the_unet_is_told_may_differ_and_how_it_is_asked_may_not() {
        let plain = request(|_| {});
        type Change = fn(&mut RawRequest);
        let free: [Change; 8] = [
            |raw| raw.prompt = Some("a blue square".into()),
            |raw| raw.negative_prompt = Some("grey".into()),
            |raw| raw.prompt_2 = Some("paint".into()),
            |raw| raw.seed = Some(9),
            |raw| raw.samples = Some(3),
            |raw| raw.clip_skip = Some(1),
            |raw| raw.original_size = Some([64, 64]),
            |raw| raw.rng = Some("cuda".into()),
        ];
        for (i, change) in free.into_iter().enumerate() {
            let other = request(change);
            assert!(plain != other && plain.may_share(&other), "{i}");
        }
        let bound: [Change; 9] = [
            |raw| raw.width = Some(64),
            |raw| raw.steps = Some(3),
            |raw| raw.scheduler = Some("DDIM".into()),
            |raw| raw.guidance_scale = Some(1.0),
            |raw| raw.guidance_rescale = Some(0.5),
            |raw| raw.guidance_end = Some(0.5),
            |raw| raw.cache_interval = Some(2),
            |raw| raw.refiner = Some(false),
            |raw| {
                raw.loras.push(crate::pipeline::Lora {
                    path: "a".into(),
                    unet_weight: 1.0,
                    text_weight: 1.0,
                })
            },
        ];
        for (i, change) in bound.into_iter().enumerate() {
            let other = request(change);
            assert!(!plain.may_share(&other) && !other.may_share(&plain), "{i}");
        }
    }

    #[test]
    fn pictures_go_with_pictures_and_masks_with_nothing() {
        let picture = crate::picture::Picture {
            width: 128,
            height: 128,
            rgb: vec![7; 3 * 128 * 128],
        };
        let picture = std::sync::Arc::new(picture);
        let of = |strength: f64| {
            let picture = picture.clone();
            request(|raw| (raw.image, raw.strength) = (Some(picture), Some(strength)))
        };
        assert!(of(0.5).may_share(&of(0.5)));
        assert!(!of(0.5).may_share(&of(0.6)));
        assert!(!of(0.5).may_share(&request(|_| {})));
        let mut masked = of(0.5);
        let mask = crate::picture::Mask {
            width: 128,
            height: 128,
            values: vec![255; 128 * 128],
        };
        masked.mask = Some(std::sync::Arc::new(mask));
        assert!(!masked.may_share(&masked));
    }
}
