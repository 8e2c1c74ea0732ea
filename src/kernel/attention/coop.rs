//! Attention with cooperative matrices: the variants of `attention_coop.wgsl` as data,
//! and which of them serves.

use super::selftest::self_test;
use super::{Attention, FLASH, FlashParams};
use crate::Result;
use crate::gpu::{Capabilities, PipelineKey};
use crate::kernel::product::Family;
use crate::kernel::{Context, Storage, Tensor, key};
use std::fmt;

/// A variant of `attention_coop.wgsl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CoopBlock {
    /// Sides of a matrix.
    pub f: u32,
    /// Invocations of a subgroup.
    pub lanes: u32,
    /// Subgroups of a workgroup.
    pub subgroups: u32,
    /// Queries of a subgroup.
    pub queries: u32,
    /// Keys at a time.
    pub keys: u32,
    /// Scalars in shared memory.
    pub flat: bool,
}

/// Sides of matrices, sizes of subgroups, whether scalars lie in shared memory (Metal),
/// and the blocks for them, best first: subgroups, queries of each, keys. What those of
/// 16x16 do on an H200 is in docs/gpu.md. Subgroups of 8 are Mesa's lavapipe, whose
/// compiler is slow.
const KINDS: [(u32, u32, bool, &[[u32; 3]]); 4] = [
    (16, 32, false, &[[4, 16, 32], [2, 32, 32]]),
    (16, 64, false, &[[4, 16, 32], [2, 32, 32]]),
    (8, 32, true, &[[4, 16, 32], [4, 8, 32]]),
    (8, 8, false, &[[2, 8, 16], [4, 8, 32]]),
];

impl CoopBlock {
    /// Every variant there is, for tests and permutations.
    pub fn all() -> Vec<Self> {
        let of_kind = |(f, lanes, flat, blocks): (u32, u32, bool, &'static [[u32; 3]])| {
            let block = move |[subgroups, queries, keys]: [u32; 3]| Self {
                f,
                lanes,
                subgroups,
                queries,
                keys,
                flat,
            };
            blocks.iter().copied().map(block)
        };
        KINDS.into_iter().flat_map(of_kind).collect()
    }

    /// Those that a device can run whose subgroups have `lanes` invocations (0 where it
    /// has no matrices), best first.
    pub(crate) fn candidates(capabilities: &Capabilities, lanes: u32) -> Vec<Self> {
        let all = Self::all().into_iter();
        all.filter(|block| block.fits(capabilities, lanes))
            .collect()
    }

    fn fits(self, c: &Capabilities, device_lanes: u32) -> bool {
        self.lanes == device_lanes
            && self.flat == c.scalar_matrices
            && c.matrices.contains(&self.f)
            && self.threads() <= c.max_invocations
            && self.shared() <= c.max_workgroup_storage
    }

    /// Whether it can make `attention`, whose heads are 64 wide.
    pub(super) fn serves(self, attention: &Attention<'_>) -> bool {
        let Attention { q, k, v, out, .. } = *attention;
        let units = |t: &Tensor| t.offset.is_multiple_of(2) && t.pitch.is_multiple_of(2);
        q.storage == Storage::F16
            && !attention.causal
            && q.c == 64 * attention.heads
            && [q, k, v, out].into_iter().all(units)
    }

    fn family(self) -> Family {
        match self.f {
            16 => Family::Coop16,
            _ => Family::Coop8,
        }
    }

    fn threads(self) -> u32 {
        self.subgroups * self.lanes
    }

    /// Queries of a workgroup.
    pub(super) fn rows(self) -> usize {
        (self.subgroups * self.queries) as usize
    }

    /// Whether its last block of `keys` keys is not full.
    pub(super) fn masks(self, keys: usize) -> bool {
        !keys.is_multiple_of(self.keys as usize)
    }

    /// Values of shared memory: queries, or keys and values; scores; their weights. 8, 4
    /// and 8 of padding a row.
    fn arrays(self) -> [u32; 3] {
        let rows = self.subgroups * self.queries;
        [
            72 * rows.max(2 * self.keys),
            rows * (self.keys + 4),
            rows * (self.keys + 8),
        ]
    }

    /// Bytes of shared memory.
    fn shared(self) -> u32 {
        let [kv, scores, weights] = self.arrays();
        2 * kv + 4 * scores + 2 * weights + 16
    }

