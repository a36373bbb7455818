//! Calls that wait for their callers: each was answered with what its server asks, and goes on when its caller comes
//! back with the answers.
//!
//! What a caller comes back with is a number of this table, sealed and bound to who it is, to the backend and what it is
//! given in the caller's headers, and to the request it stands for. It is worth something once: whoever comes back takes the call along.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::digest::{SHA256, digest};
use mcpool_wire::{Caller, modern::essence};

use super::call_output::CallOutput;
use crate::{limits::gauges::Gauges, shared::Common};

/// Most calls that wait for their callers.
const MOST: usize = 1_024;

#[derive(Default)]
pub(crate) struct Parked(Mutex<State>);

struct State {
    last: u64,
    waiting: HashMap<u64, Arc<CallOutput>>,
}

impl Default for State {
    /// Numbers begin anywhere: one that was given out in an earlier life is none of this.
    fn default() -> Self {
        Self { last: u64::from(rand::random::<u32>()) << 31, waiting: HashMap::new() }
    }
}

/// What a state is bound to.
pub(super) struct StateBinding(Vec<u8>);

impl StateBinding {
    /// To this request of this caller; nothing if it is no request.
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
    /// Keeps a call for its caller: its number, and what the caller is to come back with. Nothing when there are too many, or when the
    /// system has no randomness.
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

    /// The call this state stands for, which nobody else gets any more. Nothing if it stands for none, or for nothing of
    /// this caller and request.
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

    /// The calls whose answers wait for their callers, with their bytes.
    pub(crate) fn owing(&self) -> Vec<(usize, Arc<CallOutput>)> {
        let all: Vec<_> = self.lock().waiting.values().cloned().collect();
        all.into_iter().map(|output| (output.owes(), output)).filter(|(owes, _)| *owes > 0).collect()
    }

    /// Ends all of them: nobody can come back any more.
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
