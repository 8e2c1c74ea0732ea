//! `calotype generate`.

use super::interrupt;
use super::output;
use super::progress::Progress;
use anyhow::{Context, Result};
use calotype::Error;
use calotype::picture::{Destination, Parameters};
use calotype::pipeline::{
    Cancel, Dtype, LoadOptions, LoopStats, Observer, Output, Pipeline, RawRequest, Request,
    Seconds, Tiling, Trace,
};
use serde::Serialize;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Draw a picture from words
#[derive(clap::Args)]
pub struct Args {
    /// What to draw; - reads it from standard input
    prompt: Option<String>,

    /// A checkpoint: a diffusers folder, a .safetensors file, demo (the embedded
    /// model), or random:sdxl-base [default: $CALOTYPE_MODEL, else demo]
    #[arg(long)]
    model: Option<String>,

    /// What not to draw; leaving it out is not the same as ""
    #[arg(long)]
    negative_prompt: Option<String>,

    /// Pixels, a multiple of 8 from 64 up [default: the model's own]
    #[arg(long, value_parser = whole, allow_negative_numbers = true)]
    width: Option<i64>,

    /// Pixels, a multiple of 8 from 64 up [default: the model's own]
    #[arg(long, value_parser = whole, allow_negative_numbers = true)]
    height: Option<i64>,

    /// Denoising steps, 1 to 1000 [default: 25]
    #[arg(long, value_parser = whole, allow_negative_numbers = true)]
    steps: Option<i64>,

    /// The solver [default: Euler]
    #[arg(long)]
    scheduler: Option<String>,

    /// How closely to follow the prompt; 1 or less switches guidance off [default: 7.5]
    #[arg(long, value_parser = number, allow_negative_numbers = true)]
    guidance_scale: Option<f64>,

    /// Of the first picture, the next ones count up; -1 draws one [default: -1]
    #[arg(long, value_parser = whole, allow_negative_numbers = true)]
    seed: Option<i64>,

    /// How many pictures, 1 to 64 [default: 1]
    #[arg(long, value_parser = whole, allow_negative_numbers = true)]
    samples: Option<i64>,

    /// Precision; auto takes f16 where the adapter has it
    #[arg(long, default_value = "auto", value_parser = ["auto", "f32", "f16"], ignore_case = true)]
    dtype: String,

    /// Precision of the activations; auto follows --dtype, f32 on CPU adapters
    #[arg(long, default_value = "auto", value_parser = ["auto", "f32", "f16"], ignore_case = true)]
    activations: String,

    /// Which kernels: direct (no shared memory, for CPU adapters) or tiled
    #[arg(long, default_value = "auto", value_parser = ["auto", "direct", "tiled"])]
    kernels: String,

    /// Take two UNet calls a guided step, for half the activations' memory
    #[arg(long)]
    low_memory: bool,

    /// Decode in tiles with blended seams; auto where memory asks for it
    #[arg(long, default_value = "auto", value_parser = ["auto", "on", "off"])]
    vae_tiling: String,

    /// Another VAE in place of the model's: a .safetensors file or a folder, also
    /// TAESD's, which is small and fast
    #[arg(long, value_name = "FILE")]
    vae: Option<String>,

    /// The GPU: an index or a part of its name, as `calotype devices` lists them
    #[arg(long)]
    adapter: Option<String>,

    /// The interface to the GPU
    #[arg(long, value_parser = ["vulkan", "metal", "dx12"], ignore_case = true)]
    backend: Option<String>,

    /// The file, .png, .jpg or .webp, replaced if it is there; several samples
    /// become NAME-0.EXT, NAME-1.EXT, ... [default: calotype-SEED.png, never
    /// replacing a file]
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,

    /// Also write the tensors of every stage to this .safetensors file
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,

    /// Print one JSON object about the run instead of the files' names
    #[arg(long)]
    json: bool,

    /// Show no progress and no warnings
    #[arg(short, long)]
    quiet: bool,
}

