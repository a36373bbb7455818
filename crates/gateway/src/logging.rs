//! Where log lines go: standard error, as text for people or as JSON for machines.
//!
//! Standard output belongs to what the commands print. What is logged is decided in `observe::log`.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};

/// Starts logging for the whole process; of several calls the first wins.
///
/// # Errors
/// A sentence when the filter is none or something else logs already.
pub fn init(config: &LogConfig) -> Result<(), String> {
    let filter = parse_filter(&config.level)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match config.format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).try_init(),
    };
    started.map_err(|why| why.to_string())
}

/// Says where a panic happened as one line of the log; whoever catches it says what ended by it.
pub fn tell_of_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let why = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(target: "mcpool::panic", place, why, "panic");
    }));
}

/// Reads a level, or a filter such as `info,mcpool=debug`.
pub(crate) fn parse_filter(text: &str) -> Result<EnvFilter, String> {
    // A misspelt level would be taken for the name of a target, and nothing be logged.
    if let Some(word) =
        text.split(',').map(str::trim).find(|word| !word.contains(['=', '[']) && !is_level(word))
    {
        return Err(format!("{word:?} is no level"));
    }
    let filter = EnvFilter::builder().parse(text).map_err(|why| why.to_string())?;
    if text.contains("rustls") {
        return Ok(filter);
    }
    // It writes an ERROR for every certificate it refuses, at every probe; why a backend is not reached stands in our
    // own line, once a minute.
    ["rustls=off", "rustls_platform_verifier=off"].iter().try_fold(filter, |filter, quiet| {
        quiet.parse().map(|quiet| filter.add_directive(quiet)).map_err(|why| format!("{quiet}: {why}"))
    })
}

fn is_level(word: &str) -> bool {
    word.eq_ignore_ascii_case("off") || word.parse::<tracing::Level>().is_ok()
}
