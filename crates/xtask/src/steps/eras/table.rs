//! `crates/ERAS.md`: what was run in full, as a table per part, written and read.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::steps::eras::Part;
use crate::steps::eras::agents::{AGENTS, Agent};
use crate::steps::eras::places;

const HEAD: &str = "# Who meets whom

Real agents of every era against real backends of every era through the gateway, as `cargo xtask eras` runs them; this
page is written by `cargo xtask eras --table`, and the gate fails where it is not what was run.

*Legacy* is every revision with a handshake (2024-11-05 to 2025-11-25), *modern* is 2026-07-28. Where everything passed, a
cell says what the agent spoke, by its own SDK; else it says FAILED. Below a backend's name stands what it was spoken to
in, by the gateway and by what the backend has counted itself. A mode is the SDK's way of finding out the era: `auto` asks
`server/discover` and falls back, `legacy` shakes hands, `modern` insists on 2026-07-28, which is not spoken over HTTP+SSE.
Without a mode the Python SDKs are in `auto`, the others in `legacy`.

| agent | is | backend | is |
| --- | --- | --- | --- |
| py-mcp-1 | `mcp` 1.30 | mcp1 | `mcp` 1.30 |
| py-mcp-2 | `mcp` 2.3 | mcp2 | `mcp` 2.3, which speaks both eras; told to the gateway: nothing (`both`), `era = \"modern\"` |
| py-fastmcp-4 | `fastmcp` 4.1 | fastmcp4 | `fastmcp` 4.1, which speaks both |
| ts-sdk-1 | `@modelcontextprotocol/sdk` 1.32 | ts2 | `@modelcontextprotocol/server` 2.4 as it is by default (`both`, without sessions), and `legacy: 'reject'` (`strict`) |
| ts-client-2 | `@modelcontextprotocol/client` 2.4 | everything | `@modelcontextprotocol/server-everything` 2026.8.31 |
| rmcp-3 | `rmcp` 3.9 | rmcp3 | `rmcp` 3.9, which speaks both; as mcp2 |
";
const CALLS: &str = "
Four agents at once: they connect, list the tools, make sixteen parallel calls with a nonce each, follow progress, cancel a
call, call again and close. A cancelled call must be cancelled at the backend, too, except at server-everything, which
goes on, and at ts2-both, which without sessions does not hear of it in the legacy era.
";
const QUESTIONS: &str = "
Eight agents at once, two calls each, and in every call the server asks by a form: the agent that called is asked and
no other, which its own secret in the answer shows. A backend with sessions is in mode `exclusive` for that. Empty cells:
pairs within the legacy era are the business of `cargo xtask asked`, and ts2-both cannot ask without sessions.
";

/// Cells by part, row and column, and what stands below the columns' names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tables {
    cells: BTreeMap<(&'static str, String, String), String>,
    spoken: BTreeMap<String, String>,
}

