//! What a device does at the most: arithmetic of every kind, memory, launches. Each peak
//! is tried in several ways, of which the fastest counts.

mod arithmetic;
mod launch;
mod memory;

use super::measure::{Manner, Plan, Programs, measure};
use super::report::{Row, Subject, Work};
use crate::gpu::{Access, Gpu, PipelineKey, host_shareable};
use crate::kernel::{Dispatch, Program, View};
use crate::{Error, Result};
use std::sync::Arc;

host_shareable! {
    /// `Params` of `peak_params.wgsl`.
    struct Params {
        turns: u32,
    }
}

/// Every pipeline that peaks are measured with, for tests of their validity.
pub fn permutations() -> Vec<PipelineKey> {
    let mut all = arithmetic::permutations();
    all.extend(memory::permutations());
    all.push(launch::pipeline_key());
    all
}

const STREAM: &[Access] = &[Access::Read, Access::Write, Access::Uniform];

/// The key of `shader`.
fn key(
    shader: &'static str,
    flags: &[&str],
    values: &[(&str, String)],
    bindings: &'static [Access],
) -> PipelineKey {
    let flags = flags.iter().map(|name| (name.to_string(), String::new()));
    let values = values.iter().map(|(name, v)| (name.to_string(), v.clone()));
    crate::kernel::key::<Params>(shader, flags.chain(values).collect(), vec![], bindings)
}

/// One way to reach a peak.
struct Way {
    key: PipelineKey,
    /// What its rate is of, per workgroup and turn.
    work: Work,
    /// What makes it different from the others.
    name: String,
}

/// The dispatch of a kernel that only a number of turns changes.
///
/// # Safety
/// No invocation may reach beyond a view, however many workgroups there are.
unsafe fn dispatch(key: &PipelineKey, views: &[View], groups: usize, turns: u32) -> Dispatch {
    let params = bytemuck::bytes_of(&Params { turns }).to_vec();
    let grid = crate::kernel::fold(groups);
    // SAFETY: the caller's.
    unsafe { Dispatch::unchecked(key.clone(), views.to_vec(), params, grid) }
}

/// The row of a plan whose programs are made by `make`.
fn row(
    gpu: &Arc<Gpu>,
    subject: Subject,
    work: Work,
    manner: Manner,
    cancelled: &dyn Fn() -> bool,
    make: impl Fn() -> Result<(Vec<Program>, usize)>,
) -> Result<Row> {
    let plan = Plan {
        subject,
        work,
        figures: Default::default(),
        note: None,
        prepare: Box::new(|| {
            let (programs, calls) = make()?;
            Ok(Box::new(Programs::new(gpu, programs, calls)?))
        }),
    };
    measure(&plan, manner, cancelled)
}

/// Every peak of `gpu`. `told` hears of each row.
///
/// # Errors
/// What goes wrong on the device; [`Error::Cancelled`].
pub fn run(
    gpu: &Arc<Gpu>,
    manner: Manner,
    cancelled: &dyn Fn() -> bool,
    told: &mut dyn FnMut(&Row),
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut keep = |row: Row| {
        told(&row);
        rows.push(row);
    };
    arithmetic::run(gpu, manner, cancelled, &mut keep)?;
    memory::run(gpu, manner, cancelled, &mut keep)?;
    launch::run(gpu, manner, cancelled, &mut keep)?;
    match cancelled() {
        true => Err(Error::Cancelled),
        false => Ok(rows),
    }
}
