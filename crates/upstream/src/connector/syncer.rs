//! The syncer sends the requests of the pools' shared state: subscriptions on the event session of each pool, log
//! levels on every session, and announcements of changed lists. It runs in the connector's loop without a task of its
//! own; its sends are bounded per pool, and no agent's request waits for another's response.

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

/// Time limit of a request of the syncer.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(crate) struct Syncer {
    under_way: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl Syncer {
    /// Sends what is due. Returns the time of the next step that no event wakes it for.
    pub(crate) fn look(&mut self, pools: &[Arc<Pool>]) -> Option<Instant> {
        let now = clock::now();
        pools.iter().filter(|pool| pool.mode() != Mode::Pinned).filter_map(|pool| self.serve(pool, now)).min()
    }

    /// Resolves when a request is settled; never, if none is in progress.
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

    /// Keeps the subscriptions on a live session, and sends what is due there.
    fn ride(&mut self, shared: &Arc<SharedState>, sessions: &[Arc<Session>], now: Instant) {
        let mut lane = None;
        let jobs = shared.jobs(now, |at| {
            lane = sessions
                .iter()
                // A session with a late probe may be alive; a move would repeat every subscription.
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
    // A server that rejects its own capability is left alone.
    let _ = tokio::time::timeout(PATIENCE, session.request_own("logging/setLevel", Some(&params))).await;
    session.level.done();
}
