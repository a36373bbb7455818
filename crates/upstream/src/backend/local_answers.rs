//! Responses of the gateway itself: subscriptions and log levels, which are shared by the agents of a pool, and methods
//! that are not offered.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use futures::FutureExt as _;
use mcpool_wire::{
    Answer, Call, CallError, Envelope, Era, ErrorKind, Message, Method, Reply, RpcId, Scope, result_response,
};

use crate::{
    backend::{Backend, traffic::Waited},
    kinds::Mode,
    pool::{Binding, Pool},
    shared::{NotSubscribed, log_level::LogLevel},
};

impl Binding {
    /// The gateway's own response to a call, if any, on this kind of session.
    #[must_use]
    pub fn answer_here(&self, backend: &Arc<Backend>, call: &Call) -> Option<Reply<Answer>> {
        if call.era == Era::Modern {
            return None;
        }
        if let Some(refused) = self.refuse_task(call) {
            return Some(futures::future::ready(Err(refused)).boxed());
        }
        if self.mode() == Mode::Pinned || call.method.scope() == Scope::PerCall {
            return None;
        }
        let answer = match call.method {
            Method::LoggingSetLevel => self.set_level(call),
            Method::ResourcesSubscribe => return Some(self.subscribe(backend, call)),
            Method::ResourcesUnsubscribe => self.unsubscribe(call),
            _ => {
                let message = format!("{:?} is not available on a shared session", call.method.as_str());
                Err(CallError::not_sent(ErrorKind::MethodNotFound, message))
            }
        };
        Some(futures::future::ready(answer).boxed())
    }

    /// Tasks are not offered, on any session.
    fn refuse_task(&self, call: &Call) -> Option<CallError> {
        let message = match call.method {
            Method::ToolsCall if call.wants_task => {
                "tasks are not offered here: call the tool without params.task".to_owned()
            }
            Method::ToolsCall => {
                let tool = call.name.as_deref().filter(|tool| self.pool.catalog.is_task_only(tool))?;
                format!("tool {tool:?} can only be run as a task, and tasks are not offered here")
            }
            Method::TasksGet | Method::TasksResult | Method::TasksList | Method::TasksCancel => {
                "tasks are not offered here".to_owned()
            }
            _ => return None,
        };
        Some(CallError::not_sent(ErrorKind::MethodNotFound, message))
    }

    fn set_level(&self, call: &Call) -> Result<Answer, CallError> {
        let name =
            Envelope::parse(call.message.bytes()).ok().and_then(|e| Some(e.params.level?.into_owned()));
        let Some(level) = name.as_deref().and_then(LogLevel::parse) else {
            let message =
                "level must be one of debug, info, notice, warning, error, critical, alert, emergency";
            return Err(CallError::not_sent(ErrorKind::InvalidParams, message));
        };
        self.pool.shared.ask_level(self.caller.agent, self.number, level);
        Ok(empty_answer())
    }

    fn subscribe(&self, backend: &Arc<Backend>, call: &Call) -> Reply<Answer> {
        let uri = match uri_of(call) {
            Ok(uri) => uri,
            Err(refused) => return futures::future::ready(Err(refused)).boxed(),
        };
        subscribe(backend.clone(), self.pool.clone(), self.number, uri, call.hard_deadline).boxed()
    }

    fn unsubscribe(&self, call: &Call) -> Result<Answer, CallError> {
        self.pool.shared.unsubscribe(self.number, &uri_of(call)?);
        Ok(empty_answer())
    }
}

async fn subscribe(
    backend: Arc<Backend>,
    pool: Arc<Pool>,
    binding: u64,
    uri: Arc<str>,
    end: Instant,
) -> Result<Answer, CallError> {
    let patience = backend.spec.times.queue;
    match backend.traffic.wait(patience, Some(end), pool.shared.subscribe(binding, &uri)).await {
        Ok(Ok(())) => Ok(empty_answer()),
        Ok(Err(NotSubscribed::Refused(answer))) => Ok(answer),
        Ok(Err(NotSubscribed::Full(whose, limit))) => Err(CallError::not_sent(
            ErrorKind::Overloaded,
            format!("{limit} resources are subscribed to by {whose}, and that is the limit"),
        )),
        Err(Waited::Drained) => Err(backend.drained()),
        Err(Waited::TooLong) => Err(CallError::not_sent(
            ErrorKind::QueueTimeout,
            format!("no session of the backend took the subscription within {patience:?}"),
        )),
    }
}

/// Longest URI of a subscription, bytes (SEMANTICS.md 12).
const MAX_URI: usize = 8 * 1024;

fn uri_of(call: &Call) -> Result<Arc<str>, CallError> {
    let uri = call.name.clone().filter(|uri| uri.len() <= MAX_URI);
    uri.ok_or_else(|| {
        CallError::not_sent(ErrorKind::InvalidParams, "uri must be a string of at most 8192 bytes")
    })
}

fn empty_answer() -> Answer {
    let bytes: Bytes = result_response(&RpcId::number(0), b"{}");
    let message = match Envelope::parse(&bytes) {
        Ok(envelope) => Message::new(bytes.clone(), &envelope),
        Err(_) => unreachable!("an empty result is a message"),
    };
    Answer { message, is_rpc_error: false, is_tool_error: false }
}
