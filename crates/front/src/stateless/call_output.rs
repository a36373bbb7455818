//! The output of a stateless call to its caller: progress, the log messages its request asked for, questions of the
//! server, and the answer.
//!
//! The caller reads with one POST after the other. A POST waits until there is output, which opens its stream; a
//! question ends the POST, and the call is parked until the caller returns with the next. The subtle thing: the
//! consumer is one value under one lock, so a returning caller and an expiry never both win.

mod input_requests;
mod log_level;
mod outlet;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::task::AtomicWaker;
use mcpool_wire::{CallError, Envelope, ErrorKind, Executed, Message, RpcId, modern::input_required};
use tokio::time::Instant;

pub(super) use input_requests::InputRequests;
pub(super) use log_level::LogLevel;

use self::input_requests::Question;
use super::parked::{Parked, StateBinding};
use crate::{
    call::CallResult,
    limits::memory::AnswerCharge,
    observe::{FrontEvent, Parking},
    session::agent::AgentCore,
    stream::outbox::{Outbox, Presence, Reader},
};

/// Most open questions of one call.
const MOST_QUESTIONS: usize = 64;
/// Time for which further questions are gathered after the first: a server may ask several things at once.
const GATHER: Duration = Duration::from_millis(20);

pub(crate) struct CallOutput {
    core: Arc<AgentCore>,
    parked: Arc<Parked>,
    /// The input requests this call may make. `None`: the server must not ask anything.
    inputs: Option<InputRequests>,
    state: Mutex<State>,
    /// Wakes the POST that waits.
    post: AtomicWaker,
    /// Wakes the owner of the call, if that is not the POST.
    owner: AtomicWaker,
}

struct State {
    consumer: Consumer,
    /// The id of the request to be answered.
    id: RpcId,
    /// The progress token of that request; the backend uses the token of the first one.
    token: Option<Bytes>,
    level: Option<LogLevel>,
    questions: Vec<Question>,
    /// The time until which further questions are gathered.
    gather_until: Option<Instant>,
    /// The result of the call, charged until a POST fetches it.
    end: Option<(CallResult, AnswerCharge)>,
    /// The number of the call in the table of parked calls.
    number: Option<u64>,
    /// Whether it is answered under another id than it was begun with.
    is_renamed: bool,
}

/// The reader of the output.
enum Consumer {
    /// A POST that waits, and has no stream yet.
    Waiting,
    /// A POST that reads this stream, or is about to.
    Stream {
        outbox: Arc<Outbox>,
        is_read: bool,
    },
    /// No reader: the caller may return until this time.
    Parked(Instant),
    Gone,
}

/// What the owner of the call does next.
pub(super) enum OwnerStep {
    Work,
    WaitUntil(Instant),
    Nothing,
}

/// What a POST does next.
pub(super) enum PostStep {
    /// Read this stream.
    Stream(Reader),
    /// Send this answer.
    End(CallResult),
    /// Send these questions.
    InputRequired(Bytes),
    /// End without output: its stream was closed meanwhile.
    Nothing,
    /// Send this error: too many calls are parked.
    Refused(CallError),
}

impl CallOutput {
    pub(super) fn new(
        core: &Arc<AgentCore>,
        parked: &Arc<Parked>,
        id: &RpcId,
        token: Option<Bytes>,
        level: Option<&str>,
        inputs: Option<InputRequests>,
    ) -> Arc<Self> {
        let state = State {
            consumer: Consumer::Waiting,
            id: id.clone(),
            token,
            level: level.and_then(LogLevel::parse),
            questions: Vec::new(),
            gather_until: None,
            end: None,
            number: None,
            is_renamed: false,
        };
        Arc::new(Self {
            core: Arc::clone(core),
            parked: Arc::clone(parked),
            inputs,
            state: Mutex::new(state),
            post: AtomicWaker::new(),
            owner: AtomicWaker::new(),
        })
    }

