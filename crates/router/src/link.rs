//! One agent's link to the backend of its URL, across configuration changes.
//!
//! When a new registration takes over the backend's name, an agent on shared sessions moves to it: at once if possible,
//! so that its subscriptions continue, else with its next call. Unsent calls move too; sent calls finish at the old
//! registration. An agent with a session of its own stays there until its session or the agent ends.
//!
//! An agent also moves when a call has other values of the forwarded headers. Each call uses a binding with exactly its
//! own values: a refreshed token is sent, and no call carries another call's token.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use mcpool_upstream::{Backend, Binding, Endpoint, Leaving, Mode};
use mcpool_wire::{
    Answer, Call, CallError, Caller, Era, ErrorKind, Executed, Forwarded, Hello, Link, LinkEvent, Message,
    Method, Reply, Revision,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use crate::{
    registry::{Registered, Registry, bind_unless_retired, find},
    stack::{BackendStack, StackRequest, backend_retired},
};

/// One agent's link to one backend.
pub struct GatewayLink {
    state: Arc<LinkState>,
    links: Arc<Links>,
    number: u64,
}

/// The state of a link: the agent and its current attachment.
pub(crate) struct LinkState {
    hello: Hello,
    /// The caller of the last move, with its header values.
    caller: ArcSwap<Caller>,
    registry: Arc<ArcSwap<Registry>>,
    attachment: ArcSwap<Attachment>,
    /// Serialises moves: all calls of the agent share one move and its failure.
    turn: Semaphore,
    failed: Mutex<Failed>,
}

/// Failed moves.
#[derive(Default)]
struct Failed {
    times: u64,
    /// Header values and error of the last failure.
    last: Option<(Forwarded, CallError)>,
}

/// An agent's attachment to one registration of the backend: its binding and the stack for its calls.
pub(crate) struct Attachment {
    binding: Arc<Binding>,
    backend: Arc<Backend>,
    stack: BackendStack,
    retired: CancellationToken,
}

/// All links, so that they can be moved. An entry lives as long as its link.
#[derive(Default)]
pub(crate) struct Links {
    next: AtomicU64,
    all: Mutex<HashMap<u64, Weak<LinkState>>>,
}

/// Maximum number of agents moved at once.
const MOVED_AT_ONCE: usize = 64;

impl Attachment {
    pub(crate) fn new(registered: &Registered, binding: Binding) -> Self {
        Self {
            binding: Arc::new(binding),
            backend: registered.backend.clone(),
            stack: registered.stack.clone(),
            retired: registered.retired.clone(),
        }
    }

    /// True if the agent must move: its registration ended.
    fn is_retired(&self) -> bool {
        match self.backend.leaving() {
            None => false,
            Some(Leaving::Replaced) => self.binding.mode() != Mode::Pinned,
            Some(Leaving::Removed) => true,
        }
    }

    /// True if this binding's sessions carry the caller's header values.
    fn serves(&self, caller: &Arc<Caller>) -> bool {
        Arc::ptr_eq(caller, self.binding.caller()) || self.backend.carries(&self.binding, caller)
    }
}

impl Registered {
    /// Links an agent to this backend.
    ///
    /// # Errors
    /// The reason there is no session for it.
    ///
    /// # Cancel safety
    /// Dropping the future releases everything it holds. A handshake that others await continues.
    pub async fn open(&self, hello: &Hello) -> Result<GatewayLink, CallError> {
        let attachment = Attachment::new(self, self.backend.bind(hello).await?);
        Ok(GatewayLink::new(hello.clone(), Arc::default(), attachment, &Arc::default()))
    }
}

impl GatewayLink {
    pub(crate) fn new(
        hello: Hello,
        registry: Arc<ArcSwap<Registry>>,
        attachment: Attachment,
        links: &Arc<Links>,
    ) -> Self {
        let (caller, attachment) = (ArcSwap::new(hello.caller.clone()), ArcSwap::from_pointee(attachment));
        let turn = Semaphore::new(1);
        let state = LinkState { hello, caller, registry, attachment, turn, failed: Mutex::default() };
        let state = Arc::new(state);
        Self { number: links.enter(&state), links: links.clone(), state }
    }

    /// The sharing mode of this agent.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.binding().mode()
    }

    fn binding(&self) -> Arc<Binding> {
        self.state.attachment.load().binding.clone()
    }
}

