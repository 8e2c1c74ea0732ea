//! The kernels that can make a product: candidates as data, and what each needs.

use super::dispatch::{BINDINGS, Params};
use super::{Storages, UNIT, WeightStorage};
use crate::gpu::{Capabilities, PipelineKey};
use crate::kernel::{Storage, fold, key};
use std::fmt;

/// Which kernel makes a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Variant {
    /// No shared memory.
    Direct(Direct),
    /// Shared memory and registers.
    Tiled(Tile),
    /// Cooperative matrices.
    Coop(CoopTile),
}

/// What of an adapter a kernel needs. Where one fails its self-test, those of the next
/// family are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Matrices of 16x16, f16 operands and f32 sums.
    Coop16,
    /// The same of 8x8.
    Coop8,
    /// f16 operands in shared memory, f32 sums.
    Scalar16,
    /// f32 throughout.
    Scalar32,
    /// Without shared memory.
    Direct,
}

impl Family {
    pub const ALL: [Family; 5] = [
        Family::Coop16,
        Family::Coop8,
        Family::Scalar16,
        Family::Scalar32,
        Family::Direct,
    ];

    /// Kernels without shared memory, or the best that need no matrices.
    pub fn of_direct(direct: bool) -> Self {
        match direct {
            true => Family::Direct,
            false => Family::Scalar16,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Family::Coop16 => "coop16",
            Family::Coop8 => "coop8",
            Family::Scalar16 => "scalar16",
            Family::Scalar32 => "scalar32",
            Family::Direct => "direct",
        }
    }
}

/// A variant of `product_direct.wgsl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Direct {
    /// Rows of an invocation.
    pub rows: u32,
    /// Invocations of a subgroup, which load rows for one another; 1 where each loads for
    /// itself.
    pub lanes: u32,
    /// Whether invocations lie along the rows, for few columns, not along the columns.
    pub narrow: bool,
}

/// A variant of `product_tiled.wgsl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tile {
    /// Invocations along the columns, each of 8.
    pub wx: u32,
    /// Invocations along the rows.
    pub wy: u32,
    /// Rows of an invocation.
    pub rows: u32,
    /// Parts that K is cut into, each by workgroups of its own; 1 for whole products.
    pub parts: u32,
}

/// A variant of `product_coop.wgsl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CoopTile {
    /// Sides of a matrix.
    pub f: u32,
    /// Invocations of a subgroup.
    pub lanes: u32,
    pub bm: u32,
    pub bn: u32,
    pub bk: u32,
    /// Subgroups along rows and columns.
    pub wm: u32,
    pub wn: u32,
    /// Scalars in shared memory.
    pub flat: bool,
    /// As [`Tile::parts`].
    pub parts: u32,
}

/// Tiles of `product_tiled.wgsl`: those of 8 rows an invocation reuse what they read
/// most; those of 4 fit into Intel's registers, where those of 8 and the narrow ones
/// spill (see the shader); the narrow ones are for outputs of a few channels and for
/// a few rows.
const TILES: [Tile; 6] = [
    Tile::new(16, 16, 8),
    Tile::new(16, 16, 4),
    Tile::new(8, 8, 8),
    Tile::new(8, 8, 4),
    Tile::new(2, 32, 4),
    Tile::new(16, 4, 4),
];

/// Rows, columns and depth of the tiles of `product_coop.wgsl`, and their subgroups of
/// 32 lanes along rows and columns. What they do on an H200 is in docs/gpu.md.
const COOP16_OF_32: [[u32; 5]; 13] = [
    [128, 128, 32, 2, 2],
    [64, 160, 32, 2, 2],
    [256, 160, 32, 4, 2],
    [128, 256, 32, 2, 4],
    [128, 128, 64, 4, 2],
    [128, 128, 32, 4, 2],
    [128, 160, 32, 4, 2],
    [128, 80, 32, 4, 1],
    [128, 64, 64, 4, 1],
    [128, 64, 32, 2, 2],
    [64, 64, 32, 2, 2],
    [128, 16, 32, 4, 1],
    [32, 64, 32, 1, 2],
];

/// The same for subgroups of 64 lanes, which hold twice the sums in as many registers.
const COOP16_OF_64: [[u32; 5]; 8] = [
    [128, 128, 32, 2, 2],
    [128, 160, 32, 2, 2],
    [64, 160, 32, 2, 2],
    [128, 80, 32, 4, 1],
    [128, 64, 32, 2, 1],
    [64, 64, 32, 2, 1],
    [128, 16, 32, 4, 1],
    [32, 64, 32, 1, 2],
];

