//! What every front door asks for: one internal request, and how it becomes one
//! that the pipeline can carry out.
//!
//! That happens in stages, so that a request is priced before its pictures are decoded:
//! [`Order::check`] looks at the fields, [`Checked::measure`] at the headers of the
//! pictures, and [`Measured::decode`] decodes them.

use super::failure::Failure;
use crate::error::Field;
use crate::picture::{Format, JPEG_QUALITY, MOST_BLUR, Mask, MaskReading, Picture};
use crate::pipeline::request::{SIZE_STEP, SIZES};
use crate::pipeline::{Cancel, Context, RawRequest, Request};
use crate::server::config::Limits;
use crate::server::media::Sources;
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
    /// Of a JPEG, from 1 to 100.
    pub quality: Option<u8>,
    /// How many previews over the run; 0 for none.
    pub previews: usize,
}

/// An order that can be carried out.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Which of the service's models draws.
    pub model: usize,
    pub request: Request,
    /// Whether it starts from a picture.
    pub over_picture: bool,
    pub format: Format,
    /// Of a JPEG, from 1 to 100.
    pub quality: u8,
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

/// An order whose fields are within the limits; its pictures are text still.
pub struct Checked {
    order: Order,
    warnings: Vec<String>,
}

/// An order of a known price: its pictures are files, of which the headers were read.
pub struct Measured {
    order: Order,
    warnings: Vec<String>,
    image: Option<Vec<u8>>,
    mask: Option<Vec<u8>>,
    /// The request with a blank picture and mask in the place of the order's.
    dry: Request,
    /// Pixels of picture and mask in all.
    pub input_pixels: usize,
    /// Bytes of all prompts.
    pub prompt_bytes: usize,
}

impl Order {
    /// Checks what can be checked without its pictures, and takes the LoRA tags out of
    /// its prompts.
    pub fn check(mut self, rules: &Rules<'_>) -> Result<Checked, Failure> {
        let raw = &mut self.raw;
        for (field, text) in prompts(raw) {
            let most = rules.limits.max_prompt;
            if text.len() > most {
                let (given, allowed) = (
                    format!("{} bytes", text.len()),
                    format!("must be at most {most} bytes"),
                );
                return Err(Failure::invalid(field, given, allowed));
            }
        }
        let most = rules.limits.max_steps;
        within("steps", raw.steps, 1, most as i64)?;
        within("samples", raw.samples, 1, rules.limits.max_samples as i64)?;
        check_cache_interval(raw.cache_interval, rules.limits.max_cache_interval as i64)?;
        let warnings = raw
            .take_lora_tags(rules.loras, rules.context.styles)
            .map_err(|error| match error {
                // The folder's path is the operator's matter.
                crate::Error::File { problem, .. } => {
                    let allowed = format!("the service's folder of LoRAs {problem}");
                    Failure::invalid(Field::LoraTag, "unknown", allowed)
                }
                other => other.into(),
            })?;
        Ok(Checked {
            order: self,
            warnings,
        })
    }
}

/// The prompts that are given, with their fields.
fn prompts(raw: &RawRequest) -> impl Iterator<Item = (Field, &str)> {
    let all = [
        (Field::Prompt, &raw.prompt),
        (Field::Prompt2, &raw.prompt_2),
        (Field::NegativePrompt, &raw.negative_prompt),
        (Field::NegativePrompt2, &raw.negative_prompt_2),
    ];
    let given = all.into_iter();
    given.filter_map(|(field, text)| Some((field, text.as_deref()?)))
}

impl Checked {
    /// Whether a picture must be fetched from elsewhere.
    pub fn is_remote(&self) -> bool {
        let mask = self.order.mask.as_ref().map(|mask| &mask.text);
        let mut texts = self.order.image.iter().chain(mask);
        texts.any(|text| is_remote(text))
    }

    /// The request without its pictures' pixels, for a price where they are not known.
    pub fn dry(&self, rules: &Rules<'_>) -> Result<(Request, usize), Failure> {
        let request = self.order.dry(None, rules)?;
        Ok((request, self.prompt_bytes()))
    }

    fn prompt_bytes(&self) -> usize {
        prompts(&self.order.raw).map(|(_, text)| text.len()).sum()
    }

    /// Makes files of the pictures' texts and reads the files' headers. Waits for the
    /// network where a picture is a URL.
    pub fn measure(self, rules: &Rules<'_>) -> Result<Measured, Failure> {
        let prompt_bytes = self.prompt_bytes();
        let Checked {
            mut order,
            warnings,
        } = self;
        let sources = rules.sources;
        // The text is not needed any more, and is as large as the file.
        let image = order.image.take();
        let image = image
            .map(|text| sources.bytes("image", &text))
            .transpose()?;
        let mask = order
            .mask
            .as_mut()
            .map(|mask| std::mem::take(&mut mask.text));
        let mask = mask.map(|text| sources.bytes("mask", &text)).transpose()?;
        let size = |field, bytes: &Option<Vec<u8>>| {
            let bytes = bytes.as_deref();
            bytes.map(|bytes| sources.size(field, bytes)).transpose()
        };
        let (image_size, mask_size) = (size("image", &image)?, size("mask", &mask)?);
        if let (Some(mask), Some(size)) = (&order.mask, mask_size) {
            check_blur(mask.blur, size)?;
        }
        let sizes = image_size.into_iter().chain(mask_size);
        let input_pixels = sizes.map(|(width, height)| width * height).sum();
        Ok(Measured {
            dry: order.dry(image_size, rules)?,
            order,
            warnings,
            image,
            mask,
            input_pixels,
            prompt_bytes,
        })
    }
}

