//! One backend in memory behind the whole stack of a call, under a paused clock: agents, calls, and what is held.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use mcpool_breaker::{Settings, Transition};
use mcpool_router::{
    events::{GatewayObserve, StackObserve},
    registry::{Registered, register_with},
    route::GatewayLink,
    settings::RetrySettings,
};
use mcpool_upstream::{
    BackendSpec, Cause, Endpoint, Event, HttpEndpoint, Limits, ModeChoice, Observe, Origin, Refusal,
    SendError, SendPhase, Sharing, Source, Times, TransportChoice,
    transport::{
        Transport,
        memory::{Memory, Turn},
    },
};
use mcpool_wire::{
    AgentKey, Answer, BackendId, Call, CallError, CallTrace, Caller, ClientHello, Envelope, Hello, Identity,
    Link as _, LinkEvent, Message, Method, Outlet, OutletFull, RequestId, Revision, Target,
};
use serde_json::{Value, json};

/// The backend, what stands in front of it, and what was seen.
pub(crate) struct Lab {
    pub(crate) memory: Memory,
    pub(crate) registered: Registered,
    pub(crate) seen: Arc<Seen>,
}

/// What a test wants other than the defaults.
#[derive(Clone)]
pub(crate) struct Wish {
    pub(crate) mode: ModeChoice,
    pub(crate) sharing: Sharing,
    pub(crate) fan_out_logs: bool,
    pub(crate) times: Times,
    pub(crate) limits: Limits,
    pub(crate) breaker: Settings,
    pub(crate) retry: RetrySettings,
}

/// What happened, as one line each.
#[derive(Default)]
pub(crate) struct Seen {
    lines: Mutex<Vec<String>>,
    pub(crate) counts: Mutex<BTreeMap<String, usize>>,
}

/// What is held on behalf of callers: in flight, in the books, waiting, places, tasks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) in_flight: usize,
    pub(crate) pending: usize,
    pub(crate) waiting: usize,
    pub(crate) places: usize,
    pub(crate) tasks: BTreeMap<&'static str, usize>,
}

/// One agent.
pub(crate) struct Agent {
    pub(crate) link: GatewayLink,
    pub(crate) caller: Arc<Caller>,
    pub(crate) inbox: Arc<Inbox>,
}

/// What was pushed to an agent.
#[derive(Default)]
pub(crate) struct Inbox(Mutex<Vec<LinkEvent>>);

impl Default for Wish {
    fn default() -> Self {
        let limits = Limits { min_idle: 0, ..Limits::default() };
        Self {
            mode: ModeChoice::Auto,
            sharing: Sharing::default(),
            fan_out_logs: false,
            times: Times::default(),
            limits,
            breaker: Settings::default(),
            retry: RetrySettings::default(),
        }
    }
}

impl Lab {
    pub(crate) fn start(memory: Memory, wish: Wish) -> Self {
        let transport = Arc::new(memory.clone());
        Self::over(memory, transport, wish)
    }

    /// The same over another transport; the backend in memory stands aside.
    pub(crate) fn over(memory: Memory, transport: Arc<dyn Transport>, wish: Wish) -> Self {
        let seen = Arc::new(Seen::default());
        let spec = BackendSpec {
            id: BackendId(0),
            name: "lab".into(),
            durable_id: None,
            origin: Origin::Demo,
            generation: 1,
            endpoint: Endpoint::Http(HttpEndpoint::new("http://lab/".parse().expect("a URL"))),
            transport: TransportChoice::Auto,
            mode: wish.mode,
            sharing: wish.sharing,
            fan_out_logs: wish.fan_out_logs,
            times: wish.times,
            limits: wish.limits,
        };
        let registered =
            register_with(spec, transport, &wish.breaker, wish.retry, &Arc::new(Eyes(seen.clone())))
                .expect("a backend");
        Self { memory, registered, seen }
    }

    /// A backend that does what the name of the called tool says, at once or in the given time.
    pub(crate) fn scripted(wish: Wish) -> Self {
        Self::start(Memory::new(act), wish)
    }