/// Tiles of 8x8 matrices: Apple's simdgroups have 32 lanes, Mesa's lavapipe 8.
const COOP8: [[u32; 5]; 5] = [
    [64, 64, 32, 2, 2],
    [64, 64, 16, 2, 2],
    [64, 32, 32, 2, 2],
    [32, 32, 32, 2, 2],
    [32, 32, 16, 2, 1],
];

/// Invocations of the subgroups whose lanes load for one another.
const SHARED_LANES: [u32; 2] = [8, 4];

/// Parts that K may be cut into.
const PARTS: [u32; 3] = [2, 4, 8];

/// Rows and columns of the tiles that are cut.
const CUT: [[u32; 2]; 4] = [[128, 128], [64, 160], [64, 64], [32, 32]];

/// Tiles of a whole product up to which cutting it may pay.
const FEW: usize = 96;

/// Values along K from which it may.
const LONG: usize = 1024;

/// Room for the parts of a product, in bytes.
pub(in crate::kernel) const PARTIALS: u64 = 32 << 20;

/// Sides of matrices and sizes of subgroups that there are tiles for.
const KINDS: [(u32, u32, &[[u32; 5]]); 4] = [
    (16, 32, &COOP16_OF_32),
    (16, 64, &COOP16_OF_64),
    (8, 32, &COOP8),
    (8, 8, &COOP8),
];

impl Direct {
    /// Serves every device.
    pub(super) const WIDE: Self = Self {
        rows: 16,
        lanes: 1,
        narrow: false,
    };

    /// The same for few columns.
    pub(super) const NARROW: Self = Self {
        rows: 8,
        lanes: 1,
        narrow: true,
    };

    const fn shared_by(lanes: u32) -> Self {
        Self {
            lanes,
            ..Self::WIDE
        }
    }

    pub(super) fn is_shared(self) -> bool {
        self.lanes > 1
    }

    fn lacks(self, c: &Capabilities) -> Option<String> {
        let [smallest, largest] = c.subgroup_size;
        match self.is_shared() {
            true if !c.subgroup => Some("no subgroups".into()),
            true if smallest != largest => Some("subgroups of several sizes".into()),
            true => lacking_lanes(self.lanes, smallest),
            false => None,
        }
    }

    fn defines(self) -> Vec<(&'static str, u32)> {
        vec![
            ("R", self.rows),
            ("LANES", self.lanes),
            ("LOADS", self.rows / self.lanes),
        ]
    }
}

impl Tile {
    const fn new(wx: u32, wy: u32, rows: u32) -> Self {
        Self {
            wx,
            wy,
            rows,
            parts: 1,
        }
    }

    fn bm(self) -> u32 {
        self.rows * self.wy
    }

    fn bn(self) -> u32 {
        8 * self.wx
    }

    /// Depth of a slice: 64 bytes of each row, half as many where registers are few.
    fn bk(self, half: bool) -> u32 {
        match half && self.rows == 8 {
            true => 32,
            false => 16,
        }
    }

    /// Whether few registers hold its sums and what it brings of a slice.
    fn is_lean(self) -> bool {
        let brought = (self.bm() + self.bn()) * self.bk(true) / 8;
        self.rows < 8 && brought <= 3 * self.wx * self.wy
    }

    /// Bytes of shared memory.
    fn shared(self, half: bool) -> u32 {
        let bytes = if half { 2 } else { 4 };
        (self.bm() + self.bn()) * (self.bk(half) + 4) * bytes
    }

    fn defines(self, half: bool) -> Vec<(&'static str, u32)> {
        let (bm, bn, bk) = (self.bm(), self.bn(), self.bk(half));
        let t = self.wx * self.wy;
        let pitch = bk / 4 + 1;
        vec![
            ("WX", self.wx),
            ("WY", self.wy),
            ("R", self.rows),
            ("BM", bm),
            ("BN", bn),
            ("BK", bk),
            ("AU", (bm * bk / 8).div_ceil(t)),
            ("WU", (bn * bk / 8).div_ceil(t)),
            ("A_TILE", bm * pitch),
            ("W_TILE", bn * pitch),
        ]
    }
}

impl CoopTile {
    fn threads(self) -> u32 {
        self.wm * self.wn * self.lanes
    }

