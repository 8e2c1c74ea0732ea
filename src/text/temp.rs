use super::Tokenizer;
use crate::Result;
use serde::{Deserialize, Serialize};
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Weighting {
    #[default]
    A1111,
    Comfy,
}
impl std::str::FromStr for Weighting {
    type Err = crate::Error;
    fn from_str(_: &str) -> Result<Self> {
        Ok(Self::A1111)
    }
}
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Style {
    pub name: String,
}
impl Style {
    pub fn apply(&self, p: &str, n: Option<&str>) -> (String, Option<String>) {
        (p.into(), n.map(Into::into))
    }
}
#[derive(Debug, Clone)]
pub struct Styles;
impl Styles {
    pub fn builtin() -> Self {
        Styles
    }
    pub fn find(&self, _: &str) -> Result<&Style> {
        Err(crate::Error::unknown("style", "", []))
    }
}
pub struct Chunk {
    pub ids: Vec<u32>,
    pub weights: Vec<f32>,
}
impl Chunk {
    pub fn empty(t: &Tokenizer) -> Self {
        let ids = t.encode("").unwrap().ids;
        Chunk {
            weights: vec![1.0; ids.len()],
            ids,
        }
    }
}
pub type Piece = String;
pub fn pieces(t: &str, _: Weighting) -> Vec<Piece> {
    vec![t.into()]
}
pub fn chunks(t: &Tokenizer, p: &[Piece]) -> Result<Vec<Chunk>> {
    let ids = t.encode(&p[0])?.ids;
    Ok(vec![Chunk {
        weights: vec![1.0; ids.len()],
        ids,
    }])
}
pub fn weigh(_: &mut [f32], _: &[f32], _: Weighting, _: Option<&[f32]>) {}

impl Weighting {
    pub fn name(self) -> &'static str {
        "default"
    }
}
impl Styles {
    pub fn with_file(_: &std::path::Path) -> Result<Self> {
        Ok(Styles)
    }
}
