//! The links modern agents share: who has no session is a guest of its principal.
//!
//! Callers of one principal that a backend could not tell apart anyway (same target, affinity, forwarded headers,
//! capabilities) come over one link, and over some more of its kind where many call at once, so that they spread over the
//! sessions. A guest nobody needs goes after a minute; when there are too many, the one that was idle longest goes first.
//! However many callers find none, one link is opened for them.

use std::{
    collections::HashMap,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::{FutureExt as _, Shared, WeakShared};
use mcpool_wire::{
    AgentKey, Backends, CallError, Caller, CapabilityClass, ClientHello, Era, Forwarded, Hello, Identity,
    Link, LinkEvent, Method, Outlet, OutletFull, Revision, Target, read_leniently,
};

use serde_json::json;

use super::{
    Stateless,
    call_output::Level,
    discover::{greeting, server_info},
    own::own,
    parked::Parked,
};
use crate::{
    forwarded_headers::Carried,
    limits::{gauges::Gauges, refused::NoPlace},
    observe::{AgentEnd, FrontEvent, Transport},
    session::{
        Front, RequestHead,
        agent::{AgentCore, StopReason},
        open,
    },
    shared::Common,
    stream::outbox::Outbox,
};

/// Most links of guests.
const MOST: usize = 1_024;
/// A link nobody calls over is kept this long.
const IDLE: Duration = Duration::from_secs(60);
/// With so many calls in flight on every link of its kind another one is opened: fewer than a session of a backend takes
/// by default, so that there is room on each.
const CALLS: usize = 8;
/// Most links of one kind: more sessions than one pool has.
const KINDRED: usize = 32;

/// One link, and who calls over it.
pub(crate) struct Guest<L> {
    pub(super) core: Arc<AgentCore>,
    pub(super) link: Arc<L>,
    /// The server's name and version as JSON text.
    pub(super) server_info: Arc<str>,
    /// The least severe log message its callers wanted so far; nothing where the server has no log.
    level: Option<Mutex<Option<Level>>>,
    unheard: Arc<Unheard>,
    /// Where its calls wait for their callers.
    pub(super) parked: Arc<Parked>,
}

/// What callers must agree in to share a link.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    backend: Target,
    identity: Arc<Identity>,
    is_local: bool,
    affinity: Option<Arc<str>>,
    forwarded: Forwarded,
    class: CapabilityClass,
}

/// Why a caller has no link.
#[derive(Clone, Debug)]
pub(crate) enum NoGuest {
    NoPlace(NoPlace),
    /// Its backend gave it none.
    Unopened(Arc<CallError>),
}

type Found<L> = Result<Arc<Guest<L>>, NoGuest>;
type Opening<L> = Pin<Box<dyn Future<Output = Found<L>> + Send>>;

/// All guests of one front.
pub(crate) struct Guests<L> {
    state: Mutex<State<L>>,
}

struct State<L> {
    kinds: HashMap<Kind, Vec<Arc<Guest<L>>>>,
    count: usize,
    /// Held by their callers only, so what nobody waits for ends.
    openings: HashMap<Kind, WeakShared<Opening<L>>>,
}

enum Room<L> {
    Free(Arc<Guest<L>>),
    /// All of its kind have much to do; this one the least.
    Busy(Arc<Guest<L>>),
    None,
}

/// What belongs to no call of a guest: there is nobody to tell.
#[derive(Default)]
struct Unheard {
    ended: AtomicBool,
}

impl Outlet for Unheard {
    fn push(&self, event: LinkEvent) -> Result<(), OutletFull> {
        match event {
            LinkEvent::Ended(_) => {
                self.ended.store(true, Ordering::Relaxed);
                Ok(())
            }
            LinkEvent::Progress(_)
            | LinkEvent::Notification(_)
            | LinkEvent::Withdrawn { .. }
            | LinkEvent::Paused(_)
            | LinkEvent::Owned(_) => Ok(()),
            // A server must not ask outside of a call.
            LinkEvent::Request { .. } => Err(OutletFull),
        }
    }
}

