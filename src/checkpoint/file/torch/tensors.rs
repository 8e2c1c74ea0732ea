//! The tensors of a pickle's dictionary, and where their values are.

use super::Problem;
use super::machine::{Id, Known, Object, Objects};
use crate::checkpoint::dtype::DType;
use crate::checkpoint::file::{Contents, Info, Stored};
use std::ops::Range;

/// Keys under which programs keep the weights beside other things.
const INSIDE: [&str; 4] = ["state_dict", "params_ema", "params", "model"];

/// Sizes of one tensor.
const MOST_SIZES: usize = 8;

/// The tensors of the root dictionary, or of the one that it keeps weights in, and of
/// dictionaries in it, under both names; `storage` finds a storage's bytes.
pub(super) fn contents(
    objects: &Objects<'_>,
    storage: impl Fn(&str) -> Option<Range<usize>>,
) -> Result<Contents, Problem> {
    let Object::Dictionary(root) = objects.get(objects.root) else {
        return Err(Problem::other(
            "a PyTorch file without a dictionary of tensors",
        ));
    };
    let inside = INSIDE.iter().find_map(|key| {
        let of_key = |(k, _): &&(Id, Id)| objects.text(*k) == Some(key);
        match objects.get(root.iter().find(of_key)?.1) {
            Object::Dictionary(pairs) => Some(pairs),
            _ => None,
        }
    });
    let pairs = inside.unwrap_or(root);
    let mut contents = Contents::default();
    let mut add = |name: String, id: Id| {
        if let Some(tensor) = Tensor::find(objects, id) {
            let tensor =
                tensor.map_err(|what| Problem::damaged(format!("tensor {name}: {what}")))?;
            let info = tensor
                .info(&storage)
                .map_err(|what| Problem::damaged(format!("tensor {name}: {what}")))?;
            contents.tensors.insert(name, info);
        }
        Ok(())
    };
    for (key, value) in pairs {
        let Some(key) = objects.text(*key) else {
            continue;
        };
        match objects.get(*value) {
            Object::Dictionary(pairs) => {
                for (below, value) in pairs {
                    if let Some(below) = objects.text(*below) {
                        add(format!("{key}.{below}"), *value)?;
                    }
                }
            }
            _ => add(key.to_string(), *value)?,
        }
    }
    if contents.tensors.is_empty() {
        return Err(Problem::other(
            "a PyTorch file whose dictionary holds no tensors",
        ));
    }
    Ok(contents)
}

/// A tensor as the pickle tells it.
struct Tensor<'a> {
    dtype: &'static str,
    storage: &'a str,
    /// In values.
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl<'a> Tensor<'a> {
    /// The tensor that an object is, if it is one.
    fn find(objects: &'a Objects<'_>, id: Id) -> Option<Result<Self, String>> {
        match objects.get(id) {
            Object::Made(Known::Parameter, arguments) => {
                let data = *objects.sequence(*arguments)?.first()?;
                match objects.get(data) {
                    // A parameter of a parameter might be one of itself.
                    Object::Made(Known::Tensor, arguments) => Some(Self::read(objects, *arguments)),
                    _ => None,
                }
            }
            Object::Made(Known::Tensor, arguments) => Some(Self::read(objects, *arguments)),
            _ => None,
        }
    }

    fn read(objects: &'a Objects<'_>, arguments: Id) -> Result<Self, String> {
        let arguments = objects.sequence(arguments).unwrap_or_default();
        let [storage, offset, shape, strides, rest @ ..] = arguments else {
            return Err("it has too few arguments".into());
        };
        let Object::Stored(told) = objects.get(*storage) else {
            return Err("it has no storage".into());
        };
        let (class, key) = match objects.sequence(*told) {
            Some([kind, class, key, ..]) if objects.text(*kind) == Some("storage") => (class, key),
            _ => return Err("its storage is told in an unknown way".into()),
        };
        let typed = rest.iter().find_map(|id| match objects.get(*id) {
            Object::Known(Known::Type(dtype)) => Some(*dtype),
            _ => None,
        });
        let dtype = match (objects.get(*class), typed) {
            (Object::Known(Known::Storage("")), Some(dtype)) => dtype,
            (Object::Known(Known::Storage(dtype)), _) if !dtype.is_empty() => dtype,
            _ => return Err("its storage is of no known type".into()),
        };
        let sizes = |id: Id| -> Option<Vec<usize>> {
            let ids = objects.sequence(id).filter(|ids| ids.len() <= MOST_SIZES)?;
            ids.iter().map(|id| objects.whole(*id)).collect()
        };
        let parts = (
            objects.text(*key),
            objects.whole(*offset),
            sizes(*shape),
            sizes(*strides),
        );
        match parts {
            (Some(storage), Some(offset), Some(shape), Some(strides))
                if shape.len() == strides.len() =>
            {
                Ok(Self {
                    dtype,
                    storage,
                    offset,
                    shape,
                    strides,
                })
            }
            _ => Err("its shape is damaged".into()),
        }
    }

    /// Its place in the file: within its storage.
    fn info(self, storage: impl Fn(&str) -> Option<Range<usize>>) -> Result<Info, String> {
        let whole = storage(self.storage)
            .ok_or_else(|| format!("its storage {:?} is missing", self.storage))?;
        let (stored, size) = stored(self.dtype);
        let shape = &self.shape;
        let count = shape
            .iter()
            .try_fold(1usize, |all, size| all.checked_mul(*size))
            .ok_or("its sizes overflow")?;
        let place = |count: usize| {
            let from = whole.start.checked_add(self.offset.checked_mul(size)?)?;
            let to = from.checked_add(count.checked_mul(size)?)?;
            (to <= whole.end).then_some(from..to)
        };
        if !self.is_contiguous() {
            let strided = Stored::Other(format!("{stored} in strides {:?}", self.strides));
            return Ok(Info::new(self.shape, strided, whole.start..whole.start));
        }
        let range = place(count).ok_or("truncated: it reaches beyond its storage")?;
        Ok(Info::new(self.shape, stored, range))
    }

    /// Whether values follow one another row by row.
    fn is_contiguous(&self) -> bool {
        let mut want = 1usize;
        self.shape
            .iter()
            .zip(&self.strides)
            .rev()
            .all(|(size, stride)| {
                let fits = *size <= 1 || *stride == want;
                want = want.saturating_mul(*size);
                fits
            })
            || self.shape.contains(&0)
    }
}

/// How values are stored, and the bytes of one.
fn stored(dtype: &str) -> (Stored, usize) {
    match dtype {
        "F32" => (Stored::Weight(DType::F32), 4),
        "F16" => (Stored::Weight(DType::F16), 2),
        "BF16" => (Stored::Weight(DType::BF16), 2),
        "F8_E4M3" => (Stored::Weight(DType::F8E4M3), 1),
        "F8_E5M2" => (Stored::Weight(DType::F8E5M2), 1),
        "F64" => (Stored::F64, 8),
        "I64" => (Stored::I64, 8),
        "I32" => (Stored::I32, 4),
        "I16" => (Stored::Other(dtype.into()), 2),
        "C64" => (Stored::Other(dtype.into()), 8),
        other => (Stored::Other(other.into()), 1),
    }
}