    /// The same, answering in the exchange of each message.
    pub(crate) fn scripted_in_exchange(wish: Wish) -> Self {
        Self::start(Memory::new(act).answering_in_exchange(), wish)
    }

    pub(crate) async fn agent(&self, number: u64) -> Agent {
        self.try_agent(number, None, json!({})).await.expect("a link")
    }

    pub(crate) async fn try_agent(
        &self,
        number: u64,
        affinity: Option<&str>,
        capabilities: Value,
    ) -> Result<Agent, CallError> {
        let client = ClientHello { capabilities, ..ClientHello::neutral() };
        self.open(number, affinity, client).await
    }

    /// Callers without handshake, as many as there are calls.
    pub(crate) async fn guests(&self, number: u64) -> Agent {
        let client = ClientHello { revision: Revision::V2026_07_28, ..ClientHello::neutral() };
        self.open(number, None, client).await.expect("a link")
    }

    async fn open(
        &self,
        number: u64,
        affinity: Option<&str>,
        client: ClientHello,
    ) -> Result<Agent, CallError> {
        let caller = Arc::new(Caller {
            identity: Identity::anonymous(),
            is_local: true,
            agent: AgentKey(number),
            affinity: affinity.map(Into::into),
            forwarded: Arc::default(),
        });
        let inbox = Arc::new(Inbox::default());
        let target = Target::named("lab");
        let hello = Hello { caller: caller.clone(), target, client, outlet: inbox.clone() };
        let link = self.registered.open(&hello).await?;
        Ok(Agent { link, caller, inbox })
    }

    pub(crate) fn held(&self) -> Held {
        let status = self.registered.backend.status();
        Held {
            in_flight: status.leases.0,
            pending: status.sessions.iter().map(|s| s.pending).sum(),
            waiting: status.waiting.calls,
            places: status.places.0,
            tasks: status.tasks,
        }
    }

    /// Waits, in virtual time, for a condition; the time it took.
    pub(crate) async fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) -> Duration {
        let start = now();
        for _ in 0..200_000 {
            if holds(self) {
                return now().saturating_duration_since(start);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("{what} did not come true: {:?}, {:?}", self.held(), self.seen.lines());
    }

    pub(crate) fn standings(&self) -> Vec<&'static str> {
        self.registered.backend.status().sessions.iter().map(|s| s.standing).collect()
    }
}

impl Agent {
    /// A call of a tool.
    pub(crate) fn tool(&self, name: &str, arguments: &Value) -> Call {
        self.request(
            "tools/call",
            &json!({"name": name, "arguments": arguments, "_meta": {"progressToken": "mine"}}),
        )
    }

    pub(crate) fn request(&self, method: &str, params: &Value) -> Call {
        self.request_as(&json!("agents-own"), method, params)
    }

    /// The same under an id of the agent's choice.
    pub(crate) fn request_as(&self, id: &Value, method: &str, params: &Value) -> Call {
        let bytes =
            Bytes::from(json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string());
        let envelope = Envelope::parse(&bytes).expect("a request");
        let message = Message::new(bytes.clone(), &envelope);
        Call {
            caller: self.caller.clone(),
            request_id: RequestId(1),
            method: Method::parse(method),
            message,
            era: mcpool_wire::Era::Legacy,
            headers: Arc::default(),
            name: params["name"].as_str().or(params["uri"].as_str()).map(Into::into),
            is_plain_list: method.ends_with("/list") && params["cursor"].is_null(),
            wants_task: params["task"].is_object(),
            outlet: Some(self.inbox.clone()),
            hard_deadline: now() + Duration::from_secs(3600),
            trace: Arc::new(CallTrace::new(now())),
        }
    }

    pub(crate) fn link_mode(&self) -> &'static str {
        self.link.mode().as_str()
    }

    pub(crate) async fn run(&self, name: &str, arguments: &Value) -> Result<Answer, CallError> {
        self.link.call(self.tool(name, arguments)).await
    }

    /// The same, on its own.
    pub(crate) fn start(
        &self,
        name: &str,
        arguments: &Value,
    ) -> tokio::task::JoinHandle<Result<Answer, CallError>> {
        tokio::spawn(self.link.call(self.tool(name, arguments)))
    }
}

