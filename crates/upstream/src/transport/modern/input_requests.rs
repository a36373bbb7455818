//! Questions to agents for results that require input. Each has an id of ours, under which the asking call waits for
//! the response.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::oneshot;

/// The waiting questions. Each belongs to a call, and a call has few at a time.
#[derive(Default)]
pub(super) struct InputRequests {
    open: Mutex<HashMap<u64, oneshot::Sender<Bytes>>>,
}

/// One waiting question; on drop its response is no longer awaited.
pub(super) struct Question<'a> {
    inputs: &'a InputRequests,
    id: u64,
    answer: oneshot::Receiver<Bytes>,
}

impl InputRequests {
    pub(super) fn ask(&self, id: u64) -> Question<'_> {
        let (tx, answer) = oneshot::channel();
        self.lock().insert(id, tx);
        Question { inputs: self, id, answer }
    }

    /// Delivers the response with this id; the call may be gone.
    pub(super) fn answered(&self, id: u64, response: Bytes) {
        let waiting = self.lock().remove(&id);
        if waiting.and_then(|waiting| waiting.send(response).ok()).is_none() {
            tracing::debug!(id, "an answer to what no call asks any more");
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Bytes>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Question<'_> {
    /// The response; `None` if there will be none.
    pub(super) async fn answer(&mut self) -> Option<Bytes> {
        (&mut self.answer).await.ok()
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.inputs.lock().remove(&self.id);
    }
}
