//! Operator commands on a running backend: pause, resume, reconnect, drain.
//!
//! Each command sets a state and returns at once. The connector does the rest; [`Backend::activity`] and
//! [`Backend::rebuild`] show the progress.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use mcpool_wire::{CallError, ErrorKind};

use super::{Backend, lock};
use crate::{
    backend::traffic::TrafficState,
    kinds::{CloseReason, Mode},
    pool::Pool,
    session::Session,
};

/// The current activity of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    /// Calls in flight, including cancelled ones without a response.
    pub calls: usize,
    /// Handshakes in progress.
    pub handshakes: usize,
    /// Sessions, including those that are ending.
    pub sessions: usize,
}

/// Progress of a reconnect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rebuild {
    /// Sessions to replace.
    pub total: usize,
    /// Sessions replaced.
    pub done: usize,
    /// True while it is running.
    pub is_running: bool,
    /// The reason it was given up; the remaining sessions were not touched.
    pub why: Option<String>,
}

/// The progress, and the plan that the connector has not taken yet.
#[derive(Default)]
pub(crate) struct Rebuilding {
    pub(crate) plan: Option<VecDeque<Old>>,
    pub(crate) progress: Rebuild,
}

/// A session to replace.
pub(crate) struct Old {
    pub(crate) pool: Arc<Pool>,
    pub(crate) session: Arc<Session>,
}

impl Backend {
    /// The traffic state.
    #[must_use]
    pub fn traffic(&self) -> TrafficState {
        self.traffic.state()
    }

    /// The time calls last began to flow; earlier waiting does not count.
    #[must_use]
    pub fn flows_since(&self) -> Instant {
        self.traffic.last_change().flows_since
    }

    /// Pauses: new calls wait, and only messages of calls in flight are sent. Idempotent.
    pub fn pause(&self) {
        self.traffic.set(TrafficState::Paused);
        for Old { session, .. } in self.all_sessions() {
            session.park();
        }
    }

    /// Drains: new calls are refused, calls in flight finish, and then the sessions end. Idempotent.
    pub fn drain(&self) {
        self.traffic.set(TrafficState::Drained);
        for Old { session, .. } in self.all_sessions() {
            session.park();
            session.drain(CloseReason::Operator);
        }
        self.reconsider();
    }

    /// Resumes: calls flow again, in order, after the sessions were checked. No effect while calls flow.
    pub fn resume(&self) {
        let shut = self.traffic.set_if(TrafficState::Resuming, |change| change.state.is_shut());
        if shut {
            *lock(&self.trouble) = None;
            self.pools().iter().for_each(|pool| pool.plight.mended());
            self.queue.demand.notify_one();
        }
    }

    /// Replaces every session by a new one, one at a time, while calls continue. A pinned session cannot be replaced
    /// for its agent; `with_pinned` ends it.
    pub fn reconnect(&self, with_pinned: bool) {
        let wanted = |old: &Old| old.session.is_live() && (with_pinned || old.pool.mode() != Mode::Pinned);
        let plan: VecDeque<Old> = self.all_sessions().filter(wanted).collect();
        let progress = Rebuild { total: plan.len(), done: 0, is_running: !plan.is_empty(), why: None };
        *lock(&self.rebuilding) = Rebuilding { plan: Some(plan), progress };
        self.queue.demand.notify_one();
    }

    /// The progress of the last [`Backend::reconnect`].
    #[must_use]
    pub fn rebuild(&self) -> Rebuild {
        lock(&self.rebuilding).progress.clone()
    }

    /// The current activity.
    #[must_use]
    pub fn activity(&self) -> Activity {
        let (mut calls, mut sessions) = (0, 0);
        for Old { session, .. } in self.all_sessions() {
            calls += session.in_flight();
            sessions += 1;
        }
        let handshakes = self.pools().iter().map(|pool| pool.opening.load(Ordering::SeqCst)).sum();
        Activity { calls, handshakes, sessions }
    }

    /// The error of a call while the backend is drained.
    #[must_use]
    pub fn drained(&self) -> CallError {
        let message = format!("backend {:?} was drained by its operator and takes no calls", self.spec.name);
        CallError::not_sent(ErrorKind::Draining, message)
            .of_backend(self.spec.name.clone())
            .retry_after(RETRY_DRAINED)
    }

    pub(super) fn traffic_since(&self, now: Instant) -> (TrafficState, Duration) {
        let change = self.traffic.last_change();
        (change.state, now.saturating_duration_since(change.since))
    }

    pub(crate) fn all_sessions(&self) -> impl Iterator<Item = Old> {
        self.pools().into_iter().flat_map(|pool| {
            let sessions = pool.sessions();
            sessions.into_iter().map(move |session| Old { pool: pool.clone(), session })
        })
    }
}

/// Suggested retry time: the end of the operator's work is unknown.
const RETRY_DRAINED: Duration = Duration::from_secs(5);
