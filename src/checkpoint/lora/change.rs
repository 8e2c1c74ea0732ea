//! What an adapter does to one module's weight: the kinds of adapters by the names of
//! their tensors, how these must fit one another, and their values.

use super::LoraFile;
use super::alphas::Alphas;
use super::keys::Role;
use super::merge::{Change, Matrix, Step, joined};
use crate::{Error, Result};
use std::collections::BTreeMap;

/// A module's tensors by what they are.
pub(super) type Roles = BTreeMap<Role, String>;

/// How a weight is changed, as names of the file's tensors.
#[derive(Debug)]
pub(super) struct WeightChange {
    pub kind: Kind,
    /// alpha / rank.
    scale: f64,
    /// DoRA's.
    magnitude: Option<String>,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// LoRA, and LoCon, which is the same for convolutions.
    Product(Product),
    /// LoHa: the products of both, value by value.
    Hadamard([Product; 2]),
    /// LoKr: the Kronecker product of both.
    Kronecker([Factor; 2]),
    /// IA3.
    Channels { scale: String, on_input: bool },
    /// A whole difference.
    Full(String),
    /// GLoRA: the weight times a product, plus a product.
    General { inner: Product, outer: Product },
}

/// `up` x `down`.
#[derive(Debug)]
pub(super) struct Product {
    pub up: String,
    pub down: String,
    /// A kernel between two 1x1 convolutions.
    pub mid: Option<String>,
    /// Whether `up` is `[rank, outputs]`, as LyCORIS writes it beside a kernel.
    turned: bool,
}

/// A factor, whole or as a product.
#[derive(Debug)]
pub(super) enum Factor {
    Whole(String),
    Product(Product),
}

/// Rows and columns of a change, and the kernel it is of where that is told.
struct Extent {
    rows: usize,
    columns: usize,
    kernel: Option<Vec<usize>>,
}

impl Kind {
    /// The kind that a module's tensors are, complete; none where only a bias is
    /// changed.
    pub fn of(file: &LoraFile, roles: &Roles) -> Result<Option<Self>> {
        use Role::*;
        let kinds: [(&[Role], &str); 6] = [
            (&[Down, Up, Mid], "LoRA"),
            (
                &[HadaW1A, HadaW1B, HadaW2A, HadaW2B, HadaT1, HadaT2],
                "LoHa",
            ),
            (
                &[LokrW1, LokrW1A, LokrW1B, LokrW2, LokrW2A, LokrW2B, LokrT2],
                "LoKr",
            ),
            (&[ChannelScale, OnInput], "IA3"),
            (&[Diff], "a full difference"),
            (&[A1, A2, B1, B2, Bm], "GLoRA"),
        ];
        let of_kind = |of: &[Role]| of.iter().find_map(|role| roles.get(role));
        let mut found = kinds
            .iter()
            .filter_map(|(of, kind)| Some((of_kind(of)?, *kind, of[0])));
        let (key, kind, first) = match (found.next(), roles.keys().all(|role| *role == DiffB)) {
            (Some(found), _) => found,
            (None, true) => return Ok(None),
            (None, false) => {
                let key = roles.values().next().map_or("", String::as_str);
                let problem = "its partner, the lora_down of the module, is missing";
                return Err(file.wrong(key, problem));
            }
        };
        if let Some((other, second, _)) = found.next() {
            let problem = format!("{second}, while {key} makes the module one of {kind}");
            return Err(file.wrong(other, problem));
        }
        let need = |role: Role| {
            let missing = || {
                let end = role.end();
                file.wrong(
                    key,
                    format!("its partner, the {end} of the module, is missing"),
                )
            };
            roles.get(&role).cloned().ok_or_else(missing)
        };
        let pair = |up, down, mid| -> Result<Product> {
            let mid = roles.get(&mid).cloned();
            Ok(Product {
                down: need(down)?,
                up: need(up)?,
                mid,
                turned: false,
            })
        };
        let turned = |product: Product| Product {
            turned: product.mid.is_some(),
            ..product
        };
        Ok(Some(match first {
            Down => Kind::Product(pair(Up, Down, Mid)?),
            HadaW1A => {
                if roles.contains_key(&HadaT1) != roles.contains_key(&HadaT2) {
                    need(HadaT1)?;
                    need(HadaT2)?;
                }
                let first = turned(pair(HadaW1A, HadaW1B, HadaT1)?);
                Kind::Hadamard([first, turned(pair(HadaW2A, HadaW2B, HadaT2)?)])
            }
            LokrW1 => {
                let first = match roles.get(&LokrW1) {
                    Some(whole) => Factor::Whole(whole.clone()),
                    None => Factor::Product(Product {
                        up: need(LokrW1A)?,
                        down: need(LokrW1B)?,
                        mid: None,
                        turned: false,
                    }),
                };
                let second = match roles.get(&LokrW2) {
                    Some(whole) => Factor::Whole(whole.clone()),
                    None => Factor::Product(turned(pair(LokrW2A, LokrW2B, LokrT2)?)),
                };
                Kind::Kronecker([first, second])
            }
            ChannelScale => Kind::Channels {
                scale: need(ChannelScale)?,
                on_input: file.number(&need(OnInput)?)? != 0.0,
            },
            Diff => Kind::Full(need(Diff)?),
            _ => {
                let outer = pair(B1, B2, Bm)?;
                let inner = Product {
                    up: need(A1)?,
                    down: need(A2)?,
                    mid: None,
                    turned: false,
                };
                // Early LyCORIS has the factors the other way round (ComfyUI's
                // `old_glora`).
                let [up, down] = [&outer.up, &outer.down].map(|key| file.shape(key));
                match up.get(1) == down.first() {
                    true => Kind::General { inner, outer },
                    false => Kind::General {
                        inner: inner.swapped(),
                        outer: outer.swapped(),
                    },
                }
            }
        }))
    }

