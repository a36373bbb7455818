//! A standby process: started ahead for the next session, for programs that are slow to start.
//!
//! It can serve any agent, because capabilities are declared in `initialize`. A program that ends on standby is not
//! started again without demand.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::process::Started;
use crate::error::SendError;

/// At most one standby process.
#[derive(Default)]
pub(super) struct Standby(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    Empty,
    Waiting(Waiting),
    /// The last one did not start, or ended on standby.
    GivenUp,
}

/// The standby process; ended on drop unless a session took it.
struct Waiting(Option<Started>);

impl Standby {
    /// Starts one if wanted and absent; ends it if unwanted.
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

    /// Takes the standby process.
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
