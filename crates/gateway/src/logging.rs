//! Log output: standard error, as text for people or JSON for machines.
//!
//! Standard output is reserved for commands. `observe::log` decides what is logged.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};

/// Starts logging for the process; only the first call counts.
///
/// # Errors
/// One sentence if the filter is invalid or another logger is installed.
pub fn init(config: &LogConfig) -> Result<(), String> {
    let filter = parse_filter(&config.level)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match config.format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).try_init(),
    };
    started.map_err(|why| why.to_string())
}

/// Logs the place of every panic in one line; the code that catches it logs the consequence.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let why = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(target: "mcpool::panic", place, why, "panic");
    }));
}

/// Parses a level, or a filter such as `info,mcpool=debug`.
pub(crate) fn parse_filter(text: &str) -> Result<EnvFilter, String> {
    // A misspelt level would count as a target's name, and disable logging.
    if let Some(word) =
        text.split(',').map(str::trim).find(|word| !word.contains(['=', '[']) && !is_level(word))
    {
        return Err(format!("{word:?} is no level"));
    }
    let filter = EnvFilter::builder().parse(text).map_err(|why| why.to_string())?;
    if text.contains("rustls") {
        return Ok(filter);
    }
    // rustls logs an ERROR per rejected certificate at every probe; our own line gives the reason once a minute.
    ["rustls=off", "rustls_platform_verifier=off"].iter().try_fold(filter, |filter, quiet| {
        quiet.parse().map(|quiet| filter.add_directive(quiet)).map_err(|why| format!("{quiet}: {why}"))
    })
}

fn is_level(word: &str) -> bool {
    word.eq_ignore_ascii_case("off") || word.parse::<tracing::Level>().is_ok()
}
