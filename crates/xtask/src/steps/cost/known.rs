//! What a call cost when `benches/cost.toml` was written, and what it may cost.

use std::cmp::Reverse;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::Cost;
use super::callgrind::Functions;
use crate::harness::paths;

/// The file names functions that need so many instructions per call.
const KEPT: u64 = 300;

/// What the file says of itself.
const HEAD: &str = "\
# User-space instructions per call, by `cargo xtask cost --write`, and by function. `cargo xtask cost` fails where mcpool
# needs more than `mcpool` x (1 + tolerance) or than `most`; `passthrough` tells whether the machine or the compiler changed.
";

/// The file.
#[derive(Debug)]
pub(super) struct Known(Table);

impl Known {
    /// Reads it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn read() -> Result<Self> {
        let file = file();
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        Ok(Self(text.parse()?))
    }

    /// The figure, what mcpool may need at most, and what the pass-through needed.
    ///
    /// # Errors
    /// When one of them is missing.
    pub(super) fn figures(&self, transport: &str) -> Result<(u64, u64, u64)> {
        let tolerance = self.0.get("tolerance").and_then(Value::as_float).context("tolerance")?;
        let of = |key: &str| {
            let number = self.0.get(transport).and_then(|table| table.get(key)).and_then(Value::as_integer);
            number.and_then(|number| u64::try_from(number).ok()).with_context(|| format!("{transport}.{key}"))
        };
        let figure = of("mcpool")?;
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "thousands"
        )]
        let tolerated = (figure as f64 * (1.0 + tolerance)) as u64;
        Ok((figure, tolerated.min(of("most")?), of("passthrough")?))
    }

    /// The functions that need more than they did, the most first, with what they needed and need. One that the file
    /// does not name needed less than `KEPT`.
    pub(super) fn grown(&self, transport: &str, now: &Functions) -> Vec<(String, u64, u64)> {
        let table = self.0.get(transport).and_then(|table| table.get("functions"));
        let before =
            |name: &str| table?.get(name)?.as_integer().and_then(|number| u64::try_from(number).ok());
        let mut grown: Vec<_> = now
            .iter()
            .map(|(name, now)| (name.clone(), before(name).unwrap_or(KEPT), *now))
            .filter(|(_, before, now)| now > before)
            .collect();
        grown.sort_by_key(|(_, before, now)| Reverse(now - before));
        grown
    }

    /// Takes new figures of one transport.
    pub(super) fn take(&mut self, transport: &str, mcpool: &Cost, passthrough: u64) {
        let number = |count: u64| Value::Integer(i64::try_from(count).unwrap_or(i64::MAX));
        let functions = mcpool.functions.iter().filter(|(_, count)| **count >= KEPT);
        let functions = functions.map(|(name, count)| (name.clone(), number(*count))).collect();
        if let Some(table) = self.0.get_mut(transport).and_then(Value::as_table_mut) {
            table.insert("mcpool".into(), number(mcpool.all));
            table.insert("passthrough".into(), number(passthrough));
            table.insert("functions".into(), Value::Table(functions));
        }
    }

    /// Writes the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn write(&self) -> Result<()> {
        Ok(fs::write(file(), self.text()?)?)
    }

    fn text(&self) -> Result<String> {
        Ok(format!("{HEAD}\n{}", toml::to_string(&self.0)?))
    }
}

fn file() -> PathBuf {
    paths::root().join("benches").join("cost.toml")
}

#[cfg(test)]
mod tests {
    use super::{Cost, Functions, Known};

    fn functions(counts: &[(&str, u64)]) -> Functions {
        counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn the_lower_of_both_limits_holds_and_growth_has_names() {
        let text = "tolerance = 0.03\n[sse]\nmcpool = 1\nmost = 10200\npassthrough = 1\n";
        let mut known = Known(text.parse().expect("a file"));
        let cost = |all| Cost { all, functions: functions(&[("a<'b>", 5000), ("c", 4000), ("small", 299)]) };
        known.take("sse", &cost(9000), 4000);
        assert_eq!(known.figures("sse").expect("figures"), (9000, 9270, 4000));
        known.take("sse", &cost(10_000), 4000);
        let known = Known(known.text().expect("a text").parse().expect("a file"));
        assert_eq!(known.figures("sse").expect("figures"), (10_000, 10_200, 4000));
        let now = functions(&[("a<'b>", 5001), ("c", 3000), ("new", 900), ("small", 300)]);
        let grown = [("new".to_owned(), 300, 900), ("a<'b>".to_owned(), 5000, 5001)];
        assert_eq!(known.grown("sse", &now), grown);
        assert!(known.figures("streamable").is_err(), "a transport that the file does not name");
    }

    #[test]
    fn the_file_has_every_transport() {
        let known = Known::read().expect("the file");
        for (transport, ..) in super::super::TRANSPORTS {
            assert!(known.figures(transport).is_ok(), "{transport}");
        }
    }
}
