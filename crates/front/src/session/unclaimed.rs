//! Unclaimed results: calls of an agent session that ended without a reader are remembered, so that a repeated request
//! does not run twice.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use mcpool_wire::IdValue;
use tokio::time::Instant;

use crate::{
    session::{agent::CallRegistration, same_request::written_one_way},
    stream::outbox::Outbox,
};

/// Most remembered calls of one session.
const MOST: usize = 64;

/// Calls that ended without a reader.
#[derive(Default)]
pub(crate) struct Unclaimed {
    has_any: AtomicBool,
    calls: Mutex<VecDeque<Call>>,
}

struct Call {
    id: IdValue,
    digest: [u8; 32],
    /// The stream with its answer, while that is stored.
    stream: Option<u32>,
    ended: Instant,
}

impl Unclaimed {
    /// Remembers a call that ended without a reader.
    pub(crate) fn add(&self, registration: &CallRegistration, sink: Option<&Arc<Outbox>>) {
        let stream = sink.and_then(|sink| sink.stream_number());
        let digest = digest_of(&registration.flag.message);
        let mut calls = self.lock();
        if calls.len() >= MOST {
            calls.pop_front();
        }
        calls.push_back(Call { id: registration.id.clone(), digest, stream, ended: Instant::now() });
        self.has_any.store(true, Ordering::Release);
    }

    /// Claims the stream of the call that ended for the same request within this time. Each call can be claimed once.
    pub(crate) fn claim(&self, id: &IdValue, message: &[u8], within: Duration) -> Option<Option<u32>> {
        if !self.has_any.load(Ordering::Acquire) {
            return None;
        }
        let mut calls = self.lock();
        calls.retain(|call| call.ended.elapsed() < within);
        let at = calls.iter().position(|call| call.id == *id && call.digest == digest_of(message));
        let claimed = at.and_then(|at| calls.remove(at)).map(|call| call.stream);
        self.has_any.store(!calls.is_empty(), Ordering::Release);
        claimed
    }

    // Consistent between any two statements, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, VecDeque<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn digest_of(message: &[u8]) -> [u8; 32] {
    digest(&SHA256, &written_one_way(message)).as_ref().try_into().unwrap_or_default()
}
