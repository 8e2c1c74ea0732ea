//! `calotype bench ab`.

use super::compare::{exit, percent, print};
use super::kernels;
use crate::cli::interrupt;
use anyhow::Result;
use calotype::Error;
use calotype::bench::ab;
use calotype::bench::compare::Comparison;
use calotype::bench::kernels::{Bed, Case, timing};
use calotype::bench::measure::{Manner, Plan};
use clap::Parser;
use std::process::ExitCode;
use std::time::Duration;

/// Whether B is slower than A, both measured in turn by one process, so that drift and
/// other programs trouble both alike
///
/// A and B are the arguments of `calotype bench kernels`, each in quotation marks, such as
/// '-o attention --variant "attention coop16 64x32"', or '--shaders FOLDER' for changed
/// shaders.
#[derive(clap::Args)]
#[command(allow_hyphen_values = true)]
pub struct Args {
    /// The arguments of `calotype bench kernels` that A is
    a: String,

    /// Those that B is
    b: String,

    /// About how long to measure, all rows together
    #[arg(long, default_value = "60", value_parser = clap::value_parser!(u32).range(1..=86400))]
    seconds: u32,

    /// Call B slower or faster only where it is so by more than this, and exit with 1
    /// where it is slower
    #[arg(long, value_name = "PERCENT", default_value = "0%", value_parser = percent)]
    fail_above: f64,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The arguments of one side.
#[derive(Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Side {
    #[command(flatten)]
    kernels: kernels::Args,
}

/// A side on its device.
struct Arm {
    args: kernels::Args,
    bed: Bed,
    cases: Vec<Case>,
}

impl Arm {
    fn new(which: &str, text: &str) -> Result<Self> {
        let wrong = |problem: String| {
            let text = if text.is_empty() { "empty" } else { text };
            Error::invalid(which, text, problem)
        };
        let words =
            shlex::split(text).ok_or_else(|| wrong("a quotation mark is not closed".into()))?;
        let side = Side::try_parse_from(words).map_err(|e| {
            let first = e.to_string();
            let first = first.lines().next().unwrap_or_default().to_string();
            wrong(format!(
                "must be arguments of `calotype bench kernels`: {first}"
            ))
        })?;
        let args = side.kernels;
        let cases = args.selection().cases()?;
        let gpu = args.open()?;
        let bed = Bed::tuned(&gpu)?;
        Ok(Self { args, bed, cases })
    }

    fn plans(&self) -> Result<Vec<Plan<'_>>> {
        let mut selection = self.args.selection();
        selection.check = false;
        Ok(timing::plans(&self.bed, &self.cases, &selection)?)
    }

    /// On adapters that are CPUs the processor's time, which other programs hardly change.
    fn manner(&self) -> Manner {
        let manner = self.args.samples.manner();
        Manner {
            by_processor: manner.by_processor || self.bed.gpu.capabilities().is_cpu,
            ..manner
        }
    }
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let cancel = interrupt::install();
    let cancelled = || cancel.is_cancelled();
    let (a, b) = (Arm::new("a", &args.a)?, Arm::new("b", &args.b)?);
    let (plans_a, plans_b) = (a.plans()?, b.plans()?);
    let pairs = paired(&plans_a, &plans_b)?;
    let mut compared = Comparison::default();
    let time = Duration::from_secs(args.seconds.into()) / pairs.len() as u32;
    for pair in pairs {
        let manners = [a.manner(), b.manner()];
        let row = ab::compare(pair, manners, args.fail_above, time, &cancelled)?;
        eprintln!("{}: B / A {:.3}", row.subject, row.ratio.ratio);
        compared.rows.push(row);
    }
    print(&compared, args.json)?;
    Ok(exit(compared.slower()))
}

/// Each plan of A with that of B for the same case.
fn paired<'p, 'a>(a: &'p [Plan<'a>], b: &'p [Plan<'a>]) -> Result<Vec<[&'p Plan<'a>; 2]>> {
    let case = |plan: &Plan<'_>| (plan.subject.name.clone(), plan.subject.shape.clone());
    let same = a.len() == b.len() && a.iter().zip(b).all(|(x, y)| case(x) == case(y));
    if !same {
        let label = |plan: Option<&Plan<'_>>| plan.map_or("nothing".into(), |p| p.subject.label());
        let differ = a.iter().zip(b).find(|(x, y)| case(x) != case(y));
        let (x, y) = match differ {
            Some((x, y)) => (label(Some(x)), label(Some(y))),
            None => (label(a.get(b.len())), label(b.get(a.len()))),
        };
        let problem = format!("must measure the cases of A: there is {x} in A where B has {y}");
        return Err(Error::invalid("b", "other cases", problem).into());
    }
    Ok(a.iter().zip(b).map(|(x, y)| [x, y]).collect())
}
