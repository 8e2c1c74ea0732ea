//! Attention without matrices: the variants of `attention.wgsl` as data.

use super::{Call, FLASH, FlashParams};
use crate::gpu::{Capabilities, PipelineKey};
use crate::kernel::product::{Family, lacking_room};
use crate::kernel::{Storage, key};
use std::fmt;

/// A variant of `attention.wgsl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TiledBlock {
    /// Queries of an invocation.
    pub rows: u32,
    /// Invocations along the queries; 8 lie along the keys.
    pub wy: u32,
    /// f16 in shared memory, else f32.
    pub half: bool,
    /// The next keys and values are read while those before are used.
    pub ahead: bool,
}

const fn block(rows: u32, wy: u32, half: bool, ahead: bool) -> TiledBlock {
    TiledBlock {
        rows,
        wy,
        half,
        ahead,
    }
}

/// Best first; the last one serves everything. Those that read ahead, and those of 8 rows,
/// which reuse more of what they read, need more registers than Intel's threads have.
const BLOCKS: [TiledBlock; 4] = [
    block(4, 16, true, true),
    block(8, 8, true, true),
    block(4, 16, true, false),
    block(4, 8, false, false),
];

/// Shared memory of the one that serves everything, in bytes.
pub(in crate::kernel) const LEAST_SHARED: u32 = BLOCKS[BLOCKS.len() - 1].shared();

impl TiledBlock {
    /// Keys at a time.
    pub const KEYS: u32 = 32;

    /// Every variant there is, best first.
    pub fn all() -> Vec<Self> {
        BLOCKS.to_vec()
    }

    pub(super) fn lacks(self, c: &Capabilities) -> Option<String> {
        let few = c.few_registers && (self.rows != 4 || self.ahead);
        match (self.half && !c.shader_f16, few) {
            (true, _) => Some("no SHADER_F16".into()),
            (false, true) => Some("few registers".into()),
            (false, false) => lacking_room(c, self.threads(), self.shared()),
        }
    }

    pub(super) fn serves(self, call: &Call) -> bool {
        call.storage == Storage::F16 || !self.half
    }

    pub(super) fn family(self) -> Family {
        match self.half {
            true => Family::Scalar16,
            false => Family::Scalar32,
        }
    }

    fn threads(self) -> u32 {
        8 * self.wy
    }

    /// Queries of a workgroup.
    pub(super) fn rows(self) -> usize {
        (self.rows * self.wy) as usize
    }

    /// Whether its last block of keys is not full.
    pub(super) fn masks(self, keys: usize) -> bool {
        !keys.is_multiple_of(Self::KEYS as usize)
    }

    /// Vec4s of shared memory: queries; keys, or weights; parts of sums, always f32.
    const fn arrays(self) -> [u32; 3] {
        let rows = self.rows * self.wy;
        let (keys, weights) = (17 * Self::KEYS, rows * (Self::KEYS / 4 + 1));
        let larger = if keys > weights { keys } else { weights };
        [17 * rows, larger, self.rows / 4 * 8 * (self.wy + 1)]
    }

    /// Bytes of shared memory.
    const fn shared(self) -> u32 {
        let [queries, keys, parts] = self.arrays();
        let bytes = if self.half { 8 } else { 16 };
        bytes * (queries + keys + 16 * Self::KEYS) + 16 * parts
    }

    /// `None` where its operands cannot be of that storage.
    pub(super) fn key(self, storage: Storage, masked: bool) -> Option<PipelineKey> {
        if self.half && storage != Storage::F16 {
            return None;
        }
        let [queries, keys, parts] = self.arrays();
        let rows = self.rows * self.wy;
        let numbers = [
            ("TY", self.wy),
            ("T", self.threads()),
            ("QB", rows),
            ("GROUPS", self.rows / 4),
            ("QU", 16 * rows / self.threads()),
            ("KU", 16 * Self::KEYS / self.threads()),
            ("Q_TILE", queries),
            ("K_TILE", keys),
            ("PARTS", parts),
        ];
        let mut defines = storage.defines();
        let flags = [
            ("HALF", self.half),
            ("MASK", masked),
            ("PREFETCH", self.ahead),
        ];
        let flags = flags.into_iter().filter(|flag| flag.1);
        defines.extend(flags.map(|(name, _)| (name.into(), String::new())));
        defines.extend(numbers.map(|(name, value)| (name.into(), value.to_string())));
        Some(key::<FlashParams>("attention", defines, vec![], FLASH))
    }
}

impl fmt::Display for TiledBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.family().name();
        let (rows, keys, wy) = (self.rows(), Self::KEYS, self.wy);
        let ahead = if self.ahead { " ahead" } else { "" };
        write!(f, "attention {name} {rows}x{keys} 8x{wy}{ahead}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the shader takes for granted, and what an adapter must have at the least.
    #[test]
    fn blocks_are_whole() {
        for block in TiledBlock::all() {
            let threads = block.threads();
            assert!(block.rows.is_multiple_of(4), "{block}");
            assert!(
                (16 * block.rows() as u32).is_multiple_of(threads),
                "{block}"
            );
            assert!((16 * TiledBlock::KEYS).is_multiple_of(threads), "{block}");
            assert!(threads.is_multiple_of(16), "{block}");
            assert!(block.shared() <= LEAST_SHARED, "{block}");
        }
        // Two workgroups and more of the half ones in the 64 KB of an RDNA2 unit.
        let half = TiledBlock::all().into_iter().filter(|block| block.half);
        assert!(half.clone().count() > 0);
        for block in half {
            assert!(block.shared() <= 24 << 10, "{block}: {}", block.shared());
        }
    }

    /// Intel's few registers, and adapters without f16, have a kernel.
    #[test]
    fn the_last_block_serves_everything() {
        let last = BLOCKS[BLOCKS.len() - 1];
        assert!(!last.half && !last.ahead && last.rows == 4);
    }
}
