//! `calotype generate`.

mod args;
mod hints;
mod like;
mod origin;
mod report;

pub use args::{Args, whole};
pub use origin::Setting;

use super::error::worded;
use super::interrupt;
use super::output;
use super::progress::Progress;
use anyhow::Result;
use calotype::picture::{self, Destination, Format, Mask, Picture};
use calotype::pipeline::request::DRAWN_SEED;
use calotype::pipeline::{
    Cancel, Context, Event, LoadOptions, MemoryPlan, Observer, Output, Pipeline, RawRequest,
    Request, Settings, Trace,
};
use calotype::text::Styles;
use like::Like;
use report::Report;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Checks everything that can be checked, loads the model, draws, writes.
pub fn run(args: &Args) -> Result<()> {
    carry_out(args).map_err(|error| origin::traced(error, args))
}

fn carry_out(args: &Args) -> Result<()> {
    let cancel = interrupt::install();
    interrupt::file_limit_is_an_error();
    let mut job = Job::new(args)?;
    // All that does not need the model is checked before it is loaded.
    let context = Context {
        native: (1024, 1024),
        preset: Default::default(),
        refiner: job.options.refiner.is_some(),
        styles: &job.styles,
    };
    let first = Request::resolve(job.raw.clone(), &context)?;
    if job.raw.seed.is_none_or(|seed| seed == DRAWN_SEED) {
        // Drawn once, so that the names that were checked are those that are written.
        job.raw.seed = Some(first.seed.into());
    }
    let destination = Destination::check(args.output.out.as_deref(), first.samples)?;
    destination.check_beside(args.output.grid, args.output.preview.is_some())?;
    args.output.trace.as_deref().map_or(Ok(()), Trace::check)?;

    let mut progress = Progress::new(args.output.quiet);
    job.warnings.iter().for_each(|text| progress.warn(text));
    let mut trace = args.output.trace.as_ref().map(|_| Trace::new());
    let previews = Previews {
        every: args.output.preview.map_or(0, |n| n as usize),
        destination: &destination,
        seed: first.seed,
    };
    let made = draw(
        args,
        &job,
        &previews,
        &mut progress,
        &cancel,
        trace.as_mut(),
    )?;
    progress.finish();
    let (request, output) = match made {
        Drawn::Pictures(made) => *made,
        Drawn::Plan(plan) if args.output.json => return output::json(&plan),
        Drawn::Plan(plan) => return output::line(plan.to_string().trim_end()),
    };
    output.warnings.iter().for_each(|text| progress.warn(text));

    let settings = Settings::new(&job.options, &request, &output)
        .started_from(args.picture.image.as_deref(), args.picture.mask.as_deref());
    let start = Instant::now();
    let files = write(args, &destination, &settings, &output, &cancel)?;
    if let (Some(trace), Some(path)) = (&mut trace, &args.output.trace) {
        trace.put_meta("settings", settings.all());
        trace.write(path)?;
    }
    let write_seconds = start.elapsed().as_secs_f64();
    match args.output.json {
        true => output::json(&Report::new(&settings, &output, &files, write_seconds)),
        false => files
            .iter()
            .try_for_each(|file| output::line(&file.display().to_string())),
    }?;
    if !args.output.json && !args.output.quiet && std::io::stderr().is_terminal() {
        let demo = job.options.model == "demo";
        for hint in hints::hints(demo, &output.adapter) {
            eprintln!("hint: {hint}");
        }
    }
    if args.output.show
        && let Err(error) = show(&output)
    {
        progress.warn(&worded(&error));
    }
    Ok(())
}

/// What the flags and a picture's metadata ask for.
struct Job {
    raw: RawRequest,
    options: LoadOptions,
    styles: Styles,
    /// A contact sheet is wanted.
    grid: bool,
    /// The schedule is the sampler's own, unless the checkpoint is of few steps.
    automatic: bool,
    warnings: Vec<String>,
}