    /// Polls the next step of the waiting POST.
    pub(super) fn poll_post(self: &Arc<Self>, cx: &mut Context<'_>) -> Poll<PostStep> {
        self.post.register(cx.waker());
        let mut state = self.lock();
        if let Consumer::Stream { outbox, is_read } = &mut state.consumer {
            *is_read = true;
            let reader = outbox.attach();
            drop(state);
            // The owner may hold the finished result until a reader attaches; wake it so that it delivers it.
            self.owner.wake();
            return Poll::Ready(reader.map_or(PostStep::Nothing, PostStep::Stream));
        }
        if let Some(result) = state.ended() {
            state.consumer = Consumer::Gone;
            drop(state);
            self.owner.wake();
            return Poll::Ready(PostStep::End(result));
        }
        if state.questions.is_empty() || state.gathers().is_some() {
            return Poll::Pending;
        }
        let step = self.park(&mut state).map_or_else(PostStep::Refused, PostStep::InputRequired);
        drop(state);
        self.owner.wake();
        Poll::Ready(step)
    }

    /// Opens the stream of the waiting POST before there is output. `false` if no POST waits without a stream.
    pub(super) fn begin(&self) -> bool {
        let mut state = self.lock();
        if !matches!(state.consumer, Consumer::Waiting) {
            return false;
        }
        state.consumer = Consumer::Stream { outbox: self.core.call_outbox(), is_read: false };
        true
    }

    /// The time at which the waiting POST polls again, if questions are being gathered.
    pub(super) fn gathers(&self) -> Option<Instant> {
        self.lock().gathers()
    }

    /// Polls the next step of the owner, and delivers result and questions to a stream that is read.
    pub(super) fn poll_owner(self: &Arc<Self>, cx: &mut Context<'_>) -> OwnerStep {
        self.owner.register(cx.waker());
        let mut state = self.lock();
        let outbox = match &state.consumer {
            Consumer::Waiting => return OwnerStep::Work,
            Consumer::Parked(until) => return OwnerStep::WaitUntil(*until),
            Consumer::Gone => return OwnerStep::Nothing,
            Consumer::Stream { is_read: false, .. } => return OwnerStep::Work,
            Consumer::Stream { outbox, .. } => Arc::clone(outbox),
        };
        if let Some(result) = state.ended() {
            state.consumer = Consumer::Gone;
            if let Some(body) = result.body {
                self.core.send_answer_on(&outbox, body);
            }
            outbox.close();
            return OwnerStep::Nothing;
        }
        if !matches!(outbox.poll_presence(cx), Presence::Attached(_)) {
            state.consumer = Consumer::Gone;
            outbox.abandon();
            return OwnerStep::Nothing;
        }
        if state.questions.is_empty() {
            return OwnerStep::Work;
        }
        if let Some(until) = state.gathers() {
            return OwnerStep::WaitUntil(until);
        }
        match self.park(&mut state) {
            Ok(body) => {
                self.core.send_answer_on(&outbox, body);
                outbox.close();
                match state.consumer {
                    Consumer::Parked(until) => OwnerStep::WaitUntil(until),
                    _ => OwnerStep::Nothing,
                }
            }
            Err(error) => {
                let request_id = self.core.common.request_id().to_string();
                self.core.send_answer_on(&outbox, error.to_response(Some(&state.id), &request_id));
                outbox.close();
                OwnerStep::Nothing
            }
        }
    }

    /// Parks the call, and returns the questions for its caller.
    fn park(self: &Arc<Self>, state: &mut State) -> Result<Bytes, CallError> {
        let common = &self.core.common;
        let keep = |inputs: &InputRequests| {
            let binding = StateBinding::to(&self.core.caller, &self.core.target.name, &inputs.message)?;
            self.parked.keep(self, &binding, common)
        };
        let Some((inputs, (number, sealed))) =
            self.inputs.as_ref().and_then(|inputs| Some((inputs, keep(inputs)?)))
        else {
            state.consumer = Consumer::Gone;
            common.emit(&FrontEvent::Parked { outcome: Parking::Refused });
            let message = "too many calls wait for their callers to answer what a server inputs";
            // The server asks during the call, so the call may have run.
            return Err(CallError::not_sent(ErrorKind::Overloaded, message).executed(Executed::Maybe));
        };
        state.number = Some(number);
        state.consumer = Consumer::Parked(Instant::now() + common.times().parked);
        common.emit(&FrontEvent::Parked { outcome: Parking::Parked });
        let id = String::from_utf8_lossy(state.id.raw()).into_owned();
        let questions = state.questions.iter().map(|one| (one.key.as_str(), one.json.as_str()));
        Ok(input_required(&id, questions, Some(&sealed), &inputs.server_info))
    }