    /// Every tensor that is read as values.
    fn tensors(&self) -> Vec<&String> {
        match self {
            Kind::Product(product) => product.tensors(),
            Kind::Hadamard(both) => both.iter().flat_map(Product::tensors).collect(),
            Kind::Kronecker(both) => both.iter().flat_map(Factor::tensors).collect(),
            Kind::Channels { scale, .. } => vec![scale],
            Kind::Full(diff) => vec![diff],
            Kind::General { inner, outer } => [inner.tensors(), outer.tensors()].concat(),
        }
    }

    /// The rank that alpha is divided by; none where alpha does not count.
    fn rank(&self, file: &LoraFile) -> Result<Option<usize>> {
        Ok(match self {
            Kind::Product(product) => Some(product.rank(file)?),
            Kind::Hadamard([first, second]) => {
                second.rank(file)?;
                Some(first.rank(file)?)
            }
            // LyCORIS and ComfyUI: two whole factors are not scaled.
            Kind::Kronecker([first, second]) => match (first.rank(file)?, second.rank(file)?) {
                (first, None) => first,
                (_, second) => second,
            },
            Kind::Channels { .. } | Kind::Full(_) => None,
            Kind::General { inner, outer } => {
                inner.rank(file)?;
                Some(outer.rank(file)?)
            }
        })
    }

    /// Numbers that the width of a text-attending layer's input can be told by.
    pub fn columns(&self, file: &LoraFile) -> Option<usize> {
        let fits = |product: &Product| Some(product.extent(file).columns);
        match self {
            Kind::Product(product) | Kind::Hadamard([product, _]) => fits(product),
            Kind::General { outer, .. } => fits(outer),
            Kind::Full(diff) => file.shape(diff).get(1).copied(),
            Kind::Kronecker([first, second]) => {
                Some(first.extent(file).columns * second.extent(file).columns)
            }
            Kind::Channels { .. } => None,
        }
    }
}

impl Product {
    fn swapped(self) -> Self {
        Self {
            up: self.down,
            down: self.up,
            ..self
        }
    }

    fn tensors(&self) -> Vec<&String> {
        [&self.down, &self.up]
            .into_iter()
            .chain(&self.mid)
            .collect()
    }

    /// The rank that both matrices, and the kernel between them, agree on.
    fn rank(&self, file: &LoraFile) -> Result<usize> {
        let (down, up) = (file.shape(&self.down), file.shape(&self.up));
        let matrix = |shape: &[usize]| matches!(shape.len(), 2 | 4) && !shape.contains(&0);
        for (key, shape, asked) in [
            (&self.down, down, "[rank, inputs] or [rank, inputs, kh, kw]"),
            (&self.up, up, "[outputs, rank] or [outputs, rank, 1, 1]"),
        ] {
            if !matrix(shape) {
                return Err(file.wrong(key, format!("its shape is {shape:?}, not {asked}")));
            }
        }
        let inner = match &self.mid {
            None => [down[0], down[0]],
            Some(key) => match file.shape(key) {
                [a, b, _, _] => [*a, *b],
                shape => {
                    let problem = format!("its shape is {shape:?}, not [rank, rank, kh, kw]");
                    return Err(file.wrong(key, problem));
                }
            },
        };
        let own = up[usize::from(!self.turned)];
        let ones = |shape: &[usize]| shape.iter().skip(2).all(|n| *n == 1);
        if [own, down[0]] != inner || !ones(up) || self.mid.is_some() && !ones(down) {
            let end = self.down.rsplit_once('.').map_or("other", |(_, end)| end);
            let end = match end {
                "weight" => "lora_down",
                end => end,
            };
            let problem = format!("its shape is {up:?}, which does not fit the {end} of {down:?}");
            return Err(file.wrong(&self.up, problem));
        }
        Ok(down[0])
    }

