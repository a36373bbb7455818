//! The task that owns one HTTP+SSE agent: its link, its calls, messages that came too early, and its end.
//!
//! POST handlers only decode and hand over, so messages are handled in the order of their arrival here. Requests that
//! arrive while a link is being opened wait for it; without a handshake the agent is served as if it had declared no
//! capabilities. When the stream's connection is gone the task waits for the agent to reconnect, then the session ends.
//! An agent that returns to a session that is over gets errors until it repeats its handshake: what it had there is
//! gone.

mod opening;

use std::{collections::VecDeque, future::poll_fn, pin::Pin, sync::Arc};

use futures::{StreamExt as _, stream::FuturesUnordered};
use mcpool_wire::{
    Backends, CallError, CallTrace, Caller, ClientHello, ErrorKind, Link, Message, Method, Outlet, Reply,
    Revision, result_response,
};
use tokio::{
    sync::mpsc,
    time::{Instant, Sleep},
};
use tokio_util::sync::WaitForCancellationFutureOwned;

use self::opening::session_ended;
use crate::{
    call::{CallResult, InFlightCall, reject},
    http::response::refusal,
    limits::memory::Charge,
    message::{Body, Incoming, Parcel, REPEATED, Request, Seen},
    observe::AgentEnd,
    session::{
        Front,
        agent::{AgentCore, CallRegistration},
        open::OpenEnd,
        same_request::is_same,
    },
    session_id::AgentSessionId,
    shared::Common,
    stream::outbox::{Presence, Watch},
};

/// Messages that wait for a link.
const MAX_EARLY: usize = 64;

pub(crate) struct AgentStream<B: Backends> {
    front: Arc<Front<B>>,
    id: AgentSessionId,
    core: Arc<AgentCore>,
    work: mpsc::Receiver<Box<Parcel>>,
    calls: FuturesUnordered<InFlightCall>,
    early: VecDeque<Box<Incoming>>,
    link_state: LinkState<B::Link>,
    origin: Origin,
}

/// The state in which an agent arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A new agent.
    New,
    /// An agent that was on a shared session: it continues unchanged.
    Restored,
    /// An agent whose session is over.
    Lost,
}

/// The state of the link to the backend.
enum LinkState<L> {
    None,
    Opening(Reply<Arc<L>>, OpenFor),
    /// A link without a handshake of this agent.
    Neutral(Arc<L>),
    /// The agent has done its handshake.
    Greeted(Arc<L>),
}

/// The reason a link is opened.
enum OpenFor {
    PendingInitialize(Box<PendingInitialize>),
    /// A call without a handshake, of this caller.
    Early(Arc<Caller>),
}

/// An `initialize` that waits for its link.
struct PendingInitialize {
    request: Request,
    revision: Revision,
    interactive: bool,
    caller: Arc<Caller>,
    end: OpenEnd,
    _registration: CallRegistration,
}

enum Woken<L> {
    Work(Option<Box<Parcel>>),
    Done(CallResult),
    Opened(Result<Arc<L>, CallError>),
    Watch(Watch),
    Away,
    Kill,
}

impl<B: Backends> AgentStream<B> {
    pub(crate) fn new(
        front: Arc<Front<B>>,
        id: AgentSessionId,
        core: Arc<AgentCore>,
        work: mpsc::Receiver<Box<Parcel>>,
        origin: Origin,
    ) -> Self {
        let (calls, early) = (FuturesUnordered::new(), VecDeque::new());
        Self { front, id, core, work, calls, early, link_state: LinkState::None, origin }
    }

    /// The front, id and core of this session, for the cleanup after a panic.
    pub(crate) fn whose(&self) -> (Arc<Front<B>>, AgentSessionId, Arc<AgentCore>) {
        (Arc::clone(&self.front), self.id, Arc::clone(&self.core))
    }

    /// Runs until the agent is gone, its link is over, or the front ends.
    pub(crate) async fn run(mut self) {
        let grace = self.common().times().reconnect_grace;
        let mut away = std::pin::pin!(tokio::time::sleep(grace));
        // Kept for all iterations: registering with the one token of all tasks costs a lock.
        let mut kill = std::pin::pin!(self.common().kill.clone().cancelled_owned());
        let mut watch = self.core.outbox.watch();
        let end = loop {
            match self.next(watch, away.as_mut(), kill.as_mut()).await {
                Woken::Work(Some(parcel)) => self.unpack(*parcel),
                Woken::Done(finished) => self.finished(finished),
                Woken::Opened(link) => self.opened(link),
                Woken::Watch(now) => {
                    if now.presence == Presence::Absent {
                        away.as_mut().reset(Instant::now() + grace);
                        self.front.agents.went_away(self.id);
                    }
                    watch = now;
                }
                Woken::Away | Woken::Work(None) => break AgentEnd::Gone,
                Woken::Kill => break AgentEnd::Shutdown,
            }
            if watch.presence == Presence::Closed {
                break if self.core.has_ended() { AgentEnd::LinkEnded } else { AgentEnd::Slow };
            }
            if watch.finishing && self.is_done() {
                break if self.core.has_ended() { AgentEnd::LinkEnded } else { AgentEnd::Shutdown };
            }
        };
        // Removing closes the outbox behind its queue, so the last answers are still read.
        self.front.agents.remove(self.id, &self.core, end);
    }

    /// Whether everything that was accepted has been answered.
    fn is_done(&self) -> bool {
        self.calls.is_empty() && self.work.is_empty() && !matches!(self.link_state, LinkState::Opening(..))
    }