    pub(crate) fn key(self, masked: bool) -> PipelineKey {
        let t = self.threads();
        let rows = self.subgroups * self.queries;
        let per_row = self.lanes / self.queries;
        let chunks = 64 / self.keys;
        let element = if self.flat { 1 } else { 4 };
        let [kv, scores, weights] = self.arrays().map(|values| values / element);
        let numbers = [
            ("F", self.f),
            ("T", t),
            ("QR", self.queries),
            ("QB", rows),
            ("KB", self.keys),
            ("KV", kv),
            ("SCORES", scores),
            ("WEIGHTS", weights),
            ("QU", rows * 8 / t),
            ("KU", self.keys * 8 / t),
            ("QF", self.queries / self.f),
            ("DF", 64 / self.f),
            ("KF", self.keys / self.f),
            ("OC", chunks),
            ("OD", self.keys / self.f),
            ("LR", per_row),
            ("STEPS", per_row.ilog2()),
            ("CV", self.keys / 4 / per_row),
            ("CH", self.keys / 8 / per_row),
        ];
        let mut defines = Storage::F16.defines();
        let flags = [("COOP", true), ("FLAT", self.flat), ("MASK", masked)];
        let flags = flags.into_iter().filter(|flag| flag.1);
        defines.extend(flags.map(|(name, _)| (name.into(), String::new())));
        defines.extend(numbers.map(|(name, value)| (name.into(), value.to_string())));
        key::<FlashParams>("attention_coop", defines, vec![], FLASH)
    }
}

impl Context {
    /// The variants with matrices that could make attention of heads of 64, trusted or
    /// not, best first.
    pub fn attention_candidates(&self) -> Vec<CoopBlock> {
        let wanted = |block: &&CoopBlock| self.first.is_none_or(|f| block.family() >= f);
        let all = self.attention.iter();
        all.filter(wanted).copied().collect()
    }

    /// The kernel that makes self-attention of heads of 64 in f16.
    pub(crate) fn typical_attention(&self) -> Result<String> {
        for block in self.attention_candidates() {
            if self.trusts_attention(block, false)? {
                return Ok(block.to_string());
            }
        }
        Ok(match self.mode.direct {
            true => "attention by products over chunks of queries".into(),
            false => "attention flash 32x32".into(),
        })
    }

    /// The one that makes `attention`; `None` where it takes the kernel without matrices.
    pub(super) fn choose_attention(&self, attention: &Attention<'_>) -> Result<Option<CoopBlock>> {
        let masked = |block: CoopBlock| block.masks(attention.k.rows_per_batch());
        for block in self.attention_candidates() {
            if block.serves(attention) && self.trusts_attention(block, masked(block))? {
                return Ok(Some(block));
            }
        }
        Ok(None)
    }

    /// Whether `block` passed its self-test, which runs when it is first asked for.
    ///
    /// # Errors
    /// What goes wrong on the device, other than the kernel itself.
    pub fn trusts_attention(&self, block: CoopBlock, masked: bool) -> Result<bool> {
        let key = block.key(masked).label();
        let test = || self_test(self, block, masked);
        self.trust.passes(key, &block, block.family(), test)
    }
}

impl fmt::Display for CoopBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flat = if self.flat { " flat" } else { "" };
        let (rows, keys) = (self.rows(), self.keys);
        write!(
            f,
            "attention coop{} {rows}x{keys} {}x{}{flat}",
            self.f, self.subgroups, self.lanes
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the shader takes for granted.
    #[test]
    fn blocks_are_whole() {
        for block in CoopBlock::all() {
            let CoopBlock {
                f, queries, keys, ..
            } = block;
            assert!(block.lanes.is_multiple_of(queries), "{block}");
            let per_row = block.lanes / queries;
            assert!(per_row.is_power_of_two(), "{block}");
            let sides = [queries, keys].map(|x| x.is_multiple_of(f));
            assert_eq!(sides, [true, true], "{block}");
            assert!(64u32.is_multiple_of(keys), "{block}");
            assert!(keys.is_multiple_of(8 * per_row), "{block}");
            let threads = block.threads();
            assert!((block.rows() as u32 * 8).is_multiple_of(threads), "{block}");
            assert!((8 * keys).is_multiple_of(threads), "{block}");
            let bytes = block.arrays();
            for bytes in [2 * bytes[0], 4 * bytes[1], 2 * bytes[2]] {
                assert!(bytes.is_multiple_of(16), "{block}");
            }
            // The least that wgpu's adapters for GPUs have.
            assert!(block.shared() <= 32 << 10, "{block}: {}", block.shared());
        }
    }
}
