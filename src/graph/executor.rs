//! A graph made ready for a device: slots allocated, dispatches bound.

use super::plan::Plan;
use super::storage::Storages;
use super::{Activations, Graph, Norm, Op, Product, Value};
use crate::gpu::{Buffer, Gpu, block_on, threads};
use crate::kernel::attention::Attention;
use crate::kernel::narrow::Narrow;
use crate::kernel::norm::{self, GroupNorm, layer_norm};
use crate::kernel::product::{self, Epilogue, Scale, Weight, WeightBlocks};
use crate::kernel::{Activation, Context, Dispatch, Program, Tensor, View, map, sinusoid};
use crate::{Error, Result};
use std::collections::HashMap;
use std::sync::Arc;

/// Weights of a product on the device.
#[derive(Clone)]
pub struct Placed {
    /// As [`product::Layout`] packs them.
    pub weight: Weight,
    /// What `weight` is expanded from before each product, where it is not there already:
    /// products share the memory.
    pub blocks: Option<WeightBlocks>,
    pub bias: Option<View>,
    /// The piece of a stream that brings them (see [`Stream`]); `None` where they stay.
    pub piece: Option<usize>,
}

/// Where a graph's weights come from, on the device.
pub trait Weights {
    /// Hears of a graph before its products are asked for.
    ///
    /// # Errors
    /// Out of memory.
    fn prepare(&self, graph: &Graph) -> Result<()>;
    /// A product's weights, whose values may follow with [`Self::fill`].
    fn product(&self, product: &Product) -> Result<Placed>;
    /// gamma and beta, f32, padded to vec4s.
    fn norm(&self, norm: &Norm) -> Result<[View; 2]>;
    /// Brings the values of all products that were asked for, to be there for what is
    /// submitted from now on.
    fn fill(&self) -> Result<()>;
}

/// Group norms whose factors outlive a graph, so that the tiles of a picture can
/// all be normed alike.
#[derive(Clone, Copy)]
pub struct SharedNorms<'a> {
    /// The factors of each group norm, by name (see [`SharedNorms::room`]).
    pub factors: &'a HashMap<String, View>,
    /// Work the factors out from the values at hand; otherwise take them as they are.
    pub measure: bool,
}

impl SharedNorms<'_> {
    /// Room for the factors of every group norm of `graph`, which is for one picture.
    pub fn room(gpu: &Gpu, graph: &Graph) -> Result<HashMap<String, View>> {
        let norms = graph.nodes.iter().filter_map(|node| match &node.op {
            Op::GroupNorm { norm, .. } => Some((norm.name.clone(), node.shape)),
            _ => None,
        });
        norms
            .map(|(name, shape)| {
                let bytes = norm::factor_bytes(shape);
                let buffer = Arc::new(gpu.buffer("group norm factors", bytes)?);
                Ok((name, View::whole(&buffer)))
            })
            .collect()
    }
}

/// A graph on a device. Running it allocates nothing.
pub struct Executor {
    once: Program,
    step: Program,
    inputs: HashMap<String, Tensor>,
    outputs: Vec<Tensor>,
    bytes: u64,
    /// All slots, and of each whether something in it outlives a run.
    slots: Vec<(Arc<Buffer>, bool)>,
}

/// What an executor finds on the device.
#[derive(Clone, Copy, Default)]
struct Found<'a> {
    /// Another executor, whose memory is used.
    host: Option<&'a Executor>,
    /// Nothing that either of them leaves behind is wanted once the other has run.
    all: bool,
    /// An input that is there already, by name.
    input: Option<(&'a str, &'a Tensor)>,
}

impl Executor {
    /// Plans, allocates, and binds. `sources` are the buffers that the graph's
    /// sinusoids read.
    ///
    /// # Errors
    /// Out of memory, a limit that no banding can meet, or missing weights.
    pub fn new(
        context: &Context,
        activations: impl Into<Activations>,
        graph: &Graph,
        weights: &dyn Weights,
        sources: &HashMap<String, View>,
    ) -> Result<Self> {
        Self::with_norms(context, activations, graph, weights, sources, None, None)
    }

