//! What a bench found, with everything that says where: one form for all suites, which is
//! written as JSON (see [`schema`]), JSON lines, CSV or Markdown.

mod csv;
mod facts;
mod markdown;
mod read;
pub mod table;

pub use facts::{DeviceFacts, Matrix, Program, SystemFacts};
pub use read::schema;

use super::statistics::Summary;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::str::FromStr;

/// The version of the form below; a change that old readers do not understand raises it.
pub const SCHEMA: u32 = 1;

/// What a bench found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// The version of this form: 1.
    #[schemars(extend("const" = SCHEMA))]
    pub schema: u32,
    pub program: Program,
    /// When it began, in UTC (RFC 3339).
    pub date: String,
    /// The arguments of the program.
    pub command: String,
    pub device: DeviceFacts,
    pub system: SystemFacts,
    pub rows: Vec<Row>,
    /// What a reader should know about the figures.
    pub notes: Vec<String>,
}

/// The parts of the bench.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Suite {
    /// What the device does at the most.
    Peaks,
    /// One op at one shape.
    Kernels,
    /// A stage of drawing a picture.
    Model,
    /// The kernels of one UNet forward: where its time goes.
    Step,
    /// Those of decoding a picture, whole or of its largest tile.
    Decode,
    /// Pictures from the HTTP service.
    Serve,
}

/// Whose time a sample is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TimedBy {
    /// The device's timestamps.
    Device,
    /// The wall clock around submission and wait.
    Wall,
    /// Processor time of the process.
    Processor,
}

/// What is measured: rows of two reports with the same one are compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Subject {
    pub suite: Suite,
    /// Such as `unet conv`, `UNet step` or `fma f32`.
    pub name: String,
    /// Of a kernel, such as `conv`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op: Option<String>,
    /// Of the operands, or the picture's pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<String>,
    /// How numbers are stored: those of activations and of weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
    /// Which kernel runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Pictures at a time (a guided step has two halves for each), or clients of a
    /// service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// Denoising steps of a picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
}

impl Subject {
    /// Of `name`, with nothing else said.
    pub fn new(suite: Suite, name: impl Into<String>) -> Self {
        Self {
            suite,
            name: name.into(),
            op: None,
            shape: None,
            storage: None,
            variant: None,
            model: None,
            batch: None,
            steps: None,
        }
    }

    /// One line that names it.
    pub fn label(&self) -> String {
        let mut parts = vec![self.name.clone()];
        parts.extend(self.shape.clone());
        parts.extend(self.storage.clone());
        parts.extend(self.variant.clone());
        parts.extend(self.model.clone());
        let what = match self.suite {
            Suite::Serve => "clients",
            _ => "batch",
        };
        parts.extend(self.batch.map(|n| format!("{what} {n}")));
        parts.extend(self.steps.map(|n| format!("{n} steps")));
        parts.join(", ")
    }
}

/// Work of one call.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Work {
    /// Arithmetic operations, a multiply-add counting as two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations: Option<f64>,
    /// Bytes that must be read and written at the least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<f64>,
}

/// A subject and its samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Row {
    #[serde(flatten)]
    pub subject: Subject,
    pub timed_by: TimedBy,
    /// Seconds of one call each, in the order in which they were taken.
    pub samples: Vec<f64>,
    /// Samples that were thrown away before these.
    pub warm_up: usize,
    /// Of `samples`, in seconds.
    pub summary: Summary,
    #[serde(default)]
    pub work: Work,
    /// The rate at the median as a share of what the measured peaks allow; 1 is all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_of_peak: Option<f64>,
    /// The most that was held on the device, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_bytes: Option<u64>,
    /// |result - twin| / |twin|, against the plain code that says what is computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<f64>,
    /// Other figures, by name and unit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<String, f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Row {
    /// A row of `samples`; `None` where there are none.
    pub fn new(subject: Subject, timed_by: TimedBy, samples: Vec<f64>) -> Option<Self> {
        Some(Self {
            subject,
            timed_by,
            summary: Summary::of(&samples)?,
            samples,
            warm_up: 0,
            work: Work::default(),
            share_of_peak: None,
            device_bytes: None,
            error: None,
            figures: BTreeMap::new(),
            note: None,
        })
    }

    /// 10^12 operations a second at the median.
    pub fn tera_operations(&self) -> Option<f64> {
        Some(self.work.operations? / self.summary.median / 1e12)
    }

    /// 10^9 bytes a second at the median.
    pub fn giga_bytes(&self) -> Option<f64> {
        Some(self.work.bytes? / self.summary.median / 1e9)
    }

    /// Operations for each byte that must move.
    pub fn intensity(&self) -> Option<f64> {
        let bytes = self.work.bytes.filter(|bytes| *bytes > 0.0)?;
        Some(self.work.operations.filter(|n| *n > 0.0)? / bytes)
    }
}

/// How a report is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Markdown,
    Csv,
    Json,
    /// One object a row.
    JsonLines,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "md" => Ok(Self::Markdown),
            "csv" => Ok(Self::Csv),
            "json" => Ok(Self::Json),
            "jsonl" => Ok(Self::JsonLines),
            _ => Err("there are: md, csv, json, jsonl".into()),
        }
    }
}

impl Report {
    /// The rows of `suite`.
    pub fn of(&self, suite: Suite) -> impl Iterator<Item = &Row> {
        let rows = self.rows.iter();
        rows.filter(move |row| row.subject.suite == suite)
    }

    /// # Errors
    /// [`crate::Error::Internal`] where a value has no form there.
    pub fn print(&self, format: Format) -> crate::Result<String> {
        let failed = |e: &dyn std::fmt::Display| crate::Error::internal("report", e.to_string());
        match format {
            Format::Markdown => Ok(markdown::print(self)),
            Format::Csv => csv::print(self).map_err(|e| failed(&e)),
            Format::Json => serde_json::to_string_pretty(self).map_err(|e| failed(&e)),
            Format::JsonLines => {
                let line = |row| {
                    serde_json::to_string(&Line {
                        schema: self.schema,
                        program: &self.program,
                        date: &self.date,
                        adapter: &self.device.adapter,
                        driver: &self.device.driver_info,
                        row,
                    })
                };
                let lines: Result<Vec<String>, _> = self.rows.iter().map(line).collect();
                lines.map(|l| l.join("\n")).map_err(|e| failed(&e))
            }
        }
    }
}

/// A row that stands alone.
#[derive(Serialize)]
struct Line<'a> {
    schema: u32,
    program: &'a Program,
    date: &'a str,
    adapter: &'a str,
    driver: &'a str,
    #[serde(flatten)]
    row: &'a Row,
}