    fn shared(self) -> u32 {
        (self.bm + self.bn) * (self.bk + 8) * 2 + self.wm * self.wn * 1024
    }

    /// Whether the parts of the tile are whole.
    fn is_whole(self) -> bool {
        self.bm.is_multiple_of(16 * self.wm)
            && self.bn.is_multiple_of(16 * self.wn)
            && self.bk.is_multiple_of(self.f.max(8))
            && (self.bm * self.bk / 8).is_multiple_of(self.threads())
    }

    fn defines(self) -> Vec<(&'static str, u32)> {
        let t = self.threads();
        let (tm, tn) = (self.bm / self.wm, self.bn / self.wn);
        let element = if self.flat { 1 } else { 4 };
        let tile = |rows: u32| rows * (self.bk + 8) / element;
        vec![
            ("F", self.f),
            ("LANES", self.lanes),
            ("BM", self.bm),
            ("BN", self.bn),
            ("BK", self.bk),
            ("WN", self.wn),
            ("T", t),
            ("TM", tm),
            ("TN", tn),
            ("BI", tm / 16),
            ("BJ", tn / 16),
            ("Q", 16 / self.f),
            ("KS", self.bk / self.f),
            ("AU", self.bm * self.bk / 8 / t),
            ("WU", (self.bn * self.bk / 8).div_ceil(t)),
            ("A_TILE", tile(self.bm)),
            ("W_TILE", tile(self.bn)),
            ("SUMS", self.wm * self.wn * 256 / element),
        ]
    }
}

/// What a variant is chosen for: one dispatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Call {
    pub m: usize,
    /// Columns in groups of 8.
    pub n8: usize,
    /// Units of 8 along K in a tap.
    pub k8: usize,
    pub taps: usize,
    /// A convolution.
    pub gather: bool,
    pub storages: Storages,
    /// Rows of A begin at an even vec4, K has no padding and there is one block: what
    /// matrices ask for.
    pub plain: bool,
}

impl Variant {
    /// In how many parts K is cut.
    pub fn parts(self) -> u32 {
        match self {
            Variant::Direct(_) => 1,
            Variant::Tiled(tile) => tile.parts,
            Variant::Coop(tile) => tile.parts,
        }
    }

    /// The same with K cut into parts; `None` where it cannot be.
    fn in_parts(self, parts: u32) -> Option<Self> {
        match self {
            Variant::Tiled(tile) if tile.wx >= 8 && tile.rows == 8 => {
                Some(Variant::Tiled(Tile { parts, ..tile }))
            }
            // The tiles that are few for large pictures, and a small one.
            Variant::Coop(tile) if !tile.flat && CUT.contains(&[tile.bm, tile.bn]) => {
                Some(Variant::Coop(CoopTile { parts, ..tile }))
            }
            _ => None,
        }
    }

    /// Units of 8 along K of a part of `call`: whole slices.
    pub(super) fn part(self, call: &Call) -> usize {
        let slice = match self {
            Variant::Direct(_) => 1,
            Variant::Tiled(tile) => tile.bk(call.storages.is_half()) as usize / UNIT,
            Variant::Coop(tile) => tile.bk as usize / UNIT,
        };
        let depth = call.taps * call.k8;
        depth
            .div_ceil(self.parts() as usize)
            .next_multiple_of(slice)
    }

    /// Bytes of the parts of `call`, in whole tiles.
    pub(super) fn partial_bytes(self, call: &Call) -> u64 {
        let [bm, bn] = self.tile();
        let values = call.m.next_multiple_of(bm) * (8 * call.n8).next_multiple_of(bn);
        4 * u64::from(self.parts()) * values as u64
    }

    /// Whether `call` is worth cutting, and can be.
    fn serves_in_parts(self, call: &Call) -> bool {
        let [bm, bn] = self.tile();
        let tiles = call.m.div_ceil(bm) * (8 * call.n8).div_ceil(bn);
        let (depth, part) = (call.taps * call.k8, self.part(call));
        let whole = match self {
            Variant::Tiled(_) => call.k8.is_multiple_of(4),
            _ => true,
        };
        call.plain
            && whole
            && tiles <= FEW
            && UNIT * depth >= LONG
            && part * (self.parts() as usize - 1) < depth
            && self.partial_bytes(call) <= PARTIALS
    }

