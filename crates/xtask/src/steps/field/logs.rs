//! What the gateway's log says of each backend: an oddity is named, and named once, not for ever.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::Value;

/// Lines about one backend; more is a flood. Three clients come and go in the meantime.
const LINES: usize = 60;
/// The same line, besides numbers, of one backend: three clients with six requests each, all of which may fail.
const REPEATS: usize = 18;

/// The lines of a log by backend.
pub(super) struct Logs(BTreeMap<String, Vec<Line>>);

struct Line {
    /// All of it, for whoever looks for a word.
    text: String,
    /// Level and message without numbers.
    kind: String,
    loud: bool,
}

impl Logs {
    /// Reads what a gateway has logged as JSON.
    ///
    /// # Errors
    /// When there is no such file.
    pub(super) fn read(file: &Path) -> Result<Self> {
        let mut lines: BTreeMap<String, Vec<Line>> = BTreeMap::new();
        for text in String::from_utf8_lossy(&fs::read(file)?).lines() {
            let Ok(said) = serde_json::from_str::<Value>(text) else { continue };
            let Some(backend) = said["backend"].as_str() else { continue };
            let word = |key: &str| said[key].as_str().unwrap_or_default().to_owned();
            let message: String = word("message").chars().filter(|c| !c.is_ascii_digit()).collect();
            let loud = ["WARN", "ERROR"].contains(&word("level").as_str());
            let line = Line { text: text.to_lowercase(), kind: format!("{} {message}", word("level")), loud };
            lines.entry(backend.to_owned()).or_default().push(line);
        }
        Ok(Self(lines))
    }

    /// What is wrong with the lines about a backend: `log` of its row has words of which one must be there, `lines` says
    /// how many there may be.
    pub(super) fn faults(&self, backend: &str, row: &Value) -> Vec<String> {
        let lines = self.0.get(backend).map(Vec::as_slice).unwrap_or_default();
        let most = row["lines"].as_u64().map_or(LINES, |most| usize::try_from(most).unwrap_or(LINES));
        let mut faults = Vec::new();
        if let Some(words) = row["log"].as_str().filter(|words| !words.is_empty())
            && !words.split('|').any(|word| lines.iter().any(|line| line.text.contains(word)))
        {
            faults.push(format!("log: no line of {} names {words:?}", lines.len()));
        }
        if lines.len() > most {
            faults.push(format!("log: {} lines", lines.len()));
        }
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        for line in lines.iter().filter(|line| line.loud) {
            *kinds.entry(line.kind.as_str()).or_default() += 1;
        }
        if let Some((kind, count)) = kinds.into_iter().max_by_key(|(_, count)| *count)
            && count > REPEATS
        {
            faults.push(format!("log: {count} times {kind:?}"));
        }
        faults
    }
}