impl Inbox {
    pub(crate) fn taken(&self) -> Vec<LinkEvent> {
        std::mem::take(&mut *lock(&self.0))
    }
}

impl Outlet for Inbox {
    fn push(&self, event: LinkEvent) -> Result<(), OutletFull> {
        lock(&self.0).push(event);
        Ok(())
    }
}

impl Seen {
    pub(crate) fn lines(&self) -> Vec<String> {
        lock(&self.lines).clone()
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        lock(&self.counts).get(what).copied().unwrap_or_default()
    }

    fn note(&self, what: String, line: String) {
        *lock(&self.counts).entry(what).or_default() += 1;
        lock(&self.lines).push(line);
    }
}

pub(crate) struct Eyes(Arc<Seen>);

impl Observe for Eyes {
    fn on(&self, _: &Source, event: Event<'_>) {
        let what = match &event {
            Event::Opening { .. } => "opening".to_owned(),
            Event::Opened { .. } => "opened".to_owned(),
            Event::OpenFailed { .. } => "open_failed".to_owned(),
            Event::Closed { incident: Some(_), .. } => "closed_by_incident".to_owned(),
            Event::Closed { .. } => "closed".to_owned(),
            Event::Probed { ok, .. } => format!("probed_{ok}"),
            Event::Dropped { kind } => format!("dropped_{kind}"),
            Event::Answered { .. } => "answered".to_owned(),
            Event::Demoted { .. } => "demoted".to_owned(),
            Event::ModeChosen { .. } => "mode_chosen".to_owned(),
            Event::Panicked { task, .. } => format!("panicked_{task}"),
            Event::Rung { .. } | Event::Status { .. } => return,
        };
        self.0.note(what, format!("{event:?}"));
    }
}

impl GatewayObserve for Eyes {
    fn stack(&self, _: &Source) -> Arc<dyn StackObserve> {
        Arc::new(Self(self.0.clone()))
    }

    fn transition(&self, _: &Source, transition: &Transition) {
        self.0.note("transition".to_owned(), format!("{transition:?}"));
    }
}

impl StackObserve for Eyes {
    fn leased(&self, _: Duration) {
        self.0.note("leased".to_owned(), "leased".to_owned());
    }

    fn retried(&self, phase: &'static str) {
        self.0.note(format!("retried_{phase}"), format!("retried {phase}"));
    }

    fn rejected(&self, reason: &'static str) {
        self.0.note(format!("rejected_{reason}"), format!("rejected {reason}"));
    }
}

/// What the scripted backend does: a call's arguments may name a delay; the tool `hang` never answers.
async fn act(turn: Turn) -> Vec<Bytes> {
    let message: Value = serde_json::from_slice(&turn.message).unwrap_or_default();
    let arguments = &message["params"]["arguments"];
    if let Some(delay) = arguments["ms"].as_u64() {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    if message["params"]["name"] == "hang" || (message["method"] == "ping" && is_deaf(&turn)) {
        std::future::pending::<()>().await;
    }
    turn.reply().into_iter().collect()
}

/// A backend that was told so does not answer pings.
fn is_deaf(turn: &Turn) -> bool {
    turn.session.sent().iter().any(|sent| sent.windows(4).any(|w| w == b"deaf"))
}

pub(crate) fn connect_refused() -> SendError {
    SendError::not_sent(Cause::Connect("connection refused".to_owned()))
}

pub(crate) fn broken() -> SendError {
    SendError::maybe_sent(Cause::Broken("reset".to_owned()))
}

pub(crate) fn refused(cause: fn(Refusal) -> Cause) -> SendError {
    let refusal = Refusal { status: 404, message: "no".to_owned(), code: None, retry_after: None };
    SendError { phase: SendPhase::Refused, cause: cause(refusal) }
}

/// The id the answer came under, and its text.
pub(crate) fn text(answer: &Answer) -> String {
    let value: Value = serde_json::from_slice(answer.message.bytes()).expect("JSON");
    value["result"]["content"][0]["text"].as_str().unwrap_or_default().to_owned()
}

#[allow(clippy::disallowed_methods, reason = "the paused clock")]
pub(crate) fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("not poisoned")
}
