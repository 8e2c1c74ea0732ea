//! A product as it is measured: its shapes, random operands, a program of each candidate.

use super::{
    Call, Conv, Epilogue, Family, Layout, Product, Storages, UNIT, Variant, Weight, WeightStorage,
    dispatches_by,
};
use crate::gpu::Gpu;
use crate::kernel::noise;
use crate::kernel::{Activation, Context, Program, Storage, Tensor};
use crate::{Error, Result};

/// A product by its shapes.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// `[n, h, w, c]` of A and of the result.
    pub a: [usize; 4],
    pub out: [usize; 4],
    pub layout: Layout,
    pub conv: Option<Conv>,
    pub residual: bool,
    pub activation: Activation,
    pub storages: Storages,
}

impl Shape {
    /// What a variant is chosen for.
    pub fn call(&self) -> Call {
        let [n, h, w, c] = self.a;
        let [_, out_h, out_w, _] = self.out;
        let rows = if self.conv.is_some() {
            n * out_h * out_w
        } else {
            n * h * w
        };
        let k_rows = self.layout.rows();
        Call {
            m: rows,
            n8: self.layout.columns().div_ceil(8),
            k8: k_rows / UNIT,
            taps: self.layout.taps,
            gather: self.conv.is_some(),
            storages: self.storages,
            plain: c == k_rows,
        }
    }

    /// The program of every candidate that passes its self-test, by its variant's name.
    ///
    /// # Errors
    /// What goes wrong on the device; [`Error::Cancelled`].
    pub(in crate::kernel) fn programs(
        &self,
        context: &Context,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Vec<(String, Program)>> {
        let call = self.call();
        let operands = Operands::new(&context.gpu, self)?;
        let mut programs = Vec::new();
        for variant in context.candidates(&call) {
            if variant.family(&call) == Family::Direct || !context.trusts(variant, &call)? {
                continue;
            }
            if cancelled() {
                return Err(Error::Cancelled);
            }
            programs.push((variant.to_string(), operands.program(context, variant)?));
        }
        Ok(programs)
    }
}

/// Operands of one product, on the device.
struct Operands {
    a: Tensor,
    weight: Weight,
    out: Tensor,
    epilogue: Epilogue,
    conv: Option<Conv>,
}

impl Operands {
    fn new(gpu: &Gpu, shape: &Shape) -> Result<Self> {
        let tensor = |storage, shape| -> Result<Tensor> {
            let view = noise(gpu, storage, Tensor::bytes_of(storage, shape))?;
            Ok(Tensor::new(view, storage, shape))
        };
        let layout = shape.layout;
        let Storages { a, weights, out } = shape.storages;
        let stored = match weights {
            WeightStorage::F32 => Storage::F32,
            WeightStorage::F16 => Storage::F16,
        };
        let weight = noise(gpu, stored, layout.bytes(weights))?;
        let bias = noise(gpu, Storage::F32, 4 * layout.bias_places() as u64)?;
        Ok(Self {
            a: tensor(a, shape.a)?,
            weight: Weight::packed(weight, weights, layout),
            out: tensor(out, shape.out)?,
            epilogue: Epilogue {
                bias: Some(bias),
                geglu: layout.geglu,
                activation: shape.activation,
                residual: match shape.residual {
                    true => Some(tensor(out, shape.out)?),
                    false => None,
                },
                ..Default::default()
            },
            conv: shape.conv,
        })
    }

    fn program(&self, context: &Context, variant: Variant) -> Result<Program> {
        let product = Product {
            a: &self.a,
            weight: &self.weight,
            out: &self.out,
            conv: self.conv,
            blocks: None,
            epilogue: self.epilogue.clone(),
            rows: None,
        };
        Program::new(&context.gpu, dispatches_by(context, &product, variant)?)
    }
}