    /// Every variant there is, for tests and permutations.
    pub fn all() -> Vec<Variant> {
        let mut all = vec![Direct::WIDE, Direct::NARROW];
        all.extend(SHARED_LANES.map(Direct::shared_by));
        let mut all: Vec<Variant> = all.into_iter().map(Variant::Direct).collect();
        all.extend(TILES.map(Variant::Tiled));
        for flat in [false, true] {
            for (f, lanes, tiles) in KINDS {
                all.extend(coop(f, lanes, flat, tiles));
            }
        }
        let cut = PARTS.map(|parts| all.iter().filter_map(move |v| v.in_parts(parts)));
        let cut: Vec<Variant> = cut.into_iter().flatten().collect();
        all.extend(cut);
        all
    }

    /// The variants that serve a device whose subgroups have `lanes` invocations (0 where
    /// it has no matrices), best families first.
    pub fn candidates(capabilities: &Capabilities, lanes: u32) -> Vec<Variant> {
        let all = Self::all();
        let fits = |v: &Variant| v.lacks(capabilities, lanes).is_none();
        all.into_iter().rev().filter(fits).collect()
    }

    /// What a device lacks to run it at all; `None` where it lacks nothing.
    pub fn lacks(self, c: &Capabilities, device_lanes: u32) -> Option<String> {
        match self {
            Variant::Direct(direct) => direct.lacks(c),
            Variant::Tiled(tile) => {
                let few = !tile.is_lean() && c.few_registers;
                few.then(|| "few registers".into())
                    .or_else(|| lacking_room(c, tile.wx * tile.wy, tile.shared(false)))
            }
            Variant::Coop(tile) => lacking_matrices(c, tile.f, tile.flat)
                .or_else(|| lacking_lanes(tile.lanes, device_lanes))
                .or_else(|| lacking_room(c, tile.threads(), tile.shared())),
        }
    }

    /// Whether it can make `call`.
    pub fn serves(self, call: &Call) -> bool {
        if self.parts() > 1 && !self.serves_in_parts(call) {
            return false;
        }
        match self {
            Variant::Direct(_) | Variant::Tiled(_) => true,
            Variant::Coop(tile) => {
                call.plain
                    && call.storages.is_half()
                    && (8 * call.k8).is_multiple_of(tile.bk as usize)
            }
        }
    }

    pub fn family(self, call: &Call) -> Family {
        match self {
            Variant::Direct(_) => Family::Direct,
            Variant::Tiled(_) => match call.storages.is_half() {
                true => Family::Scalar16,
                false => Family::Scalar32,
            },
            Variant::Coop(tile) if tile.f == 16 => Family::Coop16,
            Variant::Coop(_) => Family::Coop8,
        }
    }

    /// Rows and columns of a workgroup.
    pub(super) fn tile(self) -> [usize; 2] {
        match self {
            Variant::Direct(direct) if direct.narrow => [8 * direct.rows as usize, 8],
            Variant::Direct(direct) => [direct.rows as usize, 64],
            Variant::Tiled(tile) => [tile.bm() as usize, tile.bn() as usize],
            Variant::Coop(tile) => [tile.bm as usize, tile.bn as usize],
        }
    }

    /// Workgroups for `m` rows, `n8` groups of columns and `z` blocks.
    pub(super) fn grid(self, m: usize, n8: usize, z: usize) -> [u32; 3] {
        let [rows, columns] = self.tile();
        let tiles = [m.div_ceil(rows), (8 * n8).div_ceil(columns)];
        match self {
            Variant::Coop(tile) => {
                let [x, y, _] = fold(tiles[0] * tiles[1]);
                [x, y, tile.parts]
            }
            Variant::Tiled(tile) if tile.parts > 1 => {
                [tiles[0] as u32, tiles[1] as u32, tile.parts]
            }
            _ => [tiles[0], tiles[1], z].map(|x| x as u32),
        }
    }

    /// Columns whose bias is read before the first sum.
    pub(super) fn bias_columns(self, n8: usize) -> usize {
        match self {
            Variant::Coop(tile) => (8 * n8).next_multiple_of(tile.bn as usize),
            _ => 8 * n8,
        }
    }

