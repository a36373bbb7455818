//! The machine by hand, and against a model: whatever happens, the backend ends up with exactly what agents want.

use proptest::prelude::*;

use super::*;

const A: &str = "demo://a";

#[allow(clippy::disallowed_methods, reason = "only the start of a time that is counted by hand")]
fn start() -> Instant {
    Instant::now()
}

fn on_lane() -> Subscriptions {
    let mut all = Subscriptions::default();
    all.ride(Some(1));
    all
}

fn ticket(joined: Joined) -> Ticket {
    match joined {
        Joined::Waits(ticket) => ticket,
        other => panic!("does not wait: {other:?}"),
    }
}

/// Runs the one job there is.
fn run_one(all: &mut Subscriptions, verdict: Verdict, now: Instant) -> (Job, Settled) {
    let jobs = all.jobs(now);
    let [job] = jobs.as_slice() else { panic!("not one job: {jobs:?}") };
    (job.clone(), all.settled(job, verdict, now))
}

#[test]
fn the_first_subscriber_asks_and_all_wait_for_one_answer() {
    let (mut all, now) = (on_lane(), start());
    let (one, two) = (ticket(all.join(1, A)), ticket(all.join(2, A)));
    let (job, settled) = run_one(&mut all, Verdict::Accepted, now);
    assert!(job.subscribe && settled.told == [one, two] && settled.doubtful.is_empty());
    assert_eq!(all.join(3, A), Joined::Now);
    assert!(all.jobs(now).is_empty());
    let mut told = all.subscribers(A);
    told.sort_unstable();
    assert_eq!(told, [1, 2, 3]);
}

#[test]
fn the_last_one_lingers_and_whoever_returns_costs_nothing() {
    let (mut all, now) = (on_lane(), start());
    all.join(1, A);
    run_one(&mut all, Verdict::Accepted, now);
    all.leave(1, A, now);
    assert!(all.subscribers(A).is_empty() && !all.is_wanted());
    let almost = now + LINGER - Duration::from_millis(1);
    assert!(all.jobs(almost).is_empty());
    assert_eq!(all.join(2, A), Joined::Now);
    assert_eq!(all.next_due(), None);
    all.leave(2, A, almost);
    assert_eq!(all.next_due(), Some(almost + LINGER));
    let (job, _) = run_one(&mut all, Verdict::Accepted, almost + LINGER);
    assert!(!job.subscribe);
    assert_eq!(all.len(), 0);
}

#[test]
fn who_comes_while_it_is_given_up_is_asked_for_again() {
    let (mut all, now) = (on_lane(), start());
    all.join(1, A);
    run_one(&mut all, Verdict::Accepted, now);
    all.leave(1, A, now);
    let jobs = all.jobs(now + LINGER);
    let waits = ticket(all.join(2, A));
    assert_eq!(all.settled(&jobs[0], Verdict::Accepted, now), Settled::default());
    let (job, settled) = run_one(&mut all, Verdict::Accepted, now);
    assert!(job.subscribe && settled.told == [waits]);
}

#[test]
fn a_refusal_goes_to_those_who_waited_and_leaves_nothing() {
    let (mut all, now) = (on_lane(), start());
    let waits = ticket(all.join(1, A));
    let (_, settled) = run_one(&mut all, Verdict::Refused, now);
    assert_eq!(settled.told, [waits]);
    assert!(!all.is_wanted() && all.len() == 0 && all.next_due().is_none());
}

#[test]
fn a_lost_answer_is_asked_for_again() {
    let (mut all, now) = (on_lane(), start());
    let waits = ticket(all.join(1, A));
    let (_, settled) = run_one(&mut all, Verdict::Lost, now);
    assert!(settled.told.is_empty() && all.jobs(now).is_empty());
    let (_, settled) = run_one(&mut all, Verdict::Accepted, now + RETRY_LOST);
    assert_eq!(settled.told, [waits]);
}

