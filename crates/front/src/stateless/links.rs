//! Shared links: the links of agents without a session.
//!
//! Callers with the same key (principal, target, affinity, forwarded headers, capabilities), which a backend could not
//! tell apart anyway, share one link, and some more if many call at once, so that they spread over the sessions. A link
//! that is idle for a minute is closed; if there are too many, the one that was idle longest is closed first. However
//! many callers find no link, one is opened for them.

mod shared_link;

use std::{
    collections::HashMap,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use futures::future::{FutureExt as _, Shared, WeakShared};
use mcpool_wire::{
    AgentKey, Backends, CallError, Caller, CapabilityClass, ClientHello, Era, Forwarded, Hello, Identity,
    Link, Outlet, Revision, Target,
};

use self::shared_link::NullOutlet;
pub(crate) use self::shared_link::SharedLink;
use super::Stateless;
use crate::{
    forwarded_headers::Carried,
    limits::refused::NoPlace,
    observe::Transport,
    session::{
        Front, RequestHead,
        agent::{AgentCore, StopReason},
        open,
    },
    stream::outbox::Outbox,
};

/// Most shared links.
const MAX_LINKS: usize = 1_024;
/// Time after which an idle link is closed.
const IDLE: Duration = Duration::from_secs(60);
/// Calls in flight on each link of a key beyond which another link is opened: fewer than a backend session takes by
/// default, so that there is room on each.
const BUSY_CALLS: usize = 8;
/// Most links of one key: more than a pool has sessions.
const MAX_SAME_KEY: usize = 32;

/// The key of shared links: callers that agree in it share a link.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct LinkKey {
    backend: Target,
    identity: Arc<Identity>,
    is_local: bool,
    affinity: Option<Arc<str>>,
    forwarded: Forwarded,
    class: CapabilityClass,
}

/// The reason a caller has no link.
#[derive(Clone, Debug)]
pub(crate) enum NoLink {
    NoPlace(NoPlace),
    /// The backend gave it no link.
    Unopened(Arc<CallError>),
}

type OpenResult<L> = Result<Arc<SharedLink<L>>, NoLink>;
type OpeningLink<L> = Pin<Box<dyn Future<Output = OpenResult<L>> + Send>>;

/// All shared links of one front.
pub(crate) struct SharedLinks<L> {
    state: Mutex<State<L>>,
}

struct State<L> {
    by_key: HashMap<LinkKey, Vec<Arc<SharedLink<L>>>>,
    count: usize,
    /// Openings in progress, held by their callers only: one that no caller waits for ends.
    openings: HashMap<LinkKey, WeakShared<OpeningLink<L>>>,
}

enum Choice<L> {
    Reuse(Arc<SharedLink<L>>),
    /// All links of this key are busy; this one the least.
    AllBusy(Arc<SharedLink<L>>),
    None,
}

impl<L> Default for SharedLinks<L> {
    fn default() -> Self {
        let state = State { by_key: HashMap::new(), count: 0, openings: HashMap::new() };
        Self { state: Mutex::new(state) }
    }
}

impl<L: Link> SharedLinks<L> {
    /// Finds a link of this key.
    fn find(&self, key: &LinkKey) -> Choice<L> {
        let mut gone = Vec::new();
        let mut state = self.lock();
        let State { by_key, count, .. } = &mut *state;
        let Some(same_key) = by_key.get_mut(key) else { return Choice::None };
        same_key.retain(|shared| {
            let stays = !shared.null_outlet.ended.load(Ordering::Relaxed);
            if !stays {
                gone.push(Arc::clone(shared));
            }
            stays
        });
        // The first link with room, so that few are in use.
        let with_room = same_key.iter().position(|shared| shared.core.in_flight() < BUSY_CALLS);
        let least = || (0..same_key.len()).min_by_key(|at| same_key[*at].core.in_flight());
        let chosen = with_room.or_else(least).map(|at| Arc::clone(&same_key[at]));
        let choice = match chosen {
            None => Choice::None,
            // If one link is outdated, so are all of its key.
            Some(shared) if shared.link.is_outdated() => {
                gone.append(same_key);
                Choice::None
            }
            Some(shared) => {
                shared.core.seen();
                let is_alone = shared.link.is_own() || shared.link.era() == Era::Modern;
                let is_free = is_alone || with_room.is_some() || same_key.len() >= MAX_SAME_KEY;
                if is_free { Choice::Reuse(shared) } else { Choice::AllBusy(shared) }
            }
        };
        *count -= gone.len();
        if same_key.is_empty() {
            by_key.remove(key);
        }
        // The links end after the lock is released.
        drop(state);
        drop(gone);
        choice
    }

