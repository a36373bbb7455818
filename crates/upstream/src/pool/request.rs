//! An agent's request for a session of its own, and that session on its way.

use std::sync::{Arc, Weak};

use mcpool_wire::Outlet;
use tokio::sync::oneshot;

use super::Pool;
use crate::{error::SendError, kinds::CloseReason, session::Session};

/// A request for a session of one agent's own.
pub(crate) struct OpenRequest {
    pub(crate) pool: Arc<Pool>,
    pub(crate) owner: Weak<dyn Outlet>,
    pub(crate) reply: oneshot::Sender<Result<Own, SendError>>,
}

/// A session on its way to its agent; closed on drop if the agent has left.
pub(crate) struct Own(Option<Arc<Session>>);

impl Own {
    pub(crate) fn new(session: Arc<Session>) -> Self {
        Self(Some(session))
    }

    pub(crate) fn into_session(mut self) -> Arc<Session> {
        self.0.take().expect("taken once, by value")
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(session) = self.0.take() {
            session.drain(CloseReason::AgentGone);
        }
    }
}
