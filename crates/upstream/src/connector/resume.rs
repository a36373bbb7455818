//! Resume after a pause: sessions are checked before use, because the backend may have been replaced. Those without a
//! response are closed. Then waiting calls are woken in order, step by step.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};

use crate::{
    backend::{
        Backend,
        traffic::{STEP, TrafficState},
    },
    clock,
    kinds::CloseReason,
    queue::Freed,
    session::{Session, state::Standing},
};

#[derive(Default)]
pub(super) struct Resume {
    checks: FuturesUnordered<BoxFuture<'static, Checked>>,
    /// The traffic change it belongs to.
    number: u64,
    next: Option<Instant>,
}

/// A checked session.
pub(super) struct Checked {
    session: Arc<Session>,
    is_there: bool,
    number: u64,
}

impl Resume {
    /// Does what is due. Returns true if calls have just begun to flow, and the time of the next step.
    pub(super) fn look(&mut self, backend: &Arc<Backend>) -> (bool, Option<Instant>) {
        let change = backend.traffic.last_change();
        if change.state != TrafficState::Resuming {
            return (false, None);
        }
        let now = clock::now();
        let begins = change.number != self.number;
        if begins {
            self.number = change.number;
            self.next = Some(now);
            self.check_all(backend);
            // Nothing is available yet, but calls bound to a closed session now wait for any.
            backend.queue.wake_all();
        }
        if self.next.is_some_and(|next| next <= now) {
            self.next = Some(now + STEP);
            self.step(backend);
        }
        (begins, self.next)
    }

    /// Resolves when a session was checked; never, if none is being checked.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(super) async fn checked(&mut self) -> Checked {
        match self.checks.next().await {
            Some(checked) => checked,
            None => std::future::pending().await,
        }
    }

    /// Releases the session for use, or closes it.
    pub(super) fn settle(backend: &Backend, checked: &Checked) {
        let Checked { session, is_there, number } = checked;
        // Paused again meanwhile; it will be checked again.
        if *number != backend.traffic.last_change().number {
            return;
        }
        // A server busy with a call need not respond.
        if *is_there || session.in_flight() > 0 {
            session.unpark();
        } else {
            session.drain(CloseReason::Lost);
        }
    }

    fn check_all(&mut self, backend: &Backend) {
        for old in backend.all_sessions() {
            match old.session.standing() {
                // Its handshake is the check.
                Standing::Initializing => old.session.unpark(),
                Standing::Ready | Standing::Suspect => {
                    let limit = backend.spec.times.probe_timeout;
                    self.checks.push(check(old.session, limit, self.number).boxed());
                }
                Standing::Draining | Standing::Closed => {}
            }
        }
    }

    fn step(&mut self, backend: &Backend) {
        let (more, is_last) = backend.traffic.step();
        let nobody_waits = backend.queue.is_empty();
        if self.checks.is_empty() && (is_last || nobody_waits) {
            let number = self.number;
            backend.traffic.set_if(TrafficState::Flowing, |change| change.number == number);
            // Including calls whose own session is closed, which would wait in vain.
            return backend.queue.wake_all();
        }
        wake(backend, more);
    }
}

async fn check(session: Arc<Session>, limit: Duration, number: u64) -> Checked {
    let is_there = session.is_alive(limit).await;
    Checked { session, is_there, number }
}

/// Wakes as many calls as the step allows, in the order of each session.
fn wake(backend: &Backend, mut more: usize) {
    let ready = backend.all_sessions().map(|old| old.session);
    let mut lendable: Vec<_> = ready
        .filter(|session| session.standing() == Standing::Ready)
        .map(|session| (session.lane, session.free_permits()))
        .filter(|(_, free)| *free > 0)
        .collect();
    for (lane, free) in &mut lendable {
        if more > 0 {
            backend.queue.permit_freed(Freed { lane: *lane, turn: true, open: true }, None);
            (more, *free) = (more - 1, *free - 1);
        }
    }
    while more > 0 && lendable.iter().any(|(_, free)| *free > 0) {
        for (lane, free) in lendable.iter_mut().filter(|(_, free)| *free > 0) {
            if more > 0 {
                backend.queue.permit_freed(Freed { lane: *lane, turn: false, open: true }, None);
                (more, *free) = (more - 1, *free - 1);
            }
        }
    }
}