/// What `--kernels` asks for.
pub fn kernels(name: &str) -> Option<bool> {
    match name {
        "direct" => Some(true),
        "tiled" => Some(false),
        _ => None,
    }
}

/// A whole number, for clap.
pub fn whole(text: &str) -> Result<i64, String> {
    text.trim()
        .parse()
        .map_err(|_| "must be a whole number below 2^63".to_owned())
}

/// Any number, NaN and infinities too: the request says what it thinks of them.
fn number(text: &str) -> Result<f64, String> {
    text.trim()
        .parse()
        .map_err(|_| "must be a number such as 7.5".to_owned())
}

/// Checks everything that can be checked, loads the model, draws, writes.
pub fn run(args: &Args) -> Result<()> {
    let cancel = interrupt::install();
    interrupt::file_limit_is_an_error();
    let raw = args.request()?;
    // All that does not need the model is checked before it is loaded.
    let samples = Request::resolve(raw.clone(), (1024, 1024))?.samples;
    let destination = Destination::check(args.out.as_deref(), samples)?;
    args.trace.as_deref().map_or(Ok(()), Trace::check)?;
    let options = args.load_options()?;

    let mut progress = Progress::new(args.quiet);
    let mut trace = args.trace.as_ref().map(|_| Trace::new());
    let (request, output) = draw(&options, raw, &mut progress, &cancel, trace.as_mut())?;
    progress.finish();
    output.warnings.iter().for_each(|text| progress.warn(text));

    let settings = Settings::new(&options, &request, &output);
    let start = Instant::now();
    let files = write(&destination, &settings, &output, &cancel)?;
    if let (Some(trace), Some(path)) = (&mut trace, &args.trace) {
        trace.put_meta("settings", serde_json::to_value(&settings)?);
        trace.write(path)?;
    }
    let write_seconds = start.elapsed().as_secs_f64();
    match args.json {
        true => output::json(&Report::new(&settings, &output, &files, write_seconds)),
        false => files
            .iter()
            .try_for_each(|file| output::line(&file.display().to_string())),
    }
}

impl Args {
    fn request(&self) -> Result<RawRequest> {
        let prompt = match self.prompt.as_deref() {
            Some("-") => Some(prompt_from_stdin()?),
            given => given.map(str::to_owned),
        };
        Ok(RawRequest {
            prompt,
            negative_prompt: self.negative_prompt.clone(),
            width: self.width,
            height: self.height,
            steps: self.steps,
            scheduler: self.scheduler.clone(),
            guidance_scale: self.guidance_scale,
            seed: self.seed,
            samples: self.samples,
        })
    }

    fn model(&self) -> Result<String> {
        if let Some(model) = &self.model {
            return Ok(super::checked_model(model)?.to_owned());
        }
        let named = std::env::var("CALOTYPE_MODEL").ok();
        Ok(named
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "demo".into()))
    }

    fn load_options(&self) -> Result<LoadOptions> {
        Ok(LoadOptions {
            model: self.model()?,
            adapter: self.adapter.clone(),
            backend: self.backend.as_ref().map(|name| name.to_lowercase()),
            dtype: self.dtype.parse::<Dtype>()?,
            activations: self.activations.parse::<Dtype>()?,
            direct_kernels: kernels(&self.kernels),
            low_memory: self.low_memory,
            vae_tiling: match self.vae_tiling.as_str() {
                "on" => Tiling::Always,
                "off" => Tiling::Never,
                _ => Tiling::Auto,
            },
            vae: self.vae.clone(),
            preview_vae: None,
        })
    }
}

/// The most that is read as a prompt, in bytes.
const LONGEST_PROMPT: u64 = 1 << 20;

fn prompt_from_stdin() -> Result<String> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .take(LONGEST_PROMPT + 1)
        .read_to_end(&mut bytes)
        .context("standard input cannot be read; give the prompt as an argument")?;
    if bytes.len() as u64 > LONGEST_PROMPT {
        let allowed = format!("must be at most {LONGEST_PROMPT}");
        return Err(Error::invalid("prompt's length in bytes", "more", allowed).into());
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::invalid("prompt", "not UTF-8", "must be text; convert it to UTF-8"))?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

