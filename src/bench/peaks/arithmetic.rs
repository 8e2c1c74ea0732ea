//! Multiply-adds, dot products of int8, cooperative matrices and reads of shared memory.

use super::{STREAM, Way, dispatch, key, row};
use crate::bench::measure::Manner;
use crate::bench::report::{Row, Subject, Suite, Work};
use crate::gpu::{Gpu, PipelineKey};
use crate::kernel::{Clock, Program, Storage, View, noise, subgroup_size};
use crate::{Error, Result};
use std::sync::Arc;
use wgpu::wgt::{CooperativeMatrixProperties, CooperativeScalarType};

/// Sums that go on side by side, so that none waits for the one before; few where
/// registers are few.
const CHAINS: [u32; 5] = [1, 2, 4, 8, 16];

/// Invocations of a workgroup that are tried: a CPU's vector, and what fills a GPU.
const LANES: [u32; 2] = [8, 128];

/// Steps of a turn that the shaders write out.
const STEPS: f64 = 4.0;

/// Bytes of the operands: 16,384 numbers of four bytes, which caches hold.
const BYTES: u64 = 64 << 10;

/// What a matrix peak of a CPU is worth.
const EMULATED: &str = "; too high: the compiler computes products that do not change once";

/// A kind of arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    F32,
    F16,
    Int8,
    Shared,
    Matrix {
        side: u32,
        operands: &'static str,
        sums: &'static str,
    },
}

impl Kind {
    fn name(self) -> String {
        match self {
            Kind::F32 => "f32".into(),
            Kind::F16 => "f16".into(),
            Kind::Int8 => "int8 dot product".into(),
            Kind::Shared => "shared memory, read".into(),
            Kind::Matrix {
                side,
                operands,
                sums,
            } => format!("matrix {side}x{side}x{side} {operands} to {sums}"),
        }
    }

    /// The ways to reach it, on a device whose subgroups have `subgroup` invocations.
    fn ways(self, subgroup: u32) -> Vec<Way> {
        let mut ways = Vec::new();
        for lanes in LANES {
            if self == Kind::Shared {
                ways.push(shared(lanes));
            }
            for chains in CHAINS {
                match self {
                    Kind::F32 => ways.extend(vector("f32", chains, lanes)),
                    Kind::F16 => ways.extend(vector("f16", chains, lanes)),
                    Kind::Int8 => ways.push(dot(chains, lanes)),
                    Kind::Matrix {
                        side,
                        operands,
                        sums,
                    } if lanes >= subgroup && chains <= 8 => {
                        let subgroups = lanes / subgroup.max(1);
                        ways.push(matrix(side, [operands, sums], chains, [lanes, subgroups]));
                    }
                    Kind::Shared | Kind::Matrix { .. } => {}
                }
            }
        }
        ways
    }

    /// Those of `gpu`, and what it offers that WGSL has no words for.
    fn all(gpu: &Gpu) -> (Vec<Self>, Vec<String>) {
        let can = gpu.capabilities();
        let mut kinds = vec![Kind::F32];
        if can.shader_f16 {
            kinds.push(Kind::F16);
        }
        kinds.extend([Kind::Int8, Kind::Shared]);
        let mut others = Vec::new();
        for offered in &can.all_matrices {
            match matrix_kind(offered) {
                Some(kind) if !kinds.contains(&kind) => kinds.push(kind),
                Some(_) => {}
                None => others.push(format!(
                    "{}x{}x{} {:?} to {:?}",
                    offered.m_size,
                    offered.n_size,
                    offered.k_size,
                    offered.ab_type,
                    offered.cr_type
                )),
            }
        }
        (kinds, others)
    }
}

/// What WGSL can say: square matrices of 8 or 16 of f16 and f32.
fn matrix_kind(m: &CooperativeMatrixProperties) -> Option<Kind> {
    let name = |kind| match kind {
        CooperativeScalarType::F16 => Some("f16"),
        CooperativeScalarType::F32 => Some("f32"),
        _ => None,
    };
    let square = m.m_size == m.n_size && m.n_size == m.k_size;
    (square && [8, 16].contains(&m.m_size)).then_some(Kind::Matrix {
        side: m.m_size,
        operands: name(m.ab_type)?,
        sums: name(m.cr_type)?,
    })
}

fn of(operations: f64) -> Work {
    Work {
        operations: Some(operations),
        bytes: None,
    }
}

fn numbers(chains: u32, lanes: u32) -> Vec<(&'static str, String)> {
    vec![("CHAINS", chains.to_string()), ("LANES", lanes.to_string())]
}

/// Sums and invocations, as a row's variant has them.
fn name(chains: u32, lanes: u32) -> String {
    let s = if chains == 1 { "" } else { "s" };
    format!("{chains} sum{s} of {lanes} lanes")
}

fn vector(scalar: &'static str, chains: u32, lanes: u32) -> [Way; 2] {
    [true, false].map(|fused| {
        let mut values = numbers(chains, lanes);
        values.push(("T", scalar.into()));
        let mut flags = vec![];
        flags.extend(fused.then_some("FUSED"));
        flags.extend((scalar == "f16").then_some("F16"));
        let how = if fused { "fma" } else { "product and sum" };
        Way {
            key: key("peak_fma", &flags, &values, STREAM),
            work: of(8.0 * STEPS * f64::from(chains * lanes)),
            name: format!("{how}, {}", name(chains, lanes)),
        }
    })
}