#[test]
fn a_new_lane_carries_everything_and_the_old_ones_answers_count_no_more() {
    let (mut all, now) = (on_lane(), start());
    all.join(1, A);
    run_one(&mut all, Verdict::Accepted, now);
    all.join(2, "demo://b");
    let old = all.jobs(now);
    all.ride(None);
    assert!(all.jobs(now).is_empty() && all.is_wanted());
    all.ride(Some(2));
    assert_eq!(all.settled(&old[0], Verdict::Accepted, now), Settled::default());
    let jobs = all.jobs(now);
    assert_eq!(jobs.iter().map(|j| j.uri.as_ref()).collect::<Vec<_>>(), [A, "demo://b"]);
    assert_eq!(all.settled(&jobs[0], Verdict::Accepted, now).doubtful, [1], "it may have missed a change");
    assert_eq!(all.settled(&jobs[1], Verdict::Accepted, now).told.len(), 1);
}

#[test]
fn a_topic_that_is_refused_on_a_new_lane_is_asked_for_later() {
    let (mut all, now) = (on_lane(), start());
    all.join(1, A);
    run_one(&mut all, Verdict::Accepted, now);
    all.ride(Some(2));
    assert_eq!(run_one(&mut all, Verdict::Refused, now).1, Settled::default());
    assert_eq!(all.next_due(), Some(now + RETRY_REFUSED));
    let (_, settled) = run_one(&mut all, Verdict::Accepted, now + RETRY_REFUSED);
    assert_eq!(settled.doubtful, [1]);
}

#[test]
fn who_leaves_before_it_was_told_never_subscribed() {
    let (mut all, now) = (on_lane(), start());
    let waits = ticket(all.join(1, A));
    all.withdraw(waits, 1, A, now);
    assert!(all.jobs(now).is_empty() && all.len() == 0);
    // Accepted meanwhile, but nobody was there to hear it.
    let waits = ticket(all.join(1, A));
    run_one(&mut all, Verdict::Accepted, now);
    all.withdraw(waits, 1, A, now);
    assert!(all.subscribers(A).is_empty() && !all.is_wanted());
    // Heard: it stays.
    assert_eq!(all.join(1, A), Joined::Now);
    all.confirm(waits, 1, A);
    all.withdraw(waits, 1, A, now);
    assert_eq!(all.subscribers(A), [1]);
}

#[test]
fn there_is_a_limit_for_one_and_for_all() {
    let mut all = on_lane();
    for n in 0..MAX_PER_AGENT {
        ticket(all.join(1, &format!("demo://{n}")));
    }
    assert_eq!(all.join(1, A), Joined::Full("one agent", MAX_PER_AGENT));
    ticket(all.join(1, "demo://0"));
    for n in MAX_PER_AGENT..MAX_TOPICS {
        let agent = 2 + u64::try_from(n / MAX_PER_AGENT).expect("small");
        ticket(all.join(agent, &format!("demo://{n}")));
    }
    assert!(matches!(all.join(99, A), Joined::Full(_, MAX_TOPICS)));
    assert!(!all.agents.contains_key(&99), "who was refused is not noted");
    ticket(all.join(99, "demo://0"));
}

#[test]
fn only_so_many_are_asked_for_at_a_time() {
    let (mut all, now) = (on_lane(), start());
    for n in 0..100 {
        all.join(1, &format!("demo://{n}"));
    }
    let jobs = all.jobs(now);
    assert_eq!(jobs.len(), MAX_ASKING);
    assert!(all.jobs(now).is_empty());
    all.settled(&jobs[0], Verdict::Accepted, now);
    assert_eq!(all.jobs(now).len(), 1);
}