impl Link for GatewayLink {
    fn initialize_result(&self, revision: Revision) -> Bytes {
        self.binding().initialize_result(revision)
    }

    fn is_own(&self) -> bool {
        self.mode() == Mode::Pinned
    }

    fn sharing(&self) -> &'static str {
        self.mode().as_str()
    }

    fn is_outdated(&self) -> bool {
        let attachment = self.state.attachment.load();
        attachment.backend.is_outdated(&attachment.binding, &self.state.hello)
    }

    fn era(&self) -> Era {
        self.binding().era()
    }

    fn check_params(&self, tool: &str, message: &[u8], headers: &Forwarded) -> Result<(), String> {
        self.binding().check_params(tool, message, headers)
    }

    fn call(&self, call: Call) -> Reply<Answer> {
        let attachment = self.state.attachment.load_full();
        let state = self.state.clone();
        if attachment.is_retired() || !attachment.serves(&call.caller) {
            return async move { state.follow(call).await }.boxed();
        }
        let request = StackRequest::new(call, attachment.binding.clone());
        let answer = attachment.ask(request.clone());
        async move {
            match answer.await {
                Err(error) if attachment.should_follow(&error) => {
                    let followed = state.follow(request.call().clone()).await;
                    // A call that may have run at the old registration stays so, whatever happens here.
                    followed.map_err(|last| match (error.executed, last.executed) {
                        (Executed::Maybe, Executed::No) => last.executed(Executed::Maybe),
                        _ => last,
                    })
                }
                settled => settled,
            }
        }
        .boxed()
    }

    fn notify(&self, notification: Bytes) {
        self.binding().notify(notification);
    }

    fn respond(&self, id: u64, response: Message) {
        self.binding().respond(id, &response);
    }
}

impl Drop for GatewayLink {
    fn drop(&mut self) {
        self.links.lock().remove(&self.number);
    }
}

impl Attachment {
    fn ask(&self, request: StackRequest) -> Reply<Answer> {
        let is_subscription = request.call().method == Method::ResourcesSubscribe;
        let answer = self.stack.clone().call(request);
        if !is_subscription || self.binding.mode() == Mode::Pinned {
            return answer;
        }
        // Subscriptions wait outside the queue, which would wake them.
        let (gone, name) = (self.retired.clone(), self.backend.spec().name.clone());
        async move {
            tokio::select! {
                biased;
                settled = answer => settled,
                () = gone.cancelled() => Err(backend_retired(&name)),
            }
        }
        .boxed()
    }

    fn should_follow(&self, error: &CallError) -> bool {
        error.kind == ErrorKind::Draining && self.is_retired()
    }
}

impl LinkState {
    /// Makes a call at the current registration, following further changes within the call's deadline.
    async fn follow(&self, call: Call) -> Result<Answer, CallError> {
        let idle = self.attachment.load().backend.spec().times.call_idle;
        let until = call.hard_deadline.min(call.trace.started + idle);
        loop {
            let moved = {
                let next = find(&self.registry, &self.hello.target.name);
                // Counts the call as waiting at the current registration.
                let _waits = next.as_ref().map(|next| next.backend.awaits_binding());
                let moved = tokio::time::timeout_at(until.into(), self.current(&call.caller));
                tokio::select! {
                    biased;
                    moved = moved => moved,
                    () = replaced(next.as_deref()) => continue,
                }
            };
            let attachment = moved.unwrap_or_else(|_| Err(self.not_moved(&call)))?;
            match attachment.ask(StackRequest::new(call.clone(), attachment.binding.clone())).await {
                Err(error) if attachment.should_follow(&error) => {}
                settled => return settled,
            }
        }
    }

    fn not_moved(&self, call: &Call) -> CallError {
        let (name, time) = (&self.hello.target.name, call.trace.started.elapsed());
        let seconds = time.as_secs();
        let why = find(&self.registry, name).and_then(|next| next.backend.trouble());
        let why = why.map(|trouble| format!(": {}", trouble.why)).unwrap_or_default();
        let message = format!(
            "the configuration of backend {name:?} changed, and it has not become ready within {seconds} s{why}"
        );
        CallError::not_sent(ErrorKind::Deadline, message).of_backend(name.clone())
    }

