//! `calotype pull`.

use super::{interrupt, output};
use anyhow::Result;
use calotype::Error;
use calotype::hub::{Hub, Progress, Token, Wanted, pull};
use indicatif::{ProgressBar, ProgressStyle};

/// Download a model from Hugging Face's hub, into the cache that its programs share
///
/// Of a diffusers folder what calotype reads: the f16 weights where there are such. What was
/// cut off is gone on with, and every file is checked by its hash. Prints where it is.
/// HF_TOKEN opens what asks for a token, HF_ENDPOINT is another hub, HF_HOME another cache.
#[derive(clap::Args)]
pub struct Args {
    /// OWNER/NAME, such as stabilityai/stable-diffusion-xl-base-1.0
    #[arg(value_name = "OWNER/NAME")]
    repository: String,

    /// A branch, a tag or a commit
    #[arg(long, default_value = "main")]
    revision: String,

    /// A file of it, such as sd_xl_base_1.0.safetensors, rather than those that calotype
    /// reads; may be repeated
    #[arg(long = "file", value_name = "PATH")]
    files: Vec<String>,

    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

/// Downloads and prints the path.
pub fn run(args: &Args) -> Result<()> {
    interrupt::file_limit_is_an_error();
    let cancel = interrupt::install();
    let bar = match args.quiet {
        true => ProgressBar::hidden(),
        false => ProgressBar::no_length(),
    };
    let style = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";
    bar.set_style(ProgressStyle::with_template(style)?);
    let wanted = Wanted {
        repository: args.repository.clone(),
        revision: args.revision.clone(),
        files: args.files.clone(),
    };
    let mut told = |progress: Progress<'_>| {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        match progress {
            Progress::Begin { size, there } => {
                bar.set_length(size);
                bar.set_position(there);
            }
            Progress::Bytes(count) => bar.inc(count),
            Progress::File(file) => bar.set_message(file.path.clone()),
            Progress::Again(why) => bar.println(format!("again: {why}")),
        }
        Ok(())
    };
    let cache = calotype::checkpoint::hub::cache()?;
    let path = pull(&Hub::new(Token::find()), &cache, &wanted, &mut told);
    bar.finish_and_clear();
    output::line(&path?.display().to_string())
}