    /// Whether links of this key lead to a stateless backend, where one link serves everybody.
    fn is_modern(&self, key: &LinkKey) -> bool {
        let state = self.lock();
        state.by_key.get(key).and_then(|all| all.first()).is_some_and(|one| one.link.era() == Era::Modern)
    }

    fn insert(&self, key: LinkKey, shared: Arc<SharedLink<L>>) {
        let mut state = self.lock();
        let gone = if state.count >= MAX_LINKS { state.make_room() } else { None };
        state.by_key.entry(key).or_default().push(shared);
        state.count += 1;
        drop(state);
        drop(gone);
    }

    /// Closes idle links; none stays longer than an agent session would.
    pub(crate) fn sweep(&self, now: u64, longest: Duration) {
        let idle = u64::try_from(IDLE.min(longest).as_millis()).unwrap_or(u64::MAX);
        let is_idle = |shared: &SharedLink<L>| {
            let since = now.saturating_sub(shared.core.last_seen.load(Ordering::Relaxed));
            shared.core.is_idle() && since >= idle
        };
        let gone = self.lock().take_out(is_idle);
        drop(gone);
    }

    /// The cores of all links.
    pub(crate) fn cores(&self) -> Vec<Arc<AgentCore>> {
        self.lock().by_key.values().flatten().map(|shared| Arc::clone(&shared.core)).collect()
    }

    /// Closes the link that was idle longest. `false` if none is idle.
    pub(crate) fn give_way(&self) -> bool {
        let gone = {
            let mut state = self.lock();
            let idle = state.by_key.values().flatten().filter(|shared| shared.core.is_idle());
            let longest = idle.min_by_key(|shared| shared.core.last_seen.load(Ordering::Relaxed)).cloned();
            longest.map(|one| state.take_out(|shared| Arc::ptr_eq(&shared.core, &one.core)))
        };
        gone.is_some()
    }

    /// The streams of calls over all links.
    pub(crate) fn outboxes(&self) -> Vec<Arc<Outbox>> {
        self.cores().iter().flat_map(|core| core.outboxes()).collect()
    }

    /// Stops the calls of all links.
    pub(crate) fn stop_calls(&self, why: StopReason) {
        let all: Vec<_> =
            self.lock().by_key.values().flatten().map(|shared| Arc::clone(&shared.core)).collect();
        for core in all {
            core.stop_calls(why);
        }
    }

    pub(crate) fn remove_all(&self) {
        let gone = self.lock().take_out(|_| true);
        drop(gone);
    }

    // Consistent between any two statements, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State<L>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<L> State<L> {
    /// Removes the link that is needed least: an idle one before a busy one, and the one that was idle longest.
    fn make_room(&mut self) -> Option<Arc<SharedLink<L>>> {
        let all = self.by_key.values().flatten();
        let need = |shared: &&Arc<SharedLink<L>>| {
            (!shared.core.is_idle(), shared.core.last_seen.load(Ordering::Relaxed))
        };
        let least = Arc::clone(all.min_by_key(need)?);
        self.take_out(|shared| Arc::ptr_eq(&shared.core, &least.core)).pop()
    }

    fn take_out(&mut self, is_one: impl Fn(&SharedLink<L>) -> bool) -> Vec<Arc<SharedLink<L>>> {
        let mut gone = Vec::new();
        self.by_key.retain(|_, same_key| {
            let (out, left) = std::mem::take(same_key).into_iter().partition(|shared| is_one(shared));
            *same_key = left;
            gone.extend::<Vec<_>>(out);
            !same_key.is_empty()
        });
        self.count -= gone.len();
        gone
    }
}