    /// The agent's binding for this caller, moving it if needed. Calls waiting on a move share its failure, as a retry
    /// would meet the same backend.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the agent in place; the next call moves it.
    async fn current(&self, caller: &Arc<Caller>) -> Result<Arc<Attachment>, CallError> {
        let before = self.failed().times;
        let _turn = self.turn.acquire().await;
        let attachment = self.attachment.load_full();
        if !attachment.is_retired() && attachment.serves(caller) {
            return Ok(attachment);
        }
        if let Some(error) = self.failed().since(before, caller) {
            return Err(error);
        }
        let moved = self.moved(attachment, caller).await;
        if let Err(error) = &moved {
            let mut failed = self.failed();
            *failed =
                Failed { times: failed.times + 1, last: Some((caller.forwarded.clone(), error.clone())) };
        }
        moved
    }

    /// Moves the agent, and again if the new registration is replaced meanwhile.
    async fn moved(
        &self,
        mut attachment: Arc<Attachment>,
        caller: &Arc<Caller>,
    ) -> Result<Arc<Attachment>, CallError> {
        let name = &self.hello.target.name;
        while attachment.is_retired() || !attachment.serves(caller) {
            if !attachment.is_retired() && attachment.binding.mode() == Mode::Pinned {
                return Err(other_credentials().of_backend(name.clone()));
            }
            // A session of the agent's own is lost with its state: the agent must initialize again.
            let next =
                if attachment.binding.mode() == Mode::Pinned { None } else { find(&self.registry, name) };
            let Some(next) = next else { return Err(backend_retired(name)) };
            let times = &next.backend.spec().times;
            // The agent was just being served, so it may wait longer.
            let patience = times.queue.max(times.first_open);
            let hello = Hello { caller: caller.clone(), ..self.hello.clone() };
            if let Some(binding) = bind_unless_retired(&next, &hello, patience).await? {
                binding.follow(&attachment.binding, is_elsewhere(&attachment.backend, &next.backend));
                if binding.mode() == Mode::Pinned {
                    // A closed outlet needs no event.
                    let _ = hello.outlet.push(LinkEvent::Owned(caller.forwarded.clone()));
                }
                self.caller.store(caller.clone());
                attachment = Arc::new(Attachment::new(&next, binding));
                self.attachment.store(attachment.clone());
            }
        }
        Ok(attachment)
    }

    fn failed(&self) -> MutexGuard<'_, Failed> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Failed {
    /// The last failure after the first `times`, if it was for this caller's header values.
    fn since(&self, times: u64, caller: &Caller) -> Option<CallError> {
        let (sent, error) = self.last.as_ref().filter(|_| self.times > times)?;
        (*sent == caller.forwarded).then(|| error.clone())
    }
}

impl Links {
    fn enter(&self, state: &Arc<LinkState>) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(number, Arc::downgrade(state));
        number
    }

    /// Moves every agent of a registration that ended. Agents that cannot move now do so with their next call.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the rest in place.
    pub(crate) async fn move_from(&self, backend: &Arc<Backend>) {
        let all: Vec<Weak<LinkState>> = self.lock().values().cloned().collect();
        let moves = all.into_iter().map(|state| async move {
            let Some(state) = state.upgrade() else { return };
            let attachment = state.attachment.load_full();
            if Arc::ptr_eq(&attachment.backend, backend)
                && attachment.is_retired()
                && attachment.binding.mode() != Mode::Pinned
            {
                drop(attachment);
                let _ = state.current(&state.caller.load_full()).await;
            }
        });
        futures::stream::iter(moves).buffer_unordered(MOVED_AT_ONCE).for_each(|()| async {}).await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Weak<LinkState>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Resolves when this registration ends.
async fn replaced(registered: Option<&Registered>) {
    match registered {
        Some(registered) => registered.retired.cancelled().await,
        None => std::future::pending().await,
    }
}

/// The error when a call on an agent's own session brings other credentials than the session was opened with. The front
/// rejects most such calls earlier.
fn other_credentials() -> CallError {
    let message = "this session belongs to other credentials: send initialize";
    CallError::not_sent(ErrorKind::InvalidRequest, message)
}

/// True if the address changed, so that knowledge of the old server does not apply.
fn is_elsewhere(old: &Backend, new: &Backend) -> bool {
    match (&old.spec().endpoint, &new.spec().endpoint) {
        (Endpoint::Http(old), Endpoint::Http(new)) => old.url != new.url,
        (old, new) => old != new,
    }
}
