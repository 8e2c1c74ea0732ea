//! Where a step's time goes: a bar a kernel.

use super::{FAINT, SERIES, TEXT, failed, font, sheet, title};
use crate::bench::report::{Report, Row, Suite};
use crate::{Error, Result};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Bars at the most; the rest share the last one.
const MOST: usize = 12;

/// Height of a bar with its name, in pixels.
const HEIGHT: u32 = 64;

/// The kernels of a UNet forward by their share of its time, as SVG.
///
/// # Errors
/// [`Error::Invalid`] where the report has none.
pub fn step(report: &Report) -> Result<String> {
    let mut rows: Vec<&Row> = report.of(Suite::Step).collect();
    if rows.is_empty() {
        return Err(Error::invalid(
            "svg",
            "a step's time",
            "needs the kernels of a forward in the report; run `calotype bench model`",
        ));
    }
    rows.sort_by(|a, b| b.summary.median.total_cmp(&a.summary.median));
    let total: f64 = rows.iter().map(|row| row.summary.median).sum();
    let mut bars: Vec<(String, f64)> = rows
        .iter()
        .take(MOST)
        .map(|row| (row.subject.name.clone(), row.summary.median))
        .collect();
    let rest: f64 = rows.iter().skip(MOST).map(|row| row.summary.median).sum();
    if rest > 0.0 {
        let count = rows.len() - MOST;
        bars.push((format!("{count} other kernels"), rest));
    }
    let most = bars.iter().map(|bar| bar.1).fold(0.0, f64::max);
    let size = (960, 96 + HEIGHT * bars.len() as u32);
    sheet(size, |area| {
        let text = |text: String, at: (i32, i32), style: TextStyle<'static>| {
            area.draw(&Text::new(text, at, style)).map_err(failed)
        };
        text(
            title(report, "Where a step's time goes"),
            (24, 24),
            font(TEXT * 1.2),
        )?;
        for (i, (name, seconds)) in bars.iter().enumerate() {
            let y = 84 + (HEIGHT * i as u32) as i32;
            let share = seconds / total;
            let length = (912.0 * seconds / most).max(2.0) as i32;
            let label = shortened(name, 56);
            text(label, (24, y), font(TEXT * 0.9))?;
            let figure = format!("{:.1} %", 100.0 * share);
            let right = font(TEXT * 0.9).pos(Pos::new(HPos::Right, VPos::Top));
            text(figure, (936, y), right)?;
            let (top, bottom) = (y + 30, y + 48);
            let bar = [(24, top), (24 + length, bottom)];
            area.draw(&Rectangle::new(bar, SERIES[0].filled()))
                .map_err(failed)?;
            let line = [(24, bottom), (936, bottom)];
            area.draw(&PathElement::new(line, FAINT.stroke_width(1)))
                .map_err(failed)?;
        }
        Ok(())
    })
}

/// At most `most` letters.
fn shortened(name: &str, most: usize) -> String {
    match name.chars().count() > most {
        true => name.chars().take(most - 1).chain(['…']).collect(),
        false => name.into(),
    }
}