fn draw(
    options: &LoadOptions,
    raw: RawRequest,
    progress: &mut Progress,
    cancel: &Cancel,
    trace: Option<&mut Trace>,
) -> Result<(Request, Output)> {
    let mut observer = Observer {
        events: &mut |event| progress.event(event),
        cancel,
        trace,
    };
    let mut pipeline = Pipeline::load(options, &mut observer)?;
    cancel.check()?;
    let request = Request::resolve(raw, pipeline.native_size())?;
    let output = pipeline.generate(&request, &mut observer)?;
    Ok((request, output))
}

fn write(
    destination: &Destination,
    settings: &Settings<'_>,
    output: &Output,
    cancel: &Cancel,
) -> Result<Vec<PathBuf>> {
    let pictures = output.pictures.iter().zip(&output.seeds).enumerate();
    pictures
        .map(|(index, (picture, seed))| {
            cancel.check()?;
            let text = settings.parameters(*seed).to_string();
            let bytes = destination.format().encode(picture, Some(&text))?;
            Ok(destination.write(index, *seed, &bytes)?)
        })
        .collect()
}

/// The request as it was carried out.
#[derive(Serialize)]
struct Settings<'a> {
    model: &'a str,
    #[serde(flatten)]
    request: &'a Request,
    dtype: &'a str,
}

impl<'a> Settings<'a> {
    fn new(options: &'a LoadOptions, request: &'a Request, output: &'a Output) -> Self {
        Settings {
            model: &options.model,
            request,
            dtype: &output.dtype,
        }
    }

    fn parameters(&self, seed: u64) -> Parameters<'_> {
        Parameters {
            prompt: &self.request.prompt,
            negative_prompt: self.request.negative_prompt.as_deref(),
            steps: self.request.steps,
            sampler: self.request.scheduler,
            cfg_scale: self.request.guidance_scale,
            seed,
            width: self.request.width,
            height: self.request.height,
            model: model_name(self.model),
        }
    }
}

/// The last part of a path without its extension; the folders above it are
/// nobody else's business.
fn model_name(model: &str) -> &str {
    let path = Path::new(model);
    let is_file = path
        .extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("safetensors"));
    let name = if is_file {
        path.file_stem()
    } else {
        path.file_name()
    };
    name.and_then(|name| name.to_str()).unwrap_or(model)
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    files: Vec<String>,
    seeds: &'a [u64],
    seconds: Stages,
    adapter: &'a str,
    backend: &'a str,
    dtype: &'a str,
    activations: &'a str,
    peak_device_bytes: u64,
    #[serde(flatten)]
    stats: LoopStats,
    warnings: &'a [String],
    settings: &'a Settings<'a>,
    version: &'static str,
}

#[derive(Serialize)]
struct Stages {
    #[serde(flatten)]
    run: Seconds,
    write: f64,
}

impl<'a> Report<'a> {
    fn new(settings: &'a Settings<'a>, output: &'a Output, files: &[PathBuf], write: f64) -> Self {
        Report {
            files: files
                .iter()
                .map(|f| f.to_string_lossy().into_owned())
                .collect(),
            seeds: &output.seeds,
            seconds: Stages {
                run: output.seconds,
                write,
            },
            adapter: &output.adapter,
            backend: &output.backend,
            dtype: &output.dtype,
            activations: &output.activations,
            peak_device_bytes: output.peak_device_bytes,
            stats: output.stats,
            warnings: &output.warnings,
            settings,
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::model_name;

    #[test]
    fn a_model_is_known_by_its_last_part() {
        for (model, name) in [
            ("demo", "demo"),
            ("/a/b/sd_xl_base_1.0.safetensors", "sd_xl_base_1.0"),
            ("/a/sdxl-1.0/", "sdxl-1.0"),
            ("random:sdxl-base", "random:sdxl-base"),
            ("..", ".."),
        ] {
            assert_eq!(model_name(model), name);
        }
    }
}
