//! The kernels of the denoising loop, and the look-out for values that are not finite.

use super::bed::Ground;
use super::norm::{alike, modes};
use super::{
    BELOW, Bed, Checked, Checking, Fill, Kernel, Numbers, Placed, Problem, Random, Run, Work,
    compare,
};
use crate::Result;
use crate::kernel::finite::Mark;
use crate::kernel::latent::{
    Row, SLOTS, STORES, Share, State, StepValues, Weighed, guidance, input, mask, rescale,
    threshold, twin_guidance, twin_input, twin_mask, twin_rescale, twin_update, update,
};
use crate::kernel::subgroup;
use crate::kernel::{Dispatch, Storage, Tensor, View};
use crate::schedule::Bound;

/// The step of all cases, whose update does nothing.
pub const STEP: StepValues = StepValues {
    input_scale: 0.0683,
    guidance_scale: 7.5,
    guidance_rescale: 0.7,
    kept_original: 0.8,
    kept_noise: 0.6,
    stores: 0.0,
    threshold_ratio: 0.97,
    threshold_most: 1.5,
    number: 1.0,
    update: NOTHING,
    store: [NOTHING; STORES],
};

/// A row of zeros.
pub const NOTHING: Row = Row {
    slot: 0.0,
    clip: 0.0,
    sample: 0.0,
    output: 0.0,
    noise: 0.0,
    history: [0.0; SLOTS],
};

/// What is done to latents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Copies of the latents beside channels of which there may be none.
    Input {
        copies: usize,
        wide: usize,
    },
    /// `parts` of a prompt, or an unguided prediction where there are none.
    Guidance {
        parts: usize,
    },
    /// `off`: by a phi of 0, which changes nothing.
    Rescale {
        off: bool,
    },
    /// `slots` history tensors, of which `stores` are written; `split`: the first store by
    /// itself.
    Update {
        slots: usize,
        stores: usize,
        split: bool,
    },
    Threshold,
    Mask,
}

/// A kernel over latents `[n, pixels, c]`.
#[derive(Debug, Clone, Copy)]
pub struct Latent {
    pub op: Op,
    pub n: usize,
    pub pixels: usize,
    /// A multiple of 4.
    pub c: usize,
    pub seed: u64,
}

/// Weights of the parts of a prompt.
const WEIGHTS: [f32; 3] = [1.0, 0.5, -0.4];

/// A row with some factors zero, which must not read what they belong to.
fn row(random: &mut Random, slots: usize) -> Row {
    let mut factors = random.values(3 + slots);
    for factor in &mut factors {
        if random.coin() {
            *factor = 0.0;
        }
    }
    let mut history = [0.0; SLOTS];
    history[..slots].copy_from_slice(&factors[3..]);
    Row {
        slot: random.size(0, slots.max(1) - 1) as f32,
        clip: if random.coin() { 0.6 } else { 0.0 },
        sample: factors[0],
        output: factors[1],
        noise: factors[2],
        history,
    }
}

type Made = (Vec<Dispatch>, Checking);

fn made(
    dispatches: Vec<Dispatch>,
    check: impl Fn(&Bed) -> Result<Checked> + Send + 'static,
) -> Made {
    (dispatches, Box::new(check))
}

fn step_view(bed: &Bed, step: &StepValues) -> Result<View> {
    bed.view(bytemuck::bytes_of(step))
}

impl Latent {
    /// Values of one picture.
    fn count(&self) -> usize {
        self.pixels * self.c
    }

    fn random(&self) -> Random {
        Random::new(self.seed)
    }

    fn input(&self, ground: Ground<'_>, run: &Run, copies: usize, wide: usize) -> Result<Made> {
        let Self { n, pixels, c, .. } = *self;
        let (bed, storage) = (ground.bed, run.a);
        let mut random = self.random();
        let (x, extra) = (
            random.numbers(n * pixels * c),
            random.numbers(n * pixels * wide),
        );
        let latents = Tensor::new(ground.changed(&x)?, Storage::F32, [n, pixels, 1, c]);
        let more = ground.changed(&extra)?;
        let shape = [copies * n, pixels, 1, c + wide];
        let y = ground.blank(storage, shape, BELOW)?;
        let dispatch = input(run.mode(), &latents, &more, &step_view(bed, &STEP)?, &y)?;
        Ok(made(vec![dispatch], move |bed| {
            let twin = twin_input(&x.all(), c, &extra.all(), STEP.input_scale, copies);
            // What comes beside the latents is only stored, the latents are rounded too.
            let twin = storage.decode(&storage.encode(&twin));
            compare(bed, storage, &bed.read(&y)?, &twin)
        }))
    }

