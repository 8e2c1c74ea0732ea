//! The tests' devices and reports, and the sweeps over the library's cases.

pub use calotype::bench::kernels::{
    BELOW, Bed, Case, EVEN, Fill, Kernel, Margin, Numbers, Placed, Random, Run, WIDE, cases,
    margin, relative_error,
};
use calotype::gpu::{AdapterChoice, Gpu};
use calotype::kernel::product::{Storages, Variant};
use calotype::kernel::{Context, Dispatch, Mode, Storage, Tensor, View};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// The binding limit of [`capped`].
pub const CAP: u64 = 20 << 10;

/// A bed whose errors are failures.
pub struct Device {
    pub gpu: Arc<Gpu>,
    pub bed: Bed,
}

impl Device {
    pub fn open(max_binding: Option<u64>) -> Self {
        let choice = AdapterChoice {
            max_binding,
            ..Default::default()
        };
        let gpu = Gpu::open(&choice).expect("the tests need a Vulkan, Metal or DX12 adapter");
        let bed = Bed::new(&gpu).unwrap();
        Self { gpu, bed }
    }

    pub fn context(&self, mode: Mode) -> Context {
        self.bed.context(mode).clone()
    }

    pub fn run(&self, dispatches: Vec<Dispatch>) {
        self.bed.run(dispatches).unwrap();
    }

    pub fn view(&self, bytes: &[u8]) -> View {
        self.bed.view(bytes).unwrap()
    }

    pub fn floats(&self, values: &[f32], unit: usize) -> View {
        self.bed.floats(values, unit).unwrap()
    }

    pub fn room(&self, count: usize) -> View {
        self.bed.room(count).unwrap()
    }

    pub fn scratch(&self, bytes: u64) -> View {
        self.bed.scratch(bytes).unwrap()
    }

    pub fn read_floats(&self, view: &View, count: usize) -> Vec<f32> {
        self.bed.read_floats(view, count).unwrap()
    }

    pub fn tensor(
        &self,
        storage: Storage,
        shape: [usize; 4],
        values: &[f32],
        margin: Margin,
    ) -> Tensor {
        self.bed.tensor(storage, shape, values, margin).unwrap()
    }

    pub fn blank(&self, storage: Storage, shape: [usize; 4], margin: Margin) -> Tensor {
        self.bed.blank(storage, shape, margin).unwrap()
    }

    pub fn read(&self, tensor: &Tensor) -> Vec<f32> {
        self.bed.read(tensor).unwrap()
    }

    pub fn read_rows(&self, tensor: &Tensor, rows: Range<usize>) -> Vec<f32> {
        self.bed.read_rows(tensor, rows).unwrap()
    }
}

/// The device of all tests.
pub fn device() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| Device::open(None))
}

/// The same adapter with bindings of [`CAP`] bytes at the most.
pub fn capped() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| Device::open(Some(CAP)))
}

/// The storages of activations that the adapter has.
pub fn storages() -> Vec<Storage> {
    device().bed.storages()
}

/// Every combination of storages of products that the adapter has.
pub fn storage_sets() -> Vec<Storages> {
    device().bed.storage_sets()
}

/// Every variant with every storage.
pub fn kinds() -> Vec<(Mode, Storage)> {
    [true, false]
        .into_iter()
        .flat_map(|direct| storages().into_iter().map(move |s| (Mode { direct }, s)))
        .collect()
}

/// The run of a kernel that a mode has one of.
pub fn by_mode(mode: Mode, storage: Storage) -> Run {
    Run::of(Kernel::Mode(mode), storage)
}

/// `values` as `storage` would hold them.
pub fn rounded(storage: Storage, values: &[f32]) -> Vec<f32> {
    storage.decode(&storage.encode(values))
}

/// The cases of the sweep `name`.
pub fn swept(name: &str) -> Vec<Case> {
    let found: Vec<Case> = cases().into_iter().filter(|c| c.name == name).collect();
    assert!(!found.is_empty(), "no {name}");
    found
}

/// Every case of the sweep `name` against its twin, by those of its runs that `pick`
/// keeps, given the case's number; each kernel and storage over as many as `least`.
pub fn sweep(name: &'static str, pick: impl Fn(usize, Vec<Run>) -> Vec<Run>, least: usize) {
    let mut report = Report::new(name);
    let bed = &device().bed;
    for (turn, case) in swept(name).into_iter().enumerate() {
        for run in pick(turn, case.problem.runs(bed)) {
            let placed = case.problem.place(bed, &run, Fill::Exact);
            let Placed { dispatches, check } = placed.unwrap();
            bed.run(dispatches).unwrap();
            report.add(kind(&run), check.run(bed).unwrap().error);
        }
    }
    report.finish(least);
}