    fn extent(&self, file: &LoraFile) -> Extent {
        let kernel = self.mid.as_ref().map(|mid| file.shape(mid));
        let kernel = kernel.map(|shape| shape.get(2..).unwrap_or_default().to_vec());
        let taps: usize = kernel.iter().flatten().product();
        let up = file.shape(&self.up);
        Extent {
            rows: up.get(usize::from(self.turned)).copied().unwrap_or(0),
            columns: taps * file.shape(&self.down).iter().skip(1).product::<usize>(),
            kernel,
        }
    }

    /// Both factors, the kernel joined with the second.
    fn read(&self, file: &LoraFile) -> Result<[Matrix; 2]> {
        let (mut up, mut down) = (file.matrix(&self.up)?, file.matrix(&self.down)?);
        if self.turned {
            up = up.transposed();
        }
        if let Some(mid) = &self.mid
            && let [a, b, kh, kw] = *file.shape(mid)
        {
            let kernel = file.matrix(mid)?;
            down = joined(&kernel, &down, [a, b, kh * kw]).map_err(|e| file.wrong(mid, e))?;
        }
        Ok([up, down])
    }
}

impl Factor {
    fn tensors(&self) -> Vec<&String> {
        match self {
            Factor::Whole(key) => vec![key],
            Factor::Product(product) => product.tensors(),
        }
    }

    fn rank(&self, file: &LoraFile) -> Result<Option<usize>> {
        match self {
            Factor::Product(product) => product.rank(file).map(Some),
            Factor::Whole(key) => match file.shape(key) {
                shape if matches!(shape.len(), 2 | 4) && !shape.contains(&0) => Ok(None),
                shape => Err(file.wrong(key, format!("its shape is {shape:?}, not a matrix"))),
            },
        }
    }

    fn extent(&self, file: &LoraFile) -> Extent {
        match self {
            Factor::Product(product) => product.extent(file),
            Factor::Whole(key) => {
                let shape = file.shape(key);
                Extent {
                    rows: shape.first().copied().unwrap_or(0),
                    columns: shape.iter().skip(1).product(),
                    kernel: shape.get(2..).filter(|k| !k.is_empty()).map(<[_]>::to_vec),
                }
            }
        }
    }

    fn read(&self, file: &LoraFile) -> Result<Matrix> {
        match self {
            Factor::Whole(key) => file.matrix(key),
            Factor::Product(product) => {
                let [up, down] = product.read(file)?;
                up.times(&down).map_err(|e| file.wrong(&product.up, e))
            }
        }
    }
}

impl WeightChange {
    /// A module's change, its tensors of readable types and fitting one another; none
    /// where only a bias is changed.
    pub fn of(
        file: &LoraFile,
        written: &str,
        roles: &Roles,
        alphas: &Alphas,
    ) -> Result<Option<Self>> {
        let Some(kind) = Kind::of(file, roles)? else {
            return Ok(None);
        };
        let magnitude = roles.get(&Role::DoraScale).or(roles.get(&Role::Magnitude));
        for key in kind.tensors().into_iter().chain(magnitude) {
            file.check_type(key)?;
        }
        let alpha = match roles.get(&Role::Alpha) {
            Some(key) => Some(file.number(key)?),
            None => None,
        };
        let scale = match (kind.rank(file)?, alpha) {
            (None, _) => 1.0,
            (Some(rank), Some(alpha)) => alpha / rank as f64,
            (Some(rank), None) => alphas.scale(file.path(), written, rank)?,
        };
        Ok(Some(Self {
            kind,
            scale,
            magnitude: magnitude.cloned(),
        }))
    }

