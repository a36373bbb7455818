//! What a run found: tables for people, JSON for machines, and which bars are met.

use std::io::Write as _;

use serde_json::{Value, json};

/// A table as it is printed.
#[derive(Clone, Debug, Default)]
pub struct Table {
    title: String,
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// A figure the project holds itself to.
#[derive(Clone, Debug)]
pub struct Bar {
    /// What is measured.
    pub name: String,
    /// What was measured.
    pub value: f64,
    /// What it has to be.
    pub limit: Limit,
}

/// On which side of a figure to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

/// Everything a run found.
#[derive(Debug, Default)]
pub struct Report {
    tables: Vec<Table>,
    records: Vec<Value>,
    bars: Vec<Bar>,
    wrong: u64,
    failed: u64,
    failures: Vec<String>,
}

impl Table {
    /// An empty table with these columns.
    #[must_use]
    pub fn new(title: impl Into<String>, header: &[&str]) -> Self {
        let header = header.iter().map(|&column| column.to_owned()).collect();
        Self { title: title.into(), header, rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// The table as text: the first column to the left, the others to the right.
    #[must_use]
    pub fn render(&self) -> String {
        let mut widths: Vec<_> = self.header.iter().map(|cell| cell.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let line = |cells: &[String]| {
            let mut out = String::new();
            for (index, (cell, &width)) in cells.iter().zip(&widths).enumerate() {
                let padding = " ".repeat(width - cell.chars().count());
                match index {
                    0 => out.extend([cell.as_str(), &padding]),
                    _ => out.extend(["  ", &padding, cell.as_str()]),
                }
            }
            out.trim_end().to_owned() + "\n"
        };
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!("{}\n{}{rows}", self.title, line(&self.header))
    }
}

impl Bar {
    /// Whether it is met; what could not be measured is not.
    #[must_use]
    pub fn is_met(&self) -> bool {
        match self.limit {
            Limit::AtLeast(limit) => self.value >= limit,
            Limit::AtMost(limit) => self.value <= limit,
        }
    }

    fn row(&self) -> [String; 4] {
        let limit = match self.limit {
            Limit::AtLeast(limit) => format!(">= {limit}"),
            Limit::AtMost(limit) => format!("<= {limit}"),
        };
        let verdict = if self.is_met() { "met" } else { "NOT MET" };
        [self.name.clone(), format!("{:.2}", self.value), limit, verdict.to_owned()]
    }
}

impl Report {
    /// Adds a table and prints it at once: a long run shows what it has.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn table(&mut self, table: Table) -> anyhow::Result<()> {
        say(&format!("\n{}", table.render()))?;
        self.tables.push(table);
        Ok(())
    }

    /// Adds one measurement.
    pub fn record(&mut self, record: Value) {
        self.records.push(record);
    }

    /// Adds a bar.
    pub fn bar(&mut self, name: impl Into<String>, value: f64, limit: Limit) {
        self.bars.push(Bar { name: name.into(), value, limit });
    }

    /// Counts what went wrong in a measurement.
    pub fn count(&mut self, tally: &crate::load::Tally, what: &str) {
        self.wrong += tally.wrong;
        self.failed += tally.failed;
        if let Some(failure) = &tally.first_failure
            && self.failures.len() < 20
        {
            self.failures.push(format!("{what}: {failure}"));
        }
    }

    /// Whether every call had its right answer.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.wrong == 0 && self.failed == 0
    }

    /// Whether every bar is met.
    #[must_use]
    pub fn meets_its_bars(&self) -> bool {
        self.bars.iter().all(Bar::is_met)
    }

    /// Prints the bars and what went wrong.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn conclude(&self) -> anyhow::Result<()> {
        let mut bars = Table::new("bars", &["bar", "measured", "limit", "verdict"]);
        for bar in &self.bars {
            bars.row(bar.row());
        }
        say(&format!("\n{}\nwrong answers: {}, failed calls: {}\n", bars.render(), self.wrong, self.failed))?;
        for failure in &self.failures {
            say(&format!("  {failure}\n"))?;
        }
        Ok(())
    }

    /// The run as JSON.
    #[must_use]
    pub fn to_json(&self, machine: &Value, conditions: &Value) -> Value {
        let bars: Vec<_> = self
            .bars
            .iter()
            .map(|bar| json!({ "name": bar.name, "value": bar.value, "met": bar.is_met(), "limit": bar.row()[2] }))
            .collect();
        json!({
            "machine": machine,
            "conditions": conditions,
            "measurements": self.records,
            "bars": bars,
            "wrong_answers": self.wrong,
            "failed_calls": self.failed,
            "failures": self.failures,
        })
    }
}

/// Prints to standard output.
///
/// # Errors
/// When it is closed.
pub fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// The middle value, the mean of the middle two; NaN of nothing, so that no bar is met by it.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match (values.len(), values.len() / 2) {
        (0, _) => f64::NAN,
        (length, middle) if length % 2 == 1 => values[middle],
        (_, middle) => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Tally;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new("speed", &["who", "calls/s"]);
        table.row(["direct".into(), "12".into()]);
        table.row(["mcpool".into(), "1234567890".into()]);
        assert_eq!(table.render(), "speed\nwho        calls/s\ndirect          12\nmcpool  1234567890\n");
    }

    #[test]
    fn medians_of_odd_even_and_no_values() {
        assert_eq!(median([3.0, 1.0, 2.0]).to_bits(), 2.0_f64.to_bits());
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]).to_bits(), 2.5_f64.to_bits());
        assert!(median([]).is_nan());
    }

    #[test]
    fn a_bar_without_a_value_is_not_met() {
        let bar = |value, limit| Bar { name: String::new(), value, limit }.is_met();
        assert!(bar(0.5, Limit::AtLeast(0.5)) && bar(0.5, Limit::AtMost(0.5)));
        assert!(!bar(f64::NAN, Limit::AtLeast(0.5)) && !bar(f64::NAN, Limit::AtMost(0.5)));
        assert!(!bar(0.4, Limit::AtLeast(0.5)) && !bar(0.6, Limit::AtMost(0.5)));
    }

    #[test]
    fn one_wrong_answer_spoils_the_run_and_is_in_the_json() {
        let mut report = Report::default();
        assert!(report.is_clean());
        report.count(&Tally { wrong: 1, first_failure: Some("x".into()), ..Tally::default() }, "reuse");
        assert!(!report.is_clean());
        let written = report.to_json(&json!({}), &json!({}));
        assert_eq!(written["wrong_answers"], 1);
        assert_eq!(written["failures"][0], "reuse: x");
    }
}
