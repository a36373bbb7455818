//! What agents are asked on behalf of a result that needs input: each question has an id of ours, and whoever asked
//! waits for the answer under it.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::oneshot;

/// The questions that wait. Each is bounded by its call, and a call asks few at a time.
#[derive(Default)]
pub(super) struct Inputs {
    open: Mutex<HashMap<u64, oneshot::Sender<Bytes>>>,
}

/// One question on its way; dropped, nobody waits for its answer.
pub(super) struct Question<'a> {
    inputs: &'a Inputs,
    id: u64,
    answer: oneshot::Receiver<Bytes>,
}

impl Inputs {
    pub(super) fn ask(&self, id: u64) -> Question<'_> {
        let (tx, answer) = oneshot::channel();
        self.lock().insert(id, tx);
        Question { inputs: self, id, answer }
    }

    /// Hands over the response with this id; whoever asked may be gone.
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
    /// The response; nothing if there will be none.
    pub(super) async fn answer(&mut self) -> Option<Bytes> {
        (&mut self.answer).await.ok()
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.inputs.lock().remove(&self.id);
    }
}
