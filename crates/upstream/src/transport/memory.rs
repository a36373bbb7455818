//! A backend in memory, for tests of sessions and pools: no port, no task, drives well with a paused clock.
//!
//! A handler answers each message with a future; the futures run inside the session's inbound stream (or, for
//! [`Memory::answering_in_exchange`], inside the exchange), so answers overtake each other as their delays say.
//! Nothing is answered while nobody polls, exactly as with a real stream nobody reads.

mod connection;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use mcpool_wire::{Envelope, Era, Method, Revision};

use self::connection::Connection;
use super::{ConnectRequest, Heard, Opened, Transport, TransportKind};
use crate::error::{Cause, SendError};

type Handler = dyn Fn(Turn) -> BoxFuture<'static, Vec<Bytes>> + Send + Sync;

/// A scripted backend; clones are the same backend.
#[derive(Clone)]
pub struct Memory(Arc<Backend>);

/// One message for the handler.
#[derive(Clone)]
pub struct Turn {
    /// The session it was sent on.
    pub session: MemorySession,
    /// The message.
    pub message: Bytes,
}

/// One session of the backend, as the test sees it.
#[derive(Clone)]
pub struct MemorySession(Arc<Session>);

struct Backend {
    handler: Box<Handler>,
    kind: TransportKind,
    script: Mutex<Script>,
}

#[derive(Default)]
struct Script {
    connect_delay: Duration,
    listen_delay: Duration,
    failing: VecDeque<SendError>,
    down: Option<SendError>,
    sessions: Vec<MemorySession>,
}

struct Session {
    index: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sent: Vec<Bytes>,
    queue: VecDeque<Result<Heard, SendError>>,
    running: Vec<BoxFuture<'static, Vec<Bytes>>>,
    refusing: VecDeque<SendError>,
    reader: Option<Waker>,
    agreed: Option<Revision>,
    is_listening: bool,
    is_ended: bool,
    is_closed: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Memory {
    /// A backend whose messages, `initialize` included, are answered by `handler`: it gives the messages that
    /// come back, usually one answer, none for notifications.
    pub fn new<H, F>(handler: H) -> Self
    where
        H: Fn(Turn) -> F + Send + Sync + 'static,
        F: Future<Output = Vec<Bytes>> + Send + 'static,
    {
        let handler = Box::new(move |turn| handler(turn).boxed());
        Self(Arc::new(Backend { handler, kind: TransportKind::Memory, script: Mutex::default() }))
    }

    /// A well-behaved backend: [`Turn::reply`] to everything, without delay.
    #[must_use]
    pub fn echo() -> Self {
        Self::new(|turn| async move { turn.reply().into_iter().collect() })
    }

    /// Answers in the exchange of each message, as Streamable HTTP does. To be called before the first connect.
    ///
    /// # Panics
    /// When the backend was cloned before.
    #[must_use]
    pub fn answering_in_exchange(mut self) -> Self {
        Arc::get_mut(&mut self.0).expect("configured before it is shared").kind = TransportKind::Http;
        self
    }

    /// Lets every later connect take this long.
    pub fn delay_connects(&self, delay: Duration) {
        lock(&self.0.script).connect_delay = delay;
    }

    /// Lets every later stream take this long to be opened.
    pub fn delay_listens(&self, delay: Duration) {
        lock(&self.0.script).listen_delay = delay;
    }

    /// Fails the next `times` connects (after the delay).
    pub fn fail_connects(&self, times: usize, error: &SendError) {
        lock(&self.0.script).failing.extend(std::iter::repeat_n(error.clone(), times));
    }

    /// It is gone, and fails every connect with this error, until it is back.
    pub fn goes_down(&self, error: &SendError) {
        lock(&self.0.script).down = Some(error.clone());
    }

    /// Connects succeed again.
    pub fn is_back(&self) {
        lock(&self.0.script).down = None;
    }

    /// No connect fails any more.
    pub fn mend(&self) {
        lock(&self.0.script).failing.clear();
    }

    /// Every session ever opened, oldest first.
    #[must_use]
    pub fn sessions(&self) -> Vec<MemorySession> {
        lock(&self.0.script).sessions.clone()
    }

    /// The session opened last.
    ///
    /// # Panics
    /// When none was opened.
    #[must_use]
    pub fn last(&self) -> MemorySession {
        self.sessions().pop().expect("a session was opened")
    }

    fn open(&self) -> Result<MemorySession, SendError> {
        let mut script = lock(&self.0.script);
        if let Some(error) = script.failing.pop_front() {
            return Err(error);
        }
        if let Some(error) = &script.down {
            return Err(error.clone());
        }
        let session = Session { index: script.sessions.len(), state: Mutex::default() };
        let session = MemorySession(Arc::new(session));
        script.sessions.push(session.clone());
        Ok(session)
    }
}

impl Transport for Memory {
    fn connect(&self, request: ConnectRequest) -> BoxFuture<'static, Result<Opened, SendError>> {
        let memory = self.clone();
        async move {
            let delay = lock(&memory.0.script).connect_delay;
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            let session = memory.open()?;
            let connection = Connection { backend: Arc::clone(&memory.0), session: session.clone() };
            let mut answers = VecDeque::from(connection.handle(request.initialize).await);
            let Some(answer) = answers.pop_front() else {
                let why = "initialize was not answered".to_owned();
                return Err(SendError::maybe_sent(Cause::Protocol(why)));
            };
            answers.into_iter().for_each(|early| session.say(early));
            Ok(Opened {
                kind: memory.0.kind,
                era: Era::Legacy,
                has_session: true,
                answer,
                connect_took: Some(delay),
                outbound: Arc::new(connection),
            })
        }
        .boxed()
    }
}

