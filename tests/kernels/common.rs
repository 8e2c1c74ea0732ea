//! Devices, random numbers, guarded tensors and the comparison.

use calotype::gpu::{AdapterChoice, Gpu, PipelineKey};
use calotype::kernel::{Context, Dispatch, Mode, Program, Storage, Tensor, View, permutations};
use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

/// What fills everything that a kernel should neither use nor touch.
pub const GUARD: f32 = 1234.0;

/// The binding limit of [`capped`].
pub const CAP: u64 = 20 << 10;

pub struct Device {
    pub gpu: Arc<Gpu>,
    contexts: [Context; 2],
}

impl Device {
    fn open(max_binding: Option<u64>) -> Self {
        let choice = AdapterChoice {
            max_binding,
            ..Default::default()
        };
        let gpu = Gpu::open(&choice).expect("the tests need a Vulkan, Metal or DX12 adapter");
        let contexts = [false, true].map(|direct| Context::new(&gpu, Mode { direct }).unwrap());
        Self { gpu, contexts }
    }

    pub fn context(&self, mode: Mode) -> Context {
        self.contexts[usize::from(mode.direct)].clone()
    }

    /// Runs them; each must be one of the kernels' permutations.
    pub fn run(&self, dispatches: Vec<Dispatch>) {
        static KNOWN: OnceLock<HashSet<PipelineKey>> = OnceLock::new();
        let known = KNOWN.get_or_init(|| permutations().into_iter().collect());
        for key in dispatches.iter().map(Dispatch::key) {
            assert!(known.contains(key), "{} is no permutation", key.label());
        }
        let program = Program::new(&self.gpu, dispatches).unwrap();
        program.run(&self.gpu).unwrap();
    }

    /// A buffer that holds `bytes` after 256 others.
    pub fn view(&self, bytes: &[u8]) -> View {
        let mut padded = vec![0xffu8; 256];
        padded.extend(bytes);
        padded.resize(padded.len().next_multiple_of(16), 0xff);
        let buffer = Arc::new(self.gpu.buffer("test", padded.len() as u64).unwrap());
        self.gpu.upload(&buffer, &padded).unwrap();
        View {
            buffer,
            offset: 256,
            size: bytes.len() as u64,
        }
    }

    /// f32 values, with zeros up to a multiple of `unit`.
    pub fn floats(&self, values: &[f32], unit: usize) -> View {
        let mut padded = values.to_vec();
        padded.resize(values.len().next_multiple_of(unit), 0.0);
        self.view(bytemuck::cast_slice(&padded))
    }

    /// Room for f32 values, filled with the guard, one vec4 more than asked for.
    pub fn room(&self, count: usize) -> View {
        self.view(bytemuck::cast_slice(&vec![GUARD; count + 4]))
    }

    pub fn scratch(&self, bytes: u64) -> View {
        let buffer = Arc::new(self.gpu.buffer("scratch", bytes).unwrap());
        View::whole(&buffer)
    }

    /// The f32 values of `view`; those from `count` on must be untouched.
    pub fn read_floats(&self, view: &View, count: usize) -> Vec<f32> {
        let bytes = self.gpu.download(&view.buffer, view.offset, view.size);
        let mut values = Storage::F32.decode(&bytes.unwrap());
        let rest = values.split_off(count);
        assert!(rest.iter().all(|v| *v == GUARD), "wrote beyond the end");
        values
    }

    fn place(&self, storage: Storage, shape: [usize; 4], margin: Margin) -> Placed {
        let [n, h, w, c] = shape;
        let c4 = c.div_ceil(4);
        let pitch = margin.left + c4 + margin.right;
        Placed {
            storage,
            shape,
            pitch,
            offset: margin.left,
            values: vec![GUARD; (n * h * w + margin.after) * pitch * 4],
        }
    }

    /// A tensor of `values`, its padding zero, its surroundings the guard.
    pub fn tensor(
        &self,
        storage: Storage,
        shape: [usize; 4],
        values: &[f32],
        margin: Margin,
    ) -> Tensor {
        let c = shape[3];
        let mut placed = self.place(storage, shape, margin);
        let rows = placed.values.chunks_exact_mut(placed.pitch * 4);
        for (row, source) in rows.zip(values.chunks_exact(c)) {
            let cells = &mut row[margin.left * 4..][..c.next_multiple_of(4)];
            cells.fill(0.0);
            cells[..c].copy_from_slice(source);
        }
        placed.upload(self)
    }

