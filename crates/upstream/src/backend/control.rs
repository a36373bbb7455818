//! What an operator can do to a backend that runs: let it rest, let it go on, have its sessions rebuilt, empty it.
//!
//! Each verb says what is wanted and returns at once; the connector does what takes time, and [`Backend::activity`] and
//! [`Backend::rebuild`] say how far it is.

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

/// What goes on at a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    /// Calls in flight, those that were cancelled and not yet answered included.
    pub calls: usize,
    /// Handshakes under way.
    pub handshakes: usize,
    /// Sessions, those that end included.
    pub sessions: usize,
}

/// How far the rebuilding of sessions is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rebuild {
    /// Sessions to be rebuilt.
    pub total: usize,
    /// Those that are.
    pub done: usize,
    /// Whether it goes on.
    pub is_running: bool,
    /// Why it was given up: the sessions that are left were not touched.
    pub why: Option<String>,
}

/// The same, with what is to be done and not yet taken up.
#[derive(Default)]
pub(crate) struct Rebuilding {
    pub(crate) plan: Option<VecDeque<Old>>,
    pub(crate) progress: Rebuild,
}

/// A session to be replaced.
pub(crate) struct Old {
    pub(crate) pool: Arc<Pool>,
    pub(crate) session: Arc<Session>,
}

impl Backend {
    /// Whether calls flow.
    #[must_use]
    pub fn traffic(&self) -> TrafficState {
        self.traffic.state()
    }

    /// When calls last began to flow: what was waited before is not to be held against anybody.
    #[must_use]
    pub fn flows_since(&self) -> Instant {
        self.traffic.last_change().flows_since
    }

    /// New calls wait, and nothing is sent but what belongs to calls that run. Twice is once.
    pub fn pause(&self) {
        self.traffic.set(TrafficState::Paused);
        for Old { session, .. } in self.all_sessions() {
            session.park();
        }
    }

    /// New calls are refused; those that run end, and then the sessions do. Twice is once.
    pub fn drain(&self) {
        self.traffic.set(TrafficState::Drained);
        for Old { session, .. } in self.all_sessions() {
            session.park();
            session.drain(CloseReason::Operator);
        }
        self.reconsider();
    }

    /// Calls flow again, in order, once sessions were seen to be there. Does nothing where they flow.
    pub fn resume(&self) {
        let shut = self.traffic.set_if(TrafficState::Resuming, |change| change.state.is_shut());
        if shut {
            *lock(&self.trouble) = None;
            self.pools().iter().for_each(|pool| pool.plight.mended());
            self.queue.demand.notify_one();
        }
    }

    /// Every session is replaced by a new one, one at a time, while calls go on; a pinned one, which nobody can
    /// replace for its agent, ends if that is wanted.
    pub fn reconnect(&self, with_pinned: bool) {
        let wanted = |old: &Old| old.session.is_live() && (with_pinned || old.pool.mode() != Mode::Pinned);
        let plan: VecDeque<Old> = self.all_sessions().filter(wanted).collect();
        let progress = Rebuild { total: plan.len(), done: 0, is_running: !plan.is_empty(), why: None };
        *lock(&self.rebuilding) = Rebuilding { plan: Some(plan), progress };
        self.queue.demand.notify_one();
    }

    /// How far the last [`Backend::reconnect`] is.
    #[must_use]
    pub fn rebuild(&self) -> Rebuild {
        lock(&self.rebuilding).progress.clone()
    }

    /// What goes on.
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

    /// The refusal of a call while the backend is drained.
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

/// Nobody knows when the operator will be ready.
const RETRY_DRAINED: Duration = Duration::from_secs(5);
