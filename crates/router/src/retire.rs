//! Retirement of registrations that were removed or replaced: agents move, calls finish, sessions end, and finally the
//! metric series disappear.
//!
//! One task retires all of them. Calls end by their own deadlines; pinned sessions stay for `drain_timeout`. Beyond a number of retiring registrations the oldest loses this time, and beyond a limit its calls
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
    events::GatewayObserve,
    link::Links,
    registry::{Registered, Registry},
};

/// Maximum number of registrations with full `drain_timeout`; older ones end pinned sessions with their last call.
const MAX_UNHURRIED: usize = 32;
/// Maximum number of registrations with calls in flight; the oldest beyond it are cut.
const MAX_RETIRING: usize = 512;
/// Maximum number of cut registrations that have not ended; beyond it `begin` waits.
const MAX_CUT: usize = 32;
/// Time for sessions to shut down after they were ended.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Handle of the task that retires registrations.
pub(crate) struct Retirements {
    task: Tasks,
    inbox: mpsc::Sender<Arc<Retirement>>,
    retiring: Retiring,
}

type Retiring = Arc<Mutex<Vec<Arc<Retirement>>>>;

struct Retirement {
    registered: Arc<Registered>,
    hurry: CancellationToken,
    cut: CancellationToken,
}

/// State of the retirement task.
struct RetireTask {
    registry: Arc<ArcSwap<Registry>>,
    links: Arc<Links>,
    observe: Arc<dyn GatewayObserve>,
    retiring: Retiring,
}

impl Retirements {
    pub(crate) fn start(
        registry: Arc<ArcSwap<Registry>>,
        links: Arc<Links>,
        observe: Arc<dyn GatewayObserve>,
    ) -> Self {
        let (inbox, retirements) = mpsc::channel(1);
        let (task, retiring) = (Tasks::default(), Retiring::default());
        let worker = Arc::new(RetireTask { registry, links, observe, retiring: retiring.clone() });
        task.spawn("departures", worker.run(retirements, task.stopping()));
        Self { task, inbox, retiring }
    }

    /// Retires a registration. Waits if too many are retiring.
    pub(crate) async fn begin(&self, registered: Arc<Registered>, why: Leaving) {
        registered.leave(why);
        let retirement = Arc::new(Retirement {
            registered,
            hurry: CancellationToken::new(),
            cut: CancellationToken::new(),
        });
        {
            let mut retiring = lock(&self.retiring);
            retiring.push(retirement.clone());
            let beyond = |most: usize| retiring.len().saturating_sub(most);
            retiring.iter().take(beyond(MAX_UNHURRIED)).for_each(|one| one.hurry.cancel());
            retiring.iter().take(beyond(MAX_RETIRING)).for_each(|one| one.cut.cancel());
        }
        // An error means shutdown, which ends the registration too.
        let _ = self.inbox.send(retirement).await;
    }

    pub(crate) fn retiring(&self) -> Vec<Arc<Registered>> {
        lock(&self.retiring).iter().map(|one| one.registered.clone()).collect()
    }

    pub(crate) async fn stop(&self, deadline: Duration) {
        self.task.shutdown(deadline).await;
    }
}

impl RetireTask {
    async fn run(self: Arc<Self>, mut inbox: mpsc::Receiver<Arc<Retirement>>, stop: CancellationToken) {
        let mut going: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        loop {
            let has_capacity = going.len() < MAX_RETIRING + MAX_CUT;
            tokio::select! {
                () = stop.cancelled() => return,
                Some(retirement) = inbox.recv(), if has_capacity => {
                    let task = self.clone();
                    going.push(async move { task.retire(&retirement).await }.boxed());
                }
                Some(()) = going.next(), if !going.is_empty() => {}
            }
        }
    }

    async fn retire(&self, retirement: &Arc<Retirement>) {
        let Retirement { registered, hurry, cut } = &**retirement;
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
                "pinned sessions of the previous configuration end with their last call"
            );
            backend.end_pinned();
            cut.cancelled().await;
            tracing::warn!(
                target: "mcpool::backend",
                backend = %name,
                "calls of a previous configuration are cut: too many previous configurations still have calls in flight"
            );
            backend.cut();
        };
        tokio::select! {
            () = in_peace => {}
            () = overdue => {}
        }
        let left = backend.shutdown(CLOSE_TIMEOUT).await;
        if !left.is_empty() {
            tracing::warn!(target: "mcpool::backend", backend = %name, ?left, "tasks of the previous configuration did not end in time");
        }
        self.forget(retirement);
    }

    fn forget(&self, retirement: &Arc<Retirement>) {
        let name = &retirement.registered.name;
        let is_last = {
            let mut retiring = lock(&self.retiring);
            retiring.retain(|one| !Arc::ptr_eq(one, retirement));
            !retiring.iter().any(|one| one.registered.name == *name)
        };
        if is_last && !self.registry.load().backends.contains_key(name) {
            self.observe.gone(name);
        }
    }
}

fn lock(retiring: &Retiring) -> MutexGuard<'_, Vec<Arc<Retirement>>> {
    retiring.lock().unwrap_or_else(PoisonError::into_inner)
}