impl<B: Backends> Front<B> {
    /// The link for a caller without a session.
    pub(crate) async fn shared_link(
        self: &Arc<Self>,
        stateless: &Arc<Stateless<B::Link>>,
        head: &RequestHead<'_>,
        target: &Target,
        client: &ClientHello,
    ) -> OpenResult<B::Link> {
        let key = self.key_of(&stateless.links, head, target, client);
        match stateless.links.find(&key) {
            Choice::Reuse(shared) => Ok(shared),
            Choice::AllBusy(shared) => {
                let another = Box::pin(self.open_once(stateless, key, head, target, client)).await;
                Ok(another.unwrap_or(shared))
            }
            Choice::None => Box::pin(self.open_once(stateless, key, head, target, client)).await,
        }
    }

    fn key_of(
        &self,
        links: &SharedLinks<B::Link>,
        head: &RequestHead<'_>,
        target: &Target,
        client: &ClientHello,
    ) -> LinkKey {
        let carried = self.carried(target, head.headers);
        let Caller { identity, is_local, affinity, forwarded, .. } = head.caller(AgentKey(0), &carried);
        let backend = target.clone();
        let mut key =
            LinkKey { backend, identity, is_local, affinity, forwarded, class: CapabilityClass::neutral() };
        if client.is_interactive() && !links.is_modern(&key) {
            key.class = client.class();
        }
        key
    }

    /// Opens one more link of this key; callers that need one at the same time share the opening.
    async fn open_once(
        self: &Arc<Self>,
        stateless: &Arc<Stateless<B::Link>>,
        key: LinkKey,
        head: &RequestHead<'_>,
        target: &Target,
        client: &ClientHello,
    ) -> OpenResult<B::Link> {
        let opening = {
            let mut state = stateless.links.lock();
            let openings = &mut state.openings;
            if let Some(opening) = openings.get(&key).and_then(WeakShared::upgrade) {
                opening
            } else {
                if openings.len() >= MAX_LINKS {
                    openings.retain(|_, opening| opening.upgrade().is_some());
                }
                let carried = self.carried(target, head.headers);
                let caller = Arc::new(head.caller(self.common.agent_key(), &carried));
                let mut client = client.clone();
                if key.class == CapabilityClass::neutral() {
                    client = ClientHello { revision: Revision::V2026_07_28, ..ClientHello::neutral() };
                }
                let future = Arc::clone(self).open_shared(
                    Arc::clone(stateless),
                    key.clone(),
                    caller,
                    target.clone(),
                    head.peer,
                    client,
                );
                let future: OpeningLink<B::Link> = Box::pin(future);
                let opening: Shared<_> = future.shared();
                openings.extend(opening.downgrade().map(|weak| (key, weak)));
                opening
            }
        };
        opening.await
    }

    async fn open_shared(
        self: Arc<Self>,
        stateless: Arc<Stateless<B::Link>>,
        key: LinkKey,
        caller: Arc<Caller>,
        target: Target,
        peer: IpAddr,
        client: ClientHello,
    ) -> OpenResult<B::Link> {
        let result = self.open_and_share(&stateless, &key, caller, target, peer, client).await;
        // Removed after the insertion: a caller that finds no opening finds the link.
        stateless.links.lock().openings.remove(&key);
        result
    }

    async fn open_and_share(
        self: &Arc<Self>,
        stateless: &Arc<Stateless<B::Link>>,
        key: &LinkKey,
        caller: Arc<Caller>,
        target: Target,
        peer: IpAddr,
        client: ClientHello,
    ) -> OpenResult<B::Link> {
        let permit = self.acquire_session(peer).await.map_err(NoLink::NoPlace)?;
        let null_outlet = Arc::<NullOutlet>::default();
        let outlet: Arc<dyn Outlet> = Arc::<NullOutlet>::clone(&null_outlet);
        let hello = Hello { caller: Arc::clone(&caller), target: target.clone(), client, outlet };
        let opened = open::bounded(self.backends.open(hello), &self.common).await;
        let link = opened.map_err(|error| NoLink::Unopened(Arc::new(error)))?;
        let (from, opened) = ((peer, Some(permit)), (Carried::default(), 0));
        let common = Arc::clone(&self.common);
        let core = AgentCore::new(caller, target, Transport::Other, from, opened, common);
        core.profile.tied(link.as_ref());
        let shared =
            Arc::new(SharedLink::new(Arc::new(core), link, null_outlet, Arc::clone(&stateless.parked)));
        let mut key = key.clone();
        if shared.link.era() == Era::Modern {
            key.class = CapabilityClass::neutral();
        }
        stateless.links.insert(key, Arc::clone(&shared));
        Ok(shared)
    }
}
