//! What every front door asks for: one internal request, and how it becomes one
//! that the pipeline can carry out.

use super::config::Limits;
use super::failure::Failure;
use super::media::Sources;
use crate::error::Field;
use crate::picture::{Format, MaskReading, Picture};
use crate::pipeline::request::{SIZE_STEP, SIZES};
use crate::pipeline::{Context, RawRequest, Request};
use std::path::Path;
use std::sync::Arc;

/// How large the picture is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Size {
    /// What the model was trained for.
    #[default]
    Native,
    /// These pixels and no others.
    Exact(i64, i64),
    /// Sizes of an API that was made for models of 1024 pixels: on a model of
    /// another size, where they are too large, that size takes 1024's place.
    Scaled(i64, i64),
    /// That of the picture it starts from, as near as it can be.
    Picture,
}

/// A mask as a client sends it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MaskOrder {
    /// Base64, a data URL or a URL.
    pub text: String,
    pub reading: MaskReading,
    pub invert: bool,
    /// Standard deviations in pixels, along rows and columns.
    pub blur: [f64; 2],
    /// Brought to the picture's size where it has another; else that is an error.
    pub stretch: bool,
}

/// What a front door asks for.
#[derive(Debug, Clone, Default)]
pub struct Order {
    pub raw: RawRequest,
    /// The model's name; `None` for the service's own.
    pub model: Option<String>,
    pub size: Size,
    /// Base64, a data URL or a URL.
    pub image: Option<String>,
    pub mask: Option<MaskOrder>,
    pub format: Option<Format>,
    /// How many previews over the run; 0 for none.
    pub previews: usize,
}

/// An order that can be carried out.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Which of the service's models draws.
    pub model: usize,
    pub request: Request,
    pub format: Format,
    /// A preview after so many steps; 0 for none.
    pub preview_every: usize,
    pub warnings: Vec<String>,
}

/// What orders are measured against.
pub struct Rules<'a> {
    pub limits: &'a Limits,
    pub sources: &'a Sources,
    pub loras: Option<&'a Path>,
    /// Which of the service's models draws, and what it is.
    pub model: usize,
    pub context: Context<'a>,
}

impl Order {
    /// Reads the pictures, fills in the defaults and checks everything. Takes as
    /// long as decoding takes.
    pub fn prepare(self, rules: &Rules<'_>) -> Result<Prepared, Failure> {
        let Order {
            mut raw,
            model: _,
            size,
            image,
            mask,
            format,
            previews,
        } = self;
        // Before anything costs time.
        let most = rules.limits.max_steps;
        within("steps", raw.steps, 1, most as i64)?;
        within("samples", raw.samples, 1, rules.limits.max_samples as i64)?;
        check_cache_interval(raw.cache_interval, rules.limits.max_cache_interval as i64)?;
        let mut warnings = raw
            .take_lora_tags(rules.loras, rules.context.styles)
            .map_err(|error| match error {
                // The folder's path is the operator's matter.
                crate::Error::File { problem, .. } => {
                    let allowed = format!("the service's folder of LoRAs {problem}");
                    Failure::invalid(Field::LoraTag, "unknown", allowed)
                }
                other => other.into(),
            })?;
        let picture = image
            .map(|text| rules.sources.picture("image", &text, &mut warnings))
            .transpose()?;
        if let Some(order) = mask {
            let bytes = rules.sources.bytes("mask", &order.text)?;
            let mask = rules
                .sources
                .mask_from("mask", &bytes, order.reading, &mut warnings)?;
            raw.mask = Some(Arc::new(mask));
            raw.mask_invert = Some(order.invert);
            raw.mask_blur = Some(order.blur);
            raw.mask_stretch = order.stretch;
        }
        let native = rules.context.native;
        let (width, height) = size.pixels(native, picture.as_ref(), rules.limits)?;
        (raw.width, raw.height) = (Some(width), Some(height));
        raw.image = picture.map(Arc::new);
        if raw.refiner == Some(true) && !rules.context.refiner {
            warnings.push("no refiner is loaded; the base model draws alone".to_owned());
            raw.refiner = None;
        }
        let request = Request::resolve(raw, &rules.context)?;
        within("steps", Some(request.steps as i64), 1, most as i64)?;
        Ok(Prepared {
            preview_every: request.steps.checked_div(previews).map_or(0, |n| n.max(1)),
            format: format.unwrap_or(Format::Png),
            model: rules.model,
            request,
            warnings,
        })
    }
}

/// Refuses more reuse of the UNet's deep layers than the operator allows.
fn check_cache_interval(given: Option<i64>, most: i64) -> Result<(), Failure> {
    match given {
        Some(given) if most == 1 && given != 1 => {
            let allowed = "must be 1: this service allows no other";
            Err(Failure::invalid(Field::CacheInterval, given, allowed))
        }
        given => within(Field::CacheInterval, given, 1, most).map(|_| ()),
    }
}

/// Refuses what is outside of `least..=most`.
pub fn within<T: PartialOrd + std::fmt::Display>(
    field: impl Into<Field>,
    value: Option<T>,
    least: T,
    most: T,
) -> Result<Option<T>, Failure> {
    match value {
        Some(value) if value < least || value > most => {
            let allowed = format!("must be from {least} to {most}");
            Err(Failure::invalid(field, value, allowed))
        }
        value => Ok(value),
    }
}