    /// A batch holds the negative prompt's prediction, where there is one, and those of the
    /// parts after it.
    fn guidance(&self, ground: Ground<'_>, run: &Run, parts: usize) -> Result<Made> {
        let Self { n, pixels, c, .. } = *self;
        let (bed, storage, count) = (ground.bed, run.a, n * self.count());
        let values = self.random().numbers((1 + parts) * count);
        let shape = [(1 + parts) * n, pixels, 1, c];
        let all = ground.tensor(storage, shape, &values, BELOW)?;
        let (y, step) = (ground.room(count)?, step_view(bed, &STEP)?);
        let dispatch = |part: usize| {
            let weighed = Weighed {
                weight: WEIGHTS[part],
                first: part == 0,
            };
            let u = (parts > 0).then_some((&all, 0));
            let t = if parts > 0 { (part + 1) * n } else { 0 };
            guidance(run.mode(), u, (&all, t), weighed, n, &step, &y)
        };
        let dispatches: Result<Vec<_>> = (0..parts.max(1)).map(dispatch).collect();
        Ok(made(dispatches?, move |bed| {
            let seen = values.rounded(storage).all();
            let side = |i: usize| &seen[i * count..][..count];
            let weighed: Vec<(&[f32], f32)> =
                (0..parts).map(|i| (side(i + 1), WEIGHTS[i])).collect();
            let twin = twin_guidance(side(0), &weighed, STEP.guidance_scale);
            compare(bed, storage, &bed.read_floats(&y, count)?, &twin)
        }))
    }

    fn rescale(&self, ground: Ground<'_>, run: &Run, off: bool) -> Result<Made> {
        let Self { n, pixels, c, .. } = *self;
        let (storage, count) = (run.a, self.count());
        let mut random = self.random();
        // One picture before those that are looked at.
        let t = random.numbers((n + 1) * count);
        let e: Vec<f32> = random.values(n * count);
        let e: Vec<f32> = e.iter().map(|x| 3.0 * x + 0.5).collect();
        let both = ground.tensor(storage, [n + 1, pixels, 1, c], &t, BELOW)?;
        let guidance_rescale = if off { 0.0 } else { STEP.guidance_rescale };
        let step = StepValues {
            guidance_rescale,
            ..STEP
        };
        let y = ground.bed.changed(&e)?;
        let dispatch = rescale((&both, 1), n, &step_view(ground.bed, &step)?, &y)?;
        Ok(made(vec![dispatch], move |bed| {
            let seen = t.rounded(storage).all();
            let pairs = e.chunks(count).zip(seen[count..].chunks(count));
            let twin: Vec<f32> = pairs
                .flat_map(|(e, t)| twin_rescale(t, e, guidance_rescale))
                .collect();
            compare(bed, storage, &bed.read_floats(&y, n * count)?, &twin)
        }))
    }