fn dot(chains: u32, lanes: u32) -> Way {
    Way {
        key: key("peak_dot", &[], &numbers(chains, lanes), STREAM),
        work: of(8.0 * STEPS * f64::from(chains * lanes)),
        name: name(chains, lanes),
    }
}

fn shared(lanes: u32) -> Way {
    let values = [("LANES", lanes.to_string())];
    Way {
        key: key("peak_shared", &[], &values, STREAM),
        work: Work {
            operations: None,
            bytes: Some(8.0 * 16.0 * f64::from(lanes)),
        },
        name: format!("8 reads of {lanes} lanes"),
    }
}

fn matrix(
    side: u32,
    [operands, sums]: [&str; 2],
    chains: u32,
    [lanes, subgroups]: [u32; 2],
) -> Way {
    let mut values = numbers(chains, lanes);
    values.push(("F", side.to_string()));
    values.push(("T", operands.into()));
    values.push(("S", sums.into()));
    let mut flags = vec!["COOP"];
    flags.extend((operands == "f16" || sums == "f16").then_some("F16"));
    let one = 2.0 * f64::from(side).powi(3);
    Way {
        key: key("peak_matrix", &flags, &values, STREAM),
        work: of(one * STEPS * f64::from(chains * subgroups)),
        name: name(chains, lanes),
    }
}

/// Seconds that a sample of a peak should take: many times what a launch does.
fn span(gpu: &Gpu) -> f64 {
    if gpu.capabilities().is_cpu {
        0.02
    } else {
        3e-3
    }
}

/// The fastest of `ways` and as many turns as make it last; `None` where there are no ways.
fn fastest(
    gpu: &Arc<Gpu>,
    ways: Vec<Way>,
    views: &[View],
    groups: usize,
) -> Result<Option<(Way, u32)>> {
    let mut clock = Clock::new(gpu)?;
    let mut best: Option<(f64, Way, u32)> = None;
    for way in ways {
        let mut turns = 4;
        let seconds = loop {
            // SAFETY: the shaders of arithmetic take every index modulo what the views hold.
            let one = unsafe { dispatch(&way.key, views, groups, turns) };
            let program = Program::new(gpu, vec![one])?;
            clock.warm(&program)?;
            clock.pass(&[&program], 1)?;
            let seconds = clock.pass(&[&program], 1)?.seconds;
            if seconds >= span(gpu) || turns >= 1 << 20 {
                break seconds;
            }
            turns *= ((1.2 * span(gpu) / seconds.max(1e-7)) as u32).clamp(2, 64);
        };
        let per_turn = way.work.operations.or(way.work.bytes).unwrap_or_default();
        let rate = per_turn * f64::from(turns) * groups as f64 / seconds;
        if best.as_ref().is_none_or(|(before, ..)| rate > *before) {
            best = Some((rate, way, turns));
        }
    }
    Ok(best.map(|(_, way, turns)| (way, turns)))
}

pub(super) fn permutations() -> Vec<PipelineKey> {
    let mut kinds = vec![Kind::F32, Kind::F16, Kind::Int8, Kind::Shared];
    for side in [8, 16] {
        for (operands, sums) in [("f16", "f16"), ("f16", "f32"), ("f32", "f32")] {
            kinds.push(Kind::Matrix {
                side,
                operands,
                sums,
            });
        }
    }
    // Subgroups of 8 are those of CPUs.
    let ways = kinds.into_iter().flat_map(|kind| kind.ways(8));
    ways.map(|way| way.key).collect()
}

pub(super) fn run(
    gpu: &Arc<Gpu>,
    manner: Manner,
    cancelled: &dyn Fn() -> bool,
    keep: &mut dyn FnMut(Row),
) -> Result<()> {
    let (kinds, others) = Kind::all(gpu);
    let lanes = match gpu.capabilities().all_matrices.is_empty() {
        true => 1,
        false => subgroup_size(gpu)?,
    };
    // Enough for every unit of a large GPU; a few a thread of a CPU.
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let groups = match gpu.capabilities().is_cpu {
        true => 64 * cores,
        false => 8192,
    };
    for kind in kinds {
        if cancelled() {
            return Err(Error::Cancelled);
        }
        let storage = match kind {
            Kind::F16 => Storage::F16,
            Kind::Matrix {
                operands: "f16", ..
            } => Storage::F16,
            _ => Storage::F32,
        };
        let views: [View; 2] = [noise(gpu, storage, BYTES)?, noise(gpu, storage, BYTES)?];
        let Some((way, turns)) = fastest(gpu, kind.ways(lanes), &views, groups)? else {
            continue;
        };
        let all = |per: Option<f64>| per.map(|x| x * f64::from(turns) * groups as f64);
        let work = Work {
            operations: all(way.work.operations),
            bytes: all(way.work.bytes),
        };
        let subject = Subject::new(Suite::Peaks, kind.name());
        let mut made = row(gpu, subject, work, manner, cancelled, || {
            // SAFETY: every index is taken modulo what the views hold.
            let one = unsafe { dispatch(&way.key, &views, groups, turns) };
            Ok((vec![Program::new(gpu, vec![one])?], 1))
        })?;
        // Which way was fastest is no part of what is compared.
        made.note = Some(way.name);
        if matches!(kind, Kind::Matrix { .. }) {
            let note = made.note.get_or_insert_default();
            if !others.is_empty() {
                note.push_str(&format!("; not in WGSL: {}", others.join(", ")));
            }
            if gpu.capabilities().is_cpu {
                note.push_str(EMULATED);
            }
        }
        keep(made);
    }
    Ok(())
}
