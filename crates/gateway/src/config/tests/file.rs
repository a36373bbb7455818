//! `config/mcpool.toml` lists every key with its default, and no other key.

use std::{collections::BTreeSet, fmt};

use mcpool_upstream::{Endpoint, Limits, Times, TransportChoice};
use serde::{
    Deserialize,
    de::{Deserializer, Visitor, value::Error as Plain},
    forward_to_deserialize_any,
};
use toml::Table;

use super::super::{raw, *};
use mcpool_router::settings::RetrySettings;

const FILE: &str = include_str!("../../../../../config/mcpool.toml");

pub(super) fn read(text: &str) -> Config {
    let environment = |name: &str| (name == "MCPOOL_ADMIN_TOKEN").then(|| "open sesame".replace(' ', "-"));
    Config::parse("mcpool.toml", text, Path::new("."), &environment).unwrap_or_else(|why| panic!("{why}"))
}

/// The file with its example enabled: `#key` is a key, `# text` is prose.
fn with_example() -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(key) if !key.is_empty() && !key.starts_with(' ') => key.to_owned(),
        _ => line.to_owned(),
    };
    // Skips keys that name missing files.
    let is_there = |line: &String| !line.starts_with("tls.ca_file") && !line.starts_with("key_file");
    FILE.lines().map(line).filter(is_there).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_file_as_shipped_is_the_defaults_without_backends() {
    assert_eq!(format!("{:?}", read(FILE)), format!("{:?}", Config::default()));
}

#[test]
fn the_example_in_the_file_is_the_defaults_of_a_backend() {
    let config = read(&with_example());
    assert_eq!(config.default_backend.as_deref(), Some("example"));
    let example = &config.backends[0];
    assert_eq!(format!("{:?}", example.spec.times), format!("{:?}", Times::default()));
    assert_eq!(format!("{:?}", example.spec.limits), format!("{:?}", Limits::default()));
    assert_eq!(example.breaker, mcpool_breaker::Settings::default());
    assert_eq!(format!("{:?}", example.retry), format!("{:?}", RetrySettings::default()));
    let plain = read("[backends.example]\nurl = \"http://127.0.0.1:9000/mcp\"");
    assert_eq!(example.spec.mode, plain.backends[0].spec.mode);
    assert_eq!(example.spec.transport, plain.backends[0].spec.transport);
}

#[test]
fn the_program_in_the_file_has_the_defaults_of_a_program() {
    let config = read(&with_example());
    let program = &config.backends[1].spec;
    assert_eq!(format!("{:?}", program.times), format!("{:?}", Times::of_process()));
    assert_eq!(format!("{:?}", program.limits), format!("{:?}", Limits::of_process()));
    assert_eq!(program.transport, TransportChoice::Stdio);
}

/// One table with all backend keys, of URLs and programs.
fn both(table: &Table) -> toml::Value {
    let of = |name: &str| table["backends"][name].as_table().unwrap().clone();
    toml::Value::Table(of("example-program").into_iter().chain(of("example")).collect())
}

#[test]
fn the_file_and_the_code_name_the_same_keys() {
    let whole = with_example().replace("[sessions]", "[sessions]\nkey_file = \"x\"");
    let whole = format!("{whole}\ntls.ca_file = \"x\"");
    let table: Table = whole.parse().unwrap();
    let example = &both(&table);
    let mut expect = fields::<raw::RawConfig>();
    assert_eq!(keys(&table), std::mem::take(&mut expect));
    for (section, fields) in [
        (&table["sessions"], fields::<raw::RawSessions>()),
        (&table["limits"], fields::<raw::RawLimits>()),
        (&table["times"], fields::<raw::RawTimes>()),
        (&table["log"], fields::<raw::RawLog>()),
        (&table["shutdown"], fields::<raw::RawShutdown>()),
        (example, fields::<raw::RawBackend>()),
        (&example["tls"], fields::<raw::RawTls>()),
        (&example["breaker"], fields::<raw::RawBreaker>()),
        (&example["retry"], fields::<raw::RawRetry>()),
    ] {
        assert_eq!(keys(section.as_table().unwrap()), fields);
    }
}

#[test]
fn what_is_printed_names_the_same_keys_and_reads_the_same() {
    let mut config = read(&with_example());
    config.ca_files.insert("example".into(), "x".to_owned());
    config.sessions.key_file = Some(("x".to_owned(), Vec::new()));
    let shown = config.shown();
    let example = &both(&shown);
    assert_eq!(keys(&shown), fields::<raw::RawConfig>());
    for (section, fields) in [
        (&shown["sessions"], fields::<raw::RawSessions>()),
        (&shown["limits"], fields::<raw::RawLimits>()),
        (&shown["times"], fields::<raw::RawTimes>()),
        (&shown["log"], fields::<raw::RawLog>()),
        (&shown["shutdown"], fields::<raw::RawShutdown>()),
        (example, fields::<raw::RawBackend>()),
        (&example["tls"], fields::<raw::RawTls>()),
        (&example["breaker"], fields::<raw::RawBreaker>()),
        (&example["retry"], fields::<raw::RawRetry>()),
    ] {
        assert_eq!(keys(section.as_table().unwrap()), fields);
    }
    config.ca_files.clear();
    config.sessions.key_file = None;
    let again = read(&toml::to_string(&config.shown()).unwrap());
    assert_eq!(again.shown(), config.shown());
    let (again, config) = (&again.backends[0], &config.backends[0]);
    assert_eq!(format!("{:?}", again.spec.times), format!("{:?}", config.spec.times));
    assert_eq!(format!("{:?}", again.spec.limits), format!("{:?}", config.spec.limits));
    assert_eq!(again.breaker, config.breaker);
}

#[test]
fn every_key_has_a_line_of_meaning_above_it() {
    let lines: Vec<&str> = FILE.lines().collect();
    for (n, line) in lines.iter().enumerate() {
        let is_key = line.split_once(" = ").is_some_and(|(key, _)| {
            let key = key.trim_start_matches('#');
            !key.is_empty() && !key.contains(' ')
        });
        if is_key {
            assert!(n > 0 && lines[n - 1].starts_with("# "), "line {}: {line}", n + 1);
        }
    }
}

fn keys(table: &Table) -> BTreeSet<String> {
    table.keys().cloned().collect()
}

/// The struct's keys, from its own deserializer.
fn fields<'de, T: Deserialize<'de> + fmt::Debug>() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    T::deserialize(Listing(&mut found)).expect_err("a listing gives no values");
    found
}

struct Listing<'l>(&'l mut BTreeSet<String>);

impl<'de> Deserializer<'de> for Listing<'_> {
    type Error = Plain;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Plain> {
        Err(serde::de::Error::custom("not a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Plain> {
        self.0.extend(fields.iter().map(|field| (*field).to_owned()));
        Err(serde::de::Error::custom("listed"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[test]
fn the_file_for_compose_names_the_services_of_the_compose_file() {
    let config = read(include_str!("../../../../../config/compose.toml"));
    let compose = include_str!("../../../../../docker-compose.yml");
    for backend in &config.backends {
        let Endpoint::Http(http) = &backend.spec.endpoint else { panic!("a program") };
        let host = http.url.host_str().unwrap();
        assert!(compose.contains(&format!("\n  {host}:\n")), "{host} is no service");
    }
    assert_eq!(config.backends.len(), 2);
    assert!(config.listen.ip().is_unspecified() && config.front.unauthenticated == Unauthenticated::Allow);
    for host in &config.front.allowed_hosts {
        assert!(compose.contains(&format!("\n  {host}:\n")), "{host} is no service");
    }
}
