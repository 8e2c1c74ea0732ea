//! Which variant makes a product: what was measured on the adapter, else what should
//! keep it busiest; and only what passed its self-test.

use super::selftest::self_test;
use super::{Call, Direct, UNIT, Variant, WeightStorage};
use crate::Result;
use crate::gpu::Capabilities;
use crate::kernel::{Context, Storage};

/// Columns (in groups of 8) up to which the narrow variant serves better.
const NARROW: usize = 2;

impl Context {
    /// The variant that makes `call`: the one that was measured to be fastest, or by its
    /// shape.
    ///
    /// # Errors
    /// What goes wrong on the device while variants are tested.
    pub fn choose(&self, call: &Call) -> Result<Variant> {
        if self.mode.direct {
            return self.choose_direct(call);
        }
        let mut ranked = self.candidates(call);
        let tuned = self.measured(call);
        let tuned = tuned.filter(|v| self.serving(call).any(|known| known == *v));
        let units = units(self.gpu.capabilities());
        ranked.sort_by(|a, b| {
            let speed = |v: &Variant| v.share(call, units);
            let family = a.family(call).cmp(&b.family(call));
            family.then(speed(b).total_cmp(&speed(a)))
        });
        for variant in tuned.into_iter().chain(ranked) {
            if self.trusts(variant, call)? {
                return Ok(variant);
            }
        }
        Ok(Variant::Direct(Direct::WIDE))
    }

    fn choose_direct(&self, call: &Call) -> Result<Variant> {
        if call.n8 <= NARROW && call.m >= 64 {
            return Ok(Variant::Direct(Direct::NARROW));
        }
        let shared = |v: &&Variant| matches!(v, Variant::Direct(d) if d.is_shared());
        match self.candidates.iter().find(shared) {
            Some(variant) if self.trusts(*variant, call)? => Ok(*variant),
            _ => Ok(Variant::Direct(Direct::WIDE)),
        }
    }

    /// The variants that could make `call`, trusted or not.
    fn serving(&self, call: &Call) -> impl Iterator<Item = Variant> {
        let serving = self.candidates.iter().filter(|v| v.serves(call));
        let wanted = serving.filter(|v| self.first.is_none_or(|f| v.family(call) >= f));
        wanted.copied()
    }

    /// Those that sum in one order whatever the number of rows, so that a picture is the
    /// same to the bit in every batch.
    pub fn candidates(&self, call: &Call) -> Vec<Variant> {
        self.serving(call).filter(|v| v.parts() == 1).collect()
    }

    /// Those that cut K into parts. Whether that pays depends on the rows, and it changes
    /// the last bits, so they serve only where a table names them.
    pub fn cut_candidates(&self, call: &Call) -> Vec<Variant> {
        self.serving(call).filter(|v| v.parts() > 1).collect()
    }

    /// Whether `variant` passed its self-test, which runs when it is first asked for.
    ///
    /// # Errors
    /// What goes wrong on the device, other than the kernel itself.
    pub fn trusts(&self, variant: Variant, call: &Call) -> Result<bool> {
        if matches!(variant, Variant::Direct(d) if !d.is_shared()) {
            return Ok(true);
        }
        let key = (variant, call.storages, call.gather);
        let test = || self_test(self, variant, call);
        let family = variant.family(call);
        self.trust
            .passes(format!("{key:?}"), &variant, family, test)
    }
}

impl Context {
    /// The kernels that serve typical shapes, as the self-tests let them: products and
    /// convolutions of a guided 1024x1024 step, attention.
    ///
    /// # Errors
    /// What goes wrong on the device.
    pub fn typical(&self) -> Result<Vec<String>> {
        let can = self.gpu.capabilities();
        let half = can.shader_f16 && !self.mode.direct;
        let (storage, weights) = match (half, can.half_words) {
            (true, _) => (Storage::F16, WeightStorage::F16),
            (false, true) => (Storage::F32, WeightStorage::F16),
            (false, false) => (Storage::F32, WeightStorage::F32),
        };
        let linear = Call {
            m: 2048,
            n8: 160,
            k8: 160,
            taps: 1,
            gather: false,
            storages: (storage, weights).into(),
            plain: true,
        };
        let conv = Call {
            m: 32768,
            n8: 40,
            k8: 40,
            taps: 9,
            gather: true,
            ..linear
        };
        let f32 = Call {
            storages: (Storage::F32, weights).into(),
            ..linear
        };
        let mut told = Vec::new();
        for (name, call) in [("linear", linear), ("convolution", conv), ("f32", f32)] {
            told.push(format!("{name} {}", self.choose(&call)?));
        }
        told.extend(self.typical_attention(storage)?);
        Ok(told)
    }
}

/// Units of a device that work side by side. wgpu does not tell them; discrete GPUs
/// have about this many.
fn units(capabilities: &Capabilities) -> f64 {
    match capabilities.is_discrete {
        true => 128.0,
        false => 32.0,
    }
}

impl Variant {
    /// The share of a device's speed that is expected for `call`: how little of the
    /// tiles is padding, how evenly they fill the units, and how much an invocation or
    /// a subgroup reuses of what it reads from shared memory.
    fn share(self, call: &Call, units: f64) -> f64 {
        let [bm, bn] = self.tile();
        let (m, n) = (call.m as f64, 8.0 * call.n8 as f64);
        let (rows, columns) = ((m / bm as f64).ceil(), (n / bn as f64).ceil());
        let tiles = rows * columns;
        let whole = m * n / (tiles * (bm * bn) as f64);
        // Two workgroups share a unit, so a last round that is partly full costs half.
        // What is cut has more workgroups, and its parts are written and read again.
        let parts = f64::from(self.parts());
        let groups = tiles * parts;
        let rounds = (2.0 * groups / units).ceil() / 2.0;
        let busy = groups / (units * rounds);
        let sums = (UNIT * call.k8 * call.taps) as f64 / parts;
        let kept = if parts > 1.0 {
            sums / (sums + 256.0)
        } else {
            1.0
        };
        whole * busy * kept * self.reuse()
    }

    fn reuse(self) -> f64 {
        let (rows, columns, half) = match self {
            Variant::Direct(_) => (8.0, 8.0, 2.0),
            Variant::Tiled(tile) => (f64::from(tile.rows), 8.0, 2.0),
            Variant::Coop(t) => (f64::from(t.bm / t.wm), f64::from(t.bn / t.wn), 16.0),
        };
        let reuse = rows * columns / (rows + columns);
        reuse / (reuse + half)
    }
}

/// The calls that are measured together: products of about as many rows.
impl Call {
    /// Floating-point operations.
    pub fn flop(&self) -> f64 {
        2.0 * (self.m * 8 * self.n8) as f64 * (UNIT * self.k8 * self.taps) as f64
    }

    pub fn class(&self) -> String {
        let kind = if self.gather { "conv" } else { "linear" };
        let storage = match (self.storages.a, self.storages.weights) {
            (Storage::F16, WeightStorage::F16) => "f16",
            (Storage::F16, WeightStorage::F32) => "f16 f32",
            (Storage::F32, WeightStorage::F16) => "f32 f16",
            (Storage::F32, WeightStorage::F32) => "f32",
        };
        let (m, n) = (self.m.next_power_of_two(), 8 * self.n8);
        let k = UNIT * self.k8 * self.taps;
        let plain = if self.plain { "" } else { " blocks" };
        format!("{kind} {m}x{n}x{k} {storage}{plain}")
    }
}