impl MemorySession {
    /// Its number among the sessions of its backend.
    #[must_use]
    pub fn index(&self) -> usize {
        self.0.index
    }

    /// The backend says something by itself.
    pub fn say(&self, message: impl Into<Bytes>) {
        self.push(Ok(Heard::Message(message.into())));
    }

    /// A sign of life.
    pub fn keep_alive(&self) {
        self.push(Ok(Heard::Alive));
    }

    /// The stream fails.
    pub fn fail(&self, error: SendError) {
        self.push(Err(error));
    }

    /// The stream ends, after what was said before.
    pub fn end(&self) {
        let mut state = lock(&self.0.state);
        state.is_ended = true;
        wake(&mut state);
    }

    /// Refuses the next `times` messages with this error; the handler does not see them.
    pub fn refuse(&self, times: usize, error: &SendError) {
        lock(&self.0.state).refusing.extend(std::iter::repeat_n(error.clone(), times));
    }

    /// Every message the backend got, `initialize` first.
    #[must_use]
    pub fn sent(&self) -> Vec<Bytes> {
        lock(&self.0.state).sent.clone()
    }

    /// The methods of [`MemorySession::sent`], responses as an empty name.
    #[must_use]
    pub fn methods(&self) -> Vec<String> {
        let method = |message: &Bytes| Envelope::parse(message).ok()?.method.map(|m| m.as_str().to_owned());
        self.sent().iter().map(|message| method(message).unwrap_or_default()).collect()
    }

    /// The revision the gateway agreed to.
    #[must_use]
    pub fn agreed(&self) -> Option<Revision> {
        lock(&self.0.state).agreed
    }

    /// Whether the gateway said good-bye.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        lock(&self.0.state).is_closed
    }

    fn run(&self, answers: BoxFuture<'static, Vec<Bytes>>) {
        let mut state = lock(&self.0.state);
        state.running.push(answers);
        wake(&mut state);
    }

    fn push(&self, heard: Result<Heard, SendError>) {
        let mut state = lock(&self.0.state);
        state.queue.push_back(heard);
        wake(&mut state);
    }
}

fn wake(state: &mut State) {
    if let Some(reader) = state.reader.take() {
        reader.wake();
    }
}

impl Turn {
    /// What the message asks for, if it is a request the ordinary backend knows.
    #[must_use]
    pub fn method(&self) -> Option<Method> {
        Envelope::parse(&self.message).ok()?.method
    }

    /// The answer of an ordinary backend: a handshake, one tool `echo` that gives its params back, no other
    /// surprises. `None` for notifications and responses.
    #[must_use]
    pub fn reply(&self) -> Option<Bytes> {
        let envelope = Envelope::parse(&self.message).ok()?;
        let id = envelope.id()?.ok()?;
        let result = match envelope.method? {
            Method::Initialize => serde_json::json!({
                "protocolVersion": envelope.params.protocol_version.as_deref().unwrap_or("2025-11-25"),
                "capabilities": {"tools": {"listChanged": true}},
                "serverInfo": {"name": "memory", "version": "1"},
            }),
            Method::ToolsList => serde_json::json!({"tools": [
                {"name": "echo", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": true}},
                {"name": "write", "inputSchema": {"type": "object"}},
            ]}),
            Method::ToolsCall => {
                let call: serde_json::Value = serde_json::from_slice(&self.message).ok()?;
                let text = call["params"]["arguments"].to_string();
                serde_json::json!({"content": [{"type": "text", "text": text}]})
            }
            _ => serde_json::json!({}),
        };
        Some(mcpool_wire::result_response(&id, result.to_string().as_bytes()))
    }
}