impl Job {
    fn new(args: &Args) -> Result<Self> {
        let styles = match &args.text.styles_file {
            Some(path) => Styles::with_file(path)?,
            None => Styles::builtin(),
        };
        let mut raw = args.request()?;
        let mut options = args.load_options()?;
        let mut warnings = Vec::new();
        let mut automatic = false;
        if let Some(path) = &args.output.like {
            let like = Like::open(path, &raw, args)?;
            automatic = like.automatic && raw.scheduler_options.is_empty();
            warnings = like.lay_under(&mut raw, &mut options, args)?;
        }
        warnings.extend(raw.take_lora_tags(Some(args.model.lora_folder()), &styles)?);
        if let Some(path) = &args.picture.image {
            let image = Picture::open_noting(path, &mut warnings)?;
            raw.image = Some(Arc::new(image));
        }
        if let Some(path) = &args.picture.mask {
            let mask = Mask::open_noting(path, &mut warnings)?;
            raw.mask = Some(Arc::new(mask));
        }
        Ok(Self {
            raw,
            options,
            styles,
            grid: args.output.grid,
            automatic,
            warnings,
        })
    }
}

/// Where previews go.
struct Previews<'a> {
    /// In steps; 0 for none.
    every: usize,
    destination: &'a Destination,
    seed: u64,
}

impl Previews<'_> {
    fn write(&self, picture: &Picture) -> calotype::Result<PathBuf> {
        let bytes = Format::Png.encode(picture, None)?;
        self.destination.write_preview(self.seed, &bytes)
    }
}

/// What became of a request.
enum Drawn {
    Pictures(Box<(Request, Output)>),
    Plan(MemoryPlan),
}

fn draw(
    args: &Args,
    job: &Job,
    previews: &Previews<'_>,
    progress: &mut Progress,
    cancel: &Cancel,
    trace: Option<&mut Trace>,
) -> Result<Drawn> {
    let mut observer = Observer {
        events: &mut |event| match event {
            Event::Preview { picture, .. } => {
                if let Err(error) = previews.write(&picture) {
                    progress.warn(&format!("no preview: {}", worded(&error)));
                }
            }
            event => progress.event(event),
        },
        cancel,
        trace,
        preview_every: previews.every,
    };
    let mut pipeline = Pipeline::load(&job.options, &mut observer)?;
    cancel.check()?;
    let mut raw = job.raw.clone();
    if job.automatic && pipeline.preset().wish().own_schedule {
        raw.scheduler_options.clear();
    }
    let request = pipeline.resolve(raw, &job.styles)?;
    if job.grid {
        // Before the work, not after it.
        picture::grid_size(request.samples, request.width, request.height)?;
    }
    if args.output.plan {
        return Ok(Drawn::Plan(pipeline.memory_plan(&request)));
    }
    let output = pipeline.generate(&request, &mut observer)?;
    Ok(Drawn::Pictures(Box::new((request, output))))
}

fn write(
    args: &Args,
    destination: &Destination,
    settings: &Settings<'_>,
    output: &Output,
    cancel: &Cancel,
) -> Result<Vec<PathBuf>> {
    let pictures = output.pictures.iter().zip(&output.seeds).enumerate();
    let mut files = pictures
        .map(|(index, (picture, seed))| {
            cancel.check()?;
            let parameters = settings.parameters(*seed);
            let bytes = destination.format().encode(picture, Some(&parameters))?;
            Ok(destination.write(index, *seed, &bytes)?)
        })
        .collect::<Result<Vec<_>>>()?;
    if args.output.grid && output.pictures.len() > 1 {
        cancel.check()?;
        let sheet = picture::grid(&output.pictures)?;
        let seed = output.seeds.first().copied().unwrap_or_default();
        let parameters = settings.parameters(seed);
        let bytes = destination.format().encode(&sheet, Some(&parameters))?;
        files.push(destination.write_grid(seed, &bytes)?);
    }
    Ok(files)
}

/// The result in this terminal: the picture, or all of them side by side.
fn show(output: &Output) -> calotype::Result<()> {
    match output.pictures.as_slice() {
        [one] => picture::show(one, None),
        all => picture::show(&picture::grid(all)?, None),
    }
}
