//! Pictures of reports, as SVG that follows a reader's light or dark mode.

mod bars;
mod roofline;

pub use bars::step;
pub use roofline::roofline;

use crate::Error;
use plotters::prelude::*;

/// Pixels. Text is large enough to be read at half of it.
const SIZE: (u32, u32) = (960, 640);

/// Of the text of axes and names.
const TEXT: f64 = 26.0;

/// Colours of the light mode; [`themed`] has those of the dark.
const INK: RGBColor = RGBColor(0x22, 0x22, 0x26);
const FAINT: RGBColor = RGBColor(0xc9, 0xc9, 0xd1);
const PAPER: RGBColor = RGBColor(0xfd, 0xfd, 0xfe);

/// Series, told apart by colour-blind readers as well (Okabe and Ito, 2008).
const SERIES: [RGBColor; 6] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0x99, 0x70, 0x00),
    RGBColor(0x56, 0x5e, 0x9f),
];

fn font(size: f64) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::internal("chart", error.to_string())
}

/// Light and dark colours, by name of the light one.
fn themed(svg: &str) -> String {
    let hex = |c: RGBColor| format!("#{:02X}{:02X}{:02X}", c.0, c.1, c.2);
    let dark = [
        (hex(INK), "#e8e8ee"),
        (hex(FAINT), "#46464f"),
        (hex(PAPER), "#17171b"),
        (hex(SERIES[0]), "#5bb8ee"),
        (hex(SERIES[1]), "#f5904a"),
        (hex(SERIES[2]), "#3dd3aa"),
        (hex(SERIES[3]), "#e9a7cb"),
        (hex(SERIES[4]), "#e0b93c"),
        (hex(SERIES[5]), "#a4abea"),
    ];
    let rules = dark.iter().map(|(light, dark)| {
        format!("[fill=\"{light}\"]{{fill:{dark}}}[stroke=\"{light}\"]{{stroke:{dark}}}")
    });
    let style = format!(
        "<style>text{{font-family:system-ui,sans-serif}}@media (prefers-color-scheme:dark){{{}}}</style>",
        rules.collect::<String>()
    );
    match svg.find("xmlns=\"http://www.w3.org/2000/svg\">") {
        Some(at) => {
            let end = at + "xmlns=\"http://www.w3.org/2000/svg\">".len();
            format!("{}\n{style}{}", &svg[..end], &svg[end..])
        }
        None => svg.into(),
    }
}

/// Draws with `draw` on an empty sheet.
fn sheet(
    size: (u32, u32),
    draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> crate::Result<()>,
) -> crate::Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&PAPER).map_err(failed)?;
        draw(&area)?;
        area.present().map_err(failed)?;
    }
    Ok(themed(&svg))
}

/// The adapter, at the top of a chart.
fn title(report: &super::report::Report, what: &str) -> String {
    format!("{what}, {}", report.device.adapter)
}
