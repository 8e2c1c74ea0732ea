//! Attention with cooperative matrices: the variants of `attention_coop.wgsl` as data.

use super::{Call, FLASH, FlashParams};
use crate::gpu::{Capabilities, PipelineKey};
use crate::kernel::product::{Family, lacking_lanes, lacking_matrices, lacking_room};
use crate::kernel::{Storage, key};
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
    /// Keys at a time, or at all where it is single.
    pub keys: u32,
    /// Keys whose scores go through shared memory together; of a single block only, which
    /// serves no more than `keys` keys.
    pub single: Option<u32>,
    /// Scalars in shared memory.
    pub flat: bool,
}

/// Matrices and subgroups, and the blocks for them, best first.
struct Kind {
    /// Sides of a matrix.
    f: u32,
    /// Invocations of a subgroup.
    lanes: u32,
    /// Whether scalars lie in shared memory (Metal).
    flat: bool,
    /// Subgroups, queries of each, keys, and those of a turn, for few keys: the 77 of a
    /// prompt.
    single: &'static [[u32; 4]],
    /// Subgroups, queries of each, keys at a time.
    blocks: &'static [[u32; 3]],
}

/// What those of 16x16 do on an H200 is in docs/gpu.md (single ones were not run there).
/// Scores of 80 keys at once take 43.5 KB and the fewest barriers; in turns of 16, twice
/// as many workgroups fit into a unit of RDNA (64 lanes). Subgroups of 8 are Mesa's
/// lavapipe, whose compiler takes minutes over 80 keys; as on RDNA, the keys of its single
/// block are no multiple of what its invocations bring at a time.
const KINDS: [Kind; 4] = [
    Kind {
        f: 16,
        lanes: 32,
        flat: false,
        single: &[[4, 16, 80, 80], [4, 16, 80, 16]],
        blocks: &[[4, 16, 32], [2, 32, 32]],
    },
    Kind {
        f: 16,
        lanes: 64,
        flat: false,
        single: &[[4, 16, 80, 16], [4, 16, 80, 80]],
        blocks: &[[4, 16, 32], [2, 32, 32]],
    },
    Kind {
        f: 8,
        lanes: 32,
        flat: true,
        single: &[[4, 16, 80, 16]],
        blocks: &[[4, 16, 32], [4, 8, 32]],
    },
    Kind {
        f: 8,
        lanes: 8,
        flat: false,
        single: &[[3, 8, 32, 16]],
        blocks: &[[2, 8, 16], [4, 8, 32]],
    },
];

impl Kind {
    fn all(&self) -> impl Iterator<Item = CoopBlock> {
        let block = |subgroups, queries, keys, single| CoopBlock {
            f: self.f,
            lanes: self.lanes,
            subgroups,
            queries,
            keys,
            single,
            flat: self.flat,
        };
        let single = self.single.iter();
        let single = single.map(move |[s, q, k, turn]| block(*s, *q, *k, Some(*turn)));
        let blocks = self.blocks.iter();
        single.chain(blocks.map(move |[s, q, k]| block(*s, *q, *k, None)))
    }
}

impl CoopBlock {
    /// Every variant there is, those of one device best first.
    pub fn all() -> Vec<Self> {
        KINDS.iter().flat_map(Kind::all).collect()
    }

    pub(super) fn lacks(self, c: &Capabilities, device_lanes: u32) -> Option<String> {
        lacking_matrices(c, self.f, self.flat)
            .or_else(|| lacking_lanes(self.lanes, device_lanes))
            .or_else(|| lacking_room(c, self.threads(), self.shared()))
    }

    pub(super) fn serves(self, call: &Call) -> bool {
        call.storage == Storage::F16
            && !call.causal
            && call.even
            && (self.single.is_none() || call.keys <= self.keys as usize)
    }