    /// [`Self::new`] beside `host`, whose memory it uses as far as nothing in it outlives
    /// a run: the two never run at the same time. `input` names an input that is not
    /// written but is that tensor, which must not be in such memory.
    pub fn beside(
        context: &Context,
        activations: impl Into<Activations>,
        graph: &Graph,
        weights: &dyn Weights,
        host: &Executor,
        input: Option<(&str, &Tensor)>,
    ) -> Result<Self> {
        let host = Some(host);
        let found = Found {
            host,
            all: false,
            input,
        };
        let sources = HashMap::new();
        Self::build(context, activations, graph, weights, &sources, None, found)
    }

    /// [`Self::new`], with group norms that other graphs share. Where there is a `host`, all
    /// of its memory is used: what either leaves behind is gone once the other has run.
    pub fn with_norms(
        context: &Context,
        activations: impl Into<Activations>,
        graph: &Graph,
        weights: &dyn Weights,
        sources: &HashMap<String, View>,
        norms: Option<SharedNorms<'_>>,
        host: Option<&Executor>,
    ) -> Result<Self> {
        let found = Found {
            host,
            all: true,
            input: None,
        };
        Self::build(context, activations, graph, weights, sources, norms, found)
    }

    fn build(
        context: &Context,
        activations: impl Into<Activations>,
        graph: &Graph,
        weights: &dyn Weights,
        sources: &HashMap<String, View>,
        norms: Option<SharedNorms<'_>>,
        found: Found<'_>,
    ) -> Result<Self> {
        graph.check()?;
        weights.prepare(graph)?;
        let gpu = &context.gpu;
        let storages = activations.into().of(graph);
        let plan = Plan::new(graph, context.mode, &storages);
        let (slots, bytes) = slots(gpu, &plan, &found)?;
        let mut lowering = Lowering {
            context,
            graph,
            weights,
            sources,
            norms,
            storages: &storages,
            plan: &plan,
            tensors: Vec::new(),
            scratch: Vec::new(),
        };
        lowering.tensors = tensors(graph, &plan, &slots, &storages, found.input)?;
        lowering.scratch = plan
            .scratch
            .iter()
            .map(|taken| {
                // The slot may be larger than a binding; what is needed is not.
                let view = |(slot, bytes): &(usize, u64)| View::whole(&slots[*slot]).first(*bytes);
                taken.iter().map(view).collect()
            })
            .collect::<Result<_>>()?;
        let lower = |range: std::ops::Range<usize>| -> Result<Lowered> {
            let mut lowered = Lowered::default();
            for x in &plan.order[range] {
                let (dispatches, piece) = lowering.node(*x)?;
                if let Some(piece) = piece {
                    lowered.pieces.push((lowered.dispatches.len(), piece));
                }
                lowered.dispatches.extend(dispatches);
            }
            Ok(lowered)
        };
        let once = lower(0..plan.once)?;
        let step = lower(plan.once..plan.order.len())?;
        compile_while(gpu, [&once.dispatches, &step.dispatches], || weights.fill())?;
        let program = |lowered: Lowered| {
            let program = Program::new(gpu, lowered.dispatches)?;
            Ok::<_, Error>(program.with_pieces(lowered.pieces))
        };
        let (once, step) = (program(once)?, program(step)?);
        let inputs = graph
            .nodes
            .iter()
            .enumerate()
            .filter_map(|(i, n)| match &n.op {
                Op::Input { name } => Some((name.clone(), lowering.tensors[i].clone())),
                _ => None,
            });
        Ok(Self {
            once,
            step,
            inputs: inputs.collect(),
            outputs: graph
                .outputs
                .iter()
                .map(|x| lowering.tensors[x.0].clone())
                .collect(),
            bytes,
            slots: slots.iter().cloned().zip(plan.lasting).collect(),
        })
    }

