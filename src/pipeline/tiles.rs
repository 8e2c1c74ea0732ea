//! Tiles of a picture: where they lie, and how they are put together.

/// A picture put together from weighted tiles.
pub(super) struct Blend {
    size: [usize; 2],
    sum: Vec<f32>,
    weight: Vec<f32>,
}

impl Blend {
    pub fn new(size: [usize; 2], channels: usize) -> Self {
        let plane = size[0] * size[1];
        Self {
            size,
            sum: vec![0.0; channels * plane],
            weight: vec![0.0; plane],
        }
    }

    /// Adds a tile `[c, side]` whose first pixel is `start`.
    pub fn add(&mut self, tile: &[f32], start: [usize; 2], side: [usize; 2], ramp: usize) {
        let [h, w] = self.size;
        let rows = weights(start[0], side[0], h, ramp);
        let columns = weights(start[1], side[1], w, ramp);
        for (i, row) in rows.iter().enumerate() {
            let at = (start[0] + i) * w + start[1];
            for (j, column) in columns.iter().enumerate() {
                self.weight[at + j] += row * column;
            }
            for (k, plane) in tile.chunks(side[0] * side[1]).enumerate() {
                let to = &mut self.sum[k * h * w + at..][..side[1]];
                let from = &plane[i * side[1]..][..side[1]];
                for ((to, from), column) in to.iter_mut().zip(from).zip(&columns) {
                    *to += row * column * from;
                }
            }
        }
    }

    pub fn finish(mut self) -> Vec<f32> {
        for plane in self.sum.chunks_mut(self.weight.len().max(1)) {
            for (value, weight) in plane.iter_mut().zip(&self.weight) {
                *value /= weight;
            }
        }
        self.sum
    }
}

/// Where tiles of `side` begin along `length`, at least `overlap` shared, on
/// multiples of `step`.
pub(super) fn starts(length: usize, side: usize, overlap: usize, step: usize) -> Vec<usize> {
    if side >= length {
        return vec![0];
    }
    let count = (length - overlap).div_ceil(side - overlap);
    let last = length - side;
    (0..count)
        .map(|i| (last * i / (count - 1).max(1)) / step * step)
        .collect()
}

/// Weights of a tile's lines: a ramp over `ramp` lines at the edges that face
/// other tiles.
fn weights(start: usize, side: usize, length: usize, ramp: usize) -> Vec<f32> {
    let rise = |i: usize| ((i as f32 + 0.5) / ramp.max(1) as f32).min(1.0);
    (0..side)
        .map(|i| {
            let low = if start == 0 { 1.0 } else { rise(i) };
            let high = if start + side >= length {
                1.0
            } else {
                rise(side - 1 - i)
            };
            low * high
        })
        .collect()
}

/// The planes `[c, from]` at `to` lines and columns, by the nearest pixels: what
/// it shows is small, but its values are spread as the whole's are.
pub(super) fn shrink(planes: &[f32], from: [usize; 2], to: [usize; 2]) -> Vec<f32> {
    let place = |i: usize, axis: usize| (2 * i + 1) * from[axis] / (2 * to[axis]);
    let mut small = Vec::new();
    for plane in planes.chunks(from[0] * from[1]) {
        for y in 0..to[0] {
            let line = &plane[place(y, 0) * from[1]..][..from[1]];
            small.extend((0..to[1]).map(|x| line[place(x, 1)]));
        }
    }
    small
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_everything_and_overlap() {
        for length in [97, 100, 128, 180, 250] {
            let all = starts(length, 96, 24, 1);
            assert_eq!(all[0], 0);
            assert_eq!(all.last().unwrap() + 96, length);
            for pair in all.windows(2) {
                assert!(pair[1] > pair[0] && pair[1] + 24 <= pair[0] + 96, "{all:?}");
            }
        }
    }

    #[test]
    fn no_pixel_has_weight_zero() {
        for (start, side) in [(0, 96), (40, 96), (160, 96)] {
            assert!(weights(start, side, 256, 24).iter().all(|w| *w > 0.0));
        }
    }
}
