//! Markdown tables and numbers for people.

use comfy_table::{CellAlignment, Table, presets};

/// A table of `rows` under `heads`; the columns `right` are numbers.
pub fn markdown(heads: &[&str], right: &[usize], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(heads);
    for row in rows {
        table.add_row(row.iter().map(|cell| escaped(cell)));
    }
    for i in right {
        if let Some(column) = table.column_mut(*i) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut lines: Vec<String> = table.to_string().lines().map(str::to_string).collect();
    if let Some(rule) = lines.get_mut(1) {
        *rule = aligned(rule, right);
    }
    lines.join("\n")
}

/// The rule below the heads, with the colons that make Markdown set numbers to the right.
fn aligned(rule: &str, right: &[usize]) -> String {
    let cells = rule.trim_matches('|').split('|').enumerate();
    let cells = cells.map(|(i, dashes)| match right.contains(&i) {
        true => format!("{}:", &dashes[..dashes.len() - 1]),
        false => dashes.to_string(),
    });
    format!("|{}|", cells.collect::<Vec<_>>().join("|"))
}

/// What must not be read as the end of a cell.
fn escaped(cell: &str) -> String {
    cell.replace('|', "\\|").replace('\n', " ")
}

/// About three digits.
pub fn figures(x: f64) -> String {
    match x.abs() {
        a if a >= 100.0 || x.fract() == 0.0 => format!("{x:.0}"),
        a if a >= 10.0 => format!("{x:.1}"),
        a if a >= 1.0 => format!("{x:.2}"),
        a if a >= 0.1 => format!("{x:.3}"),
        _ => format!("{x:.4}"),
    }
}

/// Seconds in the unit that reads best.
pub fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{} s", figures(s)),
        s if s >= 1e-3 => format!("{} ms", figures(s * 1e3)),
        s => format!("{} µs", figures(s * 1e6)),
    }
}
