//! The roofline model: what a kernel could reach at the most, by the peaks that were
//! measured (Williams, Waterman and Patterson, Roofline, CACM 52(4), 2009).

use super::report::{Row, Suite};

/// The peaks that bound a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Roofs {
    /// Operations a second with operands in f32, and with any.
    pub f32: f64,
    pub any: f64,
    /// Bytes a second between device memory and the arithmetic units.
    pub memory: f64,
}

impl Roofs {
    /// Of the rows of a report; `None` where the peaks are not among them.
    pub fn of<'a>(rows: impl Iterator<Item = &'a Row>) -> Option<Self> {
        let mut roofs = Self::default();
        for row in rows.filter(|row| row.subject.suite == Suite::Peaks) {
            let name = row.subject.name.as_str();
            let rate = row.tera_operations().unwrap_or_default() * 1e12;
            let is_f32 = name == "f32" || name.contains(" f32 to f32");
            let is_float = is_f32 || name == "f16" || name.starts_with("matrix");
            if is_f32 {
                roofs.f32 = roofs.f32.max(rate);
            }
            if is_float {
                roofs.any = roofs.any.max(rate);
            }
            if name.starts_with("memory") {
                let rate = row.giga_bytes().unwrap_or_default() * 1e9;
                roofs.memory = roofs.memory.max(rate);
            }
        }
        (roofs.any > 0.0 && roofs.memory > 0.0).then_some(roofs)
    }

    /// Operations a second that operands stored as `storage` allow.
    pub fn arithmetic(&self, storage: Option<&str>) -> f64 {
        match storage {
            Some(text) if text.starts_with("f32") && self.f32 > 0.0 => self.f32,
            _ => self.any,
        }
    }

    /// Seconds that `row` must take at the least.
    fn least_seconds(&self, row: &Row) -> Option<f64> {
        let arithmetic = self.arithmetic(row.subject.storage.as_deref());
        let operations = row.work.operations.map(|n| n / arithmetic);
        let bytes = row.work.bytes.map(|n| n / self.memory);
        match (operations, bytes) {
            (None, None) => None,
            (a, b) => Some(a.unwrap_or_default().max(b.unwrap_or_default())),
        }
    }

    /// How near `row` comes to what the peaks allow; 1 is all of it.
    pub fn share(&self, row: &Row) -> Option<f64> {
        Some(self.least_seconds(row)? / row.summary.median).filter(|share| *share > 0.0)
    }

    /// Sets the share of every row that is no peak itself.
    pub fn apply(&self, rows: &mut [Row]) {
        for row in rows {
            if ![Suite::Peaks, Suite::Serve].contains(&row.subject.suite) {
                row.share_of_peak = self.share(row);
            }
        }
    }
}
