//! Weights in blocks, expanded into f16.

use super::upload::Source;
use crate::Result;
use crate::bench::kernels::norm::modes;
use crate::bench::kernels::{
    Bed, Checked, Fill, Placed, Problem, Random, Run, Work, compare_within,
};
use crate::kernel::Storage;
use crate::kernel::product::{
    BlockFormat, Layout, Weight, WeightBlocks, WeightStorage, expand, twin_expand,
};
use wgpu::WriteOnly;

/// f16 of f32 products; some adapters cut where others round.
const WITHIN: f64 = 1e-3;

/// The weights of a layer, from blocks to f16.
#[derive(Debug, Clone, Copy)]
pub struct Expand {
    pub layout: Layout,
    pub format: BlockFormat,
    pub seed: u64,
}

impl Expand {
    fn bytes(&self) -> [u64; 2] {
        let to = self.layout.bytes(WeightStorage::F16);
        [self.layout.block_bytes(self.format), to]
    }

    fn blocks(&self) -> Vec<u8> {
        let Self { layout, format, .. } = *self;
        let numbers = Random::new(self.seed).numbers(layout.n * layout.k * layout.taps);
        let mut bytes = vec![0u8; self.bytes()[0] as usize];
        let to = WriteOnly::from_mut(&mut bytes[..]);
        layout.pack_blocks(format, 0..layout.panels(), &Source(&numbers, layout), to);
        bytes
    }
}

impl Problem for Expand {
    fn op(&self) -> &'static str {
        "expand"
    }

    fn shape(&self) -> String {
        let Layout { taps, k, n, .. } = self.layout;
        format!("{} {k}x{n} in {taps} taps", self.format.name())
    }

    fn work(&self, _: &Run) -> Work {
        Work {
            flops: 0,
            bytes: self.bytes().iter().sum(),
        }
    }

    fn runs(&self, _: &Bed) -> Vec<Run> {
        let weights = Some(WeightStorage::F16);
        let runs = modes([[Storage::F32; 2]]).into_iter();
        runs.map(|run| Run { weights, ..run }).collect()
    }

    fn place(&self, bed: &Bed, run: &Run, fill: Fill) -> Result<Placed> {
        let Self { layout, format, .. } = *self;
        let [from, to] = self.bytes();
        let (view, twin) = match fill {
            Fill::Exact => {
                let bytes = self.blocks();
                (bed.view(&bytes)?, twin_expand(format, layout, &bytes))
            }
            Fill::Rotating => (bed.noise(Storage::F32, from)?, Vec::new()),
        };
        let blocks = WeightBlocks {
            format,
            layout,
            view,
        };
        // Behind the weights nothing may be written.
        let room = bed.view(&vec![0xff; to as usize + 16])?;
        let weight = Weight::packed(room.first(to)?, WeightStorage::F16, layout);
        let dispatches = expand(bed.context(run.mode()), &blocks, &weight)?;
        Ok(Placed::new(self, run, dispatches, move |bed| {
            check(bed, &room, &twin)
        }))
    }

    fn shrunk(&self, divisor: usize) -> Box<dyn Problem> {
        let n = (self.layout.n / divisor).max(1);
        let layout = Layout { n, ..self.layout };
        Box::new(Self { layout, ..*self })
    }
}

fn check(bed: &Bed, room: &crate::kernel::View, twin: &[f32]) -> Result<Checked> {
    let bytes = bed.gpu.download(&room.buffer, room.offset, room.size)?;
    let (values, rest) = bytes.split_at(2 * twin.len());
    if rest.iter().any(|byte| *byte != 0xff) {
        return Err(bed.wrong("what lies behind the weights was touched".into()));
    }
    compare_within(bed, WITHIN, &Storage::F16.decode(values), twin)
}
