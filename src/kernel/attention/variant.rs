//! The kernels that can make attention of heads of 64 in one pass, and which one does:
//! the one that was measured fastest on the adapter, else the first that serves; and only
//! what passed its self-test.

use super::selftest::self_test;
use super::{CoopBlock, TiledBlock};
use crate::gpu::{Capabilities, PipelineKey};
use crate::kernel::product::Family;
use crate::kernel::{Context, Storage};
use crate::{Error, Result};
use std::fmt;

/// Which kernel makes attention of heads of 64 in one pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Variant {
    /// Cooperative matrices.
    Coop(CoopBlock),
    /// Shared memory and registers.
    Tiled(TiledBlock),
}

/// What a variant is chosen for: one dispatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Call {
    pub queries: usize,
    pub keys: usize,
    /// Of all pictures together.
    pub heads: usize,
    pub storage: Storage,
    pub causal: bool,
    /// Rows of every operand begin at an even vec4, as matrices ask for.
    pub even: bool,
}

impl Call {
    /// Floating-point operations.
    pub fn flop(&self) -> f64 {
        4.0 * (self.heads * self.queries) as f64 * (64 * self.keys) as f64
    }

    /// The calls that are measured together: about as many queries, and keys that take as
    /// many blocks.
    pub fn class(&self) -> String {
        let (queries, heads) = (self.queries.next_power_of_two(), self.heads);
        let keys = match self.keys {
            0..=256 => self.keys.next_multiple_of(16),
            more => more.next_power_of_two(),
        };
        let storage = match self.storage {
            Storage::F16 => "f16",
            Storage::F32 => "f32",
        };
        let causal = if self.causal { " causal" } else { "" };
        let odd = if self.even { "" } else { " odd" };
        format!("{CLASS}{queries}x{keys} of {heads} {storage}{causal}{odd}")
    }
}

/// What the names of classes of attention begin with, and no others.
pub(in crate::kernel) const CLASS: &str = "attention ";

impl Variant {
    /// Every variant there is, those of one device best first.
    pub fn all() -> Vec<Self> {
        let coop = CoopBlock::all().into_iter().map(Self::Coop);
        let tiled = TiledBlock::all().into_iter().map(Self::Tiled);
        coop.chain(tiled).collect()
    }

    /// Those that a device can run whose subgroups have `lanes` invocations (0 where it
    /// has no matrices), best first.
    pub(in crate::kernel) fn candidates(capabilities: &Capabilities, lanes: u32) -> Vec<Self> {
        let fits = |variant: &Self| variant.lacks(capabilities, lanes).is_none();
        Self::all().into_iter().filter(fits).collect()
    }

    /// What a device lacks to run it at all; `None` where it lacks nothing.
    pub fn lacks(self, capabilities: &Capabilities, lanes: u32) -> Option<String> {
        match self {
            Self::Coop(block) => block.lacks(capabilities, lanes),
            Self::Tiled(block) => block.lacks(capabilities),
        }
    }

    /// Whether it can make `call`.
    pub fn serves(self, call: &Call) -> bool {
        match self {
            Self::Coop(block) => block.serves(call),
            Self::Tiled(block) => block.serves(call),
        }
    }

    pub fn family(self) -> Family {
        match self {
            Self::Coop(block) => block.family(),
            Self::Tiled(block) => block.family(),
        }
    }

    /// Queries of a workgroup.
    pub(super) fn rows(self) -> usize {
        match self {
            Self::Coop(block) => block.rows(),
            Self::Tiled(block) => block.rows(),
        }
    }

    /// Keys of a block, and whether it serves no more.
    pub(super) fn keys(self) -> (usize, bool) {
        match self {
            Self::Coop(block) => (block.keys as usize, block.single.is_some()),
            Self::Tiled(_) => (TiledBlock::KEYS as usize, false),
        }
    }

    /// Whether there are keys in its blocks that some query does not see.
    pub fn masks(self, call: &Call) -> bool {
        call.causal
            || match self {
                Self::Coop(block) => block.masks(call.keys),
                Self::Tiled(block) => block.masks(call.keys),
            }
    }