impl<L> Default for Guests<L> {
    fn default() -> Self {
        let state = State { kinds: HashMap::new(), count: 0, openings: HashMap::new() };
        Self { state: Mutex::new(state) }
    }
}

impl<L: Link> Guests<L> {
    /// A link of this kind, if there is one.
    fn find(&self, kind: &Kind) -> Room<L> {
        let mut gone = Vec::new();
        let mut state = self.lock();
        let State { kinds, count, .. } = &mut *state;
        let Some(kindred) = kinds.get_mut(kind) else { return Room::None };
        kindred.retain(|guest| {
            let stays = !guest.unheard.ended.load(Ordering::Relaxed);
            if !stays {
                gone.push(Arc::clone(guest));
            }
            stays
        });
        // The first with room, so that few are in use.
        let roomy = kindred.iter().position(|guest| guest.core.in_flight() < CALLS);
        let least = || (0..kindred.len()).min_by_key(|at| kindred[*at].core.in_flight());
        let chosen = roomy.or_else(least).map(|at| Arc::clone(&kindred[at]));
        let room = match chosen {
            None => Room::None,
            // So are all of its kind.
            Some(guest) if guest.link.is_outdated() => {
                gone.append(kindred);
                Room::None
            }
            Some(guest) => {
                guest.core.seen();
                let is_alone = guest.link.is_own() || guest.link.era() == Era::Modern;
                let is_free = is_alone || roomy.is_some() || kindred.len() >= KINDRED;
                if is_free { Room::Free(guest) } else { Room::Busy(guest) }
            }
        };
        *count -= gone.len();
        if kindred.is_empty() {
            kinds.remove(kind);
        }
        // Their links end behind the lock.
        drop(state);
        drop(gone);
        room
    }

    /// Whether links of this kind lead to a backend of this era, where one serves everybody.
    fn is_modern(&self, kind: &Kind) -> bool {
        let state = self.lock();
        state.kinds.get(kind).and_then(|all| all.first()).is_some_and(|one| one.link.era() == Era::Modern)
    }

    fn insert(&self, kind: Kind, guest: Arc<Guest<L>>) {
        let mut state = self.lock();
        let gone = if state.count >= MOST { state.make_room() } else { None };
        state.kinds.entry(kind).or_default().push(guest);
        state.count += 1;
        drop(state);
        drop(gone);
    }

    /// Ends what nobody needs. None stays longer than an agent session would.
    pub(crate) fn sweep(&self, now: u64, longest: Duration) {
        let idle = u64::try_from(IDLE.min(longest).as_millis()).unwrap_or(u64::MAX);
        let is_idle = |guest: &Guest<L>| {
            let since = now.saturating_sub(guest.core.last_seen.load(Ordering::Relaxed));
            guest.core.is_idle() && since >= idle
        };
        let gone = self.lock().take_out(is_idle);
        drop(gone);
    }

    /// Each of them.
    pub(crate) fn cores(&self) -> Vec<Arc<AgentCore>> {
        self.lock().kinds.values().flatten().map(|guest| Arc::clone(&guest.core)).collect()
    }

    /// Lets go of a link nobody needs now, the one that was idle longest; whether there was one.
    pub(crate) fn give_way(&self) -> bool {
        let gone = {
            let mut state = self.lock();
            let idle = state.kinds.values().flatten().filter(|guest| guest.core.is_idle());
            let longest = idle.min_by_key(|guest| guest.core.last_seen.load(Ordering::Relaxed)).cloned();
            longest.map(|one| state.take_out(|guest| Arc::ptr_eq(&guest.core, &one.core)))
        };
        gone.is_some()
    }

    /// The streams of their calls.
    pub(crate) fn outboxes(&self) -> Vec<Arc<Outbox>> {
        self.cores().iter().flat_map(|core| core.outboxes()).collect()
    }

