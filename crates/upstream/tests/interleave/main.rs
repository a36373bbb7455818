//! Runs every hand-over of `mcpool_upstream::interleave` in every order of its steps with a bounded number of changes
//! between threads that nothing forces, then in random orders; and shows for each planted bug that it is found.
//! `MCPOOL_LONG=1` allows one change more and twenty times as many random orders.
#![allow(clippy::print_stdout, reason = "the figures are for whoever reads the run")]

mod bounded;

use std::panic::{AssertUnwindSafe, catch_unwind};

use mcpool_upstream::interleave::{SCENARIOS, Scenario};
use shuttle::{
    Config, Runner,
    scheduler::{RandomScheduler, Scheduler},
};

use self::bounded::Bounded;

/// Most orders that are run one after the other; a scenario that has more is too large.
const ORDERS: usize = 50_000_000;

const RANDOM: usize = 5_000;

fn is_long() -> bool {
    std::env::var_os("MCPOOL_LONG").is_some()
}

fn run(scenario: &Scenario, scheduler: impl Scheduler + 'static) -> usize {
    let run = scenario.run;
    Runner::new(scheduler, Config::default()).run(run)
}

fn all_orders(scenario: &Scenario) -> String {
    let changes = scenario.changes + usize::from(is_long());
    let orders = run(scenario, Bounded::new(changes, ORDERS));
    assert!(orders < ORDERS, "{} has more than {ORDERS} orders", scenario.name);
    let random = run(scenario, RandomScheduler::new(if is_long() { RANDOM * 20 } else { RANDOM }));
    format!("{}: all {orders} orders with {changes} changes, and {random} random ones", scenario.name)
}

fn check(name: &str) {
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name).expect("a scenario");
    println!("{}", all_orders(scenario));
    for bug in scenario.bugs {
        let _planted = bug.plant();
        let found = catch_unwind(AssertUnwindSafe(|| all_orders(scenario))).is_err();
        assert!(found, "{bug:?} is not found by {name}");
        println!("{name}: {bug:?} is found");
    }
}

#[test]
fn never_more_holders_than_permits() {
    check("permits");
}

#[test]
fn the_last_call_of_a_draining_session_is_seen() {
    check("drain");
}

#[test]
fn nothing_is_registered_after_the_close_and_everybody_is_told_once() {
    check("epoch");
}

#[test]
fn a_free_slot_wakes_somebody() {
    check("queue");
}

#[test]
fn writers_take_turns_and_each_gets_one() {
    check("writers");
}

#[test]
fn who_leaves_passes_the_turn_on() {
    check("leaver");
}

#[test]
fn an_agent_whose_last_call_has_ended_may_have_the_last_permit() {
    check("last-permit");
}

#[test]
fn who_waits_for_a_session_that_ends_is_served_by_the_next() {
    check("successor");
}

#[test]
fn a_session_is_its_borrowers_until_the_permit_is_free() {
    check("lease");
}

#[test]
fn every_scenario_is_run_here() {
    let here = include_str!("main.rs");
    assert!(SCENARIOS.iter().all(|scenario| here.contains(&format!("check(\"{}\");", scenario.name))));
}