impl Tables {
    /// Adds the cells of one row.
    pub(crate) fn rows(&mut self, part: Part, agent: &Agent, cells: Vec<(&'static str, String)>) {
        for (column, text) in cells {
            self.cells.insert((title(part), agent.name(), column.to_owned()), text);
        }
    }

    /// Adds what was spoken to a backend.
    pub(crate) fn header(&mut self, column: &str, spoken: &str) {
        self.spoken.insert(column.to_owned(), spoken.to_owned());
    }

    /// What another one says goes before what is here.
    pub(crate) fn overlay(&mut self, newer: Self) {
        self.cells.extend(newer.cells);
        self.spoken.extend(newer.spoken);
    }

    /// The page.
    pub(crate) fn render(&self) -> String {
        let mut page = HEAD.to_owned();
        for (part, text) in [(Part::Calls, CALLS), (Part::Questions, QUESTIONS)] {
            let _ = write!(page, "\n## {}\n{text}\n| agent |", title(part));
            for place in &places::ALL {
                let spoken = self.spoken.get(place.name).map_or("", String::as_str);
                let _ = write!(page, " {}<br>{spoken} |", place.name);
            }
            let _ = write!(page, "\n| --- |{}\n", " --- |".repeat(places::ALL.len()));
            for agent in &AGENTS {
                let _ = write!(page, "| {} |", agent.name());
                for place in &places::ALL {
                    let key = (title(part), agent.name(), place.name.to_owned());
                    let _ = write!(page, " {} |", self.cells.get(&key).map_or("", String::as_str));
                }
                page.push('\n');
            }
        }
        page
    }

    /// What a page says.
    pub(crate) fn read(page: &str) -> Self {
        let mut tables = Self::default();
        let mut part = None;
        let mut columns = Vec::new();
        for line in page.lines() {
            if let Some(heading) = line.strip_prefix("## ") {
                part = [Part::Calls, Part::Questions].map(title).into_iter().find(|title| *title == heading);
            }
            let (Some(part), Some(line)) = (part, line.strip_prefix("| ")) else { continue };
            let words: Vec<&str> = line.trim_end_matches('|').split('|').map(str::trim).collect();
            match words.as_slice() {
                ["---", ..] | [] => {}
                ["agent", named @ ..] => {
                    columns =
                        named.iter().map(|name| name.split_once("<br>").unwrap_or((name, ""))).collect();
                    let spoken =
                        columns.iter().map(|(name, spoken)| ((*name).to_owned(), (*spoken).to_owned()));
                    tables.spoken.extend(spoken);
                }
                [agent, cells @ ..] => {
                    for ((column, _), text) in columns.iter().zip(cells).filter(|(_, text)| !text.is_empty())
                    {
                        let key = (part, (*agent).to_owned(), (*column).to_owned());
                        tables.cells.insert(key, (*text).to_owned());
                    }
                }
            }
        }
        tables
    }

    /// Where another one says something else of what is here.
    pub(crate) fn differences(&self, known: &Self) -> Vec<String> {
        let cells = self.cells.iter().filter(|(key, text)| known.cells.get(*key) != Some(*text));
        let mut texts: Vec<String> = cells
            .map(|((part, agent, column), text)| format!("{part}, {agent}, {column} is {text:?}"))
            .collect();
        let spoken = self.spoken.iter().filter(|(name, spoken)| known.spoken.get(*name) != Some(*spoken));
        texts.extend(spoken.map(|(name, spoken)| format!("{name} is spoken to in {spoken:?}")));
        texts
    }
}

fn title(part: Part) -> &'static str {
    match part {
        Part::Calls => "Calls",
        Part::Questions => "Questions",
    }
}

#[cfg(test)]
mod tests {
    use super::{AGENTS, Part, Tables, places, title};

    fn some() -> Tables {
        let mut tables = Tables::default();
        tables.rows(Part::Calls, &AGENTS[0], vec![("mcp1-sse", "legacy".to_owned())]);
        tables.rows(Part::Questions, &AGENTS[4], vec![("ts2-strict", "modern".to_owned())]);
        places::ALL.iter().for_each(|place| tables.header(place.name, "legacy"));
        tables
    }

    #[test]
    fn a_page_says_what_it_was_written_from() {
        assert_eq!(Tables::read(&some().render()), some());
    }

    #[test]
    fn a_cell_that_is_otherwise_is_told() {
        let mut ran = Tables::default();
        ran.rows(Part::Calls, &AGENTS[0], vec![("mcp1-sse", "modern".to_owned())]);
        assert_eq!(ran.differences(&some()), ["Calls, py-mcp-1 legacy sse, mcp1-sse is \"modern\""]);
        assert_eq!(some().differences(&some()), Vec::<String>::new());
    }

    #[test]
    fn the_committed_page_has_every_pair_and_no_other() {
        let known = Tables::read(include_str!("../../../../ERAS.md"));
        let mut expected = Vec::new();
        for part in Part::ALL {
            for agent in &AGENTS {
                let places = places::ALL.iter().filter(|place| place.takes(part, agent));
                expected.extend(places.map(|place| (title(part), agent.name(), place.name.to_owned())));
            }
        }
        expected.sort();
        assert_eq!(known.cells.into_keys().collect::<Vec<_>>(), expected);
    }
}