    /// Tells the calls of all of them that they are to end.
    pub(crate) fn stop_calls(&self, why: StopReason) {
        let all: Vec<_> = self.lock().kinds.values().flatten().map(|guest| Arc::clone(&guest.core)).collect();
        for core in all {
            core.stop_calls(why);
        }
    }

    pub(crate) fn remove_all(&self) {
        let gone = self.lock().take_out(|_| true);
        drop(gone);
    }

    // What it guards is consistent between any two statements, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State<L>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<L> State<L> {
    /// Takes out the one that is needed least: idle, and for the longest time.
    fn make_room(&mut self) -> Option<Arc<Guest<L>>> {
        let all = self.kinds.values().flatten();
        let need =
            |guest: &&Arc<Guest<L>>| (!guest.core.is_idle(), guest.core.last_seen.load(Ordering::Relaxed));
        let least = Arc::clone(all.min_by_key(need)?);
        self.take_out(|guest| Arc::ptr_eq(&guest.core, &least.core)).pop()
    }

    fn take_out(&mut self, is_one: impl Fn(&Guest<L>) -> bool) -> Vec<Arc<Guest<L>>> {
        let mut gone = Vec::new();
        self.kinds.retain(|_, kindred| {
            let (out, left) = std::mem::take(kindred).into_iter().partition(|guest| is_one(guest));
            *kindred = left;
            gone.extend::<Vec<_>>(out);
            !kindred.is_empty()
        });
        self.count -= gone.len();
        gone
    }
}

impl<B: Backends> Front<B> {
    /// The link a modern caller comes over.
    pub(crate) async fn guest(
        self: &Arc<Self>,
        stateless: &Arc<Stateless<B::Link>>,
        head: &RequestHead<'_>,
        target: &Target,
        client: &ClientHello,
    ) -> Found<B::Link> {
        let kind = self.kind_of(&stateless.links, head, target, client);
        match stateless.links.find(&kind) {
            Room::Free(guest) => Ok(guest),
            Room::Busy(guest) => {
                let another = Box::pin(self.opened(stateless, kind, head, target, client)).await;
                Ok(another.unwrap_or(guest))
            }
            Room::None => Box::pin(self.opened(stateless, kind, head, target, client)).await,
        }
    }

    fn kind_of(
        &self,
        links: &Guests<B::Link>,
        head: &RequestHead<'_>,
        target: &Target,
        client: &ClientHello,
    ) -> Kind {
        let carried = self.carried(target, head.headers);
        let Caller { identity, is_local, affinity, forwarded, .. } = head.caller(AgentKey(0), &carried);
        let backend = target.clone();
        let mut kind =
            Kind { backend, identity, is_local, affinity, forwarded, class: CapabilityClass::neutral() };
        if client.is_interactive() && !links.is_modern(&kind) {
            kind.class = client.class();
        }
        kind
    }

    /// One more link of this kind; whoever wants one at the same time gets the same.
    async fn opened(
        self: &Arc<Self>,
        stateless: &Arc<Stateless<B::Link>>,
        kind: Kind,
        head: &RequestHead<'_>,
        target: &Target,
        client: &ClientHello,
    ) -> Found<B::Link> {
        let opening = {
            let mut state = stateless.links.lock();
            let openings = &mut state.openings;
            if let Some(opening) = openings.get(&kind).and_then(WeakShared::upgrade) {
                opening
            } else {
                if openings.len() >= MOST {
                    openings.retain(|_, opening| opening.upgrade().is_some());
                }
                let carried = self.carried(target, head.headers);
                let caller = Arc::new(head.caller(self.common.agent_key(), &carried));
                let mut client = client.clone();
                if kind.class == CapabilityClass::neutral() {
                    client = ClientHello { revision: Revision::V2026_07_28, ..ClientHello::neutral() };
                }
                let inviting = Arc::clone(self).invite(
                    Arc::clone(stateless),
                    kind.clone(),
                    caller,
                    target.clone(),
                    head.peer,
                    client,
                );
                let inviting: Opening<B::Link> = Box::pin(inviting);
                let opening: Shared<_> = inviting.shared();
                openings.extend(opening.downgrade().map(|weak| (kind, weak)));
                opening
            }
        };
        opening.await
    }