    /// Resumes the call with another request and its input. `false` if the call is no longer parked.
    pub(super) fn resume(
        &self,
        id: &RpcId,
        token: Option<Bytes>,
        level: Option<&str>,
        answers: Vec<(String, String)>,
    ) -> bool {
        let mut state = self.lock();
        if !matches!(state.consumer, Consumer::Parked(_)) {
            return false;
        }
        state.consumer = Consumer::Waiting;
        (state.id, state.token, state.number, state.is_renamed) = (id.clone(), token, None, true);
        state.level = level.and_then(LogLevel::parse);
        let mut given = Vec::new();
        for (key, answer) in answers {
            if let Some(at) = state.questions.iter().position(|one| one.key == key) {
                given.push((state.questions.swap_remove(at).number, answer));
            }
        }
        drop(state);
        self.core.common.emit(&FrontEvent::Parked { outcome: Parking::Resumed });
        for (number, answer) in given {
            let bytes = Bytes::from(format!("{{\"jsonrpc\":\"2.0\",\"id\":0,\"result\":{answer}}}"));
            if let (Some(inputs), Ok(envelope)) = (&self.inputs, Envelope::parse(&bytes)) {
                (inputs.respond)(number, Message::new(bytes.clone(), &envelope));
            }
        }
        self.owner.wake();
        true
    }

    /// Stores the result of the call and wakes the POST.
    pub(super) fn finish(&self, result: CallResult) {
        let bytes = result.body.as_ref().map_or(0, Bytes::len);
        let charge = AnswerCharge::new(&self.core.common.memory, bytes);
        self.lock().end = Some((result, charge));
        self.post.wake();
    }

    /// Bytes of a result that no POST has fetched.
    pub(crate) fn owes(&self) -> usize {
        self.lock().end.as_ref().map_or(0, |(_, charge)| charge.bytes())
    }

    /// Expires a parked call. `false` if its caller has just returned.
    pub(super) fn expire(&self) -> bool {
        let number = {
            let mut state = self.lock();
            if !matches!(state.consumer, Consumer::Parked(until) if until <= Instant::now()) {
                return false;
            }
            state.consumer = Consumer::Gone;
            state.number.take()
        };
        let common = &self.core.common;
        number.and_then(|number| self.parked.forget(number, common));
        common.emit(&FrontEvent::Parked { outcome: Parking::Expired });
        true
    }

    /// Ends a call that cannot be parked, because it has no owner.
    pub(super) fn abandon(&self) {
        let number = {
            let mut state = self.lock();
            state.consumer = Consumer::Gone;
            state.number.take()
        };
        let common = &self.core.common;
        number.and_then(|number| self.parked.forget(number, common));
        common.emit(&FrontEvent::Parked { outcome: Parking::Refused });
    }

    /// Drops a result that no POST has fetched, because memory is short.
    pub(crate) fn let_go(&self) {
        self.abandon();
        self.lock().end = None;
        self.owner.wake();
    }

    /// Ends the output: it has no consumer any more.
    pub(super) fn leave(&self) {
        let mut state = self.lock();
        if let Consumer::Stream { outbox, .. } = std::mem::replace(&mut state.consumer, Consumer::Gone) {
            outbox.close();
        }
        drop(state);
        self.owner.wake();
    }

    /// Notes that the waiting POST is gone.
    pub(super) fn left(&self) {
        let mut state = self.lock();
        if matches!(state.consumer, Consumer::Waiting | Consumer::Stream { is_read: false, .. }) {
            state.consumer = Consumer::Gone;
            drop(state);
            self.owner.wake();
        }
    }

    // Consistent between any two statements, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The time until which further questions are gathered.
    fn gathers(&self) -> Option<Instant> {
        self.gather_until.filter(|until| !self.questions.is_empty() && *until > Instant::now())
    }

    /// Takes the result, under the id of the request to be answered.
    fn ended(&mut self) -> Option<CallResult> {
        let (result, _) = self.end.take()?;
        Some(if self.is_renamed { result.under(&self.id) } else { result })
    }
}
