//! Floats of 8 bits (Micikevicius et al. 2022, arXiv:2209.05433, table 1): tables of
//! all their values. The codes of NaN stay NaN.

use half::f16;
use std::sync::LazyLock;

/// The value of every code.
pub(super) type Table = LazyLock<[f32; 256]>;

pub(super) static E4M3: Table = LazyLock::new(|| std::array::from_fn(|code| e4m3(code as u8)));
pub(super) static E5M2: Table =
    LazyLock::new(|| std::array::from_fn(|code| f16::from_bits((code as u16) << 8).to_f32()));

/// Sign, 4 bits of exponent with a bias of 7, 3 of mantissa. All ones is NaN; there is
/// no infinity.
fn e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let magnitude = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
    };
    match code >> 7 {
        0 => magnitude,
        _ => -magnitude,
    }
}

pub(super) fn widen(table: &Table, bytes: &[u8], to: &mut [f32]) {
    let table: &[f32; 256] = table;
    for (byte, to) in bytes.iter().zip(to) {
        *to = table[usize::from(*byte)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_both_ranges() {
        let e4m3: [(u8, f32); 6] = [
            (0x00, 0.0),
            (0x01, 2f32.powi(-9)),
            (0x07, 7.0 * 2f32.powi(-9)),
            (0x08, 2f32.powi(-6)),
            (0x7e, 448.0),
            (0xfe, -448.0),
        ];
        for (code, value) in e4m3 {
            assert_eq!(E4M3[usize::from(code)], value, "{code:#x}");
        }
        let e5m2: [(u8, f32); 4] = [
            (0x01, 2f32.powi(-16)),
            (0x04, 2f32.powi(-14)),
            (0x7b, 57344.0),
            (0xfc, f32::NEG_INFINITY),
        ];
        for (code, value) in e5m2 {
            assert_eq!(E5M2[usize::from(code)], value, "{code:#x}");
        }
        let nan = |table: &Table| table.iter().filter(|x| x.is_nan()).count();
        assert_eq!((nan(&E4M3), nan(&E5M2)), (2, 6));
        // What lets the loader keep them in f16.
        for value in E4M3.iter().chain(E5M2.iter()).filter(|x| !x.is_nan()) {
            assert_eq!(f16::from_f32(*value).to_f32(), *value);
        }
    }
}