    async fn invite(
        self: Arc<Self>,
        stateless: Arc<Stateless<B::Link>>,
        kind: Kind,
        caller: Arc<Caller>,
        target: Target,
        peer: IpAddr,
        client: ClientHello,
    ) -> Found<B::Link> {
        let found = self.admit(&stateless, &kind, caller, target, peer, client).await;
        // Behind the table, so that who finds no opening finds the guest.
        stateless.links.lock().openings.remove(&kind);
        found
    }

    async fn admit(
        self: &Arc<Self>,
        stateless: &Arc<Stateless<B::Link>>,
        kind: &Kind,
        caller: Arc<Caller>,
        target: Target,
        peer: IpAddr,
        client: ClientHello,
    ) -> Found<B::Link> {
        let permit = self.acquire_session(peer).await.map_err(NoGuest::NoPlace)?;
        let unheard = Arc::<Unheard>::default();
        let outlet: Arc<dyn Outlet> = Arc::<Unheard>::clone(&unheard);
        let hello = Hello { caller: Arc::clone(&caller), target: target.clone(), client, outlet };
        let opened = open::bounded(self.backends.open(hello), &self.common).await;
        let link = opened.map_err(|error| NoGuest::Unopened(Arc::new(error)))?;
        let (from, opened) = ((peer, Some(permit)), (Carried::default(), 0));
        let common = Arc::clone(&self.common);
        let core = AgentCore::new(caller, target, Transport::Other, from, opened, common);
        core.profile.tied(link.as_ref());
        let guest = Arc::new(Guest::new(Arc::new(core), link, unheard, Arc::clone(&stateless.parked)));
        let mut kind = kind.clone();
        if guest.link.era() == Era::Modern {
            kind.class = CapabilityClass::neutral();
        }
        stateless.links.insert(kind, Arc::clone(&guest));
        Ok(guest)
    }
}

impl<L> Guest<L> {
    fn common(&self) -> &Common {
        &self.core.common
    }
}

impl<L: Link> Guest<L> {
    fn new(core: Arc<AgentCore>, link: Arc<L>, unheard: Arc<Unheard>, parked: Arc<Parked>) -> Self {
        let greeting = greeting(link.as_ref());
        let server_info = server_info(&greeting).into();
        let has_log = greeting
            .get("capabilities")
            .is_some_and(|all| read_leniently(all.get()).get("logging").is_some());
        let level = has_log.then(Mutex::default);
        Gauges::up(&core.common.gauges.modern_agents, 1);
        core.common.emit(&FrontEvent::AgentOpened {
            agent: core.caller.agent,
            transport: Transport::Http,
            backend: &core.target.name,
            peer: core.profile.peer,
            client: None,
        });
        Self { core, link, server_info, level, unheard, parked }
    }

    /// Has the server log what this caller wants: a level there is the link's, so it is the least severe of all its
    /// callers, and each is told what it asked for. A server that refuses logs as it did.
    pub(super) async fn hear(&self, wanted: Level) {
        let Some(level) = &self.level else { return };
        {
            let mut level = level.lock().unwrap_or_else(PoisonError::into_inner);
            if level.is_some_and(|level| level <= wanted) {
                return;
            }
            *level = Some(wanted);
        }
        let params = json!({ "level": wanted.as_str() });
        if let Some(call) = own(&self.core, Method::LoggingSetLevel, &params, None) {
            let _ = self.link.call(call).await;
        }
    }
}

impl<L> Drop for Guest<L> {
    fn drop(&mut self) {
        self.core.leave();
        Gauges::down(&self.common().gauges.modern_agents, 1);
        let ended = self.unheard.ended.load(Ordering::Relaxed);
        self.common().emit(&FrontEvent::AgentClosed {
            agent: self.core.caller.agent,
            transport: Transport::Http,
            reason: if ended { AgentEnd::LinkEnded } else { AgentEnd::Idle },
        });
    }
}
