//! Sessions, bindings and callers without a backend.

use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use mcpool_wire::{
    AgentKey, BackendId, Call, CallTrace, Caller, CapabilityClass, ClientHello, Envelope, Hello, Identity,
    LinkEvent, Message, Method, Outlet, OutletFull, RequestId, Revision, Target,
};
use shuttle::thread;
use tokio::sync::mpsc;

use crate::{
    clock,
    config::{
        BackendSpec, Endpoint, HttpEndpoint, Limits, ModeChoice, Origin, Sharing, Times, TransportChoice,
    },
    credential::CredentialKey,
    error::SendError,
    kinds::{Mode, TransportKind},
    observe::{Event, Observe, Reporter, Source},
    pool::{Binding, Lease, NoLease, Pool, PoolKey, budget::Budget, sharing::SharingPolicy},
    queue::{Entry, Lane, Need, Queue, QueueLimits, Waiter},
    session::{Session, SessionParts, permit::CallKind},
    shared::SharedState,
    transport::{Exchange, Inbound, Outbound},
};

/// A pool and its queue.
#[derive(Clone)]
pub(super) struct Rig {
    pub(super) queue: Arc<Queue>,
    pool: Arc<Pool>,
    budget: Arc<Budget>,
    limit: usize,
}

/// An agent in its binding.
pub(super) struct Attached {
    pub(super) binding: Binding,
    pub(super) outlet: Arc<Inbox>,
    queue: Arc<Queue>,
}

/// Where an agent hears.
pub(super) struct Inbox;

impl Rig {
    /// Sessions with so many permits each.
    pub(super) fn new(limit: usize) -> Self {
        let queue = Queue::new(QueueLimits { calls: 8, bytes: 1 << 10 });
        let key = PoolKey {
            backend: BackendId(1),
            generation: 1,
            identity: Identity::anonymous(),
            credential: CredentialKey::default(),
            affinity: None,
            class: CapabilityClass::neutral(),
            headers: Arc::default(),
            mode: Mode::Shared,
        };
        let shared = SharedState::new(queue.clone(), reporter(), false);
        let Ok(budget) = Budget::new(4) else { panic!("a budget") };
        Self { queue, pool: Arc::new(Pool::new(1, key, shared)), budget: Arc::new(budget), limit }
    }

    /// One more session, ready.
    pub(super) fn open(&self, epoch: u64) -> Arc<Session> {
        let Some(place) = self.budget.take().now_or_never().flatten() else { panic!("a place") };
        let session = Session::new(SessionParts {
            epoch,
            lane: Lane { pool: 1, session: Some(epoch), need: Need::Permit },
            mode: Mode::Shared,
            kind: TransportKind::Memory,
            era: mcpool_wire::Era::Legacy,
            outbound: Arc::new(Mute),
            limit: self.limit,
            first_id: 1,
            errands: mpsc::channel(1).0,
            queue: self.queue.clone(),
            catalog: self.pool.catalog.clone(),
            shared: self.pool.shared.clone(),
            reporter: reporter(),
            owner: None,
            policy: Arc::new(SharingPolicy::new(Arc::new(spec()), reporter())),
            quirks: Arc::new(crate::quirks::Quirks::new("b".into())),
            place,
        });
        self.pool.add(session.clone());
        session.handshaken();
        session
    }

    pub(super) fn binding(&self, agent: u64) -> Attached {
        self.attached(agent, Binding::shared)
    }

    pub(super) fn exclusive(&self, agent: u64) -> Attached {
        self.attached(agent, |hello, pool| Binding::exclusive(hello, pool, false))
    }

    fn attached(&self, agent: u64, binding: impl FnOnce(&Hello, Arc<Pool>) -> Binding) -> Attached {
        let outlet = Arc::new(Inbox);
        let hello = Hello {
            caller: caller(agent),
            target: Target::named("rig"),
            client: ClientHello::neutral(),
            outlet: outlet.clone(),
        };
        Attached { binding: binding(&hello, self.pool.clone()), outlet, queue: self.queue.clone() }
    }
}

