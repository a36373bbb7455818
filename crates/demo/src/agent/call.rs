//! A request in a task of its own, and the reading of answers.
//!
//! The subtle thing: dropping a [`Started`] aborts its task, so a test drops it to play a caller that went away.

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::AgentError;
use super::core::Core;

/// Progress a caller may leave unread.
const PROGRESS: usize = 1024;

/// A request that was started.
#[derive(Debug)]
pub struct Started {
    id: String,
    progress: mpsc::Receiver<Value>,
    /// `None` once it was finished.
    task: Option<JoinHandle<Result<Bytes, AgentError>>>,
}

impl Started {
    /// Its id, raw JSON; also its progress token.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The next progress params; `None` when the request is over.
    pub async fn progress(&mut self) -> Option<Value> {
        self.progress.recv().await
    }

    /// The next progress params that are there already.
    pub fn try_progress(&mut self) -> Option<Value> {
        self.progress.try_recv().ok()
    }

    /// Its result.
    ///
    /// # Errors
    /// As [`AgentError`] says; also when it was finished before.
    ///
    /// # Cancel safety
    /// Dropped, it can be called again.
    pub async fn finish(&mut self) -> Result<Value, AgentError> {
        let Some(task) = &mut self.task else {
            return Err(AgentError::Closed("finished before".into()));
        };
        let ended = task.await;
        self.task = None;
        match ended {
            Ok(answer) => result_of(&answer?),
            Err(e) => Err(AgentError::Closed(e.to_string())),
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

pub(crate) fn start(
    core: &Arc<Core>,
    id: String,
    method: &str,
    mut params: Value,
) -> Result<Started, AgentError> {
    if let Some(why) = core.book.closed() {
        return Err(AgentError::Closed(why));
    }
    let token: Value = serde_json::from_str(&id).unwrap_or_default();
    if let Some(params) = params.as_object_mut() {
        params.insert("_meta".into(), json!({ "progressToken": token }));
    }
    let (tx, progress) = mpsc::channel(PROGRESS);
    let (task_core, task_id, method) = (Arc::clone(core), id.clone(), method.to_owned());
    let task = core
        .pool
        .tracker
        .spawn(async move { task_core.request(&task_id, &method, &params.to_string(), Some(tx)).await });
    Ok(Started { id, progress, task: Some(task) })
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    result: Option<Value>,
    #[serde(default)]
    error: Option<RpcError>,
}

#[derive(Deserialize)]
struct RpcError {
    code: i64,
    #[serde(default)]
    message: String,
    #[serde(default)]
    data: Value,
}

/// The result in an answer, or its error.
pub(crate) fn result_of(answer: &Bytes) -> Result<Value, AgentError> {
    let answer: Answer =
        serde_json::from_slice(answer).map_err(|e| AgentError::Closed(format!("not an answer: {e}")))?;
    match (answer.result, answer.error) {
        (Some(result), None) => Ok(result),
        (_, Some(e)) => Err(AgentError::Rpc { code: e.code, message: e.message, data: e.data }),
        (None, None) => Err(AgentError::Closed("an answer with neither result nor error".into())),
    }
}
