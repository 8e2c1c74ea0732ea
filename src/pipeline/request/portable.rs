//! A request on its way to another machine: plain data, and its pictures as files.

use super::Request;
use crate::picture::{Format, Mask, Overlay, Picture, Region};
use crate::schedule;
use crate::{Error, Result};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// A request on its way to another machine, which draws the same of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Portable {
    pub request: Value,
    /// PNG files.
    pub pictures: Vec<Vec<u8>>,
}

/// What there is in [`Portable::request`].
#[derive(Serialize, Deserialize)]
struct Parcel {
    request: Request,
    /// Which of its pictures there are, in this order.
    image: bool,
    mask: bool,
    overlay: bool,
    region: Option<Region>,
}

impl Request {
    /// As it travels; LoRAs are known by their files' names there.
    ///
    /// # Errors
    /// A picture cannot be written as a file.
    pub fn to_portable(&self) -> Result<Portable> {
        let overlay = self.overlay.as_deref();
        let mut request = self.clone();
        (request.image, request.mask, request.overlay) = (None, None, None);
        for lora in &mut request.loras {
            lora.path = lora.path.file_name().unwrap_or_default().into();
        }
        let parcel = Parcel {
            request,
            image: self.image.is_some(),
            mask: self.mask.is_some(),
            overlay: overlay.is_some(),
            region: overlay.and_then(|overlay| overlay.region),
        };
        let image = self.image.as_deref().cloned();
        let mask = self.mask.as_deref().map(grey);
        let over = overlay.map(|overlay| [overlay.picture.clone(), grey(&overlay.mask)]);
        let pictures = image
            .into_iter()
            .chain(mask)
            .chain(over.into_iter().flatten());
        let files = pictures.map(|picture| Format::Png.encode(&picture, None));
        Ok(Portable {
            // Plain data always has a JSON form.
            request: serde_json::to_value(parcel).unwrap_or_default(),
            pictures: files.collect::<Result<_>>()?,
        })
    }

    /// The request that travelled.
    ///
    /// # Errors
    /// It is none, or not of this version of the program.
    pub fn from_portable(portable: Portable) -> Result<Self> {
        let wrong = |problem: String| Error::internal("a request of another machine", problem);
        let parcel: Parcel =
            serde_json::from_value(portable.request).map_err(|e| wrong(e.to_string()))?;
        let mut files = portable.pictures.into_iter();
        let mut next = |wanted: bool| -> Result<Option<Picture>> {
            if !wanted {
                return Ok(None);
            }
            let file = files
                .next()
                .ok_or_else(|| wrong("lacks a picture".into()))?;
            Picture::from_bytes("image", &file).map(Some)
        };
        let mut request = parcel.request;
        request.image = next(parcel.image)?.map(Arc::new);
        request.mask = next(parcel.mask)?.map(|picture| Arc::new(mask(&picture)));
        let (picture, over) = (next(parcel.overlay)?, next(parcel.overlay)?);
        request.overlay = picture.zip(over).map(|(picture, over)| {
            Arc::new(Overlay {
                picture,
                mask: mask(&over),
                region: parcel.region,
            })
        });
        Ok(request)
    }
}

fn grey(mask: &Mask) -> Picture {
    Picture {
        width: mask.width,
        height: mask.height,
        rgb: mask.values.iter().flat_map(|value| [*value; 3]).collect(),
    }
}

fn mask(grey: &Picture) -> Mask {
    Mask {
        width: grey.width,
        height: grey.height,
        values: grey.rgb.iter().copied().step_by(3).collect(),
    }
}

/// A name of the program's own. As an alias, since serde would borrow it from what it reads.
pub type Name = &'static str;

pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

pub(super) fn scheduler<'de, D: Deserializer<'de>>(data: D) -> Result<Name, D::Error> {
    let name = String::deserialize(data)?;
    schedule::canonical_name(&name).map_err(D::Error::custom)
}