    /// The pipeline; `None` where it does not serve these storages.
    pub fn key(self, storages: Storages, gather: bool) -> Option<PipelineKey> {
        let half = storages.is_half();
        let (shader, numbers) = match self {
            Variant::Direct(direct) => ("product_direct", direct.defines()),
            Variant::Tiled(tile) => ("product_tiled", tile.defines(half)),
            Variant::Coop(tile) => ("product_coop", tile.defines()),
        };
        let (is_coop, flat) = match self {
            Variant::Coop(tile) => (true, tile.flat),
            _ => (false, false),
        };
        if is_coop && !half {
            return None;
        }
        let mut defines = storages.a.defines_to(storages.out);
        let flags = [
            ("W16", storages.weights == WeightStorage::F16),
            ("GATHER", gather),
            ("NARROW", matches!(self, Variant::Direct(d) if d.narrow)),
            (
                "SHARED",
                matches!(self, Variant::Direct(d) if d.is_shared()),
            ),
            ("HALF", half && shader != "product_direct"),
            ("COOP", is_coop),
            ("FLAT", flat),
            (
                "ROLLED",
                matches!(self, Variant::Tiled(tile) if tile.rows < 8),
            ),
            ("SPLIT", self.parts() > 1),
        ];
        let flags = flags.into_iter().filter(|flag| flag.1);
        defines.extend(flags.map(|(name, _)| (name.into(), String::new())));
        let number = |(name, value): (&str, u32)| (name.to_string(), value.to_string());
        defines.extend(numbers.into_iter().map(number));
        Some(key::<Params>(shader, defines, vec![], BINDINGS))
    }
}

/// Whether matrices of `f` by `f` are missing, or what they are loaded from is.
pub(in crate::kernel) fn lacking_matrices(c: &Capabilities, f: u32, flat: bool) -> Option<String> {
    match c.matrices.contains(&f) {
        false => Some(format!("no {f}x{f} matrices")),
        true if flat && !c.scalar_matrices => Some("no matrices of scalars".into()),
        true if !flat && c.scalar_matrices => Some("matrices of scalars only".into()),
        true => None,
    }
}

/// Whether subgroups have other than `lanes` invocations.
pub(in crate::kernel) fn lacking_lanes(lanes: u32, device_lanes: u32) -> Option<String> {
    (lanes != device_lanes).then(|| format!("no subgroups of {lanes}"))
}

/// Whether a workgroup of `threads` invocations and `shared` bytes is too large.
pub(in crate::kernel) fn lacking_room(
    c: &Capabilities,
    threads: u32,
    shared: u32,
) -> Option<String> {
    if threads > c.max_invocations {
        return Some(format!("no workgroups of {threads}"));
    }
    (shared > c.max_workgroup_storage).then(|| format!("no {shared} bytes of shared memory"))
}

/// The pipeline that adds the parts of a product.
pub(in crate::kernel) fn sum_key(storage: Storage) -> PipelineKey {
    let mut defines = storage.defines();
    defines.push(("SUM".into(), String::new()));
    key::<Params>("product_sum", defines, vec![], BINDINGS)
}

fn coop(f: u32, lanes: u32, flat: bool, tiles: &[[u32; 5]]) -> impl Iterator<Item = Variant> {
    let tile = move |[bm, bn, bk, wm, wn]: [u32; 5]| CoopTile {
        f,
        lanes,
        bm,
        bn,
        bk,
        wm,
        wn,
        flat,
        parts: 1,
    };
    // 16x16 on Metal there are not.
    let tiles = tiles.iter().copied().map(tile);
    tiles
        .filter(move |t| t.is_whole() && !(flat && f == 16))
        .map(Variant::Coop)
}

fn cut(f: &mut fmt::Formatter<'_>, parts: u32) -> fmt::Result {
    match parts {
        1 => Ok(()),
        parts => write!(f, " in {parts} parts"),
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Variant::Direct(d) if d.narrow => write!(f, "direct narrow"),
            Variant::Direct(d) if d.is_shared() => write!(f, "direct shared by {}", d.lanes),
            Variant::Direct(_) => write!(f, "direct"),
            Variant::Tiled(t) => {
                write!(f, "scalar {}x{} {}x8", t.bm(), t.bn(), t.rows)?;
                cut(f, t.parts)
            }
            Variant::Coop(t) => {
                let flat = if t.flat { " flat" } else { "" };
                write!(
                    f,
                    "coop{} {}x{}x{} {}x{} of {}{flat}",
                    t.f, t.bm, t.bn, t.bk, t.wm, t.wn, t.lanes
                )?;
                cut(f, t.parts)
            }
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
