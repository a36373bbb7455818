//! Sends what the agents of the pools want together: subscriptions on each pool's event lane, log levels on every
//! session, and the news of changed lists. It works inside the connector's loop and has no task of its own; what it
//! sends is bounded per pool, and nobody's request waits for anything but its own answer.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};

use crate::{
    clock,
    kinds::Mode,
    pool::Pool,
    session::{Session, state::Standing},
    shared::{SharedState, subscriptions::Job},
};

/// How long a backend may take for a request of the syncer's before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(crate) struct Syncer {
    under_way: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl Syncer {
    /// Sends what is to be sent now; gives back when there is more to do that nobody wakes for.
    pub(crate) fn look(&mut self, pools: &[Arc<Pool>]) -> Option<Instant> {
        let now = clock::now();
        pools.iter().filter(|pool| pool.mode() != Mode::Pinned).filter_map(|pool| self.serve(pool, now)).min()
    }

    /// Resolves when something that was sent is settled; never, if nothing is under way.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(crate) async fn settled(&mut self) {
        if self.under_way.next().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    fn serve(&mut self, pool: &Arc<Pool>, now: Instant) -> Option<Instant> {
        let shared = &pool.shared;
        shared.announce_list_changes(now);
        let (wanted, has_topics) = shared.wanted();
        let sessions = pool.sessions();
        let logs = pool.catalog.hello().is_some_and(|hello| hello.has("logging"));
        for session in sessions.iter().filter(|s| logs && s.standing() == Standing::Ready) {
            if let Some(level) = session.level.begin(wanted) {
                self.under_way.push(set_level(session.clone(), level.as_str()).boxed());
            }
        }
        if has_topics {
            self.ride(shared, &sessions, now);
        }
        shared.next_due()
    }

    /// Keeps the event lane on a session that lives, and sends what it is to carry.
    fn ride(&mut self, shared: &Arc<SharedState>, sessions: &[Arc<Session>], now: Instant) {
        let mut lane = None;
        let jobs = shared.jobs(now, |at| {
            lane = sessions
                .iter()
                // One whose probe is late may live all the same; to move is to ask for everything again.
                .find(|s| Some(s.epoch) == at && s.is_live())
                .or_else(|| sessions.iter().find(|s| s.standing() == Standing::Ready));
            lane.map(|session| session.epoch)
        });
        let Some(lane) = lane else { return };
        for job in jobs {
            self.under_way.push(run(lane.clone(), shared.clone(), job).boxed());
        }
    }
}

async fn run(session: Arc<Session>, shared: Arc<SharedState>, job: Job) {
    let method = if job.subscribe { "resources/subscribe" } else { "resources/unsubscribe" };
    let params = format!("{{\"uri\":{}}}", serde_json::Value::from(job.uri.as_ref()));
    let answer = tokio::time::timeout(PATIENCE, session.request_own(method, Some(&params))).await;
    shared.settle(&job, answer.ok().and_then(Result::ok));
}

async fn set_level(session: Arc<Session>, level: &'static str) {
    let params = format!("{{\"level\":\"{level}\"}}");
    // A server that refuses its own capability is left as it is.
    let _ = tokio::time::timeout(PATIENCE, session.request_own("logging/setLevel", Some(&params))).await;
    session.level.done();
}