impl Attached {
    /// Lets the agent keep to a session, whether or not that has a permit for it.
    pub(super) fn keep(&self) {
        self.binding.keeps_to(1);
    }

    pub(super) fn enter(&self, kind: CallKind) -> Waiter {
        let entry = Entry { principal: Identity::anonymous(), agent: self.binding.caller.agent, bytes: 1 };
        let Ok(waiter) = self.queue.enter(self.binding.lane(kind, &self.queue), entry, clock::now()) else {
            panic!("the queue is full")
        };
        waiter
    }

    /// A permit, waited for as the layers of a call do it.
    pub(super) async fn lease(&self, kind: CallKind) -> Lease {
        if self.queue.is_empty()
            && let Ok(lease) = self.binding.try_lease(kind, None)
        {
            return lease;
        }
        let mut waiter = self.enter(kind);
        let mut may_try = waiter.is_first();
        loop {
            if may_try {
                match self.binding.try_lease(kind, None) {
                    Ok(lease) => {
                        waiter.served(clock::now());
                        return lease;
                    }
                    Err(NoLease::Wait(lane)) if lane != waiter.lane() => {
                        waiter.back_to(lane);
                        continue;
                    }
                    Err(_) => {}
                }
            }
            assert!(waiter.woken().await.is_ok(), "sent away");
            let lane = waiter.lane();
            waiter.back_to(lane);
            may_try = true;
        }
    }
}

/// Runs everybody at once, to the end.
pub(super) fn all<F: FnOnce() + Send + 'static>(bodies: impl Iterator<Item = F>) {
    all_and(bodies, || {});
}

/// The same beside something that this thread does.
pub(super) fn all_and<F: FnOnce() + Send + 'static>(bodies: impl Iterator<Item = F>, own: impl FnOnce()) {
    let threads: Vec<_> = bodies.map(thread::spawn).collect();
    own();
    for thread in threads {
        assert!(thread.join().is_ok(), "a thread panicked");
    }
}

/// A call of this agent.
pub(super) fn call(agent: u64) -> Call {
    let bytes =
        Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}"#);
    let Ok(envelope) = Envelope::parse(&bytes) else { panic!("a message") };
    Call {
        caller: caller(agent),
        request_id: RequestId(1),
        method: Method::ToolsCall,
        message: Message::new(bytes.clone(), &envelope),
        era: mcpool_wire::Era::Legacy,
        headers: Arc::default(),
        name: None,
        is_plain_list: false,
        wants_task: false,
        outlet: None,
        hard_deadline: clock::now(),
        trace: Arc::new(CallTrace::new(clock::now())),
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

fn reporter() -> Reporter {
    Reporter::new(Source { id: BackendId(0), name: "rig".into() }, Arc::new(Blind))
}

fn spec() -> BackendSpec {
    let Ok(url) = "http://rig/".parse() else { panic!("a URL") };
    BackendSpec {
        id: BackendId(0),
        name: "rig".into(),
        durable_id: None,
        origin: Origin::Demo,
        generation: 1,
        endpoint: Endpoint::Http(HttpEndpoint::new(url)),
        transport: TransportChoice::Auto,
        mode: ModeChoice::Shared,
        sharing: Sharing::default(),
        fan_out_logs: false,
        times: Times::default(),
        limits: Limits::default(),
    }
}

struct Blind;

impl Observe for Blind {
    fn on(&self, _: &Source, _: Event<'_>) {}
}

impl Outlet for Inbox {
    fn push(&self, _: LinkEvent) -> Result<(), OutletFull> {
        Ok(())
    }
}

/// A backend to which nothing is sent.
struct Mute;

impl Outbound for Mute {
    fn agreed(&self, _: Revision) {}

    fn listen(&self) -> BoxFuture<'static, Result<Inbound, SendError>> {
        std::future::pending().boxed()
    }

    fn send(&self, _: Bytes) -> Exchange {
        Box::pin(futures::stream::pending())
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }
}
