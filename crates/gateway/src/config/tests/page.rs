//! `config/CONFIG.md` shows `config/mcpool.toml` as tables with defaults, types and keys that need a restart.
//! `MCPOOL_WRITE_PAGES=1` regenerates it.

use std::fmt::Write as _;

use toml::{Table, Value};

use super::{file::read, *};
use mcpool_router::settings::value::{parse_duration, parse_size, show_duration, show_size};

const FILE: &str = include_str!("../../../../../config/mcpool.toml");
const HEAD: &str = "<!-- written by: MCPOOL_WRITE_PAGES=1 cargo nextest run -p mcpool page -->\n
# Configuration keys

Every key of the configuration file, from the same source as [mcpool.toml](mcpool.toml), which is the file to copy from.
A key that is left out has its default; an unknown key is an error. `mcpool check --config FILE` names every mistake in a
file with its line, and `--print` shows the values in force.

- A *duration* is a string with a unit: `ms`, `s`, `m`, `h`, `d` (`\"500ms\"`, `\"10s\"`). A *size* has `B`, `KiB`, `MiB` or
  `GiB` (`\"16MiB\"`).
- Strings may hold environment variables: `\"${TOKEN}\"`, or `\"${TOKEN:-default}\"`; `\"$${\"` is a plain `\"${\"`.
- A change of the file is applied while the gateway runs (`watch`, SIGHUP, `mcpool reload`). A key marked *restart* keeps
  its old value until the gateway is restarted; the log names such keys.
- A dot is a table within a table: `breaker.hold = \"5s\"`, or `hold = \"5s\"` under `[backends.NAME.breaker]`.
";

/// A key or a table header of the file.
enum Item {
    Table { name: String, meaning: String },
    Key { table: String, key: String, value: String, is_set: bool, meaning: String },
}

fn items() -> Vec<Item> {
    let (mut items, mut prose, mut table) = (Vec::new(), Vec::new(), String::new());
    for line in FILE.lines() {
        if let Some(text) = line.strip_prefix("# ") {
            prose.push(text);
            continue;
        }
        let bare = line.strip_prefix('#').unwrap_or(line);
        let meaning = std::mem::take(&mut prose).join(" ");
        if let Some(name) = bare.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut table);
            items.push(Item::Table { name: name.to_owned(), meaning });
        } else if let Some((key, value)) = bare.split_once(" = ") {
            let (table, key, value) = (table.clone(), key.to_owned(), value.to_owned());
            items.push(Item::Key { table, key, value, is_set: !line.starts_with('#'), meaning });
        }
    }
    items
}

fn value_of(text: &str) -> Value {
    let mut table: Table = format!("x = {text}").parse().unwrap();
    table.remove("x").unwrap()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Boolean(_) => "boolean",
        Value::Integer(_) => "integer",
        Value::Array(_) => "list",
        Value::Table(_) => "table",
        Value::String(text) if parse_duration(text).is_ok() => "duration",
        Value::String(text) if parse_size(text).is_ok() => "size",
        Value::String(text) if text.ends_with('%') => "percentage",
        _ => "string",
    }
}

/// A different value of the same kind.
fn other(key: &str, value: &Value) -> Option<String> {
    Some(match (kind(value), value) {
        ("duration", value) => {
            let twice = parse_duration(value.as_str()?).ok()? * 2 + Duration::from_secs(1);
            format!("\"{}\"", show_duration(twice))
        }
        ("size", value) => format!("\"{}\"", show_size(parse_size(value.as_str()?).ok()? * 2)),
        (_, Value::Integer(number)) => (number * 2).to_string(),
        (_, Value::Boolean(is_on)) => (!is_on).to_string(),
        _ => match key {
            "listen" | "admin_listen" => "\"127.0.0.1:1\"",
            "default_mode" => "\"pinned\"",
            "unauthenticated" => "\"allow\"",
            "allowed_hosts" => "[\"h\"]",
            "allowed_origins" => "[\"https://h\"]",
            "profiles" => "[{ server = \"s\", version = \"*\", mode = \"pinned\" }]",
            "state_dir" => "\"folder\"",
            "buffered" => "\"1GiB\"",
            "format" => "\"json\"",
            "level" => "\"debug\"",
            // One key of [sessions] is enough: the table is compared as a whole.
            "keys" => "[]",
            _ => return None,
        }
        .to_owned(),
    })
}

