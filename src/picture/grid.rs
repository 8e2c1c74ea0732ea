//! Contact sheets: several pictures on one.

use super::{MOST_SIDE, Picture};
use crate::{Error, Result};

/// The columns and rows of a sheet of `count` pictures: as near to a square as
/// AUTOMATIC1111's program makes them, `round(√count)` rows.
pub fn grid_shape(count: usize) -> (usize, usize) {
    let rows = ((count as f64).sqrt().round() as usize).max(1);
    (count.div_ceil(rows), rows)
}

/// The size in pixels of a sheet of `count` pictures of `width` times `height`.
///
/// [`Error::Invalid`] where a side would have more than [`MOST_SIDE`] pixels: the
/// files of some formats, and most readers, hold no more.
pub fn grid_size(count: usize, width: usize, height: usize) -> Result<(usize, usize)> {
    let (columns, rows) = grid_shape(count);
    let (across, down) = (columns.saturating_mul(width), rows.saturating_mul(height));
    if across.max(down) > MOST_SIDE {
        let allowed = format!(
            "a side may have at most {MOST_SIDE} pixels; ask for fewer or smaller pictures"
        );
        return Err(Error::invalid("grid", format!("{across}x{down}"), allowed));
    }
    Ok((across, down))
}

/// One sheet with all `pictures`, row by row and without borders; places without a
/// picture are black.
///
/// [`Error::Invalid`] where there are none, they differ in size, or the sheet is
/// too large (see [`grid_size`]).
pub fn grid(pictures: &[Picture]) -> Result<Picture> {
    let Some(first) = pictures.first() else {
        return Err(Error::invalid("grid", "empty", "needs a picture"));
    };
    let (width, height) = grid_size(pictures.len(), first.width, first.height)?;
    let (columns, _) = grid_shape(pictures.len());
    let mut rgb = vec![0; 3 * width * height];
    for (index, picture) in pictures.iter().enumerate() {
        if (picture.width, picture.height) != (first.width, first.height) {
            let size = format!("{}x{} beside others", picture.width, picture.height);
            let allowed = format!("all must be {}x{}", first.width, first.height);
            return Err(Error::invalid("grid's picture", size, allowed));
        }
        let (left, top) = (
            index % columns * first.width,
            index / columns * first.height,
        );
        let line = 3 * first.width;
        for (y, row) in picture.rgb.chunks_exact(line.max(1)).enumerate() {
            let start = 3 * ((top + y) * width + left);
            rgb[start..start + line].copy_from_slice(row);
        }
    }
    Ok(Picture { width, height, rgb })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(width: usize, height: usize, grey: u8) -> Picture {
        Picture {
            width,
            height,
            rgb: vec![grey; width * height * 3],
        }
    }

    #[test]
    fn sheets_are_near_to_squares() {
        let shapes = [1, 2, 3, 4, 5, 6, 7, 8, 9, 64].map(grid_shape);
        let expected = [
            (1, 1),
            (2, 1),
            (2, 2),
            (2, 2),
            (3, 2),
            (3, 2),
            (3, 3),
            (3, 3),
            (3, 3),
            (8, 8),
        ];
        assert_eq!(shapes, expected);
    }

    #[test]
    fn pictures_are_laid_row_by_row() {
        let sheet = grid(&[plain(2, 1, 10), plain(2, 1, 20), plain(2, 1, 30)]).unwrap();
        assert_eq!((sheet.width, sheet.height), (4, 2));
        let greys: Vec<u8> = sheet.rgb.iter().step_by(3).copied().collect();
        assert_eq!(greys, [10, 10, 20, 20, 30, 30, 0, 0]);
        let one = plain(3, 2, 9);
        assert_eq!(grid(std::slice::from_ref(&one)).unwrap(), one);
    }

    #[test]
    fn sheets_that_cannot_be_are_refused() {
        assert!(grid(&[]).unwrap_err().is_usage());
        let unlike = grid(&[plain(2, 2, 0), plain(2, 1, 0)]).unwrap_err();
        assert!(unlike.to_string().contains("2x1"), "{unlike}");
        let large = grid_size(64, 8192, 8192).unwrap_err().to_string();
        assert!(large.contains("grid is 65536x65536"), "{large}");
        assert!(grid_size(usize::MAX, usize::MAX, 1).is_err());
        assert_eq!(grid_size(4, 8192, 64).unwrap(), (16384, 128));
    }
}
