//! Problems of shapes that are given as text.

use super::Problem;
use super::attention::Attend;
use super::norm::{Groups, LayerNorm, Softmax};
use super::product::{Layer, Parts};
use crate::kernel::Activation;
use crate::kernel::norm::Mask;
use crate::kernel::product::Conv;
use crate::{Error, Result};

/// Ops that a shape can be given for, and how it is written.
pub const WRITTEN: [(&str, &str); 6] = [
    ("linear", "ROWSxKxCOLUMNS"),
    ("conv", "NxHEIGHTxWIDTHxCHANNELSxCHANNELS_OUT"),
    ("attention", "NxHEADSxQUERIESxKEYS"),
    ("group_norm", "NxHEIGHTxWIDTHxCHANNELS"),
    ("layer_norm", "ROWSxCHANNELS"),
    ("softmax", "ROWSxCOLUMNS"),
];

/// The largest operand that a shape may ask for, in values.
const MOST: usize = 1 << 31;

/// The problem of `op` (3x3 convolutions of stride 1, heads of 64, groups of 32) whose
/// shape is `text`.
///
/// # Errors
/// [`Error::Invalid`] where the op has no such form, or the text is not of that form.
pub fn problem(op: &str, text: &str) -> Result<Box<dyn Problem>> {
    let Some((_, form)) = WRITTEN.iter().find(|(name, _)| *name == op) else {
        let ops: Vec<&str> = WRITTEN.iter().map(|(name, _)| *name).collect();
        let allowed = format!("a shape can be given for {}", ops.join(", "));
        return Err(Error::invalid("op", op, allowed));
    };
    let wrong =
        |problem: &str| Error::invalid("shape", text, format!("{op} takes {form}, {problem}"));
    let sides: Option<Vec<usize>> = text
        .split('x')
        .map(|side| side.trim().parse().ok().filter(|n| *n > 0))
        .collect();
    let sides = sides.ok_or_else(|| wrong("whole numbers above 0 with x between them"))?;
    let product = sides.iter().try_fold(1usize, |all, n| all.checked_mul(*n));
    let fits = |n: usize| n <= MOST;
    let multiple = |c: usize, of: usize, what: &str| match c.is_multiple_of(of) {
        true => Ok(()),
        false => Err(wrong(&format!("{what} a multiple of {of}"))),
    };
    let count = form.split('x').count();
    if sides.len() != count || product.is_none() {
        return Err(wrong(&format!("{count} numbers")));
    }
    // Of the largest operand.
    let largest = match (op, &sides[..]) {
        ("linear", [m, k, n]) => (m * k).max(m * n).max(k * n),
        ("conv", [n, h, w, c, co]) => (n * h * w * c.max(co)).max(9 * c * co),
        ("attention", [n, heads, queries, keys]) => 64 * n * heads * queries.max(keys),
        (_, all) => all.iter().product(),
    };
    if !fits(largest) {
        return Err(wrong("operands of 2^31 values at the most"));
    }
    Ok(match (op, &sides[..]) {
        ("linear", [m, k, n]) => Box::new(Layer::linear([1, *m, *k, *n], Parts::BIAS, 2)),
        ("conv", [n, h, w, c, co]) => Box::new(Layer {
            shape: [*n, *h, *w, *c],
            co: *co,
            taps: 9,
            conv: Some(Conv {
                stride: 1,
                pad: 1,
                upsample: false,
            }),
            parts: Parts::BIAS,
            seed: 2,
        }),
        ("attention", [n, heads, queries, keys]) => Box::new(Attend {
            even: true,
            ..Attend::new([*n, *queries, *keys], [*heads, 64], false)
        }),
        ("group_norm", [n, h, w, c]) => {
            multiple(*c, 32, "CHANNELS")?;
            Box::new(Groups {
                size: [*n, *h, *w],
                groups: 32,
                per: c / 32,
                activation: Activation::Silu,
                seed: 2,
            })
        }
        ("layer_norm", [rows, c]) => {
            multiple(*c, 4, "CHANNELS")?;
            Box::new(LayerNorm {
                rows: *rows,
                c: *c,
                seed: 2,
            })
        }
        (_, [rows, columns]) => {
            multiple(*columns, 8, "COLUMNS")?;
            Box::new(Softmax {
                rows: *rows,
                c: *columns,
                mask: Mask {
                    count: *columns,
                    rows_per_head: *rows,
                    first: 0,
                    causal: false,
                },
                level: None,
                seed: 2,
            })
        }
        _ => return Err(wrong("as many numbers")),
    })
}