    async fn next(
        &mut self,
        watch: Watch,
        away: Pin<&mut Sleep>,
        kill: Pin<&mut WaitForCancellationFutureOwned>,
    ) -> Woken<B::Link> {
        let is_away = watch.presence == Presence::Absent;
        let core = &self.core;
        let link_state = &mut self.link_state;
        tokio::select! {
            biased;
            now = poll_fn(|cx| core.outbox.poll_watch(cx, watch)) => Woken::Watch(now),
            Some(finished) = self.calls.next(), if !self.calls.is_empty() => Woken::Done(finished),
            opened = poll_fn(|cx| match &mut *link_state {
                LinkState::Opening(reply, _) => reply.as_mut().poll(cx),
                LinkState::None | LinkState::Neutral(_) | LinkState::Greeted(_) => std::task::Poll::Pending,
            }) => Woken::Opened(opened),
            message = self.work.recv() => Woken::Work(message),
            () = away, if is_away => Woken::Away,
            () = kill => Woken::Kill,
        }
    }

    /// Unpacks a batch, which is answered message by message: no client of 2025-03-26 reads an array from this stream.
    fn unpack(&mut self, parcel: Parcel) {
        let messages = match parcel {
            Parcel::One(message) => return self.take(Box::new(message)),
            Parcel::Many(messages) => messages,
        };
        if let Err(why) = self.core.may_batch() {
            return self.core.send_answer(refusal(None, -32600, &why));
        }
        let mut seen = Seen::default();
        for message in messages {
            match message {
                Ok(message) if seen.is_repeated(&message) => {
                    self.core.send_answer(refusal(message.id(), -32600, REPEATED));
                }
                Ok(message) => self.take(Box::new(message)),
                Err(error) => {
                    let reason = error.to_string();
                    self.core.send_answer(refusal(error.id.as_ref(), error.kind.code(), &reason));
                }
            }
        }
    }

    fn take(&mut self, message: Box<Incoming>) {
        if !matches!(self.link_state, LinkState::Opening(..)) {
            return self.handle(*message);
        }
        // `ping` asks about the gateway, not the backend, and a cancellation may be for a call that runs.
        let waits = match &message.body {
            Body::Request(request) => request.method != Method::Ping,
            Body::Notification(method, _) => *method != Method::Cancelled,
            Body::Response(_) | Body::BadId(_) => false,
        };
        if !waits {
            self.handle(*message);
        } else if self.early.len() < MAX_EARLY {
            self.early.push_back(message);
        } else {
            let error =
                CallError::not_sent(ErrorKind::Overloaded, "too many requests before the session is ready");
            self.refuse(&message, &error);
        }
    }

    fn handle(&mut self, message: Incoming) {
        let Incoming { body, message, is_modern, charge } = message;
        match body {
            Body::Request(request) if is_modern => {
                let text = "this server speaks the revisions with a handshake: send initialize";
                self.core.send_answer(refusal(Some(&request.id), -32601, text));
            }
            Body::Request(request) => match request.method {
                Method::Ping => self.core.send_answer(result_response(&request.id, b"{}")),
                Method::Initialize => self.greet(request, &message),
                _ => self.call(request, message, charge),
            },
            Body::Notification(Method::Initialized, _) => {}
            Body::Notification(Method::Cancelled, target) => {
                if let Some(id) = target {
                    self.early.retain(|early| !early.is_request(&id));
                    self.core.cancel(&id);
                }
            }
            Body::Notification(..) => {
                if let Some(link) = self.link_state.link() {
                    link.notify(message.bytes().clone());
                }
            }
            Body::Response(id) => {
                match (self.link_state.link(), id.and_then(|id| self.core.take_link_id(&id))) {
                    (Some(link), Some(number)) => link.respond(number, message),
                    _ => self.common().dropped("agent_response"),
                }
            }
            Body::BadId(why) => self.core.send_answer(refusal(None, -32600, why)),
        }
    }

    fn caller_of(&self, request: &Request) -> Arc<Caller> {
        request.caller.clone().unwrap_or_else(|| Arc::clone(&self.core.caller))
    }

    fn call(&mut self, request: Request, message: Message, charge: Charge) {
        let Some(link) = self.link_state.link().cloned() else {
            if self.origin == Origin::Lost {
                return self.refuse_request(&request, &session_ended());
            }
            let caller = self.caller_of(&request);
            let reply = self.open(ClientHello::neutral(), &caller);
            self.link_state = LinkState::Opening(reply, OpenFor::Early(caller));
            let early = Incoming { body: Body::Request(request), message, is_modern: false, charge };
            self.early.push_back(Box::new(early));
            return;
        };
        if self.core.running(request.id.value()).is_some_and(|flag| is_same(&flag.message, message.bytes())) {
            // A repeated request: its answer comes once, on this stream.
            return;
        }
        let outlet: Arc<dyn Outlet> = Arc::<AgentCore>::clone(&self.core);
        match InFlightCall::start(&self.core, link.as_ref(), request, (message, charge), Some(outlet)) {
            Ok(running) => self.calls.push(running),
            Err(refused) => self.core.send_answer(refused),
        }
    }

    fn refuse(&self, message: &Incoming, error: &CallError) {
        if let Body::Request(request) = &message.body {
            self.refuse_request(request, error);
        }
    }

    fn refuse_request(&self, request: &Request, error: &CallError) {
        let trace = CallTrace::new(Instant::now().into_std());
        let request_id = self.common().request_id();
        self.core.send_answer(reject(&self.core, &request.id, &request.method, request_id, &trace, error));
    }

    fn finished(&self, finished: CallResult) {
        if let Some(body) = finished.body {
            self.core.send_answer(body);
        }
    }

    fn common(&self) -> &Common {
        &self.core.common
    }
}

impl<L> LinkState<L> {
    fn link(&self) -> Option<&Arc<L>> {
        match self {
            Self::Neutral(link) | Self::Greeted(link) => Some(link),
            Self::None | Self::Opening(..) => None,
        }
    }
}
