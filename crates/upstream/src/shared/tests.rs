//! The shell around the machines: who is told what, and what a dropped request leaves behind.

use std::{future::Future as _, pin::pin, sync::Mutex, task::Context};

use mcpool_wire::{BackendId, Envelope, Message, OutletFull};

use super::*;
use crate::{
    observe::{Observe, Source},
    queue::QueueLimits,
};

#[derive(Default)]
struct Inbox(Mutex<Vec<Bytes>>);

impl Outlet for Inbox {
    fn push(&self, event: LinkEvent) -> Result<(), OutletFull> {
        let LinkEvent::Notification(bytes) = event else { return Err(OutletFull) };
        self.0.lock().expect("not poisoned").push(bytes);
        Ok(())
    }
}

impl Inbox {
    fn taken(&self) -> usize {
        std::mem::take(&mut *self.0.lock().expect("not poisoned")).len()
    }
}

struct Blind;

impl Observe for Blind {
    fn on(&self, _: &Source, _: Event<'_>) {}
}

fn shared_state(fan_out_logs: bool) -> SharedState {
    let source = Source { id: BackendId(0), name: "lab".into() };
    SharedState::new(
        Queue::new(QueueLimits { calls: 1, bytes: 1 }),
        Reporter::new(source, Arc::new(Blind)),
        fan_out_logs,
    )
}

fn agent(shared: &SharedState, key: u64) -> (u64, Arc<Inbox>, Arc<dyn Outlet>) {
    let inbox = Arc::new(Inbox::default());
    let outlet: Arc<dyn Outlet> = inbox.clone();
    (shared.add_agent(AgentKey(key), &outlet), inbox, outlet)
}

fn answer(text: &'static [u8]) -> Answer {
    let bytes = Bytes::from_static(text);
    let envelope = Envelope::parse(&bytes).expect("a message");
    let is_rpc_error = envelope.kind == mcpool_wire::Kind::Failure;
    Answer { message: Message::new(bytes.clone(), &envelope), is_rpc_error, is_tool_error: false }
}

fn run_all(shared: &SharedState, text: &'static [u8]) -> usize {
    let jobs = {
        let mut state = shared.lock();
        state.subscriptions.ride(Some(1));
        state.subscriptions.jobs(clock::now())
    };
    jobs.iter().for_each(|job| shared.settle(job, Some(answer(text))));
    jobs.len()
}

const YES: &[u8] = br#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
const NO: &[u8] = br#"{"jsonrpc":"2.0","id":1,"error":{"code":-32002,"message":"no"}}"#;
const LINE: Bytes = Bytes::from_static(b"{}");

#[tokio::test(start_paused = true)]
async fn a_request_dropped_at_any_point_leaves_the_counts_as_they_were() {
    for accepted_first in [false, true] {
        let shared = shared_state(false);
        let (binding, _inbox, _outlet) = agent(&shared, 1);
        {
            let mut request = pin!(shared.subscribe(binding, "demo://a"));
            let mut cx = Context::from_waker(std::task::Waker::noop());
            assert!(request.as_mut().poll(&mut cx).is_pending());
            if accepted_first {
                assert_eq!(run_all(&shared, YES), 1);
            }
        }
        let state = shared.lock();
        assert!(state.waiting.is_empty() && !state.subscriptions.is_wanted());
        assert!(state.subscriptions.subscribers("demo://a").is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn every_waiting_agent_gets_the_backends_own_error() {
    let shared = shared_state(false);
    let (one, two) = (agent(&shared, 1), agent(&shared, 2));
    let (a, b) = (shared.subscribe(one.0, "demo://a"), shared.subscribe(two.0, "demo://a"));
    let run = async { run_all(&shared, NO) };
    let (a, b, sent) = tokio::join!(a, b, run);
    assert_eq!(sent, 1);
    for outcome in [a, b] {
        let Err(NotSubscribed::Refused(answer)) = outcome else { panic!("accepted") };
        assert_eq!(&answer.message.bytes()[..], NO);
    }
    assert_eq!(shared.subscriptions(), 0);
}

#[tokio::test(start_paused = true)]
async fn only_subscribers_hear_of_a_change_and_a_gone_seat_takes_its_subscriptions_along() {
    let shared = shared_state(false);
    let (one, two) = (agent(&shared, 1), agent(&shared, 2));
    let (subscribed, _) = tokio::join!(shared.subscribe(one.0, "demo://a"), async { run_all(&shared, YES) });
    assert!(subscribed.is_ok());
    assert!(shared.updated("demo://a", &LINE) && !shared.updated("demo://b", &LINE));
    assert_eq!((one.1.taken(), two.1.taken()), (1, 0));
    shared.remove_agent(one.0);
    assert!(!shared.updated("demo://a", &LINE) && !shared.wants_session());
}

#[tokio::test(start_paused = true)]
async fn a_log_line_of_no_call_is_for_nobody_unless_the_operator_says_so() {
    for fan_out in [false, true] {
        let shared = shared_state(fan_out);
        let (one, two) = (agent(&shared, 1), agent(&shared, 2));
        shared.ask_level(AgentKey(1), one.0, LogLevel::Error);
        assert_eq!(shared.uncorrelated_log(&LINE, Some("info")), fan_out);
        assert_eq!((one.1.taken(), two.1.taken()), (0, usize::from(fan_out)));
    }
}

#[tokio::test(start_paused = true)]
async fn changes_of_a_list_are_told_once() {
    let shared = shared_state(false);
    let (_, inbox, _outlet) = agent(&shared, 1);
    for _ in 0..5 {
        shared.changed(&Method::ToolsListChanged);
    }
    shared.announce_list_changes(clock::now());
    assert_eq!(inbox.taken(), 0);
    tokio::time::advance(list_changed::WINDOW).await;
    shared.announce_list_changes(clock::now());
    shared.announce_list_changes(clock::now());
    assert_eq!(inbox.taken(), 1);
}