#[test]
fn a_change_of_a_part_reaches_those_above_it() {
    let (mut all, now) = (on_lane(), start());
    for (agent, uri) in [(1, "file:///x"), (2, "file:///x/y"), (3, "file:///xy")] {
        all.join(agent, uri);
    }
    for job in all.jobs(now) {
        all.settled(&job, Verdict::Accepted, now);
    }
    assert_eq!(all.subscribers("file:///x/y"), [2]);
    assert_eq!(all.subscribers("file:///x/z/1"), [1]);
    assert_eq!(all.subscribers("file:///xy"), [3]);
    for nobody in ["file:///", "file:///z", "file:", "", "/", "demo://a/b"] {
        assert!(all.subscribers(nobody).is_empty(), "{nobody}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Join(u64, usize),
    Leave(u64, usize),
    Gone(u64),
    Drop(usize),
    Run(bool, u8),
    Lane(bool),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1..5_u64, 0..4_usize).prop_map(|(a, u)| Step::Join(a, u)),
        3 => (1..5_u64, 0..4_usize).prop_map(|(a, u)| Step::Leave(a, u)),
        1 => (1..5_u64).prop_map(Step::Gone),
        2 => (0..8_usize).prop_map(Step::Drop),
        6 => (any::<bool>(), 0..3_u8).prop_map(|(all, verdict)| Step::Run(all, verdict)),
        1 => any::<bool>().prop_map(Step::Lane),
        2 => (0..6_000_u64).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #[test]
    fn at_rest_the_backend_holds_exactly_what_is_wanted(steps in steps()) {
        let uris = ["d://0", "d://1", "d://2", "d://3"];
        let (mut all, mut now, mut epoch) = (on_lane(), start(), 1);
        let mut held: HashSet<Arc<str>> = HashSet::new();
        let mut waiting: Vec<(Ticket, u64, &str)> = Vec::new();
        let mut told: HashSet<(u64, &str)> = HashSet::new();
        let mut jobs: Vec<Job> = Vec::new();
        let rest = [Step::Wait(40_000), Step::Run(true, 0), Step::Wait(40_000), Step::Run(true, 0)];
        for step in steps.into_iter().chain(std::iter::once(Step::Lane(true))).chain(rest) {
            match step {
                Step::Join(agent, uri) => match all.join(agent, uris[uri]) {
                    Joined::Now => drop(told.insert((agent, uris[uri]))),
                    Joined::Waits(ticket) => waiting.push((ticket, agent, uris[uri])),
                    Joined::Full(..) => prop_assert!(false, "no limit is near"),
                },
                Step::Leave(agent, uri) => {
                    all.leave(agent, uris[uri], now);
                    told.remove(&(agent, uris[uri]));
                }
                Step::Gone(agent) => {
                    all.leave_all(agent, now);
                    waiting.retain(|(_, of, _)| *of != agent);
                    told.retain(|(of, _)| *of != agent);
                }
                Step::Drop(nth) if nth < waiting.len() => {
                    let (ticket, agent, uri) = waiting.remove(nth);
                    all.withdraw(ticket, agent, uri, now);
                }
                Step::Drop(_) => {}
                Step::Lane(is_there) => {
                    // What the backend knew is gone with its session.
                    held.clear();
                    epoch += 1;
                    all.ride(is_there.then_some(epoch));
                }
                Step::Wait(ms) => now += Duration::from_millis(ms),
                Step::Run(drain, verdict) => loop {
                    jobs.extend(all.jobs(now));
                    let Some(job) = jobs.pop() else { break };
                    let verdict = [Verdict::Accepted, Verdict::Refused, Verdict::Lost][usize::from(verdict)];
                    if job.epoch == epoch && verdict == Verdict::Accepted {
                        if job.subscribe { held.insert(job.uri.clone()); } else { held.remove(&job.uri); }
                    }
                    let settled = all.settled(&job, verdict, now);
                    for ticket in settled.told {
                        let Some(at) = waiting.iter().position(|(t, ..)| *t == ticket) else { continue };
                        let (_, agent, uri) = waiting.remove(at);
                        if verdict == Verdict::Accepted {
                            all.confirm(ticket, agent, uri);
                            told.insert((agent, uri));
                        }
                    }
                    if !drain { break; }
                },
            }
        }
        let wanted: HashSet<&str> = told.iter().map(|(_, uri)| *uri).collect();
        prop_assert_eq!(held.iter().map(AsRef::as_ref).collect::<HashSet<&str>>(), wanted);
        for uri in uris {
            let known: HashSet<u64> = all.subscribers(uri).into_iter().collect();
            let model: HashSet<u64> = told.iter().filter(|(_, u)| *u == uri).map(|(a, _)| *a).collect();
            prop_assert_eq!(known, model, "{}", uri);
        }
        prop_assert!(waiting.is_empty() && all.asking == 0 && all.next_due().is_none());
        prop_assert_eq!(all.len(), wanted_len(&told));
        let listed: usize = all.agents.values().map(HashSet::len).sum();
        prop_assert_eq!(listed, told.len());
    }
}

fn wanted_len(told: &HashSet<(u64, &str)>) -> usize {
    told.iter().map(|(_, uri)| uri).collect::<HashSet<_>>().len()
}
