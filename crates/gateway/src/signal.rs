//! Signals. SIGTERM and SIGINT: the first one shuts down gracefully, the second at once. SIGHUP reloads the
//! configuration.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT, caught while this exists.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Installs the handlers, replacing the default of immediate termination.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The next signal, by name.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// SIGHUP, caught while this exists; several in a row may count as one.
#[derive(Debug)]
pub struct Hangups(Signal);

impl Hangups {
    /// Installs the handler, replacing the default of termination.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn new() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// The next SIGHUP.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) {
        self.0.recv().await;
    }
}
