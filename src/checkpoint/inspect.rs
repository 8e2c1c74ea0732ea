//! What a checkpoint is, from its configuration and headers; and whether its values
//! are sound.

use super::tensor::Part;
use super::{Checkpoint, Layout, expected};
use crate::Result;
use crate::schedule::{self, Prediction};
use rayon::prelude::*;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

/// Problems listed one by one; more are counted.
const MOST_PROBLEMS: usize = 20;

/// What [`Checkpoint::inspect`] finds.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub name: String,
    pub kind: Kind,
    pub layout: Layout,
    /// Weight files on disk; none for checkpoints inside the program.
    pub files: Vec<FileReport>,
    pub parts: Vec<PartReport>,
    /// Parameters of all parts.
    pub parameters: u64,
    pub unet: UNetReport,
    pub prediction_type: Prediction,
    pub diffusion: Diffusion,
    /// Width and height of the pictures it was trained for, in pixels.
    pub native_size: usize,
    /// Tensors that are missing, not as the configuration says or not finite; none in
    /// a checkpoint that can be used.
    pub problems: Vec<String>,
    /// What is worth knowing of its values, where they were read.
    pub notes: Vec<String>,
}

/// What kind of diffusion the UNet was trained for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Diffusion {
    /// Over timesteps, as SDXL.
    Timesteps { zero_terminal_snr: bool },
    /// Over noise levels (EDM).
    Edm {
        sigma_min: f64,
        sigma_max: f64,
        sigma_data: f64,
    },
}

impl Diffusion {
    fn of(config: &schedule::Config) -> Self {
        match config.edm.zip(config.edm_range()) {
            Some((edm, (sigma_min, sigma_max))) => Diffusion::Edm {
                sigma_min,
                sigma_max,
                sigma_data: edm.sigma_data,
            },
            None => Diffusion::Timesteps {
                zero_terminal_snr: config.rescale_betas_zero_snr,
            },
        }
    }
}

impl fmt::Display for Diffusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Diffusion::Timesteps {
                zero_terminal_snr: false,
            } => Ok(()),
            Diffusion::Timesteps {
                zero_terminal_snr: true,
            } => write!(f, " with zero terminal SNR"),
            Diffusion::Edm {
                sigma_min,
                sigma_max,
                sigma_data,
            } => write!(
                f,
                " over noise levels {} to {} (EDM, sigma_data {})",
                // Files keep them in f32.
                *sigma_min as f32,
                *sigma_max as f32,
                *sigma_data as f32
            ),
        }
    }
}

/// Base or refiner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Base,
    Refiner,
}

/// One weight file.
#[derive(Debug, Clone, Serialize)]
pub struct FileReport {
    pub path: PathBuf,
    pub bytes: u64,
}

/// One part.
#[derive(Debug, Clone, Serialize)]
pub struct PartReport {
    /// `text_encoder`, `text_encoder_2`, `unet` or `vae`.
    pub part: &'static str,
    pub tensors: usize,
    pub parameters: u64,
    /// `f32`, `f16`, `bf16`; several where a part mixes them.
    pub precision: Vec<&'static str>,
}

/// The UNet's key sizes, highest resolution first.
#[derive(Debug, Clone, Serialize)]
pub struct UNetReport {
    pub in_channels: usize,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: Vec<usize>,
    /// Transformer blocks of each level, the most of an attention; 0 where there is none.
    pub transformer_layers: Vec<usize>,
    pub num_attention_heads: Vec<usize>,
    pub cross_attention_dim: usize,
    /// Whether it is told the guidance scale, as consistency models are.
    pub guidance_embedding: bool,
}

impl Checkpoint {
    /// Says what a checkpoint is: opens it as [`Checkpoint::open`] does and checks the
    /// presence, shape, type and values of every tensor. All values are read, but for
    /// those of a random checkpoint.
    pub fn inspect(spec: &str) -> Result<Report> {
        let checkpoint = Self::open(spec)?;
        Ok(checkpoint.described(checkpoint.layout != Layout::Random))
    }

    /// The same for a checkpoint that is open. Reads no values.
    pub fn report(&self) -> Report {
        self.described(false)
    }

    fn described(&self, with_values: bool) -> Report {
        let mut problems = Vec::new();
        let mut notes = Vec::new();
        let parts: Vec<PartReport> = self
            .own_parts()
            .map(|part| self.part_report(part, &mut problems))
            .collect();
        if with_values {
            for part in self.own_parts() {
                self.read_values(part, &mut problems, &mut notes);
            }
        }
        if problems.len() > MOST_PROBLEMS {
            let more = problems.len() - MOST_PROBLEMS;
            problems.truncate(MOST_PROBLEMS);
            problems.push(format!("{more} more"));
        }
        let files = self.files.iter().cloned();
        Report {
            name: self.name.clone(),
            kind: if self.is_refiner() {
                Kind::Refiner
            } else {
                Kind::Base
            },
            layout: self.layout,
            files: match self.layout {
                Layout::Embedded | Layout::Random => Vec::new(),
                _ => files
                    .map(|(path, bytes)| FileReport { path, bytes })
                    .collect(),
            },
            parameters: parts.iter().map(|p| p.parameters).sum(),
            parts,
            unet: self.unet_report(),
            prediction_type: self.scheduler.prediction_type,
            diffusion: Diffusion::of(&self.scheduler),
            native_size: self.native_size(),
            problems,
            notes,
        }
    }