    /// What must run before the first step, and again when a `once` input changes.
    pub fn once(&self) -> &Program {
        &self.once
    }

    pub fn step(&self) -> &Program {
        &self.step
    }

    /// Where the input `name` is written; `None` if no output depends on it.
    pub fn input(&self, name: &str) -> Option<&Tensor> {
        self.inputs.get(name)
    }

    pub fn output(&self, i: usize) -> &Tensor {
        &self.outputs[i]
    }

    /// Bytes of activations, without those of another executor.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes rows of `c` values to the input `name`.
    ///
    /// # Errors
    /// [`Error::Internal`] where it takes another number of values.
    pub fn write(&self, gpu: &Gpu, name: &str, values: &[f32]) -> Result<()> {
        let Some(tensor) = self.input(name) else {
            return Ok(());
        };
        let (c, pitch) = (tensor.c, tensor.pitch * 4);
        if values.len() != tensor.rows() * c {
            let problem = format!("{} values for {:?}", values.len(), tensor.shape());
            return Err(Error::internal(format!("input {name}"), problem));
        }
        let mut padded = vec![0f32; tensor.rows() * pitch];
        for (to, from) in padded.chunks_mut(pitch).zip(values.chunks(c)) {
            to[..c].copy_from_slice(from);
        }
        gpu.upload(&tensor.view.buffer, &tensor.storage.encode(&padded))
    }

    /// The output `i` as rows of `c` values.
    pub fn read(&self, gpu: &Gpu, i: usize) -> Result<Vec<f32>> {
        block_on(self.read_async(gpu, i))
    }

    /// As [`Self::read`], without blocking.
    ///
    /// # Errors
    /// What goes wrong on the device.
    pub async fn read_async(&self, gpu: &Gpu, i: usize) -> Result<Vec<f32>> {
        let tensor = self.output(i);
        let bytes = tensor.rows() as u64 * tensor.row_bytes();
        let view = &tensor.view;
        let data = gpu.download_async(&view.buffer, view.offset, bytes).await?;
        let values = tensor.storage.decode(&data);
        let first = tensor.offset * 4;
        Ok(values
            .chunks(tensor.pitch * 4)
            .flat_map(|row| &row[first..first + tensor.c])
            .copied()
            .collect())
    }
}

/// Dispatches, and the pieces of a stream that must be there from one of them on.
#[derive(Default)]
struct Lowered {
    dispatches: Vec<Dispatch>,
    pieces: Vec<(usize, usize)>,
}

/// Compiles the pipelines of all dispatches while `work` goes on.
fn compile_while(
    gpu: &Gpu,
    dispatches: [&Vec<Dispatch>; 2],
    work: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let keys = dispatches.into_iter().flatten().map(Dispatch::key);
    let keys: Vec<_> = keys.cloned().collect();
    if threads() == 1 {
        gpu.pipelines(&keys)?;
        return work();
    }
    std::thread::scope(|scope| {
        let compiling = scope.spawn(|| gpu.pipelines(&keys));
        work()?;
        let compiled = compiling.join();
        let panicked = |_| Error::internal("pipelines", "compiling them panicked");
        compiled.map_err(panicked)?.map(|_| ())
    })
}

/// The buffer of every slot, and the bytes of those that are new. What lasts gets new
/// ones, unless nothing need last; the others get the smallest of the host's that is large
/// enough, the largest first.
fn slots(gpu: &Gpu, plan: &Plan, found: &Found<'_>) -> Result<(Vec<Arc<Buffer>>, u64)> {
    let lent = found.host.iter().flat_map(|host| &host.slots);
    let lent = lent.filter(|(_, lasting)| found.all || !lasting);
    let mut spare: Vec<Arc<Buffer>> = lent.map(|(buffer, _)| buffer.clone()).collect();
    spare.sort_by_key(|buffer| buffer.size());
    let mut order: Vec<usize> = (0..plan.slots.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(plan.slots[*i]));
    let mut made: Vec<Option<Arc<Buffer>>> = vec![None; plan.slots.len()];
    let mut fresh = 0;
    for i in order {
        let bytes = plan.slots[i];
        let fitting = spare.iter().position(|buffer| buffer.size() >= bytes);
        made[i] = Some(match fitting.filter(|_| found.all || !plan.lasting[i]) {
            Some(at) => spare.remove(at),
            None => {
                fresh += bytes;
                Arc::new(gpu.buffer("activations", bytes)?)
            }
        });
    }
    Ok((made.into_iter().flatten().collect(), fresh))
}

