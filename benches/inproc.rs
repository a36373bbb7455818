//! A backend inside the process, for measuring what lies between an agent's call and the wire, and nothing else.
//!
//! Unlike the test kit's in-memory transport it remembers nothing, so a million calls cost no memory.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use mcpool_upstream::{
    Backend, BackendSpec, Binding, CallKind, Endpoint, Event, Gate, HttpEndpoint, Lease, Limits, ModeChoice,
    NoLease, Observe, Opening, Origin, Sharing, Source, StaticHeaders, Times, TransportChoice, transport,
};
use mcpool_wire::{
    AgentKey, BackendId, Call, CallTrace, Caller, ClientHello, Envelope, Era, Hello, Identity, Kind,
    LinkEvent, Message, Method, Outlet, OutletFull, RequestId, Revision, Target, result_response,
};
use tokio::sync::mpsc;
use transport::{
    ConnectRequest, Exchange, Heard, Inbound, Opened, Outbound, Received, Transport, TransportKind,
};

/// Answers on their way to the session's driver; more are refused.
const ANSWERS: usize = 4096;
const HELLO: &[u8] = br#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"inproc","version":"1"}}"#;
const ANSWER: &[u8] = br#"{"content":[{"type":"text","text":"0123456789abcdef"}],"tools":[]}"#;

/// Where the answer to a call comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// In the body of its own POST, as over Streamable HTTP.
    Exchange,
    /// Through the session's one stream, as over HTTP+SSE.
    Stream,
}

/// A backend with this shape that answers at once.
///
/// # Errors
/// When its session budget cannot be built.
///
/// # Panics
/// Outside a tokio runtime.
pub fn backend(shape: Shape, limits: Limits) -> anyhow::Result<Arc<Backend>> {
    let spec = BackendSpec {
        id: BackendId(0),
        name: "inproc".into(),
        durable_id: None,
        origin: Origin::File,
        generation: 0,
        endpoint: Endpoint::Http(HttpEndpoint::new("http://localhost/".parse()?)),
        transport: TransportChoice::Http,
        mode: ModeChoice::Shared,
        sharing: Sharing::default(),
        fan_out_logs: false,
        times: Times::default(),
        limits,
    };
    let (transport, credential) = (Arc::new(Echo(shape)), StaticHeaders::of(&spec));
    Backend::start(spec, transport, credential, Arc::new(Free), Arc::new(Nobody)).map_err(anyhow::Error::msg)
}

/// An agent's binding at the backend.
///
/// # Errors
/// When the backend does not complete its handshake.
pub async fn bind(backend: &Arc<Backend>, agent: u64) -> anyhow::Result<Binding> {
    let hello = Hello {
        caller: caller(agent),
        target: Target::named("inproc"),
        client: ClientHello::neutral(),
        outlet: Arc::new(Nobody),
    };
    backend.bind(&hello).await.map_err(|error| anyhow::anyhow!("{}", error.message))
}

/// Bytes a waiting call counts.
const MESSAGE: usize = 128;

/// A permit. Waits in the queue if none is free.
///
/// # Errors
/// When the queue is full, or the binding's own session is over.
pub async fn lease(backend: &Backend, binding: &Binding) -> anyhow::Result<Lease> {
    if let Ok(lease) = backend.try_lease(binding, CallKind::Free, None) {
        return Ok(lease);
    }
    let mut waiter = backend
        .wait(binding, CallKind::Free, MESSAGE)
        .map_err(|full| anyhow::anyhow!("the room is full: {:?}", full.of))?;
    loop {
        match backend.try_lease(binding, CallKind::Free, None) {
            Ok(lease) => {
                waiter.served(tokio::time::Instant::now().into_std());
                return Ok(lease);
            }
            Err(NoLease::Gone | NoLease::Drained) => anyhow::bail!("the session is over"),
            Err(NoLease::Wait(lane)) if lane != waiter.lane() => waiter.back_to(lane),
            Err(NoLease::Wait(lane)) => {
                waiter.woken().await.map_err(|_| anyhow::anyhow!("sent out of the room"))?;
                // Before the next try, so that a permit that comes back meanwhile is not lost.
                waiter.back_to(lane);
            }
        }
    }
}