    fn update(
        &self,
        ground: Ground<'_>,
        run: &Run,
        [slots, stores]: [usize; 2],
        split: bool,
    ) -> Result<Made> {
        let (bed, count) = (ground.bed, self.n * self.count());
        let mut random = self.random();
        let mut step = StepValues {
            stores: stores as f32,
            update: row(&mut random, slots),
            ..STEP
        };
        (0..stores).for_each(|k| step.store[k] = row(&mut random, slots));
        let [x, e, noise] = [0, 1, 2].map(|_| random.numbers(count));
        let history: Vec<Vec<f32>> = (0..slots).map(|_| random.values(count)).collect();
        let [sample, output, drawn] = [&x, &e, &noise].map(|values| ground.changed(values));
        let (sample, output, drawn) = (sample?, output?, drawn?);
        let kept = bed.changed(&history.concat())?;
        let state = State {
            sample: &sample,
            output: &output,
            noise: &drawn,
            history: &kept,
        };
        let view = step_view(bed, &step)?;
        let shares: &[Share] = match split {
            true => &[Share::First, Share::Rest],
            false => &[Share::Whole],
        };
        let one = |share: &Share| update(run.mode(), &state, &view, count / 4, *share);
        let dispatches: Result<Vec<_>> = shares.iter().map(one).collect();
        Ok(made(dispatches?, move |bed| {
            let [x, e, noise] = [&x, &e, &noise].map(Numbers::all);
            let (twin, after) = twin_update(&step, [&x, &e, &noise], &history);
            let out = bed.read_floats(&sample, count)?;
            let first = compare(bed, Storage::F32, &out, &twin)?;
            if slots == 0 {
                return Ok(first);
            }
            let out = bed.read_floats(&kept, slots * count)?;
            let second = compare(bed, Storage::F32, &out, &after.concat())?;
            Ok(Checked {
                error: first.error.max(second.error),
                values: first.values + second.values,
                ..first
            })
        }))
    }

    fn threshold(&self, ground: Ground<'_>) -> Result<Made> {
        let (n, count) = (self.n, self.count());
        let mut x: Vec<f32> = self.random().values(n * count);
        x.iter_mut().for_each(|x| *x *= 1.6);
        if self.seed.is_multiple_of(3) {
            // Many equal values around the quantile.
            x.iter_mut().for_each(|x| *x = (*x * 4.0).round() / 4.0);
        }
        let ratio = [0.97, 0.5, 1.0, 0.0, 0.995][self.seed as usize % 5];
        let mut step = StepValues {
            threshold_ratio: ratio,
            ..STEP
        };
        step.store[0].slot = 1.0;
        // The second of two slots.
        let before = vec![9.0; n * count];
        let both = ground.bed.changed(&[before, x.clone()].concat())?;
        let view = step_view(ground.bed, &step)?;
        let dispatch = threshold(&both, &view, n, count / 4)?;
        Ok(made(vec![dispatch], move |bed| {
            let bound = Bound::Threshold {
                ratio: f64::from(ratio),
                most: f64::from(step.threshold_most),
            };
            let whole = |x: &[f32]| bound.apply(x.iter().map(|x| f64::from(*x)).collect());
            let twin = x.chunks(count).flat_map(whole).map(|x| x as f32);
            let out = bed.read_floats(&both, 2 * n * count)?;
            let (other, out) = out.split_at(n * count);
            match other.iter().position(|x| *x != 9.0) {
                Some(at) => Err(bed.wrong(format!("value {at} of another slot was touched"))),
                None => compare(bed, Storage::F32, out, &twin.collect::<Vec<_>>()),
            }
        }))
    }

    fn mask(&self, ground: Ground<'_>, run: &Run) -> Result<Made> {
        let Self { n, pixels, c, .. } = *self;
        let count = n * self.count();
        let mut random = self.random();
        let [x, original, noise] = [0, 1, 2].map(|_| random.numbers(count));
        let coin = |_| if random.coin() { 1.0 } else { 0.25 };
        let m: Vec<f32> = (0..pixels).map(coin).collect();
        let latents = Tensor::new(ground.changed(&x)?, Storage::F32, [n, pixels, 1, c]);
        let [a, b] = [&original, &noise].map(|values| ground.changed(values));
        let (a, b, m_view) = (a?, b?, ground.bed.changed(&m)?);
        let step = step_view(ground.bed, &STEP)?;
        let dispatch = mask(run.mode(), &latents, [&a, &b, &m_view], &step)?;
        Ok(made(vec![dispatch], move |bed| {
            let [x, original, noise] = [&x, &original, &noise].map(Numbers::all);
            let factors = [STEP.kept_original, STEP.kept_noise];
            let twin = twin_mask([&x, &original, &noise], &m, c, factors);
            let out = bed.read_floats(&latents.view, count)?;
            compare(bed, Storage::F32, &out, &twin)
        }))
    }
}