/// The tensor of every value.
fn tensors(
    graph: &Graph,
    plan: &Plan,
    slots: &[Arc<Buffer>],
    storages: &Storages,
    given: Option<(&str, &Tensor)>,
) -> Result<Vec<Tensor>> {
    let mut all: Vec<Tensor> = Vec::with_capacity(graph.nodes.len());
    for (i, node) in graph.nodes.iter().enumerate() {
        let [n, h, w, c] = node.shape;
        if let (Op::Input { name }, Some((given, tensor))) = (&node.op, given)
            && name == given
        {
            if (tensor.shape(), tensor.storage) != (node.shape, storages.value(Value(i))) {
                let problem = format!("{:?} where {:?} is wanted", tensor.shape(), node.shape);
                return Err(Error::internal(format!("input {given}"), problem));
            }
            all.push(tensor.clone());
            continue;
        }
        all.push(match node.op {
            Op::Columns { first } => all[node.inputs[0].0].columns(first, c)?,
            Op::Reshape => Tensor {
                n,
                h,
                w,
                ..all[node.inputs[0].0].clone()
            },
            _ => {
                let storage = storages.value(Value(i));
                let place = plan.places.of(Value(i));
                // Of a concatenation, whose rows are these.
                let [.., columns] = place.map_or(node.shape, |p| graph.shape(p.concat));
                let whole = [n, h, w, columns];
                let view = View {
                    buffer: slots[plan.value[i]].clone(),
                    offset: 0,
                    size: Tensor::bytes_of(storage, whole).next_multiple_of(16),
                };
                let tensor = Tensor::new(view, storage, whole);
                match place {
                    Some(place) => tensor.columns(place.first, c)?,
                    None => tensor,
                }
            }
        });
    }
    Ok(all)
}

struct Lowering<'a> {
    context: &'a Context,
    graph: &'a Graph,
    weights: &'a dyn Weights,
    sources: &'a HashMap<String, View>,
    norms: Option<SharedNorms<'a>>,
    storages: &'a Storages,
    plan: &'a Plan,
    tensors: Vec<Tensor>,
    scratch: Vec<Vec<View>>,
}