    /// A tensor to write to, full of the guard.
    pub fn blank(&self, storage: Storage, shape: [usize; 4], margin: Margin) -> Tensor {
        self.place(storage, shape, margin).upload(self)
    }

    /// The values of a tensor. Padding must be zero, the surroundings untouched.
    pub fn read(&self, tensor: &Tensor) -> Vec<f32> {
        self.read_rows(tensor, 0..tensor.rows())
    }

    /// As [`Self::read`], where only `rows` were written.
    pub fn read_rows(&self, tensor: &Tensor, rows: std::ops::Range<usize>) -> Vec<f32> {
        let view = &tensor.view;
        let bytes = self.gpu.download(&view.buffer, view.offset, view.size);
        let cells = tensor.storage.decode(&bytes.unwrap());
        let mut values = Vec::new();
        for (i, cell) in cells.iter().enumerate() {
            let (row, column) = (i / (tensor.pitch * 4), i % (tensor.pitch * 4));
            let column = column.wrapping_sub(tensor.offset * 4);
            if !rows.contains(&row) || column >= tensor.c4() * 4 {
                assert_eq!(*cell, GUARD, "row {row}, column {column} was touched");
            } else if column >= tensor.c {
                assert_eq!(*cell, 0.0, "row {row}: padding column {column}");
            } else {
                values.push(*cell);
            }
        }
        values
    }
}

struct Placed {
    storage: Storage,
    shape: [usize; 4],
    pitch: usize,
    offset: usize,
    values: Vec<f32>,
}

impl Placed {
    fn upload(&self, device: &Device) -> Tensor {
        Tensor {
            pitch: self.pitch,
            offset: self.offset,
            ..Tensor::new(
                device.view(&self.storage.encode(&self.values)),
                self.storage,
                self.shape,
            )
        }
    }
}

/// Room around a tensor: columns before and after it, in vec4s, and rows below.
#[derive(Clone, Copy)]
pub struct Margin {
    pub left: usize,
    pub right: usize,
    pub after: usize,
}

/// Only rows below, for kernels whose tensors have no pitch.
pub const BELOW: Margin = Margin {
    left: 0,
    right: 0,
    after: 2,
};

/// A range of the columns of a wider tensor.
pub const WIDE: Margin = Margin {
    left: 1,
    right: 2,
    after: 1,
};

/// As [`WIDE`], columns in groups of 8 for tensors of an even number of vec4s.
pub const EVEN: Margin = Margin {
    left: 2,
    right: 4,
    after: 1,
};

/// One of the margins, by turns.
pub fn margin(turn: usize) -> Margin {
    [BELOW, WIDE, EVEN][turn % 3]
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
    if device().gpu.capabilities().shader_f16 {
        vec![Storage::F32, Storage::F16]
    } else {
        vec![Storage::F32]
    }
}

/// Every variant with every storage.
pub fn kinds() -> Vec<(Mode, Storage)> {
    [true, false]
        .into_iter()
        .flat_map(|direct| storages().into_iter().map(move |s| (Mode { direct }, s)))
        .collect()
}

/// `values` as `storage` would hold them.
pub fn rounded(storage: Storage, values: &[f32]) -> Vec<f32> {
    storage.decode(&storage.encode(values))
}

/// Numbers from a seed (splitmix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` to `high`, small numbers more often.
    pub fn size(&mut self, low: usize, high: usize) -> usize {
        let unit = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        low + (unit * unit * (high - low + 1) as f64) as usize
    }

    pub fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    /// `count` values between -1 and 1.
    pub fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count)
            .map(|_| (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0)
            .map(|v| if v == 0.0 { 0.5 } else { v })
            .collect()
    }
}

/// `|out - reference| / |reference|`.
pub fn relative_error(out: &[f32], reference: &[f32]) -> f64 {
    assert_eq!(out.len(), reference.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let pairs = out.iter().zip(reference);
    let difference: f64 = pairs.map(|(a, b)| square(a - b)).sum();
    let norm: f64 = reference.iter().map(|b| square(*b)).sum();
    (difference / norm.max(1e-30)).sqrt()
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
        let row = self.rows.entry(name).or_insert((0.0, 0));
        *row = (row.0.max(error), row.1 + 1);
    }

    /// Prints the rows; each must have seen at least `shapes` shapes.
    pub fn finish(self, shapes: usize) {
        for (name, (error, count)) in &self.rows {
            println!("{:<16} {name:<40} {error:.1e} {count:>5}", self.kernel);
            assert!(*count >= shapes, "{name} saw {count} shapes only");
        }
    }
}
