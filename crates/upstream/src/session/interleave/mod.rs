//! The hand-overs of permits, turns, epochs and leases, each as a small program of two or three threads that shuttle runs
//! in every order of their steps (RELIABILITY.md C2). A program panics when something is wrong, and so does shuttle
//! when nobody can go on: a wake-up was lost.
//!
//! The shipped code runs, with shuttle's locks and counters in the places of [`crate::sync`]. What tokio keeps inside
//! its `Notify` and `oneshot` is one step here, as is what the standard locks of `shared`, `mode` and `catalog` guard;
//! atomics are run in the order of the steps, not in weaker memory orders. The driver's loop is not run, only its
//! promise: it publishes first and counts the calls in flight afterwards.

mod rig;

use std::sync::Arc;

use mcpool_wire::Outlet;
use shuttle::{future::block_on, sync::atomic::Ordering, thread};

use self::rig::{Attached, Rig, call};
use super::{
    pending::{Outcome, Pending},
    state::Standing,
};
use crate::{
    error::{Cause, SendPhase},
    mutants::Bug,
    session::permit::CallKind,
    sync::AtomicUsize,
};

/// One program, and the bugs it must find.
pub struct Scenario {
    /// What is handed over.
    pub name: &'static str,
    /// The program.
    pub run: fn(),
    /// Changes between threads that nothing forces, in all orders with at most so many.
    pub changes: usize,
    /// Each of them, planted, breaks it.
    pub bugs: &'static [Bug],
}

/// All of them.
pub const SCENARIOS: [Scenario; 9] = [
    Scenario { name: "permits", run: permits, changes: 4, bugs: &[Bug::SlotsCountedInTwoSteps] },
    Scenario { name: "drain", run: drain, changes: 4, bugs: &[Bug::StandingReadTooEarly] },
    Scenario { name: "epoch", run: epoch, changes: 4, bugs: &[Bug::ClosedInTwoSteps, Bug::WaitersForgotten] },
    Scenario { name: "queue", run: queue, changes: 2, bugs: &[Bug::FreedSlotWakesNobody] },
    Scenario { name: "writers", run: writers, changes: 2, bugs: &[Bug::FreedSlotWakesNobody] },
    Scenario { name: "leaver", run: leaver, changes: 4, bugs: &[Bug::TurnNotPassedOn] },
    Scenario { name: "last-permit", run: last_slot, changes: 2, bugs: &[Bug::IdleAgentForgotten] },
    Scenario { name: "successor", run: successor, changes: 2, bugs: &[] },
    Scenario { name: "lease", run: lease, changes: 3, bugs: &[Bug::LoanEndsAfterSlot] },
];

/// Never more holders than permits, and none at the end.
fn permits() {
    let rig = Rig::new(1);
    let session = rig.open(1);
    let held = Arc::new(AtomicUsize::new(0));
    rig::all((0..2).map(|_| {
        let (session, held) = (session.clone(), held.clone());
        move || {
            let Ok(permit) = session.try_permit(CallKind::Free, None) else { return };
            assert_eq!(held.fetch_add(1, Ordering::SeqCst), 0, "two hold the one permit");
            held.fetch_sub(1, Ordering::SeqCst);
            drop(permit);
        }
    }));
    assert_eq!(session.in_flight(), 0);
    assert!(session.try_permit(CallKind::Free, None).is_ok(), "the permit is free again");
}

/// Whoever ends the last call sees that the session drains, or the driver sees that it was the last.
fn drain() {
    let rig = Rig::new(2);
    let session = rig.open(1);
    let permit = session.try_permit(CallKind::Free, None);
    let caller = {
        let session = session.clone();
        thread::spawn(move || {
            drop(permit);
            // Perhaps just in time for one more.
            drop(session.try_permit(CallKind::Free, None));
        })
    };
    session.publish(Standing::Draining);
    while session.in_flight() > 0 {
        block_on(session.nudge.notified());
    }
    let _ = caller.join();
    assert!(
        session.in_flight() == 0 && session.try_permit(CallKind::Free, None).is_err(),
        "nothing new on it"
    );
}

/// Everybody in the book when it closes is told so once, and nobody gets in after.
fn epoch() {
    let rig = Rig::new(2);
    let session = rig.open(1);
    let pending = Arc::new(Pending::new(1));
    let callers = (0..2).map(|number| {
        let (session, pending) = (session.clone(), pending.clone());
        move || {
            let Ok(permit) = session.try_permit(CallKind::Free, None) else { return };
            match pending.register(permit, &call(number)) {
                Ok(ticket) => told(block_on(ticket.answer).expect("everybody is told")),
                Err(error) => assert!(error.phase == SendPhase::NotSent && error.cause == ENDED),
            }
        }
    });
    let closer = {
        let (session, pending) = (session.clone(), pending.clone());
        move || {
            session.publish(Standing::Closed);
            drop(pending.close(&ENDED));
        }
    };
    rig::all_and(callers, closer);
    assert_eq!((pending.len(), session.in_flight()), (0, 0));
}