impl Lowering<'_> {
    fn tensor(&self, x: Value) -> &Tensor {
        &self.tensors[x.0]
    }

    /// The dispatches of a node, and the piece of a stream that they need.
    fn node(&self, x: Value) -> Result<(Vec<Dispatch>, Option<usize>)> {
        match self.graph.node(x).op {
            Op::Product { .. } => self.product(x),
            _ => Ok((self.without_weights(x)?, None)),
        }
    }

    fn without_weights(&self, x: Value) -> Result<Vec<Dispatch>> {
        let node = self.graph.node(x);
        let (gpu, mode) = (&self.context.gpu, self.context.mode);
        let out = self.tensor(x);
        let input = |i: usize| self.tensor(node.inputs[i]);
        match &node.op {
            Op::Input { .. } | Op::Columns { .. } | Op::Reshape | Op::Product { .. } => Ok(vec![]),
            Op::Sinusoid { source, sinusoid } => {
                let values = self.sources.get(source).ok_or_else(|| {
                    Error::internal("graph", format!("no buffer {source} to read"))
                })?;
                let count = out.n * out.c / sinusoid.dim;
                let dispatch = sinusoid::dispatch(values, out, *sinusoid, count)?;
                Ok(vec![dispatch])
            }
            Op::GroupNorm {
                norm,
                groups,
                activation,
            } => {
                let [gamma, beta] = self.weights.norm(norm)?;
                let [stats, affine] = &self.scratch[x.0][..] else {
                    return Err(Error::internal("graph", "a group norm has no scratch"));
                };
                let shared = self
                    .norms
                    .and_then(|shared| Some((shared, shared.factors.get(&norm.name)?)));
                let group_norm = GroupNorm {
                    x: input(0),
                    y: out,
                    gamma: &gamma,
                    beta: &beta,
                    groups: *groups,
                    eps: norm.eps,
                    activation: *activation,
                    stats,
                    affine: shared.map_or(affine, |(_, factors)| factors),
                };
                match shared {
                    Some((shared, _)) if !shared.measure => group_norm.apply_only(gpu, mode),
                    _ => group_norm.dispatches(gpu, mode),
                }
            }
            Op::LayerNorm { norm } => {
                let [gamma, beta] = self.weights.norm(norm)?;
                let affine = [&gamma, &beta];
                layer_norm(gpu, mode, input(0), affine, out, norm.eps)
            }
            Op::Attention { heads, causal } => Attention {
                q: input(0),
                k: input(1),
                v: input(2),
                out,
                heads: *heads,
                causal: *causal,
                scratch: &self.scratch[x.0],
            }
            .dispatches(self.context),
            Op::Activate(kind) => self.map(input(0), *kind, None, out),
            Op::Add | Op::AddChannel => self.map(input(0), Activation::None, Some(input(1)), out),
            Op::Concat => {
                let (mut copies, mut first) = (Vec::new(), 0);
                for (part, from) in node.inputs.iter().map(|x| (self.tensor(*x), *x)) {
                    let part_of = self.plan.places.home(self.graph, from);
                    if part_of != x {
                        let to = out.columns(first, part.c)?;
                        copies.extend(self.map(part, Activation::None, None, &to)?);
                    }
                    first += part.c;
                }
                Ok(copies)
            }
        }
    }

    fn map(
        &self,
        x: &Tensor,
        activation: Activation,
        b: Option<&Tensor>,
        y: &Tensor,
    ) -> Result<Vec<Dispatch>> {
        map::dispatches(self.context, x, activation, b, y)
    }

    fn product(&self, x: Value) -> Result<(Vec<Dispatch>, Option<usize>)> {
        let node = self.graph.node(x);
        let Op::Product {
            product,
            conv,
            channel,
            activation,
            residual,
        } = &node.op
        else {
            return Ok((vec![], None));
        };
        let Placed {
            weight,
            blocks,
            bias,
            piece,
        } = self.weights.product(product)?;
        let mut extras = node.inputs[1..].iter().map(|x| self.tensor(*x).clone());
        let mut dispatches = match &blocks {
            Some(blocks) => product::expand(self.context, blocks, &weight)?,
            None => Vec::new(),
        };
        let mut a = self.tensor(node.inputs[0]).clone();
        let (mut bias, mut scale) = (bias, None);
        if self.storages.narrows(self.graph, x) {
            let narrowed = Narrow {
                x: &a,
                bias: bias.as_ref(),
                layout: product.layout(),
                scratch: &self.scratch[x.0],
            };
            let made = narrowed.dispatches(self.context)?;
            dispatches.extend(made.dispatches);
            (a, bias, scale) = (made.operand, Some(made.bias), Some(Scale::BehindBias));
        }
        let epilogue = Epilogue {
            scale,
            bias,
            channel: if *channel { extras.next() } else { None },
            geglu: product.geglu,
            activation: *activation,
            residual: if *residual { extras.next() } else { None },
        };
        let product = product::Product {
            a: &a,
            weight: &weight,
            out: self.tensor(x),
            conv: *conv,
            blocks: None,
            epilogue,
            rows: None,
        };
        dispatches.extend(product::dispatches(self.context, &product)?);
        Ok((dispatches, piece))
    }
}
