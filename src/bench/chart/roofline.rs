//! The roofline: kernels by their arithmetic intensity and rate, under the peaks.

use super::{FAINT, INK, SERIES, SIZE, TEXT, failed, font, sheet, title};
use crate::bench::report::{Report, Row, Suite};
use crate::bench::roofs::Roofs;
use crate::{Error, Result};
use plotters::prelude::*;
use std::ops::Range;

/// A kernel in the plane: operations a byte, operations a second.
struct Dot {
    x: f64,
    y: f64,
    group: usize,
}

/// Names of groups of kernels, and their op; the last takes the rest.
const GROUPS: [(&str, &str); 4] = [
    ("convolutions", "conv"),
    ("attention", "attention"),
    ("linear layers", "linear"),
    ("norms and the rest", ""),
];

fn group(row: &Row) -> usize {
    let op = row.subject.op.as_deref();
    let found = GROUPS.iter().position(|(_, name)| op == Some(name));
    found.unwrap_or(GROUPS.len() - 1)
}

/// Kernels with arithmetic; the others have no place in the plane.
fn dots(report: &Report) -> Vec<Dot> {
    let rows = report.of(Suite::Kernels).chain(report.of(Suite::Step));
    let dot = |row: &Row| {
        let x = row.intensity()?;
        let y = row.tera_operations()? * 1e12;
        (y > 0.0).then(|| Dot {
            x,
            y,
            group: group(row),
        })
    };
    rows.filter_map(dot).collect()
}

/// The powers of ten around values.
fn decades(values: impl Iterator<Item = f64> + Clone) -> Range<f64> {
    let least = values.clone().fold(f64::INFINITY, f64::min);
    let most = values.fold(0.0, f64::max);
    10f64.powf(least.log10().floor())..10f64.powf((most * 1.15).log10().ceil())
}

/// The roofline of the kernels in `report`, as SVG.
///
/// # Errors
/// [`Error::Invalid`] where it has no peaks or no kernels with arithmetic.
pub fn roofline(report: &Report) -> Result<String> {
    let roofs = Roofs::of(report.rows.iter());
    let dots = dots(report);
    let (Some(roofs), false) = (roofs, dots.is_empty()) else {
        return Err(Error::invalid(
            "svg",
            "the roofline",
            "needs peaks and kernels with arithmetic in one report; run `calotype bench kernels`",
        ));
    };
    let ridge = roofs.any / roofs.memory;
    let xs = dots.iter().map(|d| d.x).chain([ridge / 2.0, ridge * 2.0]);
    let ys = dots.iter().map(|d| d.y).chain([roofs.any]);
    let (xs, ys) = (decades(xs), decades(ys));
    sheet(SIZE, |area| {
        let mut chart = ChartBuilder::on(area)
            .caption(title(report, "Roofline"), font(TEXT * 1.2))
            .margin(16)
            .margin_right(48)
            .x_label_area_size(76)
            .y_label_area_size(140)
            .build_cartesian_2d(xs.clone().log_scale(), ys.clone().log_scale())
            .map_err(failed)?;
        chart
            .configure_mesh()
            .bold_line_style(FAINT)
            .light_line_style(TRANSPARENT)
            .axis_style(INK)
            .label_style(font(TEXT))
            .axis_desc_style(font(TEXT))
            .x_desc("operations for each byte that must move")
            .x_label_formatter(&|x| short(*x))
            .y_label_formatter(&|y| format!("{}OP/s", prefixed(*y)))
            .draw()
            .map_err(failed)?;
        let mut ceilings = vec![(roofs.any, "")];
        if roofs.f32 > 0.0 && roofs.f32 < 0.95 * roofs.any {
            ceilings.push((roofs.f32, " (f32)"));
        }
        for (rate, kind) in ceilings {
            let knee = (rate / roofs.memory).clamp(xs.start, xs.end);
            let from = (ys.start / roofs.memory).max(xs.start);
            let line = [
                (from, from * roofs.memory),
                (knee, knee * roofs.memory),
                (xs.end, rate),
            ];
            let style = INK.stroke_width(3);
            chart
                .draw_series(LineSeries::new(line, style))
                .map_err(failed)?;
            let label = format!("{}OP/s{kind}", prefixed(rate));
            // At the roof's right end, or its middle where that is short.
            let at = (10f64.powf((knee.log10() + xs.end.log10()) / 2.0), rate);
            let place = plotters::style::text_anchor::Pos::new(
                plotters::style::text_anchor::HPos::Center,
                plotters::style::text_anchor::VPos::Bottom,
            );
            let text = Text::new(label, at, font(TEXT).pos(place));
            chart.draw_series([text]).map_err(failed)?;
        }
        for (i, (name, _)) in GROUPS.iter().enumerate() {
            let colour = SERIES[i];
            let own: Vec<(f64, f64)> = dots
                .iter()
                .filter(|dot| dot.group == i)
                .map(|dot| (dot.x, dot.y))
                .collect();
            if own.is_empty() {
                continue;
            }
            let circles = own.iter().map(|at| Circle::new(*at, 6, colour.filled()));
            chart
                .draw_series(circles)
                .map_err(failed)?
                .label(*name)
                .legend(move |(x, y)| Circle::new((x + 10, y), 7, colour.filled()));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .margin(16)
            .label_font(font(TEXT))
            .draw()
            .map_err(failed)?;
        let memory = format!("memory {}B/s", prefixed(roofs.memory));
        area.draw(&Text::new(memory, (176, 72), font(TEXT * 0.9)))
            .map_err(failed)
    })
}

/// 0.1, 1, 10, 1000.
fn short(x: f64) -> String {
    format!("{x}")
}

/// 4.5 T, 45 G.
fn prefixed(x: f64) -> String {
    let (value, unit) = match x {
        x if x >= 1e12 => (x / 1e12, "T"),
        x if x >= 1e9 => (x / 1e9, "G"),
        x if x >= 1e6 => (x / 1e6, "M"),
        x if x >= 1e3 => (x / 1e3, "k"),
        x => (x, ""),
    };
    match value {
        v if v >= 10.0 => format!("{v:.0} {unit}"),
        v => format!("{:.1} {unit}", v).replace(".0 ", " "),
    }
}
