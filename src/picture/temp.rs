use super::Picture;
use crate::Result;
#[derive(Debug, PartialEq, Clone, Copy, Default)]
pub enum Fit {
    #[default]
    Stretch,
}
impl std::str::FromStr for Fit {
    type Err = crate::Error;
    fn from_str(_: &str) -> Result<Self> {
        Ok(Self::Stretch)
    }
}
#[derive(Debug, Clone, PartialEq)]
pub struct Mask {
    pub width: usize,
    pub height: usize,
    pub values: Vec<u8>,
}
impl Mask {
    pub fn require_size_of(&self, _: &Picture, _: &str) -> Result<()> {
        Ok(())
    }
    pub fn resized(&self, _: usize, _: usize, _: Fit) -> Result<Mask> {
        Ok(self.clone())
    }
    pub fn to_planar(&self) -> Vec<f32> {
        self.values
            .iter()
            .map(|v| f32::from(u8::from(*v > 127)))
            .collect()
    }
    pub fn to_latent(&self, w: usize, h: usize) -> Vec<f32> {
        let p = self.to_planar();
        (0..w * h)
            .map(|i| p[(i / w) * 8 * self.width + (i % w) * 8])
            .collect()
    }
}
impl Picture {
    pub fn resized(&self, _: usize, _: usize, _: Fit) -> Result<Picture> {
        Ok(self.clone())
    }
    pub fn to_planar(&self) -> Vec<f32> {
        let n = self.width * self.height;
        (0..3 * n)
            .map(|i| f32::from(self.rgb[i % n * 3 + i / n]) / 127.5 - 1.0)
            .collect()
    }
}

pub const LEAST_INPUT_SIDE: usize = 8;
impl Picture {
    pub fn require_at_least(&self, _: usize, _: &str) -> Result<()> {
        Ok(())
    }
}
impl Fit {
    pub fn name(self) -> &'static str {
        "stretch"
    }
}
