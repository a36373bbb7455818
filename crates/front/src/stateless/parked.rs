//! Parked calls: each was answered with questions of its server, and goes on when its caller returns with the input.
//!
//! The `requestState` of a caller is a number of this table, sealed and bound to the caller, the backend with the
//! forwarded headers, and the request. It is valid once: the first to return takes the call.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::digest::{SHA256, digest};
use mcpool_wire::{Caller, modern::essence};

use super::call_output::CallOutput;
use crate::{limits::gauges::Gauges, shared::Common};

/// Most parked calls.
const MOST: usize = 1_024;

#[derive(Default)]
pub(crate) struct Parked(Mutex<State>);

struct State {
    last: u64,
    waiting: HashMap<u64, Arc<CallOutput>>,
}

impl Default for State {
    /// Numbers start at random, so that one from before a restart matches none of this run.
    fn default() -> Self {
        Self { last: u64::from(rand::random::<u32>()) << 31, waiting: HashMap::new() }
    }
}

/// What a `requestState` is bound to.
pub(super) struct StateBinding(Vec<u8>);

impl StateBinding {
    /// Binds to this request of this caller. `None` if it is no request.
    pub(super) fn to(caller: &Caller, backend: &str, message: &[u8]) -> Option<Self> {
        let mut binding = caller.identity.to_binding();
        let carried = caller.forwarded.iter();
        let carried = carried.flat_map(|(name, value)| [name.as_str().as_bytes(), value.as_bytes()]);
        for part in [backend.as_bytes()].into_iter().chain(carried) {
            binding.extend_from_slice(&(part.len() as u64).to_be_bytes());
            binding.extend_from_slice(part);
        }
        binding.extend_from_slice(digest(&SHA256, essence(message)?.as_bytes()).as_ref());
        Some(Self(binding))
    }
}

impl Parked {
    /// Parks a call. Returns its number and the sealed state for its caller; `None` when there are too many, or when
    /// the system has no randomness.
    pub(super) fn keep(
        &self,
        output: &Arc<CallOutput>,
        binding: &StateBinding,
        common: &Common,
    ) -> Option<(u64, String)> {
        let number = {
            let mut state = self.lock();
            if state.waiting.len() >= MOST {
                return None;
            }
            state.last += 1;
            state.last
        };
        let sealed = common.in_force().config.sessions.keys.seal_note(common.slot, number, &binding.0)?;
        if self.lock().waiting.insert(number, Arc::clone(output)).is_none() {
            Gauges::up(&common.gauges.parked, 1);
        }
        Some((number, sealed))
    }

    /// Takes the call of this state out of the table. `None` if there is none, or if the state is not of this caller
    /// and request.
    pub(super) fn take(
        &self,
        sealed: &str,
        binding: &StateBinding,
        common: &Common,
    ) -> Option<Arc<CallOutput>> {
        let number = common.in_force().config.sessions.keys.open_note(sealed, &binding.0)?;
        self.forget(number, common)
    }

    pub(super) fn forget(&self, number: u64, common: &Common) -> Option<Arc<CallOutput>> {
        let gone = self.lock().waiting.remove(&number)?;
        Gauges::down(&common.gauges.parked, 1);
        Some(gone)
    }

    /// Parked calls with a result, and its bytes.
    pub(crate) fn owing(&self) -> Vec<(usize, Arc<CallOutput>)> {
        let all: Vec<_> = self.lock().waiting.values().cloned().collect();
        all.into_iter().map(|output| (output.owes(), output)).filter(|(owes, _)| *owes > 0).collect()
    }

    /// Ends all parked calls: no caller can return any more.
    pub(crate) fn end_all(&self, common: &Common) {
        let all = std::mem::take(&mut self.lock().waiting);
        Gauges::down(&common.gauges.parked, all.len());
        for output in all.into_values() {
            output.leave();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
