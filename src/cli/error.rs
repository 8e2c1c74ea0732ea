//! Errors to one line and an exit code.

use super::generate::Setting;
use calotype::Error;
use calotype::error::{Code, Field, Wording};
use clap::CommandFactory;
use serde::Serialize;
use std::borrow::Cow;
use std::process::ExitCode;
use std::sync::OnceLock;

/// A wrong request.
pub const USAGE: u8 = 2;
/// What a shell reports for a program that Ctrl-C ended.
pub const INTERRUPTED: u8 = 130;
/// Anything else.
pub const FAILURE: u8 = 1;

/// The subcommand that runs, and whether it prints JSON.
static RUNNING: OnceLock<(String, bool)> = OnceLock::new();

/// Notes which subcommand runs, for the names of its flags.
pub fn about(command: &str, json: bool) {
    // It runs once in a process.
    let _ = RUNNING.set((command.to_owned(), json));
}

/// What a failed run with `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    error: Detail<'a>,
}

#[derive(Serialize)]
struct Detail<'a> {
    code: Code,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    message: &'a str,
}

/// Writes `error: ...` to stderr and gives the exit code; with `--json`, also the
/// error as an object to stdout.
pub fn report(error: &anyhow::Error) -> ExitCode {
    let known = error.downcast_ref::<Error>();
    let setting = error.downcast_ref::<Setting>();
    let (message, exit) = match known {
        Some(Error::Cancelled) => ("interrupted; nothing more is written".into(), INTERRUPTED),
        Some(error) if error.is_usage() => match setting {
            Some(setting) => (setting.message(error, &Flags::running()), USAGE),
            None => (worded(error), USAGE),
        },
        Some(error) => (worded(error), FAILURE),
        None => (format!("{error:#}"), FAILURE),
    };
    say(&message);
    if RUNNING.get().is_some_and(|(_, json)| *json) {
        let field = match known {
            Some(Error::Invalid { field, .. }) => Some(field.name()),
            _ => None,
        };
        let code = known.map_or(Code::Internal, Error::code);
        print(code, field, &message);
    }
    ExitCode::from(exit)
}

/// The error as a JSON object on stdout.
pub fn print(code: Code, field: Option<&str>, message: &str) {
    let message = &one_line(message);
    let error = Detail {
        code,
        field,
        message,
    };
    // Nobody is left to be told if stdout is gone.
    let _ = super::output::json(&Report { error });
}

/// An error in the flags of the subcommand that runs.
pub fn worded(error: &Error) -> String {
    error.worded(&Flags::running())
}

/// Writes `error: ...` on one line of stderr, whatever `message` holds.
pub fn say(message: &str) {
    use std::io::Write;
    // Nobody is left to be told if stderr is gone.
    let _ = writeln!(std::io::stderr(), "error: {}", one_line(message));
}

/// Line ends become spaces; other control characters, which could repaint the
/// terminal, are shown escaped.
pub fn one_line(message: &str) -> String {
    let mut line = String::with_capacity(message.len());
    for c in message.trim().chars() {
        match c {
            '\n' | '\r' | '\t' => line.push(' '),
            c if c.is_control() => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    line
}

/// Fields by the flags of a subcommand.
struct Flags {
    command: clap::Command,
}

/// Flags that are not named as their fields are.
const FLAGS: &[(Field, &str)] = &[
    (Field::CropsCoordsTopLeft, "crop"),
    (Field::NegativeCropsCoordsTopLeft, "negative-crop"),
    (Field::SchedulerOptions, "scheduler-option"),
    (Field::Loras, "lora"),
    (Field::Embeddings, "embedding"),
];

impl Flags {
    fn running() -> Self {
        Self::of(RUNNING.get().map_or("", |(name, _)| name))
    }

    /// Those of one subcommand, or of all.
    fn of(name: &str) -> Self {
        let all = super::Cli::command();
        Self {
            command: all.find_subcommand(name).unwrap_or(&all).clone(),
        }
    }

    /// The flag that sets a field, where there is one.
    fn flag(&self, field: &Field) -> Option<&clap::Arg> {
        let own = FLAGS.iter().find(|(known, _)| known == field);
        let name = own.map_or_else(
            || field.name().replace('_', "-"),
            |(_, name)| (*name).into(),
        );
        find(&self.command, &name)
    }
}

fn find<'a>(command: &'a clap::Command, long: &str) -> Option<&'a clap::Arg> {
    let mut flags = command.get_arguments();
    flags
        .find(|flag| flag.get_long() == Some(long))
        .or_else(|| {
            command
                .get_subcommands()
                .find_map(|below| find(below, long))
        })
}

fn long(flag: &clap::Arg) -> Option<String> {
    flag.get_long().map(|name| format!("--{name}"))
}

