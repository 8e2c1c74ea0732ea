//! The progress bar on stderr.

use calotype::pipeline::Event;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use std::fmt::Write;
use std::time::Duration;

const STEPS: &str = "{msg} {wide_bar} {pos}/{len} {rate}, {eta} left";
const STAGE: &str = "{spinner} {msg}";

/// Shows events while stderr is a terminal, and nothing otherwise.
pub struct Progress {
    bar: ProgressBar,
    quiet: bool,
    counting: bool,
}

impl Progress {
    /// `quiet` hides it, and warnings too.
    pub fn new(quiet: bool) -> Self {
        let bar = match quiet {
            true => ProgressBar::hidden(),
            // Hides itself where stderr is no terminal.
            false => ProgressBar::no_length(),
        };
        Progress {
            bar,
            quiet,
            counting: false,
        }
    }

    /// Shows one event.
    pub fn event(&mut self, event: Event) {
        match event {
            Event::Loading { part } => self.stage(format!("loading {part}")),
            Event::Encoding => self.stage("encoding the prompt".into()),
            Event::Step { index, total } => self.step(index, total),
            Event::Decoding { index, total } => {
                self.stage(format!("decoding {}/{total}", index + 1));
            }
            Event::Warning(text) => self.warn(&text),
            _ => {}
        }
    }

    /// Writes a warning to stderr, above the bar.
    pub fn warn(&self, text: &str) {
        if !self.quiet {
            let line = super::error::one_line(text);
            self.bar.suspend(|| {
                // Nobody is left to be told if stderr is gone.
                let _ = std::io::Write::write_fmt(
                    &mut std::io::stderr(),
                    format_args!("warning: {line}\n"),
                );
            });
        }
    }

    /// Takes the bar off the screen.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn stage(&mut self, message: String) {
        self.counting = false;
        self.bar.set_style(style(STAGE));
        self.bar.set_message(message);
        self.bar.enable_steady_tick(Duration::from_millis(100));
    }

    fn step(&mut self, index: usize, total: usize) {
        if !self.counting {
            self.counting = true;
            self.bar.set_style(style(STEPS));
            self.bar.set_message("drawing");
            self.bar.set_length(total as u64);
            self.bar.reset();
        }
        self.bar.set_position(index as u64);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

fn style(template: &str) -> ProgressStyle {
    let rate = |state: &ProgressState, out: &mut dyn Write| {
        // The writer is a string in memory.
        let _ = write!(out, "{:.2} it/s", state.per_sec());
    };
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("rate", rate)
}