impl Size {
    /// Width and height in pixels.
    fn pixels(
        self,
        native: (usize, usize),
        picture: Option<&Picture>,
        limits: &Limits,
    ) -> Result<(i64, i64), Failure> {
        let most = limits.most_pixels(native) as i64;
        let fits = |w: i64, h: i64| w.saturating_mul(h) <= most;
        let (width, height) = match self {
            Size::Native => (native.0 as i64, native.1 as i64),
            Size::Exact(w, h) => (w, h),
            Size::Scaled(w, h) if fits(w, h) || native == (1024, 1024) => (w, h),
            Size::Scaled(w, h) => scaled(w, h, native.0 as f64 / 1024.0),
            Size::Picture => match picture {
                Some(picture) => near(picture, most),
                None => (native.0 as i64, native.1 as i64),
            },
        };
        match fits(width, height) {
            true => Ok((width, height)),
            false => {
                // As it was sent, and what was made of it.
                let value = match self {
                    Size::Scaled(w, h) if (w, h) != (width, height) => {
                        format!("{w}x{h} ({width}x{height} on this model)")
                    }
                    _ => format!("{width}x{height}"),
                };
                let allowed = format!(
                    "must be at most {most} pixels in all, such as {}x{}",
                    native.0, native.1
                );
                Err(Failure::invalid(Field::Size, value, allowed))
            }
        }
    }
}

fn scaled(width: i64, height: i64, factor: f64) -> (i64, i64) {
    let side = |n: i64| whole_side(n as f64 * factor);
    (side(width), side(height))
}

/// The picture's size, made smaller or larger as the limits ask, in its proportions.
fn near(picture: &Picture, most: i64) -> (i64, i64) {
    let (w, h) = (picture.width as f64, picture.height as f64);
    let least = *SIZES.start() as f64;
    let grow = (least / w.min(h)).max(1.0);
    let shrink = (most as f64 / (w * h)).sqrt().min(grow);
    let floor = |n: f64| {
        let step = SIZE_STEP as f64;
        let side = (n / step + 1e-9).floor() * step;
        (side as i64).clamp(*SIZES.start() as i64, *SIZES.end() as i64)
    };
    (floor(w * shrink), floor(h * shrink))
}

/// The nearest side that is a multiple of the step.
fn whole_side(pixels: f64) -> i64 {
    let step = SIZE_STEP as f64;
    let side = (pixels / step).round() * step;
    (side as i64).clamp(*SIZES.start() as i64, *SIZES.end() as i64)
}

#[cfg(test)]
impl Prepared {
    pub fn for_test() -> Self {
        let raw = RawRequest {
            prompt: Some("a".into()),
            ..Default::default()
        };
        let context = Context {
            native: (128, 128),
            preset: Default::default(),
            refiner: false,
            styles: &crate::text::Styles::builtin(),
        };
        Self {
            model: 0,
            request: Request::resolve(raw, &context).expect("a prompt is all it takes"),
            format: Format::Png,
            preview_every: 0,
            warnings: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixels(
        size: Size,
        native: usize,
        picture: Option<(usize, usize)>,
    ) -> Result<(i64, i64), String> {
        let picture = picture.map(|(width, height)| Picture {
            width,
            height,
            rgb: vec![0; width * height * 3],
        });
        size.pixels((native, native), picture.as_ref(), &Limits::default())
            .map_err(|e| e.to_string())
    }

    #[test]
    fn a_models_own_size_takes_the_place_of_1024() {
        assert_eq!(pixels(Size::Native, 128, None), Ok((128, 128)));
        assert_eq!(
            pixels(Size::Scaled(1024, 1024), 1024, None),
            Ok((1024, 1024))
        );
        assert_eq!(pixels(Size::Scaled(1024, 1024), 128, None), Ok((128, 128)));
        assert_eq!(pixels(Size::Scaled(1536, 1024), 128, None), Ok((192, 128)));
        assert_eq!(pixels(Size::Scaled(512, 512), 128, None), Ok((64, 64)));
        assert_eq!(pixels(Size::Scaled(256, 256), 128, None), Ok((256, 256)));
        assert!(pixels(Size::Exact(1024, 1024), 128, None).is_err());
        assert!(pixels(Size::Scaled(4096, 4096), 1024, None).is_err());
        assert_eq!(
            pixels(Size::Scaled(8192, 8192), 128, None).unwrap_err(),
            "size is 8192x8192 (1024x1024 on this model): must be at most 65536 pixels in all, such as 128x128"
        );
        assert!(pixels(Size::Exact(i64::MAX, i64::MAX), 1024, None).is_err());
    }

    #[test]
    fn a_pictures_size_is_brought_within_the_limits() {
        assert_eq!(pixels(Size::Picture, 128, Some((100, 130))), Ok((96, 128)));
        assert_eq!(pixels(Size::Picture, 128, Some((20, 40))), Ok((64, 128)));
        let (w, h) = pixels(Size::Picture, 128, Some((4000, 1000))).unwrap();
        assert!(w * h <= 4 * 128 * 128 && w > 3 * h, "{w}x{h}");
    }
}