/// What a run is counted as: named variants by their families.
fn kind(run: &Run) -> String {
    match run.kernel {
        Kernel::Product(Variant::Coop(tile)) => format!("{} coop{}", run.storage(), tile.f),
        Kernel::Product(_) => format!("{} scalar", run.storage()),
        // With and without masks.
        Kernel::Attention(variant, _) => format!("{} {variant}", run.storage()),
        _ => run.to_string(),
    }
}

/// What modes choose, not the variants by their names.
pub fn modes(_: usize, runs: Vec<Run>) -> Vec<Run> {
    let named = |run: &Run| matches!(run.kernel, Kernel::Product(_) | Kernel::Attention(..));
    runs.into_iter().filter(|run| !named(run)).collect()
}

/// The variants of attention by their names.
pub fn blocks(_: usize, runs: Vec<Run>) -> Vec<Run> {
    let named = |run: &Run| matches!(run.kernel, Kernel::Attention(..));
    runs.into_iter().filter(named).collect()
}

/// Of the products' variants that `keep` keeps, one with matrices and one without for
/// each combination of storages, all of them in turn.
pub fn in_turn(turn: usize, runs: Vec<Run>, keep: impl Fn(&Run, Variant) -> bool) -> Vec<Run> {
    let mut picked = Vec::new();
    for storages in storage_sets() {
        let of = |matrices: bool| -> Vec<Run> {
            let all = runs.iter().copied();
            all.filter(|run| run.storages() == storages)
                .filter(|run| match run.kernel {
                    Kernel::Product(v) => keep(run, v) && matrices == matches!(v, Variant::Coop(_)),
                    _ => false,
                })
                .collect()
        };
        for some in [of(true), of(false)] {
            picked.extend(some.get(turn % some.len().max(1)));
        }
    }
    picked
}

/// Values from nothing to the ends of f32, of both signs; those that `storage` holds.
pub fn extremes(storage: Storage) -> Vec<f32> {
    let sizes = [
        0.0,
        1e-30,
        1e-8,
        0.1,
        1.0,
        3.0,
        6.0,
        10.0,
        40.0,
        47.0,
        52.0,
        79.0,
        80.5,
        88.0,
        89.0,
        104.0,
        200.0,
        500.0,
        1e4,
        65504.0,
        1e5,
        1e10,
        1e19,
        1e25,
        1e36,
        3e38,
        f32::MAX,
    ];
    let most = if storage == Storage::F16 {
        65504.0
    } else {
        f32::MAX
    };
    let held = sizes.into_iter().filter(|x| *x <= most);
    held.flat_map(|x| [x, -x]).collect()
}

/// Every value by itself: as small ones among large ones would not show in a norm.
pub fn assert_close(out: &[f32], twin: &[f32], storage: Storage, what: &dyn Debug) {
    assert_eq!(out.len(), twin.len());
    let limit = if storage == Storage::F16 { 2e-3 } else { 4e-6 };
    for (i, (a, b)) in out.iter().zip(twin).enumerate() {
        let off = (f64::from(*a) - f64::from(*b)).abs();
        // Infinite ones are equal or wrong.
        let close = a == b || off <= limit * (1.0 + f64::from(b.abs()));
        assert!(close, "{what:?} {storage:?}: {a:e} is not {b:e} at {i}");
    }
}

/// The worst error and the number of shapes of each variant of a kernel.
pub struct Report {
    kernel: &'static str,
    rows: BTreeMap<String, (f64, usize)>,
}

impl Report {
    pub fn new(kernel: &'static str) -> Self {
        Self {
            kernel,
            rows: BTreeMap::new(),
        }
    }

    /// Compares a result of `variant` in `storage` with its twin's.
    pub fn compare(
        &mut self,
        variant: impl Debug,
        storage: Storage,
        out: &[f32],
        reference: &[f32],
        what: &dyn Debug,
    ) {
        let error = relative_error(out, reference);
        let limit = match storage {
            Storage::F32 => 1e-5,
            Storage::F16 => 5e-3,
        };
        let name = format!("{variant:?} {storage:?}");
        assert!(
            error <= limit,
            "{} {name}: error {error:e} for {what:?}",
            self.kernel
        );
        self.add(name, error);
    }

    pub fn add(&mut self, name: String, error: f64) {
        let row = self.rows.entry(name).or_insert((0.0, 0));
        *row = (row.0.max(error), row.1 + 1);
    }

    /// Prints the rows; each must have seen at least `shapes` shapes.
    pub fn finish(self, shapes: usize) {
        for (name, (error, count)) in &self.rows {
            println!("{:<22} {name:<40} {error:.1e} {count:>5}", self.kernel);
            assert!(*count >= shapes, "{name} saw {count} shapes only");
        }
    }
}