    fn own_parts(&self) -> impl Iterator<Item = Part> {
        Part::ALL.into_iter().filter(|part| match part {
            Part::TextEncoder => !self.is_refiner(),
            Part::Vae => self.has_vae(),
            _ => true,
        })
    }

    /// Looks at all values of a part, at as many tensors at a time as there are
    /// processors. Tensors that cannot be read are a matter of [`Self::part_report`].
    fn read_values(&self, part: Part, problems: &mut Vec<String>, notes: &mut Vec<String>) {
        let source = self.source(part);
        let expected = self.expected(part);
        let extents = expected.par_iter().filter_map(|(name, shape)| {
            let view = source.read(name, shape).ok()?;
            Some((name, shape, view.extent()))
        });
        let extents: Vec<_> = extents.collect();
        for (name, shape, extent) in &extents {
            if extent.not_finite > 0 {
                let (count, all) = (extent.not_finite, shape.iter().product::<usize>());
                problems.push(format!(
                    "{}: tensor {name}: {count} of {all} values are not finite (NaN or infinity); use a sound copy of the checkpoint",
                    part.folder()
                ));
            }
        }
        let wide = extents.iter().filter(|(_, _, extent)| extent.exceeds_f16());
        let most = wide
            .clone()
            .max_by(|a, b| a.2.largest.total_cmp(&b.2.largest));
        if let Some((name, _, extent)) = most {
            notes.push(format!(
                "{}: tensors with values beyond f16's range, which stay f32: {} (up to {:.1e}, in {name})",
                part.folder(),
                wide.count(),
                extent.largest
            ));
        }
    }

    fn part_report(&self, part: Part, problems: &mut Vec<String>) -> PartReport {
        let source = self.source(part);
        let mut precision = BTreeSet::new();
        let (mut tensors, mut parameters) = (0, 0);
        for (name, shape) in self.expected(part) {
            match source.check(&name, &shape) {
                Err(e) => problems.push(e.to_string()),
                Ok(()) => {
                    tensors += 1;
                    parameters += shape.iter().map(|n| *n as u64).product::<u64>();
                    precision.extend(source.dtype(&name).map(|d| d.name()));
                }
            }
        }
        PartReport {
            part: part.folder(),
            tensors,
            parameters,
            precision: precision.into_iter().collect(),
        }
    }

    /// Every tensor that a part must have by its configuration, with its shape.
    pub fn expected(&self, part: Part) -> Vec<(String, Vec<usize>)> {
        match part {
            Part::TextEncoder => self
                .text_encoder
                .as_ref()
                .map(expected::clip)
                .unwrap_or_default(),
            Part::TextEncoder2 => expected::clip(&self.text_encoder_2),
            Part::UNet => expected::unet(&self.unet),
            Part::Vae if !self.has_vae() => Vec::new(),
            Part::Vae => expected::autoencoder(&self.vae),
        }
    }

    fn unet_report(&self) -> UNetReport {
        let c = &self.unet;
        UNetReport {
            in_channels: c.in_channels,
            block_out_channels: c.block_out_channels.clone(),
            layers_per_block: c.layers_per_block.clone(),
            transformer_layers: c.deepest(),
            num_attention_heads: c.num_attention_heads.clone(),
            cross_attention_dim: c.cross_attention_dim,
            guidance_embedding: c.time_cond_proj_dim.is_some(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Base => "SDXL base",
            Kind::Refiner => "SDXL refiner",
        };
        let layout = match self.layout {
            Layout::DiffusersFolder => "diffusers folder",
            Layout::SingleFile => "single file",
            Layout::Embedded => "embedded in the program",
            Layout::Random => "weights made on the spot",
        };
        let prediction = self.prediction_type.name();
        writeln!(f, "{}: {kind}, {layout}", self.name)?;
        writeln!(
            f,
            "  made for {0}x{0} pixels, predicts {prediction}{1}{2}",
            self.native_size,
            self.diffusion,
            if self.unet.guidance_embedding {
                ", is told the guidance scale"
            } else {
                ""
            }
        )?;
        for p in &self.parts {
            let (count, precision) = (grouped(p.parameters), p.precision.join(" "));
            writeln!(
                f,
                "  {:<15}{count:>15} parameters in {:>4} tensors, {precision}",
                p.part, p.tensors
            )?;
        }
        writeln!(
            f,
            "  {:<15}{:>15} parameters",
            "total",
            grouped(self.parameters)
        )?;
        let u = &self.unet;
        writeln!(
            f,
            "  unet channels {:?}, transformer layers {:?}, heads {:?}, text width {}",
            u.block_out_channels,
            u.transformer_layers,
            u.num_attention_heads,
            u.cross_attention_dim
        )?;
        for file in &self.files {
            writeln!(
                f,
                "  {} ({} bytes)",
                file.path.display(),
                grouped(file.bytes)
            )?;
        }
        for problem in &self.problems {
            writeln!(f, "  problem: {problem}")?;
        }
        for note in &self.notes {
            writeln!(f, "  note: {note}")?;
        }
        Ok(())
    }
}

/// A number with a comma between thousands.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
