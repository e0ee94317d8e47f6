//! The figures as they are kept: one value a round. Medians and ranges for people, all of it as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

/// Everything one run found.
#[derive(Serialize)]
pub struct Report {
    /// What it ran on.
    pub machine: BTreeMap<&'static str, String>,
    /// In the order of the stages.
    pub tables: Vec<Table>,
}

/// One stage.
#[derive(Serialize)]
pub struct Table {
    pub title: &'static str,
    /// What was done, and what the columns mean.
    pub note: String,
    pub columns: Vec<&'static str>,
    pub rows: Vec<Row>,
}

/// One thing that was measured, round for round.
#[derive(Serialize)]
pub struct Row {
    pub name: String,
    /// By column.
    pub rounds: BTreeMap<&'static str, Vec<f64>>,
}

impl Row {
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            rounds: BTreeMap::new(),
        }
    }

    /// Adds a round.
    pub fn push<const N: usize>(&mut self, figures: [(&'static str, f64); N]) {
        for (column, figure) in figures {
            self.rounds.entry(column).or_default().push(figure);
        }
    }

    /// The median of a column's rounds; of an even number of them, the lower of the two in the middle.
    pub fn median(&self, column: &str) -> Option<f64> {
        let values = self.sorted(column)?;
        Some(values[(values.len() - 1) / 2])
    }

    fn sorted(&self, column: &str) -> Option<Vec<f64>> {
        let mut values = self.rounds.get(column)?.clone();
        values.sort_by(f64::total_cmp);
        Some(values)
    }

    /// Median, and the range where it says something.
    fn cell(&self, column: &str) -> String {
        let Some(values) = self.sorted(column) else {
            return String::new();
        };
        let median = figure(values[(values.len() - 1) / 2]);
        let (least, most) = (figure(values[0]), figure(values[values.len() - 1]));
        if least == most {
            median
        } else {
            format!("{median} ({least}–{most})")
        }
    }
}

impl Report {
    /// The table of that title.
    pub fn table(&self, title: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.title == title)
    }

    /// As Markdown: medians, and in brackets least and most.
    pub fn markdown(&self) -> String {
        let mut text = String::from("# Figures\n\n");
        for (name, value) in &self.machine {
            let _ = writeln!(text, "- {name}: {value}");
        }
        for table in &self.tables {
            let _ = write!(text, "\n## {}\n\n{}\n\n", table.title, table.note);
            let _ = writeln!(text, "| | {} |", table.columns.join(" | "));
            let _ = writeln!(text, "|---|{}", "---|".repeat(table.columns.len()));
            for row in &table.rows {
                let cells: Vec<_> = table
                    .columns
                    .iter()
                    .map(|column| row.cell(column))
                    .collect();
                let _ = writeln!(text, "| {} | {} |", row.name, cells.join(" | "));
            }
        }
        text
    }
}

/// Three significant digits, thousands apart.
pub fn figure(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    if value.is_nan() {
        return "–".to_owned();
    }
    let digits = value.abs().log10().floor() as i32;
    let decimals = usize::try_from(2 - digits).unwrap_or(0);
    if decimals > 0 {
        let text = format!("{value:.decimals$}");
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    let unit = 10_f64.powi(digits - 2);
    let whole = ((value / unit).round() * unit).to_string();
    let mut text = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