impl Wording for Flags {
    fn field<'a>(&self, field: &'a Field) -> Cow<'a, str> {
        match (self.flag(field).and_then(long), field) {
            (Some(flag), _) => flag.into(),
            // `inspect` takes it as its argument.
            (None, Field::Model) => "checkpoint".into(),
            (None, Field::Size) => "--width x --height".into(),
            (None, other) => other.name().into(),
        }
    }

    fn set(&self, field: &Field, value: &str) -> String {
        match self.flag(field).and_then(|flag| Some((flag, long(flag)?))) {
            Some((flag, name)) if flag.get_action().takes_values() => format!("use {name} {value}"),
            Some((_, name)) => format!("use {name}"),
            None => format!("set {field} to {value}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use calotype::Remedy;

    #[test]
    fn a_message_is_one_harmless_line() {
        assert_eq!(one_line("a\nb\u{1b}[2J\n"), "a b\\u{1b}[2J");
    }

    #[test]
    fn fields_are_named_as_flags() {
        for (command, field, flag) in [
            ("generate", Field::GuidanceScale, "--guidance-scale"),
            ("generate", Field::CropsCoordsTopLeft, "--crop"),
            ("generate", Field::SchedulerOptions, "--scheduler-option"),
            ("generate", Field::Prompt, "prompt"),
            ("generate", Field::Model, "--model"),
            ("inspect", Field::Model, "checkpoint"),
            ("inspect", Field::Vae, "vae"),
            ("keys", "credits".into(), "--credits"),
            ("serve", "queue_per_key".into(), "--queue-per-key"),
            ("", Field::Dtype, "--dtype"),
            ("styles", Field::Dtype, "dtype"),
        ] {
            assert_eq!(Flags::of(command).field(&field), flag, "{command} {field}");
        }
    }

    #[test]
    fn remedies_are_told_as_flags() {
        let give = |what: &'static str| Remedy::give(Field::Model, what);
        for (command, remedies, told) in [
            (
                "generate",
                vec![
                    Remedy::SmallerPicture,
                    Remedy::HALF_PRECISION,
                    Remedy::OTHER_ADAPTER,
                    Remedy::UpdateDriver,
                ],
                "ask for a smaller --width or --height, use --dtype f16, choose another --adapter, \
                 or update the driver",
            ),
            (
                "serve",
                vec![Remedy::FULL_ACTIVATIONS, Remedy::OTHER_BACKEND],
                "use --activations f32, or choose another --backend",
            ),
            ("generate", vec![Remedy::TILE_VAE], "use --vae-tiling on"),
            (
                "generate",
                vec![Remedy::LoraWeight, Remedy::OTHER_VAE],
                "lower the weights of --lora, or choose another --vae",
            ),
            (
                "generate",
                vec![Remedy::Set {
                    field: Field::LoraAllowUnmatched,
                    value: "true".into(),
                }],
                "use --lora-allow-unmatched",
            ),
            (
                "generate",
                vec![give("a .safetensors file")],
                "point --model at a .safetensors file",
            ),
            (
                "inspect",
                vec![give("a .safetensors file")],
                "point checkpoint at a .safetensors file",
            ),
            ("inspect", vec![Remedy::HALF_PRECISION], "set dtype to f16"),
            ("generate", vec![Remedy::ReportBug], "report this as a bug"),
        ] {
            let error = Error::file("x", "is wrong", remedies);
            let wanted = format!("x: is wrong; {told}");
            assert_eq!(error.worded(&Flags::of(command)), wanted, "{command}");
        }
    }

    #[test]
    fn each_kind_of_error_is_told_in_full() {
        let path = || std::path::PathBuf::from("m.safetensors");
        let words = Flags::of("generate");
        for (error, code, told) in [
            (
                Error::invalid(Field::SchedulerOptions, "eta=2", "must be from 0 to 1"),
                "invalid_value",
                "--scheduler-option is eta=2: must be from 0 to 1",
            ),
            (
                Error::invalid(
                    Field::PromptWeighting,
                    "\"x\"",
                    "choose one of default, off",
                ),
                "invalid_value",
                "--prompt-weighting is \"x\": choose one of default, off",
            ),
            (
                Error::unknown(Field::LoraTag, "inc", ["ink"]),
                "invalid_value",
                "LoRA tag is \"inc\": choose one of ink",
            ),
            (
                Error::file(
                    path(),
                    "not a file",
                    Remedy::give(Field::Vae, "an SDXL VAE"),
                ),
                "unusable_file",
                "m.safetensors: not a file; point --vae at an SDXL VAE",
            ),
            (
                Error::missing_tensor(path(), "unet.a", "use a complete checkpoint"),
                "missing_tensor",
                "m.safetensors: tensor unet.a: missing; use a complete checkpoint",
            ),
            (
                Error::tensor(
                    path(),
                    "unet.a",
                    "its shape is [1]",
                    "use an SDXL checkpoint",
                ),
                "wrong_tensor",
                "m.safetensors: tensor unet.a: its shape is [1]; use an SDXL checkpoint",
            ),
            (
                Error::NoAdapter {
                    problem: "no GPU adapter found".into(),
                    remedy: Remedy::UpdateDriver.into(),
                },
                "no_adapter",
                "no GPU adapter found; update the driver",
            ),
            (
                Error::Adapter {
                    adapter: "llvmpipe".into(),
                    problem: "was lost".into(),
                    remedy: Remedy::OTHER_ADAPTER.into(),
                },
                "adapter_failed",
                "adapter llvmpipe: was lost; choose another --adapter",
            ),
            (
                Error::OutOfMemory {
                    adapter: "llvmpipe".into(),
                    what: "latents".into(),
                    bytes: 64,
                    remedy: Remedy::HALF_PRECISION.into(),
                },
                "out_of_memory",
                "adapter llvmpipe: out of memory: no room for 64 bytes of latents; use --dtype f16",
            ),
            (
                Error::NotFinite {
                    stage: "the VAE".into(),
                    tensor: None,
                    remedy: [Remedy::FULL_ACTIVATIONS, Remedy::OTHER_VAE].into(),
                },
                "not_finite",
                "the VAE made numbers that are not finite (NaN or infinity), so there is no picture; \
                 use --activations f32, or choose another --vae",
            ),
            (
                Error::internal("kernel add", "shapes differ"),
                "internal",
                "kernel add: shapes differ; this is a bug in the program: please report it",
            ),
            (Error::Cancelled, "cancelled", "cancelled"),
        ] {
            assert_eq!(error.worded(&words), told);
            assert_eq!(error.code().as_str(), code, "{told}");
        }
    }
}
