//! Retirement of registrations that were removed or replaced: agents move, calls finish, sessions end, and finally the
//! metric series disappear.
//!
//! One task retires all of them. Calls end by their own deadlines; agents with a session of their own keep it for
//! `drain_timeout`. Beyond a number of retiring registrations the oldest loses this time, and beyond a limit its calls
//! are cut, so that frequent reloads cannot accumulate servers.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use mcpool_upstream::{Leaving, Tasks};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    gateway::GatewayObserve,
    link::Links,
    route::{Registered, Registry},
};

/// Maximum number of registrations with full `drain_timeout`; older ones end pinned sessions with their last call.
const MOST_AT_LEISURE: usize = 32;
/// Maximum number of registrations with calls in flight; the oldest beyond it are cut.
const MOST_UNDER_WAY: usize = 512;
/// Maximum number of cut registrations that have not ended; beyond it `begin` waits.
const MOST_CUT: usize = 32;
/// Time for sessions to shut down after they were ended.
const GOOD_BYE: Duration = Duration::from_secs(10);

/// The retiring registrations.
pub(crate) struct Departures {
    task: Tasks,
    inbox: mpsc::Sender<Arc<Departure>>,
    under_way: UnderWay,
}

type UnderWay = Arc<Mutex<Vec<Arc<Departure>>>>;

struct Departure {
    registered: Arc<Registered>,
    hurry: CancellationToken,
    cut: CancellationToken,
}

/// State of the retirement task.
struct Clerk {
    registry: Arc<ArcSwap<Registry>>,
    links: Arc<Links>,
    observe: Arc<dyn GatewayObserve>,
    under_way: UnderWay,
}

impl Departures {
    pub(crate) fn start(
        registry: Arc<ArcSwap<Registry>>,
        links: Arc<Links>,
        observe: Arc<dyn GatewayObserve>,
    ) -> Self {
        let (inbox, departures) = mpsc::channel(1);
        let (task, under_way) = (Tasks::default(), UnderWay::default());
        let clerk = Arc::new(Clerk { registry, links, observe, under_way: under_way.clone() });
        task.spawn("departures", clerk.run(departures, task.stopping()));
        Self { task, inbox, under_way }
    }

    /// Retires a registration. Waits if too many are retiring.
    pub(crate) async fn begin(&self, registered: Arc<Registered>, why: Leaving) {
        registered.leave(why);
        let departure = Arc::new(Departure {
            registered,
            hurry: CancellationToken::new(),
            cut: CancellationToken::new(),
        });
        {
            let mut under_way = lock(&self.under_way);
            under_way.push(departure.clone());
            let beyond = |most: usize| under_way.len().saturating_sub(most);
            under_way.iter().take(beyond(MOST_AT_LEISURE)).for_each(|one| one.hurry.cancel());
            under_way.iter().take(beyond(MOST_UNDER_WAY)).for_each(|one| one.cut.cancel());
        }
        // An error means shutdown, which ends the registration too.
        let _ = self.inbox.send(departure).await;
    }

    pub(crate) fn under_way(&self) -> Vec<Arc<Registered>> {
        lock(&self.under_way).iter().map(|one| one.registered.clone()).collect()
    }

    pub(crate) async fn stop(&self, deadline: Duration) {
        self.task.shutdown(deadline).await;
    }
}

impl Clerk {
    async fn run(self: Arc<Self>, mut inbox: mpsc::Receiver<Arc<Departure>>, stop: CancellationToken) {
        let mut going: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        loop {
            let has_room = going.len() < MOST_UNDER_WAY + MOST_CUT;
            tokio::select! {
                () = stop.cancelled() => return,
                Some(departure) = inbox.recv(), if has_room => {
                    let clerk = self.clone();
                    going.push(async move { clerk.see_off(&departure).await }.boxed());
                }
                Some(()) = going.next(), if !going.is_empty() => {}
            }
        }
    }

    async fn see_off(&self, departure: &Arc<Departure>) {
        let Departure { registered, hurry, cut } = &**departure;
        let backend = &registered.backend;
        let name = &registered.name;
        let in_peace = async {
            futures::join!(self.links.move_from(backend), backend.vacated());
        };
        let overdue = async {
            tokio::select! {
                () = tokio::time::sleep(backend.spec().times.drain) => {}
                () = hurry.cancelled() => {}
            }
            tracing::info!(
                target: "mcpool::backend",
                backend = %name,
                "sessions that agents have for themselves at its former registration end with their last call"
            );
            backend.end_pinned();
            cut.cancelled().await;
            tracing::warn!(
                target: "mcpool::backend",
                backend = %name,
                "calls at its former registration are cut: too many registrations ended and still have calls"
            );
            backend.cut();
        };
        tokio::select! {
            () = in_peace => {}
            () = overdue => {}
        }
        let left = backend.shutdown(GOOD_BYE).await;
        if !left.is_empty() {
            tracing::warn!(target: "mcpool::backend", backend = %name, ?left, "of its former registration is left");
        }
        self.forget(departure);
    }

    fn forget(&self, departure: &Arc<Departure>) {
        let name = &departure.registered.name;
        let is_last = {
            let mut under_way = lock(&self.under_way);
            under_way.retain(|one| !Arc::ptr_eq(one, departure));
            !under_way.iter().any(|one| one.registered.name == *name)
        };
        if is_last && !self.registry.load().backends.contains_key(name) {
            self.observe.gone(name);
        }
    }
}

fn lock(under_way: &UnderWay) -> MutexGuard<'_, Vec<Arc<Departure>>> {
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}