impl Problem for Latent {
    fn op(&self) -> &'static str {
        match self.op {
            Op::Input { .. } => "latent_input",
            Op::Guidance { .. } => "guidance",
            Op::Rescale { .. } => "rescale",
            Op::Update { .. } => "update",
            Op::Threshold => "threshold",
            Op::Mask => "mask",
        }
    }

    fn shape(&self) -> String {
        let Self { n, pixels, c, .. } = self;
        let more = match self.op {
            Op::Input { copies, wide } => format!(" + {wide}, {copies} times"),
            Op::Guidance { parts } => format!(", {parts} parts"),
            Op::Update { slots, stores, .. } => format!(", {slots} slots, {stores} stores"),
            Op::Rescale { .. } | Op::Threshold | Op::Mask => String::new(),
        };
        format!("{n}x{pixels}x{c}{more}")
    }

    fn work(&self, run: &Run) -> Work {
        let count = self.n * self.count();
        let stored = run.a.bytes();
        let bytes = match self.op {
            Op::Input { copies, wide } => {
                let rows = self.n * self.pixels;
                rows * (self.c + wide) * (4 + copies * stored)
            }
            // A further part reads and writes the sum.
            Op::Guidance { parts: 0 } => count * (stored + 4),
            Op::Guidance { parts } => count * (parts * (2 * stored + 4) + (parts - 1) * 4),
            // The spreads of both, then the prediction once more and its result.
            Op::Rescale { .. } => count * (stored + 4 + 4 + 4),
            // Latents, prediction, noise and history are read, latents and stores written.
            Op::Update { slots, stores, .. } => count * 4 * (4 + slots + stores),
            // For the quantile, then to be bounded.
            Op::Threshold => count * 4 * 3,
            Op::Mask => count * 4 * 4 + self.pixels * 4,
        };
        Work {
            flops: 0,
            bytes: bytes as u64,
        }
    }

    fn runs(&self, bed: &Bed) -> Vec<Run> {
        let only = |storage| Run::of(Kernel::Only, storage);
        match self.op {
            Op::Input { .. } | Op::Guidance { .. } => modes(alike(bed)),
            Op::Rescale { .. } => bed.storages().into_iter().map(only).collect(),
            Op::Update { .. } | Op::Mask => modes([[Storage::F32; 2]]),
            Op::Threshold => vec![only(Storage::F32)],
        }
    }

    fn place(&self, bed: &Bed, run: &Run, fill: Fill) -> Result<Placed> {
        let ground = Ground { bed, fill };
        let (dispatches, check) = match self.op {
            Op::Input { copies, wide } => self.input(ground, run, copies, wide)?,
            Op::Guidance { parts } => self.guidance(ground, run, parts)?,
            Op::Rescale { off } => self.rescale(ground, run, off)?,
            Op::Update {
                slots,
                stores,
                split,
            } => self.update(ground, run, [slots, stores], split)?,
            Op::Threshold => self.threshold(ground)?,
            Op::Mask => self.mask(ground, run)?,
        };
        Ok(Placed::new(self, run, dispatches, check))
    }

    fn shrunk(&self, divisor: usize) -> Box<dyn Problem> {
        Box::new(Self {
            pixels: self.pixels.div_ceil(divisor * divisor),
            ..*self
        })
    }
}

/// What is not finite, by its bits.
const BAD: [u32; 6] = [
    0x7f80_0000, // infinity
    0xff80_0000,
    0x7fc0_0000, // quiet NaN
    0xffc0_0000,
    0x7f80_0001, // signalling NaN
    0xffff_ffff,
];

/// The largest that is finite, the smallest, and what looks like half an infinity.
const GOOD: [u32; 6] = [
    0x7f7f_ffff,
    0xff7f_ffff,
    0x0000_0001,
    0x8000_0000,
    0x0000_7c00,
    0x7f00_ffff,
];

/// The look-out for values that are not finite, one of which there may be.
#[derive(Debug, Clone, Copy)]
pub struct Watch {
    pub count: usize,
    pub spoilt: bool,
    pub seed: u64,
}