    /// Checks that it fits the weight `tensor` of `shape`. 1x1 convolutions and linear
    /// layers stand for one another.
    pub fn check(&self, file: &LoraFile, tensor: &str, shape: &[usize]) -> Result<()> {
        let wrong = |key: &str, asked: String| {
            let have = file.shape(key);
            misfit(file, key, have, tensor, shape, asked)
        };
        if let Some(key) = &self.magnitude {
            self.axis(file, shape)
                .ok_or_else(|| wrong(key, "one number for each output".into()))?;
        }
        let [rows, inputs, taps @ ..] = shape else {
            return match &self.kind {
                Kind::Full(key) if file.shape(key) == shape => Ok(()),
                kind => {
                    let key = kind.tensors()[0];
                    Err(wrong(key, "a difference of its own shape".into()))
                }
            };
        };
        let kernel: usize = taps.iter().product();
        let columns = inputs * kernel;
        let product = |product: &Product, [rows, inputs]: [usize; 2], taps: &[usize]| {
            let extent = product.extent(file);
            if extent.rows != rows {
                return Err(wrong(&product.up, format!("{rows} rows")));
            }
            if let (Some(mid), Some(kernel)) = (&product.mid, &extent.kernel)
                && kernel != taps
            {
                return Err(wrong(mid, format!("a kernel of {taps:?}")));
            }
            let down = file.shape(&product.down);
            let mut asked = vec![down[0], inputs];
            if product.mid.is_none() {
                asked.extend(taps);
            }
            // LyCORIS' LoHa and LoKr write a kernel as part of the columns.
            let flat = [down[0], asked.iter().skip(1).product()];
            match super::same_but_ones(down, &asked) || down == flat {
                true => Ok(()),
                false => Err(wrong(&product.down, format!("{asked:?}"))),
            }
        };
        match &self.kind {
            Kind::Product(one) => product(one, [*rows, *inputs], taps),
            Kind::Hadamard(both) => both
                .iter()
                .try_for_each(|one| product(one, [*rows, *inputs], taps)),
            Kind::General { inner, outer } => {
                product(inner, [*inputs; 2], &[])?;
                product(outer, [*rows, *inputs], taps)
            }
            Kind::Kronecker(both) => {
                let [first, second] = both.each_ref().map(|factor| factor.extent(file));
                let of = [first.rows * second.rows, first.columns * second.columns];
                let kernel = second.kernel.is_none_or(|kernel| kernel == taps);
                match of == [*rows, columns] && kernel {
                    true => Ok(()),
                    false => {
                        let key = both[1].tensors()[0];
                        let asked = format!(
                            "factors of {rows} rows and {columns} columns, these have {of:?}"
                        );
                        Err(wrong(key, asked))
                    }
                }
            }
            Kind::Channels { scale, on_input } => {
                let (want, of) = match on_input {
                    true => (*inputs, "input"),
                    false => (*rows, "output"),
                };
                match file.shape(scale).iter().product::<usize>() == want {
                    true => Ok(()),
                    false => Err(wrong(scale, format!("one number for each {of}, {want}"))),
                }
            }
            Kind::Full(key) => match super::same_but_ones(file.shape(key), shape) {
                true => Ok(()),
                false => Err(wrong(key, "a difference of its own shape".into())),
            },
        }
    }

    /// Whether DoRA's magnitudes are of inputs: `[1, inputs]`, which LyCORIS and kohya
    /// wrote before they wrote `[outputs, 1]`. PEFT has those of outputs alone. None
    /// where they are neither.
    fn axis(&self, file: &LoraFile, shape: &[usize]) -> Option<bool> {
        let key = self.magnitude.as_ref()?;
        let have = file.shape(key);
        let count: usize = have.iter().product();
        let (rows, inputs) = (*shape.first()?, *shape.get(1)?);
        let peft = key.contains("lora_magnitude_vector");
        if have.first() == Some(&1) && have.len() > 1 && !peft && rows != 1 {
            return (count == inputs).then_some(true);
        }
        (count == rows).then_some(false)
    }

    /// The values, for a weight of `shape` that counts `weight` times.
    pub fn step(&self, file: &LoraFile, shape: &[usize], weight: f64) -> Result<Step> {
        let change = match &self.kind {
            Kind::Product(product) => Change::Product(product.read(file)?),
            Kind::Hadamard([a, b]) => Change::Hadamard([a.read(file)?, b.read(file)?]),
            Kind::Kronecker([a, b]) => Change::Kronecker([a.read(file)?, b.read(file)?]),
            Kind::Channels { scale, on_input } => Change::Channels {
                scale: file.values(scale)?,
                on_input: *on_input,
            },
            Kind::Full(key) => Change::Full(file.values(key)?),
            Kind::General { inner, outer } => Change::General {
                inner: inner.read(file)?,
                outer: outer.read(file)?,
            },
        };
        let taps = shape.iter().skip(2).product();
        let step = Step::new(change, self.scale, weight, taps);
        Ok(match &self.magnitude {
            None => step,
            Some(key) => {
                let of_inputs = self.axis(file, shape) == Some(true);
                step.decomposed(file.values(key)?, of_inputs)
            }
        })
    }
}

/// A tensor whose shape is not what the weight asks for.
pub(super) fn misfit(
    file: &LoraFile,
    key: &str,
    have: &[usize],
    tensor: &str,
    shape: &[usize],
    asked: String,
) -> Error {
    let problem = format!("its shape is {have:?}, {tensor} of {shape:?} asks for {asked}");
    let remedy = "use an adapter made for this checkpoint's architecture";
    Error::tensor(file.path(), key, problem, remedy)
}