    pub(super) fn family(self) -> Family {
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

    /// Keys whose scores go through shared memory together.
    fn turn(self) -> u32 {
        self.single.unwrap_or(self.keys)
    }

    /// Columns of the result that go through the scores' room together: 8 for each
    /// invocation of a row at the least.
    fn columns(self) -> u32 {
        let per_row = self.lanes / self.queries;
        self.turn().min(64).max(8 * per_row)
    }

    /// Scores of a row that there is room for.
    fn room(self) -> u32 {
        self.turn().max(self.columns())
    }

    /// Values of shared memory: keys and values, where the queries lie before (and the
    /// weights after, of a single block); scores; weights. 8, 4 and 8 of padding a row.
    fn arrays(self) -> [u32; 3] {
        let rows = self.subgroups * self.queries;
        let scores = rows * (self.room() + 4);
        match self.single {
            Some(_) => [72 * 2 * self.keys, scores, 0],
            None => [72 * rows.max(2 * self.keys), scores, rows * (self.keys + 8)],
        }
    }

    /// Bytes of shared memory.
    fn shared(self) -> u32 {
        let [kv, scores, weights] = self.arrays();
        let flag = if self.single.is_some() { 0 } else { 16 };
        2 * kv + 4 * scores + 2 * weights + flag
    }

    pub(super) fn key(self, masked: bool) -> PipelineKey {
        let t = self.threads();
        let rows = self.subgroups * self.queries;
        let per_row = self.lanes / self.queries;
        let (turn, columns) = (self.turn(), self.columns());
        let element = if self.flat { 1 } else { 4 };
        let [kv, scores, weights_size] = self.arrays().map(|values| values / element);
        let numbers = [
            ("F", self.f),
            ("T", t),
            ("QR", self.queries),
            ("QB", rows),
            ("KB", self.keys),
            ("KV", kv),
            ("SCORES", scores),
            ("WEIGHTS", weights_size),
            ("QU", rows * 8 / t),
            ("KU", (self.keys * 8).div_ceil(t)),
            ("QF", self.queries / self.f),
            ("DF", 64 / self.f),
            ("KF", self.keys / self.f),
            ("CK", turn),
            ("ROOM", self.room()),
            ("CF", turn / self.f),
            ("TURNS", self.keys / turn),
            ("OC", 64 / columns),
            ("OD", columns / self.f),
            ("OW", columns),
            ("OV", columns / 4 / per_row),
            ("LR", per_row),
            ("STEPS", per_row.ilog2()),
            ("CV", turn / 4 / per_row),
            ("CH", columns / 8 / per_row),
        ];
        let mut defines = Storage::F16.defines();
        let single = self.single.is_some();
        let flags = [
            ("COOP", true),
            ("FLAT", self.flat),
            ("MASK", masked),
            ("SINGLE", single),
        ];
        let flags = flags.into_iter().filter(|flag| flag.1);
        defines.extend(flags.map(|(name, _)| (name.into(), String::new())));
        let weights = if single { "kv" } else { "weights" };
        defines.push(("W".into(), weights.into()));
        defines.extend(numbers.map(|(name, value)| (name.into(), value.to_string())));
        key::<FlashParams>("attention_coop", defines, vec![], FLASH)
    }
}

impl fmt::Display for CoopBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flat = if self.flat { " flat" } else { "" };
        let (rows, keys) = (self.rows(), self.keys);
        let single = match self.single {
            Some(turn) => format!(" single/{turn}"),
            None => String::new(),
        };
        write!(
            f,
            "attention coop{} {rows}x{keys}{single} {}x{}{flat}",
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
            let (turn, columns) = (block.turn(), block.columns());
            let sides = [queries, keys, turn, columns].map(|x| x.is_multiple_of(f));
            assert_eq!(sides, [true; 4], "{block}");
            assert!(64u32.is_multiple_of(columns), "{block}");
            assert!(keys.is_multiple_of(turn), "{block}");
            assert!(turn.is_multiple_of(4 * per_row), "{block}");
            assert!(columns.is_multiple_of(8 * per_row), "{block}");
            let threads = block.threads();
            assert!((block.rows() as u32 * 8).is_multiple_of(threads), "{block}");
            // A single block's last row of keys may be brought more than once.
            let whole = (8 * keys).is_multiple_of(threads);
            assert!(whole || block.single.is_some(), "{block}");
            let bytes = block.arrays();
            for bytes in [2 * bytes[0], 4 * bytes[1], 2 * bytes[2]] {
                assert!(bytes.is_multiple_of(16), "{block}");
            }
            if block.single.is_some() {
                let rows = block.rows() as u32;
                // Queries lie where values will, weights where keys were.
                assert!(rows <= keys, "{block}");
                assert!(rows * (keys + 8) <= 72 * keys, "{block}");
            }
        }
    }

    /// Every kind has blocks for the least shared memory of wgpu's adapters for GPUs.
    #[test]
    fn every_kind_fits_everywhere() {
        for kind in KINDS {
            let fits = |block: &CoopBlock| block.shared() <= 32 << 10;
            assert!(kind.all().any(|b| b.single.is_some() && fits(&b)));
            assert!(kind.all().filter(|b| b.single.is_none()).all(|b| fits(&b)));
            assert!(kind.all().all(|block| block.shared() <= 48 << 10));
        }
    }
}
