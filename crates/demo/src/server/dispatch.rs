//! One message of a known session: what it is, whether it comes too early, and what it becomes.
//!
//! The subtle thing: an instant answer never becomes a task; only work that waits, or a fault that needs to,
//! is turned into a [`Job`].

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::job::Job;
use super::message::{Message, Reply, is_plain_id, quote};
use super::session::{ClientCaps, Session, Wire, key};
use super::stats::{Kind, lock};
use super::tools::{self, Work};
use super::{Shared, catalog};
use crate::script::{FaultKind, IdDialect, Script, Stage};

/// What a message becomes.
pub(crate) enum Step {
    /// Nothing to answer: a notification or a response.
    Taken,
    /// An answer at once, with the id as it goes back.
    Instant(String, Reply),
    /// An answer later.
    Later(Box<Job>),
    /// Refused as too early (HTTP 400 on Streamable HTTP, an error on the stream on HTTP+SSE).
    TooEarly(String),
    /// No message of MCP.
    Bad,
    /// A fault that answers instead of the server.
    Fault(FaultKind),
}

/// Everything a message is judged by.
pub(crate) struct Dispatch<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) script: &'a Arc<Script>,
    pub(crate) session: &'a Arc<Session>,
}

impl Dispatch<'_> {
    /// Judges one message; `body` is the text it was read from.
    pub(crate) fn take(&self, message: &Message<'_>, body: &Bytes) -> Step {
        let Some(method) = message.method.as_deref() else { return self.response(message, body) };
        self.shared.stats.method(method);
        let Some(id) = message.id.map(|id| id.get()) else { return self.notification(method, message) };
        if !is_plain_id(id) {
            // E4: Python takes it for a notification, TypeScript refuses it
            return if self.script.ids == IdDialect::Text { Step::Taken } else { Step::Bad };
        }
        self.request(id, method, message)
    }

    fn response(&self, message: &Message<'_>, body: &Bytes) -> Step {
        let Some(id) = message.id else { return Step::Bad };
        if message.result.is_none() && message.error.is_none() {
            return Step::Bad;
        }
        self.shared.stats.method("response");
        self.session.answered(id.get(), body);
        Step::Taken
    }

    fn notification(&self, method: &str, message: &Message<'_>) -> Step {
        match method {
            "notifications/initialized" => match self.shared.hit(Stage::Initialized) {
                Some(FaultKind::Silent) => {}
                Some(fault) => return Step::Fault(fault),
                None => self.session.initialized.store(true, Relaxed),
            },
            "notifications/cancelled" => {
                self.shared.stats.cancels.fetch_add(1, Relaxed);
                let id = message.params.as_ref().and_then(|p| p.request_id);
                if let Some(id) = id.filter(|id| is_plain_id(id.get())) {
                    self.session.cancel(&key(id.get(), self.script.ids));
                }
            }
            // E13: whoever changes the roots changes them for everybody on the session
            "notifications/roots/list_changed" => self.session.residue.forget_roots(),
            _ => {}
        }
        Step::Taken
    }

    fn request(&self, id: &str, method: &str, message: &Message<'_>) -> Step {
        let stage = stage(method);
        let early =
            !matches!(stage, Stage::Initialize | Stage::Ping) && !self.session.initialized.load(Relaxed);
        let id_back = self.id_back(id);
        if early {
            self.shared.stats.too_early.fetch_add(1, Relaxed);
            if self.script.strict_init {
                return Step::TooEarly(id_back);
            }
        }
        let mut delay = match stage {
            Stage::Initialize => self.script.handshake_delay,
            Stage::Call => self.script.call_delay,
            _ => Duration::ZERO,
        };
        let fault = self.shared.hit(stage);
        let work = match &fault {
            Some(FaultKind::Hang | FaultKind::Status(..) | FaultKind::Reset) => {
                return fault.map_or(Step::Bad, Step::Fault);
            }
            Some(FaultKind::Rpc(code, text)) => Work::Ready(Reply::error(*code, text.clone())),
            _ if stage == Stage::Initialize => self.initialize(message),
            _ => tools::plan(message, self.session, self.script, self.shared),
        };
        if let Some(FaultKind::Delay(more)) = fault {
            delay += more;
        }
        self.schedule(id, id_back, stage, work, delay, fault)
    }

    fn schedule(
        &self,
        id: &str,
        id_back: String,
        stage: Stage,
        work: Work,
        delay: Duration,
        fault: Option<FaultKind>,
    ) -> Step {
        let in_turn = self.script.out_of_order && stage == Stage::Call;
        let key = key(id, self.script.ids);
        let wait = self.wait_for_get(stage);
        let waits = !delay.is_zero() || in_turn || fault.is_some() || wait.is_some();
        let work = match work {
            Work::Ready(reply) if !waits => {
                if !self.session.is_idle() {
                    // counts a duplicate, and orphans the first, exactly like a slow one
                    drop(self.session.enter(key, &self.shared.stats));
                }
                return Step::Instant(id_back, reply);
            }
            work => work,
        };
        let Ok(ticket) = self.session.enter(key, &self.shared.stats) else {
            return Step::Instant(id_back, Reply::error(-32603, "too many requests in flight"));
        };
        Step::Later(Box::new(Job {
            session: Arc::clone(self.session),
            script: Arc::clone(self.script),
            shared: Arc::clone(self.shared),
            id: id_back,
            work,
            delay,
            wait_for_get: wait,
            turn: in_turn.then(|| self.session.calls.fetch_add(1, Relaxed) + 1),
            fault,
            // MCP forbids cancelling `initialize`; it still holds its id
            ticket: Some(ticket),
            _held: self.shared.stats.hold(Kind::Request),
        }))
    }

    /// How long a call waits for the GET stream its client is expected to open.
    fn wait_for_get(&self, stage: Stage) -> Option<Duration> {
        let waits = stage == Stage::Call
            && self.session.wire == Wire::Http
            && !self.script.roots_wait.is_zero()
            && lock(&self.session.caps).roots
            && self.session.stream().is_none()
            && self.session.residue.is_first_call();
        waits.then_some(self.script.roots_wait)
    }

    fn initialize(&self, message: &Message<'_>) -> Work {
        self.shared.stats.initializes.fetch_add(1, Relaxed);
        let again = self.session.answered_initialize.swap(true, Relaxed);
        if again && self.script.refuse_second_initialize {
            return Work::Ready(Reply::error(-32600, "Invalid Request: Server already initialized"));
        }
        let params = message.params.as_ref();
        *lock(&self.session.caps) = declared(params.and_then(|p| p.capabilities).map(|c| c.get()));
        let asked = params.and_then(|p| p.protocol_version.as_deref());
        Work::Ready(Reply::Result(catalog::initialize(self.script, asked).into()))
    }

    fn id_back(&self, id: &str) -> String {
        if self.script.string_ids_back && !id.starts_with('"') { quote(id) } else { id.to_owned() }
    }
}

fn stage(method: &str) -> Stage {
    match method {
        "initialize" => Stage::Initialize,
        "ping" => Stage::Ping,
        "tools/call" => Stage::Call,
        _ => Stage::Other,
    }
}

#[derive(Deserialize)]
struct Declared {
    #[serde(default)]
    sampling: Option<IgnoredAny>,
    #[serde(default)]
    elicitation: Option<IgnoredAny>,
    #[serde(default)]
    roots: Option<IgnoredAny>,
}

fn declared(capabilities: Option<&str>) -> ClientCaps {
    let declared = capabilities.and_then(|text| serde_json::from_str::<Declared>(text).ok());
    declared.map_or_else(ClientCaps::default, |d| ClientCaps {
        sampling: d.sampling.is_some(),
        elicitation: d.elicitation.is_some(),
        roots: d.roots.is_some(),
    })
}