/// Keys that a reload does not change, found by changing every key.
fn restart_only(items: &[Item]) -> Vec<&'static str> {
    let mut text = String::new();
    for item in items {
        match item {
            Item::Table { name, .. } if name.starts_with("backends") => break,
            Item::Table { name, .. } => writeln!(text, "[{name}]").unwrap(),
            Item::Key { key, value, is_set: true, .. } => {
                let value = other(key, &value_of(value)).unwrap_or_else(|| panic!("no other value of {key}"));
                writeln!(text, "{key} = {value}").unwrap();
            }
            Item::Key { .. } => {}
        }
    }
    read(&text).keep_restart_only(&Config::default())
}

/// The code's default for this kind of backend.
fn default_of(key: &str, item_value: &str, is_set: bool, backend: Option<&Table>) -> String {
    if is_set {
        return item_value.to_owned();
    }
    let Some(backend) = backend else { return "none".to_owned() };
    if matches!(key, "url" | "command") {
        return "required".to_owned();
    }
    let found = match key.split_once('.') {
        Some((outer, inner)) => backend.get(outer).and_then(|table| table.get(inner)),
        None => backend.get(key),
    };
    match found {
        Some(Value::Array(list)) if list.is_empty() => "none".to_owned(),
        Some(Value::Table(table)) if table.is_empty() => "none".to_owned(),
        Some(value) => value.to_string(),
        None => "none".to_owned(),
    }
}

fn page() -> String {
    let items = items();
    let restart = restart_only(&items);
    let shown =
        read("[backends.example]\nurl = \"http://h/mcp\"\n[backends.example-program]\ncommand = \"cat\"\n")
            .shown();
    let head = "\n| key | type | default | restart | meaning |\n| --- | --- | --- | --- | --- |\n";
    let mut text = format!("{HEAD}\n## The gateway\n{head}");
    for item in &items {
        match item {
            Item::Table { name, meaning } => {
                let title = match name.as_str() {
                    "backends.example" => "[backends.NAME]: a server with a URL",
                    "backends.example-program" => "[backends.NAME]: a program",
                    name => &format!("[{name}]"),
                };
                write!(text, "\n## {title}\n\n{meaning}\n{head}").unwrap();
            }
            Item::Key { table, key, value, is_set, meaning } => {
                let backend = table.strip_prefix("backends.").map(|name| &shown["backends"][name]);
                let backend = backend.and_then(Value::as_table);
                let default = default_of(key, value, *is_set, backend);
                let default = if matches!(default.as_str(), "none" | "required") {
                    default
                } else {
                    format!("`{default}`")
                };
                let whole = if table.is_empty() { key.clone() } else { format!("{table}.{key}") };
                let is_fixed = restart.iter().any(|fixed| *fixed == whole || fixed == table);
                let mark = if is_fixed { "restart" } else { "" };
                let (kind, meaning) = (kind(&value_of(value)), meaning.replace('|', "\\|"));
                writeln!(text, "| `{key}` | {kind} | {default} | {mark} | {meaning} |").unwrap();
            }
        }
    }
    text
}

#[test]
fn the_page_of_keys_is_the_file_and_the_code() {
    crate::pages::check("CONFIG.md", &page());
}

#[test]
fn the_page_of_keys_marks_what_a_reload_leaves() {
    let restart = restart_only(&items());
    for fixed in ["listen", "log.level", "limits.connections", "times.session_lifetime", "sessions"] {
        assert!(restart.contains(&fixed), "{restart:?}");
    }
    assert!(!restart.contains(&"limits.body") && !restart.contains(&"default_mode"), "{restart:?}");
    let page = page();
    assert!(page.contains("| `breaker.hold` | duration | `\"10s\"` |  | "), "{page}");
}
