//! The settings of a backend: what it is configured to be, as plain data.
//!
//! `input` is what a source gives, and `rules` checks it. The only files read here are those that the input names; it may
//! do so only if it comes from this machine's configuration.

mod check;
mod headers;
pub mod input;
mod program;
pub mod rules;
pub mod value;

use std::time::Duration;

use mcpool_upstream::BackendSpec;

/// The configuration of one backend.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendSettings {
    /// Address, transport, limits and times.
    pub spec: BackendSpec,
    /// Circuit breaker settings.
    pub breaker: mcpool_breaker::Settings,
    /// Retry settings.
    pub retry: RetrySettings,
}

/// Retry settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetrySettings {
    /// Maximum number of attempts of a call that may have run, if repeating it is safe.
    pub attempts: u32,
    /// Base of the backoff.
    pub base: Duration,
    /// Maximum backoff.
    pub cap: Duration,
    /// Maximum share of retries in percent of the calls of the last 10 s; 3 per second are always allowed.
    pub budget: u32,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self { attempts: 3, base: Duration::from_millis(100), cap: Duration::from_secs(5), budget: 20 }
    }
}

#[cfg(test)]
mod tests;
