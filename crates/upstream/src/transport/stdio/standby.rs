//! A process that has started and waits for its handshake: what the next session finds, where starting takes its time.
//!
//! It can serve any agent, because it is not told what its agent can be asked before `initialize`. A program that ends
//! while it waits is not started for nobody again.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::process::Started;
use crate::error::SendError;

/// At most one such process.
#[derive(Default)]
pub(super) struct Standby(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    Empty,
    Waiting(Waiting),
    /// One did not start, or ended while it waited.
    GivenUp,
}

/// Ended when it is dropped, unless a session took it.
struct Waiting(Option<Started>);

impl Standby {
    /// Starts one where one is wanted and none waits; ends it where none is wanted.
    pub(super) fn keep(&self, wanted: bool, start: impl FnOnce() -> Result<Started, SendError>) {
        let mut state = self.lock();
        let next = match &*state {
            State::Waiting(waiting) if waiting.is_over() => State::GivenUp,
            State::Waiting(_) if !wanted => State::Empty,
            State::Empty if wanted => {
                start().map_or(State::GivenUp, |started| State::Waiting(Waiting(Some(started))))
            }
            State::Empty | State::Waiting(_) | State::GivenUp => return,
        };
        *state = next;
    }

    /// The one that waits.
    pub(super) fn take(&self) -> Option<Started> {
        let mut state = self.lock();
        match &mut *state {
            State::Waiting(waiting) if !waiting.is_over() => {
                let started = waiting.0.take();
                *state = State::Empty;
                started
            }
            State::Empty | State::Waiting(_) | State::GivenUp => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn is_over(&self) -> bool {
        self.0.as_ref().is_none_or(|(process, _)| process.is_over())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some((process, _)) = &self.0 {
            process.stop();
        }
    }
}