    /// `None` where its operands cannot be of that storage.
    pub fn key(self, storage: Storage, masked: bool) -> Option<PipelineKey> {
        match self {
            Self::Coop(block) => (storage == Storage::F16).then(|| block.key(masked)),
            Self::Tiled(block) => block.key(storage, masked),
        }
    }
}

impl Context {
    /// The variants that could make `call`, trusted or not, best first. The last one needs
    /// nothing that an adapter may lack.
    pub fn attention_candidates(&self, call: &Call) -> Vec<Variant> {
        let wanted = |v: &Variant| v.serves(call) && self.first.is_none_or(|f| v.family() >= f);
        let all = self.attention.iter().copied();
        all.filter(wanted).collect()
    }

    /// The kernels that make self-attention and cross-attention of heads of 64.
    pub(in crate::kernel) fn typical_attention(&self, storage: Storage) -> Result<Vec<String>> {
        if self.mode.direct {
            return Ok(vec!["attention by products over chunks of queries".into()]);
        }
        let long = Call {
            queries: 4096,
            keys: 4096,
            heads: 20,
            storage,
            causal: false,
            even: true,
        };
        let prompt = Call { keys: 77, ..long };
        let [long, prompt] = [long, prompt].map(|call| self.choose_attention(&call));
        let (long, prompt) = (long?, prompt?);
        let mut told = vec![long.to_string()];
        if prompt != long {
            told.push(format!("{prompt} for prompts"));
        }
        Ok(told)
    }

    /// The one that makes `call`: the one that was measured to be fastest, or the first.
    ///
    /// # Errors
    /// What goes wrong on the device while variants are tested.
    pub fn choose_attention(&self, call: &Call) -> Result<Variant> {
        let candidates = self.attention_candidates(call);
        let tuned = self.measured_attention(call);
        let tuned = tuned.filter(|v| candidates.contains(v));
        for variant in tuned.into_iter().chain(candidates.iter().copied()) {
            if self.trusts_attention(variant, call)? {
                return Ok(variant);
            }
        }
        // Nothing else is left, and its self-test has warned.
        let last = candidates.last().copied();
        last.ok_or_else(|| Error::internal("attention", format!("no kernel serves {call:?}")))
    }

    /// Whether `variant` passed its self-test, which runs when it is first asked for.
    ///
    /// # Errors
    /// What goes wrong on the device, other than the kernel itself.
    pub fn trusts_attention(&self, variant: Variant, call: &Call) -> Result<bool> {
        let key = variant.key(call.storage, variant.masks(call));
        let Some(key) = key else { return Ok(false) };
        let test = || self_test(self, variant, call);
        self.trust
            .passes(key.label(), &variant, variant.family(), test)
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coop(block) => block.fmt(f),
            Self::Tiled(block) => block.fmt(f),
        }
    }
}

impl std::str::FromStr for Variant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = |v: &Variant| v.to_string() == text;
        let found = Self::all().into_iter().find(named);
        found.ok_or_else(|| format!("{text} is no kernel of this version"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// A table's names mean one variant each on any device.
    #[test]
    fn names_are_different_and_come_back() {
        let all = Variant::all();
        let names: HashSet<String> = all.iter().map(ToString::to_string).collect();
        // Matrices of subgroups of 32, 64 and 8 differ in their last number.
        assert_eq!(names.len(), all.len());
        for variant in all {
            assert_eq!(variant.to_string().parse(), Ok(variant));
        }
    }

    /// A class holds only calls that the same variants serve.
    #[test]
    fn what_a_class_names_serves_all_of_it() {
        let call = |keys: usize| Call {
            queries: 100,
            keys,
            heads: 4,
            storage: Storage::F16,
            causal: false,
            even: true,
        };
        let serving = |keys: usize| {
            let all = Variant::all().into_iter();
            all.filter(|v| v.serves(&call(keys))).collect::<Vec<_>>()
        };
        for keys in 1..600 {
            if call(keys).class() == call(keys + 1).class() {
                assert_eq!(serving(keys), serving(keys + 1), "{keys}");
            }
        }
        assert!(serving(80).len() > serving(81).len());
    }
}
