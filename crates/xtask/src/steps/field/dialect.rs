//! The table of dialects: `tests/field/dialects/*.toml`, each row made into one dialect per variant and transport.
//!
//! The subtle thing: `each` of a row lists its variants, a value or a table of words; `@word` in any text of the row
//! becomes the variant's word, and a text that is nothing but `@word` keeps the word's own type.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use crate::harness::paths;

/// One server the laboratory has.
#[derive(Debug, Clone)]
pub(crate) struct Dialect {
    /// Its name, which is also that of its backends.
    pub(crate) name: String,
    /// `http`, `sse` or `stdio`.
    pub(crate) transport: String,
    /// Modes it is served in through the gateway.
    pub(crate) modes: Vec<String>,
    /// What the row says, for whom runs the servers and for whom judges.
    pub(crate) value: Value,
}

/// Every dialect, in the order of the files' names and of their rows.
///
/// # Errors
/// When a file cannot be read or a row is no row.
pub(crate) fn all() -> Result<Vec<Dialect>> {
    let mut dialects = Vec::new();
    for row in rows()? {
        dialects.extend(expanded(&row)?);
    }
    Ok(dialects)
}

fn rows() -> Result<Vec<Map<String, Value>>> {
    let folder = paths::root().join("tests").join("field").join("dialects");
    let mut files: Vec<_> = fs::read_dir(&folder)?.collect::<std::io::Result<Vec<_>>>()?;
    files.sort_by_key(std::fs::DirEntry::file_name);
    let mut rows = Vec::new();
    for file in files {
        let shown = file.path().display().to_string();
        let table: toml::Table = fs::read_to_string(file.path())?.parse().with_context(|| shown.clone())?;
        let Value::Object(table) = serde_json::to_value(table)? else { bail!("{shown}: no table") };
        for row in table.get("dialect").and_then(Value::as_array).with_context(|| shown.clone())? {
            rows.push(row.as_object().cloned().with_context(|| shown.clone())?);
        }
    }
    Ok(rows)
}

/// The dialects of one row.
fn expanded(row: &Map<String, Value>) -> Result<Vec<Dialect>> {
    let texts = |key: &str, default: &[&str]| -> Vec<String> {
        let given = row.get(key).and_then(Value::as_array);
        given.map_or_else(
            || default.iter().map(|&word| word.to_owned()).collect(),
            |list| list.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect(),
        )
    };
    let (transports, modes) = (texts("transports", &["http"]), texts("modes", &["shared", "pinned"]));
    let variants = row.get("each").and_then(Value::as_array).cloned().unwrap_or_else(|| vec![Value::Null]);
    let mut dialects = Vec::new();
    for variant in &variants {
        let words = words(variant);
        for transport in &transports {
            let Value::Object(mut value) = filled(&Value::Object(row.clone()), &words) else { continue };
            // A variant may be known from another report than its row.
            if let Some(source) = words.get("source") {
                value.insert("source".to_owned(), source.clone());
            }
            let suffix = if transports.len() > 1 { format!("-{transport}") } else { String::new() };
            let own = format!("{}{suffix}", text(&value, "name")?);
            value.insert("name".to_owned(), json!(own));
            value.insert("transport".to_owned(), json!(transport));
            value.remove("each");
            dialects.push(Dialect {
                name: own,
                transport: transport.clone(),
                modes: modes.clone(),
                value: Value::Object(value),
            });
        }
    }
    Ok(dialects)
}

fn text(row: &Map<String, Value>, key: &str) -> Result<String> {
    row.get(key).and_then(Value::as_str).map(str::to_owned).with_context(|| format!("a row's {key}: {row:?}"))
}

/// The words of a variant, and those every row has.
fn words(variant: &Value) -> BTreeMap<String, Value> {
    let common = BTreeMap::from([
        ("newline".to_owned(), json!("\n")),
        ("long".to_owned(), json!("x".repeat(4096))),
        ("pad".to_owned(), json!("x".repeat(20_000))),
        ("half".to_owned(), json!("x".repeat(1 << 20))),
        ("big".to_owned(), json!("x".repeat(2 << 20))),
        ("deep".to_owned(), json!(format!("{}{}", "[".repeat(200), "]".repeat(200)))),
    ]);
    let mut words = common.clone();
    match variant {
        Value::Object(own) => words.extend(own.iter().map(|(key, one)| (key.clone(), filled(one, &common)))),
        Value::Null => {}
        one => {
            words.insert("each".to_owned(), one.clone());
        }
    }
    words
}

/// A value with its words filled in; longer words first, so that none is taken for another's beginning.
fn filled(value: &Value, words: &BTreeMap<String, Value>) -> Value {
    match value {
        Value::String(text) if text.contains('@') => {
            if let Some(word) = text.strip_prefix('@').and_then(|word| words.get(word)) {
                return word.clone();
            }
            let mut by_length: Vec<_> = words.iter().collect();
            by_length.sort_by_key(|(word, _)| std::cmp::Reverse(word.len()));
            let mut text = text.clone();
            for (word, own) in by_length {
                let own = own.as_str().map_or_else(|| own.to_string(), str::to_owned);
                text = text.replace(&format!("@{word}"), &own);
            }
            Value::String(text)
        }
        Value::Array(list) => list.iter().map(|one| filled(one, words)).collect(),
        Value::Object(table) => {
            // The variants themselves are words, not texts with words.
            let kept = table.iter().filter(|(key, _)| *key != "each");
            Value::Object(kept.map(|(key, one)| (key.clone(), filled(one, words))).collect())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{all, rows};

    /// `seen by trial`, or `owner/name#number`.
    fn well_formed(source: &str) -> bool {
        source == "seen by trial"
            || source.split_once('#').is_some_and(|(place, number)| {
                place.split('/').filter(|part| !part.is_empty()).count() == 2
                    && !place.contains(' ')
                    && number.parse::<u32>().is_ok()
            })
    }

    #[test]
    fn the_table_holds_at_least_ninety_rows_with_names_and_sources() {
        let rows = rows().expect("the table");
        assert!(rows.len() >= 90, "{} rows", rows.len());
        let dialects = all().expect("the table");
        let mut names = BTreeSet::new();
        for dialect in &dialects {
            let name = &dialect.name;
            assert!(names.insert(name.clone()), "{name}: twice");
            let legal = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
            assert!(legal && name.len() <= 60, "{name}: no name of a backend");
            let of = |key: &str| dialect.value[key].as_str().unwrap_or_default().to_owned();
            assert!(well_formed(&of("source")), "{name}: its source is {:?}", of("source"));
            assert!(of("says").len() > 10, "{name}: what it does");
            assert!(["http", "sse", "stdio"].contains(&dialect.transport.as_str()), "{name}: its transport");
            let left = dialect.value.to_string();
            assert!(
                !left.contains("\"@"),
                "{name}: a word without a meaning: {}",
                &left[..left.len().min(400)]
            );
        }
    }

    #[test]
    fn a_word_keeps_its_type_where_it_stands_alone() {
        let dialects = all().expect("the table");
        let one = dialects.iter().find(|one| one.name == "get-refused-401").expect("a variant");
        assert_eq!(one.value["rules"][0]["status"], 401);
    }
}