const ENDED: Cause = Cause::Closed("the test");

fn told(outcome: Outcome) {
    let error = outcome.expect_err("nobody answers");
    assert_eq!(error.cause, ENDED);
}

/// Three callers, one permit: each gets it in the end.
fn queue() {
    let rig = Rig::new(1);
    let session = rig.open(1);
    rig::all((0..3).map(|agent| {
        let binding = rig.binding(agent);
        move || drop(block_on(binding.lease(CallKind::Free)))
    }));
    assert_eq!((session.in_flight(), rig.queue.waiting()), (0, 0));
}

/// Two writers and a reader on two permits: the writers one at a time, and each gets its turn.
fn writers() {
    let rig = Rig::new(2);
    let session = rig.open(1);
    let writing = Arc::new(AtomicUsize::new(0));
    rig::all((0..3).map(|agent| {
        let (binding, writing) = (rig.binding(agent), writing.clone());
        move || {
            if agent == 0 {
                return drop(block_on(binding.lease(CallKind::Free)));
            }
            let lease = block_on(binding.lease(CallKind::Write));
            assert_eq!(writing.fetch_add(1, Ordering::SeqCst), 0, "two write");
            writing.fetch_sub(1, Ordering::SeqCst);
            drop(lease);
        }
    }));
    assert_eq!((session.in_flight(), rig.queue.waiting()), (0, 0));
    assert!(!session.is_writing());
}

/// A caller that gives up, called up or not, takes no turn along.
fn leaver() {
    let rig = Rig::new(1);
    let session = rig.open(1);
    let permit = session.try_permit(CallKind::Free, None);
    let (stays, leaves) = (rig.binding(1), rig.binding(2));
    // It waits before the others come, so the turn is its.
    let mut waiter = leaves.enter(CallKind::Free);
    let waits = thread::spawn(move || drop(block_on(stays.lease(CallKind::Free))));
    let leaver = thread::spawn(move || {
        let _ = futures::FutureExt::now_or_never(waiter.woken());
        drop(waiter);
    });
    drop(permit);
    let _ = (leaver.join(), waits.join());
    assert_eq!((session.in_flight(), rig.queue.waiting()), (0, 0));
}

/// Two permits, one of them for agents with nothing in flight: the second call of an agent waits until its first has
/// ended, beside another agent that keeps the other permit, and then has the last one.
fn last_slot() {
    let rig = Rig::new(2);
    let session = rig.open(1);
    let (busy, other) = (Arc::new(rig.binding(1)), rig.binding(2));
    let first = block_on(busy.lease(CallKind::Free));
    let held = block_on(other.lease(CallKind::Free));
    let second = {
        let busy = busy.clone();
        move || drop(block_on(busy.lease(CallKind::Free)))
    };
    rig::all_and([second].into_iter(), move || drop(first));
    drop(held);
    assert_eq!((session.in_flight(), rig.queue.waiting()), (0, 0));
}

/// Who waits for a session that ends is served by the one after it.
fn successor() {
    let rig = Rig::new(1);
    let session = rig.open(1);
    let permit = session.try_permit(CallKind::Free, None);
    let bindings = [rig.binding(1), rig.binding(2)];
    bindings.iter().for_each(Attached::keep);
    let closer = {
        let rig = rig.clone();
        move || {
            session.publish(Standing::Draining);
            rig.queue.session_gone(session.lane);
            let next = rig.open(2);
            rig.queue.session_ready(next.lane, next.limit);
            drop(permit);
        }
    };
    rig::all_and(
        bindings.into_iter().map(|binding| move || drop(block_on(binding.lease(CallKind::Free)))),
        closer,
    );
    assert_eq!(rig.queue.waiting(), 0);
}

/// A session is its borrower's for as long as the permit is, and nobody's afterwards.
fn lease() {
    let rig = Rig::new(1);
    let session = rig.open(1);
    rig::all((0..2).map(|agent| {
        let binding = rig.exclusive(agent);
        move || {
            let Ok(lease) = binding.binding.try_lease(CallKind::Free, None) else { return };
            let own: Arc<dyn Outlet> = binding.outlet.clone();
            let is_own = || lease.session.owner().is_some_and(|owner| Arc::ptr_eq(&owner, &own));
            assert!(is_own(), "lent to somebody else");
            thread::yield_now();
            assert!(is_own(), "taken away");
            drop(lease);
        }
    }));
    assert!(session.owner().is_none() && session.in_flight() == 0);
}
