//! Random programs of agents against a backend that answers out of order, twice, late, under mangled and unknown ids,
//! not at all, or dies, with a small model as the oracle (RELIABILITY.md C1). Each program is at least three agents,
//! two sessions and thirty events, runs on a paused clock, and holds:
//!
//! - each request ends exactly once, with the backend's own answer to it or with a reason there is one for;
//! - only its agent sees anything of it, under the agent's own id and token, and nothing once it is over;
//! - nothing unsafe is executed twice, and what is said not to have been executed was not;
//! - no id is used twice on a session, and no session has more calls at once than it has slots;
//! - updates reach the subscribers and nobody else, levels are each agent's own, and lists are not older than their
//!   announced change;
//! - at rest nothing is held: no entry, slot, waiter, subscription, place or task.
//!
//! The lab stands below the front, where agents are told apart by who calls; that all of them use the same ids and
//! tokens, equal but for their types, must not matter.
//!
//! A failure names its seed: `MCPOOL_SEED=n` runs that program many times, because the order in which the runtime
//! polls is not part of it. `MCPOOL_LONG=1` runs a hundred thousand programs.
//!
//! That the oracle sees is shown with bugs planted in the shipped code (`mcpool_upstream::Bug`), each of which must be
//! found: [`BUGS`].

mod backend;
mod judge;
pub(crate) mod program;
mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
    time::Instant,
};

use mcpool_upstream::Bug;
use tokio::runtime::Runtime;

use self::{
    program::Program,
    world::{Violation, World},
};

/// The bugs the model must find: what each does is said where it is declared.
const BUGS: [Bug; 14] = [
    Bug::AnswerToAnother,
    Bug::StringIdRefused,
    Bug::ProgressToAnother,
    Bug::SlotKeptByCancelled,
    Bug::SlotReturnedTwice,
    Bug::IdUsedAgain,
    Bug::UnsafeRepeated,
    Bug::WaitersForgotten,
    Bug::FreedSlotWakesNobody,
    Bug::UnsubscribeForAll,
    Bug::LoanNeverEnds,
    Bug::StaleList,
    Bug::LogForEverybody,
    Bug::LevelIgnored,
];

/// Programs within which a bug must be found.
const ENOUGH: u64 = 400;

/// How often a program is run when its seed is given.
const AGAIN: u64 = 200;

fn programs() -> u64 {
    if std::env::var_os("MCPOOL_LONG").is_some() { 100_000 } else { 5_000 }
}

/// A violation of the program with this seed.
#[derive(Debug)]
struct Found {
    seed: u64,
    why: Violation,
}

#[test]
fn random_programs_end_as_the_model_says() {
    if let Some(seed) = std::env::var("MCPOOL_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return (0..AGAIN).for_each(|_| expect(first_of([seed].into_iter())));
    }
    let (workers, all) = (2, programs());
    let began = started();
    thread::scope(|scope| {
        let of = |worker| (0..all).filter(move |seed| seed % workers == worker);
        let runs: Vec<_> = (0..workers).map(|worker| scope.spawn(move || first_of(of(worker)))).collect();
        runs.into_iter().for_each(|run| expect(run.join().expect("panics are caught")));
    });
    figures(&format!("{all} programs in {:.1} s", began.elapsed().as_secs_f64()));
}

#[test]
fn every_planted_bug_is_found() {
    for bug in BUGS {
        let _planted = bug.plant();
        let found = quietly(|| first_of(0..ENOUGH));
        let Some(Found { seed, why }) = found else { panic!("{bug:?} is not found in {ENOUGH} programs") };
        figures(&format!(
            "{bug:?} is found in program {seed}: {}",
            why.chars().take(160).collect::<String>()
        ));
    }
}

fn expect(found: Option<Found>) {
    if let Some(Found { seed, why }) = found {
        panic!("MCPOOL_SEED={seed}: {why}\n{:#?}", Program::of(seed));
    }
}

/// The first program that breaks a rule.
fn first_of(mut seeds: impl Iterator<Item = u64>) -> Option<Found> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    seeds.find_map(|seed| run(&runtime, seed).err().map(|why| Found { seed, why }))
}

fn run(runtime: &Runtime, seed: u64) -> Result<(), Violation> {
    let program = Program::of(seed);
    let run = || runtime.block_on(async { World::start(&program).await.run().await });
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("a panic".to_owned()))
}

/// Panics of planted bugs are findings, not something to print.
fn quietly<T>(run: impl FnOnce() -> T) -> T {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let value = run();
    std::panic::set_hook(hook);
    value
}

#[allow(clippy::disallowed_methods, reason = "how long it takes on the clock of the wall")]
fn started() -> Instant {
    Instant::now()
}

#[allow(clippy::print_stdout, reason = "the figures are for whoever reads the run")]
fn figures(line: &str) {
    println!("{line}");
}