/// A call of a small tool by this agent.
///
/// # Panics
/// Never: the message is a constant.
#[must_use]
pub fn call(agent: u64) -> Call {
    let bytes = Bytes::from_static(
        br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","arguments":{"text":"0123456789abcdef"}}}"#,
    );
    let envelope = Envelope::parse(&bytes).expect("a constant message");
    let started = Instant::now();
    Call {
        caller: caller(agent),
        request_id: RequestId(agent),
        method: Method::ToolsCall,
        message: Message::new(bytes.clone(), &envelope),
        era: mcpool_wire::Era::Legacy,
        headers: Arc::default(),
        name: Some("echo".into()),
        is_plain_list: false,
        wants_task: false,
        outlet: None,
        hard_deadline: started + Duration::from_secs(3600),
        trace: Arc::new(CallTrace::new(started)),
    }
}

fn caller(agent: u64) -> Arc<Caller> {
    Arc::new(Caller {
        identity: Identity::anonymous(),
        is_local: true,
        agent: AgentKey(agent),
        affinity: None,
        forwarded: Arc::default(),
    })
}

/// No circuit.
struct Free;

impl Gate for Free {
    fn may_open(&self, _: Instant) -> Opening {
        Opening::Free
    }

    fn wants_probe(&self, _: Instant) -> bool {
        false
    }
}

/// Neither an observer nor an agent that listens.
struct Nobody;

impl Observe for Nobody {
    fn on(&self, _: &Source, _: Event<'_>) {}
}

impl Outlet for Nobody {
    fn push(&self, _: LinkEvent) -> Result<(), OutletFull> {
        Err(OutletFull)
    }
}

struct Echo(Shape);

impl Transport for Echo {
    fn connect(
        &self,
        request: ConnectRequest,
    ) -> BoxFuture<'static, Result<Opened, mcpool_upstream::SendError>> {
        let (answers, stream) = mpsc::channel(ANSWERS);
        let stream = Mutex::new(Some(stream));
        let connection = Connection { shape: self.0, answers, stream };
        let kind = match self.0 {
            Shape::Exchange => TransportKind::Http,
            Shape::Stream => TransportKind::Sse,
        };
        let answer = answer(&request.initialize, HELLO).unwrap_or_default();
        let opened = Opened {
            kind,
            era: Era::Legacy,
            has_session: true,
            answer,
            connect_took: None,
            outbound: Arc::new(connection),
        };
        async move { Ok(opened) }.boxed()
    }
}

/// The answer to a request; nothing to a notification.
fn answer(message: &[u8], result: &[u8]) -> Option<Bytes> {
    let envelope = Envelope::parse(message).ok().filter(|envelope| envelope.kind == Kind::Request)?;
    Some(result_response(&envelope.id()?.ok()?, result))
}

struct Connection {
    shape: Shape,
    answers: mpsc::Sender<Bytes>,
    stream: Mutex<Option<mpsc::Receiver<Bytes>>>,
}

impl Outbound for Connection {
    fn agreed(&self, _: Revision) {}

    fn listen(&self) -> BoxFuture<'static, Result<Inbound, mcpool_upstream::SendError>> {
        let taken = self.stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        let inbound: Inbound = match taken {
            Some(answers) => Box::pin(stream::unfold(answers, |mut answers| async move {
                answers.recv().await.map(|answer| (Ok(Heard::Message(answer)), answers))
            })),
            None => Box::pin(stream::pending()),
        };
        async move { Ok(inbound) }.boxed()
    }

    fn send(&self, message: Bytes) -> Exchange {
        let answer = answer(&message, ANSWER);
        let here = match (self.shape, answer) {
            (Shape::Exchange, answer) => answer,
            (Shape::Stream, None) => None,
            (Shape::Stream, Some(answer)) => {
                // Full means more calls in flight than any session takes: the call will time out and be seen.
                let _ = self.answers.try_send(answer);
                None
            }
        };
        let messages = here.map(Received::Message).map(Ok);
        Box::pin(stream::iter([Ok(Received::Accepted)]).chain(stream::iter(messages)))
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        futures::future::ready(()).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_of_more_agents_than_slots_are_all_answered() {
        for shape in [Shape::Exchange, Shape::Stream] {
            let limits = Limits { shared_sessions: 2, calls_per_session: 2, ..Limits::default() };
            let backend = backend(shape, limits).unwrap();
            let calls = (0..32).map(|agent| {
                let backend = backend.clone();
                async move {
                    let binding = bind(&backend, agent).await.unwrap();
                    let lease = lease(&backend, &binding).await.unwrap();
                    lease.call(&call(agent)).await.unwrap()
                }
            });
            for answer in futures::future::join_all(calls).await {
                assert!(!answer.is_rpc_error && !answer.is_tool_error);
            }
            assert!(backend.status().sessions.len() <= 2);
        }
    }
}