/// Whether `text` stands for a picture somewhere else.
fn is_remote(text: &str) -> bool {
    let start = text.trim_start().get(..8).unwrap_or_default();
    start.to_ascii_lowercase().starts_with("http")
}

/// Refuses a blur that takes seconds: its work is that of as many pixels as the mask has,
/// each under as many weights as the Gaussian reaches.
fn check_blur([x, y]: [f64; 2], (width, height): (usize, usize)) -> Result<(), Failure> {
    /// Some seconds of one processor.
    const MOST_WORK: f64 = 4e9;
    const REACH: f64 = 2.5;
    for radius in [x, y] {
        if !(0.0..=MOST_BLUR).contains(&radius) {
            let allowed = format!("must be from 0 to {MOST_BLUR} pixels");
            return Err(Failure::invalid("mask_blur", radius, allowed));
        }
    }
    let pixels = (width * height) as f64;
    if pixels * REACH * (x + y) <= MOST_WORK {
        return Ok(());
    }
    let most = (MOST_WORK / (2.0 * REACH * pixels)).floor();
    let allowed = format!(
        "must be at most {most} pixels for a mask of {width}x{height}; send a smaller mask"
    );
    Err(Failure::invalid("mask_blur", x.max(y), allowed))
}

impl Order {
    /// The request as it will be carried out, but for the pixels of its picture and mask:
    /// blank ones of the size that is drawn stand for them, which are not resized or decoded.
    fn dry(&self, image: Option<(usize, usize)>, rules: &Rules<'_>) -> Result<Request, Failure> {
        let (width, height) = self
            .size
            .pixels(rules.context.native, image, rules.limits)?;
        let side = |side: i64| side.clamp(*SIZES.start() as i64, *SIZES.end() as i64) as usize;
        let (w, h) = (side(width), side(height));
        let mut raw = self.raw.clone();
        (raw.width, raw.height) = (Some(width), Some(height));
        if image.is_some() {
            raw.image = Some(Arc::new(Picture {
                width: w,
                height: h,
                rgb: vec![0; w * h * 3],
            }));
            raw.mask = self.mask.as_ref().map(|_| {
                Arc::new(Mask {
                    width: w,
                    height: h,
                    values: vec![255; w * h],
                })
            });
        } else if self.mask.is_some() || self.image.is_some() {
            // What needs a picture is not looked at.
            (raw.keep_unmasked, raw.padding_mask_crop) = (None, None);
        }
        if !rules.context.refiner {
            raw.refiner = None;
        }
        let mut request = Request::resolve(raw, &rules.context)?;
        let most = rules.limits.max_steps;
        within("steps", Some(request.steps as i64), 1, most as i64)?;
        (request.image, request.mask, request.overlay) = (None, None, None);
        Ok(request)
    }
}

impl Measured {
    /// The request for its price: see [`crate::server::config::price::Price::of`].
    pub fn dry(&self) -> &Request {
        &self.dry
    }

    /// Whether there is anything to decode.
    pub fn has_pictures(&self) -> bool {
        self.image.is_some() || self.mask.is_some()
    }

    /// Decodes the pictures and makes the request. Takes as long as decoding takes;
    /// between one picture and the next, `cancel` ends it.
    pub fn decode(self, rules: &Rules<'_>, cancel: &Cancel) -> Result<Prepared, Failure> {
        let Order {
            mut raw,
            size,
            mask,
            format,
            quality,
            previews,
            ..
        } = self.order;
        let mut warnings = self.warnings;
        cancel.check()?;
        let picture = self.image.map(|bytes| {
            let sources = rules.sources;
            sources.picture_from("image", &bytes, &mut warnings)
        });
        let picture = picture.transpose()?;
        cancel.check()?;
        if let (Some(order), Some(bytes)) = (mask, self.mask) {
            let mask = rules
                .sources
                .mask_from("mask", &bytes, order.reading, &mut warnings)?;
            raw.mask = Some(Arc::new(mask));
            raw.mask_invert = Some(order.invert);
            raw.mask_blur = Some(order.blur);
            raw.mask_stretch = order.stretch;
        }
        cancel.check()?;
        let native = rules.context.native;
        let picture_size = picture.as_ref().map(|p| (p.width, p.height));
        let (width, height) = size.pixels(native, picture_size, rules.limits)?;
        (raw.width, raw.height) = (Some(width), Some(height));
        raw.image = picture.map(Arc::new);
        if raw.refiner == Some(true) && !rules.context.refiner {
            warnings.push("no refiner is loaded; the base model draws alone".to_owned());
            raw.refiner = None;
        }
        let request = Request::resolve(raw, &rules.context)?;
        Ok(Prepared {
            preview_every: request.steps.checked_div(previews).map_or(0, |n| n.max(1)),
            format: format.unwrap_or(Format::Png),
            quality: quality.unwrap_or(JPEG_QUALITY),
            model: rules.model,
            over_picture: request.image.is_some(),
            request,
            warnings,
        })
    }
}

impl Prepared {
    /// The same without its pictures, for who asks after it is drawn.
    #[must_use]
    pub fn without_pictures(&self) -> Self {
        let request = Request {
            image: None,
            mask: None,
            overlay: None,
            ..self.request.clone()
        };
        Self {
            request,
            warnings: self.warnings.clone(),
            ..*self
        }
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
        picture: Option<(usize, usize)>,
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
fn near((width, height): (usize, usize), most: i64) -> (i64, i64) {
    let (w, h) = (width as f64, height as f64);
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
            over_picture: false,
            format: Format::Png,
            quality: JPEG_QUALITY,
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
        size.pixels((native, native), picture, &Limits::default())
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
