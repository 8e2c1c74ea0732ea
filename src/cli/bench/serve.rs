//! `calotype bench serve`.

use super::common::{self, Chart, OutputArgs};
use crate::cli::device::AdapterArgs;
use crate::cli::{checked_model, interrupt};
use anyhow::{Context, Result};
use calotype::Error;
use calotype::bench::report::Row;
use calotype::bench::serve::Load;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What the HTTP service does under load: a service of this program is started, and
/// clients ask it for pictures
#[derive(clap::Args)]
pub struct Args {
    /// A checkpoint, as `calotype serve` takes it
    #[arg(long, default_value = "demo")]
    model: String,

    /// Clients at a time, several numbers with commas
    #[arg(long, value_delimiter = ',', default_value = "1,4,16", value_parser = clap::value_parser!(u16).range(1..=1024))]
    clients: Vec<u16>,

    /// How long each number of clients asks
    #[arg(long, default_value = "60", value_parser = clap::value_parser!(u32).range(1..=86400))]
    seconds: u32,

    /// Side of the square pictures, in pixels
    #[arg(long, default_value = "1024", value_parser = side)]
    size: usize,

    /// Denoising steps
    #[arg(long, default_value = "20", value_parser = clap::value_parser!(u16).range(1..=1000))]
    steps: u16,

    /// A service that runs already, such as a front end of workers, in place of one that is
    /// started; give the adapter that draws by --adapter, for the report
    #[arg(long, value_name = "URL", conflicts_with = "model")]
    url: Option<String>,

    /// Its key
    #[arg(long, env = "CALOTYPE_KEY", hide_env_values = true, requires = "url")]
    key: Option<String>,

    #[command(flatten)]
    adapter: AdapterArgs,

    #[command(flatten)]
    output: OutputArgs,
}

fn side(text: &str) -> Result<usize, String> {
    let value = text
        .parse()
        .ok()
        .filter(|v| (64..=8192).contains(v) && v % 8 == 0);
    value.ok_or_else(|| "must be a multiple of 8 from 64 to 8192".into())
}

/// A service that is stopped when this is dropped.
struct Service {
    /// `None` for one that runs already.
    child: Option<Child>,
    url: String,
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// How long a service may take to load its model.
const READY: Duration = Duration::from_secs(600);

impl Service {
    /// Starts this program as a service on a free port.
    fn start(args: &Args) -> Result<Self> {
        let program = std::env::current_exe().context("this program cannot be found")?;
        let steps = args.steps.to_string();
        let pixels = (args.size * args.size).to_string();
        let mut command = Command::new(program);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--model", &args.model])
            .args([
                "--queue",
                "4096",
                "--queue-per-key",
                "4096",
                "--timeout",
                "86400",
            ])
            .args([
                "--api-min-steps",
                "1",
                "--api-max-steps",
                &steps,
                "--api-any-size",
            ])
            .args(["--max-steps", &steps, "--max-pixels", &pixels])
            .args(args.adapter.words())
            .stdout(Stdio::piped());
        // A line a request would be in the way of what is measured.
        if std::env::var_os("CALOTYPE_LOG").is_none() {
            command.env("CALOTYPE_LOG", "off,calotype=warn");
        }
        let mut child = command.spawn().context("the service does not start")?;
        let stdout = child.stdout.take();
        let mut line = String::new();
        if let Some(stdout) = stdout {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        match line.trim().strip_prefix("listening on ") {
            Some(url) => Ok(Self {
                child: Some(child),
                url: url.into(),
            }),
            None => {
                let _ = child.kill();
                let status = child.wait();
                Err(Error::internal("the service", format!("it did not start: {status:?}")).into())
            }
        }
    }

    /// Waits until it has loaded its model.
    fn wait(&mut self, cancelled: &dyn Fn() -> bool) -> Result<()> {
        let start = Instant::now();
        let url = format!("{}/readyz", self.url);
        while ureq::get(&url).call().is_err() {
            if cancelled() {
                return Err(Error::Cancelled.into());
            }
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                let problem = format!("it ended before it was ready: {status}");
                return Err(Error::internal("the service", problem).into());
            }
            if start.elapsed() > READY {
                let problem = format!("it was not ready after {} s", READY.as_secs());
                return Err(Error::internal("the service", problem).into());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

pub fn run(args: &Args) -> Result<()> {
    let allowed = "the service has no chart; `calotype bench model` draws a step";
    args.output.files.refuse_chart(allowed)?;
    let cancel = interrupt::install();
    let date = common::now();
    checked_model(&args.model)?;
    let gpu = args.adapter.open_first()?;
    let cancelled = || cancel.is_cancelled();
    let mut service = match &args.url {
        Some(url) => Service {
            child: None,
            url: url.trim_end_matches('/').to_owned(),
        },
        None => Service::start(args)?,
    };
    service.wait(&cancelled)?;
    let load = |clients: u16, time: Duration| Load {
        url: service.url.clone(),
        key: args.key.clone(),
        clients: clients.into(),
        time,
        model: calotype::pipeline::model_name(&args.model).into(),
        side: args.size,
        steps: args.steps.into(),
    };
    // Pipelines and buffers of this size.
    load(1, Duration::ZERO).run(&cancelled)?;
    let mut rows: Vec<Row> = Vec::new();
    for clients in &args.clients {
        let time = Duration::from_secs(args.seconds.into());
        let row = load(*clients, time).run(&cancelled)?;
        common::told(&row);
        rows.push(row);
    }
    let report = common::report(&gpu, rows, Vec::new(), date);
    args.output.finish(&report, Chart::Step)
}