impl Watch {
    fn values(&self) -> Vec<f32> {
        let mut random = Random::new(self.seed);
        let mut values = random.numbers(self.count).all();
        let turn = self.seed as usize;
        values[self.count / 2] = f32::from_bits(GOOD[turn % GOOD.len()]);
        if self.spoilt {
            let at = [0, self.count - 1, random.size(0, self.count - 1)][turn % 3];
            values[at] = f32::from_bits(BAD[turn % BAD.len()]);
        }
        values
    }
}

/// The step's number that a mark shows.
const NUMBER: f32 = 3.0;

impl Problem for Watch {
    fn op(&self) -> &'static str {
        "watch"
    }

    fn shape(&self) -> String {
        let spoilt = if self.spoilt { ", one not finite" } else { "" };
        format!("{}{spoilt}", self.count)
    }

    fn work(&self, _: &Run) -> Work {
        Work {
            flops: 0,
            bytes: 4 * self.count as u64,
        }
    }

    fn runs(&self, _: &Bed) -> Vec<Run> {
        modes([[Storage::F32; 2]])
    }

    fn place(&self, bed: &Bed, run: &Run, fill: Fill) -> Result<Placed> {
        let mark = Mark::new(&bed.gpu)?;
        let x = match fill {
            Fill::Exact => {
                // What is around them is not finite.
                let mut bytes: Vec<u8> = bytemuck::cast_slice(&self.values()).to_vec();
                bytes.resize(bytes.len().next_multiple_of(16) + 16, 0xff);
                bed.view(&bytes)?
            }
            Fill::Rotating => bed.noise(Storage::F32, 4 * self.count as u64)?,
        };
        let step = StepValues {
            number: NUMBER,
            ..STEP
        };
        let step = step_view(bed, &step)?;
        let dispatches = mark.watch(&bed.gpu, run.mode(), &x, self.count, Some(&step))?;
        let problem = *self;
        Ok(Placed::new(self, run, dispatches, move |bed| {
            let wanted = problem.spoilt.then_some(NUMBER as usize);
            let found = mark.read(&bed.gpu)?;
            exactly(bed, found == wanted, || {
                format!("the mark says {found:?} in place of {wanted:?}")
            })
        }))
    }

    fn shrunk(&self, divisor: usize) -> Box<dyn Problem> {
        Box::new(Self {
            count: self.count.div_ceil(divisor * divisor),
            ..*self
        })
    }
}

/// A result that is right or wrong.
fn exactly(bed: &Bed, right: bool, problem: impl FnOnce() -> String) -> Result<Checked> {
    match right {
        true => Ok(Checked {
            error: 0.0,
            limit: 0.0,
            values: 1,
        }),
        false => Err(bed.wrong(problem())),
    }
}

/// How many invocations a subgroup has.
#[derive(Debug, Clone, Copy)]
pub struct SubgroupSize;

impl Problem for SubgroupSize {
    fn op(&self) -> &'static str {
        "subgroup_size"
    }

    fn shape(&self) -> String {
        "1".into()
    }

    fn work(&self, _: &Run) -> Work {
        Work { flops: 0, bytes: 4 }
    }

    fn runs(&self, bed: &Bed) -> Vec<Run> {
        match bed.gpu.capabilities().subgroup {
            true => vec![Run::of(Kernel::Only, Storage::F32)],
            false => Vec::new(),
        }
    }

    fn place(&self, bed: &Bed, run: &Run, _: Fill) -> Result<Placed> {
        let view = bed.scratch(16)?;
        let dispatches = vec![subgroup::dispatch(&view)?];
        Ok(Placed::new(self, run, dispatches, move |bed| {
            let size = subgroup::read(&bed.gpu, &view)?;
            let [smallest, largest] = bed.gpu.capabilities().subgroup_size;
            let right = (smallest..=largest).contains(&size) && size.is_power_of_two();
            exactly(bed, right, || {
                format!("{size} invocations, not {smallest} to {largest}")
            })
        }))
    }

    fn shrunk(&self, _: usize) -> Box<dyn Problem> {
        Box::new(*self)
    }
}
