//! Measured figures: collected per contender, printed as medians with their spread and a ratio.

use std::collections::BTreeMap;

/// One row's meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    /// What was measured, with its unit.
    pub(crate) name: &'static str,
    /// Digits after the point.
    pub(crate) digits: usize,
}

/// All figures of a run, in the order of first mention.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    rows: Vec<Row>,
    values: BTreeMap<(&'static str, String), Vec<f64>>,
}

impl Figures {
    /// Adds one measurement of `contender`.
    pub(crate) fn add(&mut self, row: Row, contender: &str, value: f64) {
        if !self.rows.contains(&row) {
            self.rows.push(row);
        }
        self.values.entry((row.name, contender.to_owned())).or_default().push(value);
    }

    /// Whether nothing was measured.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// A table: each contender's median (least–most), and the first's ratio to the others.
    pub(crate) fn table(&self, contenders: &[&str]) -> String {
        let mut lines = vec![Vec::from(["figure".to_owned()])];
        for (index, contender) in contenders.iter().enumerate() {
            lines[0].push(format!("{contender}: median (min–max)"));
            if index > 0 {
                lines[0].push(format!("{} / {contender}", contenders[0]));
            }
        }
        for row in &self.rows {
            let mut line = vec![row.name.to_owned()];
            let first = self.median(row.name, contenders[0]);
            for (index, contender) in contenders.iter().enumerate() {
                line.push(self.cell(*row, contender));
                if index > 0 {
                    line.push(match (first, self.median(row.name, contender)) {
                        (Some(first), Some(other)) if other > 0.0 => format!("{:.2}", first / other),
                        _ => "–".to_owned(),
                    });
                }
            }
            lines.push(line);
        }
        align(&lines)
    }

    /// Every figure for a program to read: name, contender, median and all values.
    pub(crate) fn json(&self) -> Vec<serde_json::Value> {
        let of = |((name, contender), values): (&(&str, String), &Vec<f64>)| {
            let median = self.median(name, contender);
            serde_json::json!({"figure": name, "contender": contender, "median": median, "values": values})
        };
        self.values.iter().map(of).collect()
    }

    fn cell(&self, row: Row, contender: &str) -> String {
        let Some(values) = self.sorted(row.name, contender) else { return "–".to_owned() };
        let digits = row.digits;
        let (least, most) = (values[0], values[values.len() - 1]);
        format!("{:.digits$} ({least:.digits$}–{most:.digits$})", median_of(&values))
    }

    /// The middle of a contender's values.
    pub(crate) fn median(&self, row: &str, contender: &str) -> Option<f64> {
        self.sorted(row, contender).map(|values| median_of(&values))
    }

    fn sorted(&self, row: &str, contender: &str) -> Option<Vec<f64>> {
        let mut values = self
            .values
            .iter()
            .find_map(|((name, whose), values)| (*name == row && whose == contender).then_some(values))?
            .clone();
        values.sort_by(f64::total_cmp);
        Some(values)
    }
}

/// The middle of sorted values; the mean of the middle two where there is no middle.
fn median_of(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

/// The value below which `share` (0 to 1) of the sorted values lie.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a list of at most some thousand times has an index that f64 holds exactly"
    )]
    let index = ((sorted.len().saturating_sub(1)) as f64 * share).round() as usize;
    sorted.get(index).copied()
}

fn align(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        for (cell, width) in line.iter().zip(&widths) {
            text.push_str(cell);
            text.push_str(&" ".repeat(width - cell.chars().count() + 2));
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Row = Row { name: "rate", digits: 1 };

    #[test]
    fn the_table_has_medians_spreads_and_the_ratio_of_medians() {
        let mut figures = Figures::default();
        for value in [30.0, 10.0, 20.0] {
            figures.add(RATE, "ours", value);
        }
        figures.add(RATE, "theirs", 5.0);
        let table = figures.table(&["ours", "theirs"]);
        let row = table.lines().nth(1).unwrap();
        assert!(
            row.contains("20.0 (10.0–30.0)") && row.contains("5.0 (5.0–5.0)") && row.ends_with("4.00"),
            "{table}"
        );
    }

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let sorted: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(
            (quantile(&sorted, 0.5), quantile(&sorted, 0.99), quantile(&[], 0.5)),
            (Some(51.0), Some(99.0), None)
        );
    }
}
