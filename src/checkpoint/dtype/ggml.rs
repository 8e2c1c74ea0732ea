//! ggml's blocks of quantised values (`ggml-common.h` for how they lie,
//! `ggml-quants.c`, `dequantize_row_*`, for what they mean). Blocks of 32 values have
//! one f16 scale, some also a minimum; blocks of 256 have 8 or 16 groups with small
//! scales of their own below the block's.

use half::f16;

const HALF: usize = 16;

fn half(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

/// The low and the high four bits of each byte: values 0 to 15, and 16 to 31.
fn nibbles(quants: &[u8], to: &mut [f32; 32], value: impl Fn(usize, u8) -> f32) {
    let (low, high) = to.split_at_mut(HALF);
    for (i, ((byte, low), high)) in quants.iter().zip(low).zip(high).enumerate() {
        *low = value(i, byte & 15);
        *high = value(i + HALF, byte >> 4);
    }
}

/// Bit `i` of a block's fifth bits, at its place in a value.
fn fifth(bits: u32, i: usize) -> u8 {
    ((bits >> i & 1) << 4) as u8
}

pub(super) fn q4_0(block: &[u8; 18], to: &mut [f32; 32]) {
    let [a, b, quants @ ..] = block;
    let d = half([*a, *b]);
    nibbles(quants, to, |_, q| d * (f32::from(q) - 8.0));
}

pub(super) fn q4_1(block: &[u8; 20], to: &mut [f32; 32]) {
    let [a, b, c, e, quants @ ..] = block;
    let (d, min) = (half([*a, *b]), half([*c, *e]));
    nibbles(quants, to, |_, q| d * f32::from(q) + min);
}

pub(super) fn q5_0(block: &[u8; 22], to: &mut [f32; 32]) {
    let [a, b, h0, h1, h2, h3, quants @ ..] = block;
    let (d, bits) = (half([*a, *b]), u32::from_le_bytes([*h0, *h1, *h2, *h3]));
    nibbles(quants, to, |i, q| {
        d * (f32::from(q | fifth(bits, i)) - 16.0)
    });
}

pub(super) fn q5_1(block: &[u8; 24], to: &mut [f32; 32]) {
    let [a, b, c, e, h0, h1, h2, h3, quants @ ..] = block;
    let (d, min) = (half([*a, *b]), half([*c, *e]));
    let bits = u32::from_le_bytes([*h0, *h1, *h2, *h3]);
    nibbles(quants, to, |i, q| d * f32::from(q | fifth(bits, i)) + min);
}

pub(super) fn q8_0(block: &[u8; 34], to: &mut [f32; 32]) {
    let [a, b, quants @ ..] = block;
    let d = half([*a, *b]);
    for (q, to) in quants.iter().zip(to) {
        *to = d * f32::from(*q as i8);
    }
}

/// Scale and minimum, of 6 bits each, of group `i` of 8.
fn group(scales: &[u8; 12], i: usize) -> (f32, f32) {
    let (scale, min) = match i {
        0..4 => (scales[i] & 63, scales[i + 4] & 63),
        _ => (
            scales[i + 4] & 15 | scales[i - 4] >> 6 << 4,
            scales[i + 4] >> 4 | scales[i] >> 6 << 4,
        ),
    };
    (f32::from(scale), f32::from(min))
}

/// Groups of 32 values, two in the low and high bits of 32 bytes; `upper` is what lies
/// above a value's four bits.
fn groups(
    [d, min]: [f32; 2],
    scales: &[u8; 12],
    quants: &[u8; 128],
    to: &mut [f32; 256],
    upper: impl Fn(usize, usize) -> u8,
) {
    for (i, to) in to.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, least) = group(scales, i);
        let (scale, least) = (d * scale, min * least);
        let bytes = &quants[i / 2 * 32..];
        for (j, (byte, to)) in bytes.iter().zip(to).enumerate() {
            let low = byte >> (i % 2 * 4) & 15;
            *to = scale * f32::from(low | upper(i, j)) - least;
        }
    }
}

pub(super) fn q4_k(block: &[u8; 144], to: &mut [f32; 256]) {
    let (head, rest) = split::<4, 140>(block);
    let (scales, quants) = split::<12, 128>(rest);
    groups(scale_and_min(head), scales, quants, to, |_, _| 0);
}

pub(super) fn q5_k(block: &[u8; 176], to: &mut [f32; 256]) {
    let (head, rest) = split::<4, 172>(block);
    let (scales, rest) = split::<12, 160>(rest);
    let (high, quants) = split::<32, 128>(rest);
    groups(scale_and_min(head), scales, quants, to, |i, j| {
        (high[j] >> i & 1) << 4
    });
}

pub(super) fn q6_k(block: &[u8; 210], to: &mut [f32; 256]) {
    let (low, rest) = split::<128, 82>(block);
    let (high, rest) = split::<64, 18>(rest);
    let (scales, d) = split::<16, 2>(rest);
    let d = half(*d);
    for (i, to) in to.iter_mut().enumerate() {
        // Halves of 128 values, quarters of 32 in each.
        let (side, quarter, j) = (i / 128, i / 32 % 4, i % 32);
        let low = low[side * 64 + quarter % 2 * 32 + j] >> (quarter / 2 * 4) & 15;
        let high = high[side * 32 + j] >> (quarter * 2) & 3;
        let scale = d * f32::from(scales[i / 16] as i8);
        *to = scale * (f32::from(low | high << 4) - 32.0);
    }
}

fn scale_and_min(head: &[u8; 4]) -> [f32; 2] {
    let [a, b, c, d] = *head;
    [half([a, b]), half([c, d])]
}

/// The first `A` bytes and the other `B`; there are as many.
fn split<const A: usize, const B: usize>(bytes: &[u8]) -> (&[u8; A], &[u8; B]) {
    const { assert!(A > 0 && B > 0) };
    match (bytes.first_chunk(), bytes.last_chunk()) {
        (Some(first), Some(last)) => (first, last),
        _ => (&[0; A], &[0; B]),
    }
}
