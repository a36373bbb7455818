//! Who keeps a ledger of what ran is never contradicted: random calls, in all modes, eras and transports, of a
//! backend that answers with random statuses, types, ids, bodies and ends, and that writes down what it executed.
//!
//! - No call is executed twice that is not known to be safe, and none is sent more often than it may be.
//! - What is said not to have run did not run.
//! - A whole response under the id of the call is its answer, is passed on, and is the end of it.
//! - No call opens more than one session because sessions are lost.
//!
//! The backend is honest where the protocol gives it words for it (`Reaction::is_refusal`): what it refuses in them it
//! did not run. Everything above the connection is what the gateway uses; the connections are functions, so that a
//! program takes less than a millisecond. A failure names its seed: `MCPOOL_SEED=n` runs that program alone.
//! `MCPOOL_LONG=1` runs a million programs.
//!
//! That the ledger sees is shown with bugs planted in the shipped code, each of which must be found: [`BUGS`].

mod backend;
mod program;
mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

use mcpool_upstream::Bug;

use self::{program::Program, world::World};

const BUGS: [Bug; 5] = [
    Bug::StatusBeforeAnswer,
    Bug::WordsBelieved,
    Bug::RefusedWithoutProof,
    Bug::SecondSession,
    Bug::RefusedBy503,
];

/// Programs within which a bug must be found.
const ENOUGH: u64 = 1_000;

/// Programs that one backend serves, one after the other.
const PER_WORLD: u64 = 50;

fn programs() -> u64 {
    if std::env::var_os("MCPOOL_LONG").is_some() { 1_000_000 } else { 20_000 }
}

/// A violation of the program with this seed.
struct Found {
    seed: u64,
    why: String,
}

#[test]
fn no_execution_contradicts_what_callers_are_told() {
    let seed = std::env::var("MCPOOL_SEED").ok().and_then(|seed| seed.parse().ok());
    let all = seed.map_or(0..programs(), |seed: u64| seed..seed + 1);
    let half = (all.start + (all.end - all.start).div_ceil(2)).next_multiple_of(PER_WORLD).min(all.end);
    thread::scope(|scope| {
        let halves = [all.start..half, half..all.end];
        let runs = halves.map(|seeds| scope.spawn(move || first_of(seeds)));
        for run in runs {
            if let Some(Found { seed, why }) = run.join().expect("panics are caught") {
                panic!("MCPOOL_SEED={seed}: {why}\n{:#?}", Program::of(seed));
            }
        }
    });
}

#[test]
fn every_bug_planted_in_the_judgement_of_answers_is_found() {
    for bug in BUGS {
        let _planted = bug.plant();
        let Some(Found { seed, why }) = first_of(0..ENOUGH) else {
            panic!("{bug:?} is not found in {ENOUGH} programs")
        };
        figures(&format!("{bug:?} is found in program {seed}: {why}"));
    }
}

/// The first program that breaks a rule.
fn first_of(seeds: std::ops::Range<u64>) -> Option<Found> {
    let mut from = seeds.start;
    while from < seeds.end {
        let until = (from + PER_WORLD).min(seeds.end);
        let mut at = from;
        // The tasks of a world end with its runtime: the timers of all worlds before it would make the run quadratic.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let run = || {
            runtime.block_on(async {
                let mut world = World::start(from / PER_WORLD);
                for seed in from..until {
                    at = seed;
                    world.run(seed, &Program::of(seed)).await?;
                }
                Ok(())
            })
        };
        let outcome: Result<(), String> =
            catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("a panic".to_owned()));
        if let Err(why) = outcome {
            return Some(Found { seed: at, why });
        }
        from = until;
    }
    None
}

#[allow(clippy::print_stdout, reason = "the figures are for whoever reads the run")]
fn figures(line: &str) {
    println!("{line}");
}
