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

fn merged(fan_out_logs: bool) -> Merged {
    let source = Source { id: BackendId(0), name: "lab".into() };
    Merged::new(
        Queue::new(QueueLimits { calls: 1, bytes: 1 }),
        Reporter::new(source, Arc::new(Blind)),
        fan_out_logs,
    )
}

fn agent(merged: &Merged, key: u64) -> (u64, Arc<Inbox>, Arc<dyn Outlet>) {
    let inbox = Arc::new(Inbox::default());
    let outlet: Arc<dyn Outlet> = inbox.clone();
    (merged.add_agent(AgentKey(key), &outlet), inbox, outlet)
}

fn answer(text: &'static [u8]) -> Answer {
    let bytes = Bytes::from_static(text);
    let envelope = Envelope::parse(&bytes).expect("a message");
    let is_rpc_error = envelope.kind == mcpool_wire::Kind::Failure;
    Answer { message: Message::new(bytes.clone(), &envelope), is_rpc_error, is_tool_error: false }
}

fn run_all(merged: &Merged, text: &'static [u8]) -> usize {
    let jobs = {
        let mut state = merged.lock();
        state.subscriptions.ride(Some(1));
        state.subscriptions.jobs(clock::now())
    };
    jobs.iter().for_each(|job| merged.settle(job, Some(answer(text))));
    jobs.len()
}

const YES: &[u8] = br#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
const NO: &[u8] = br#"{"jsonrpc":"2.0","id":1,"error":{"code":-32002,"message":"no"}}"#;
const LINE: Bytes = Bytes::from_static(b"{}");

#[tokio::test(start_paused = true)]
async fn a_request_dropped_at_any_point_leaves_the_counts_as_they_were() {
    for accepted_first in [false, true] {
        let merged = merged(false);
        let (binding, _inbox, _outlet) = agent(&merged, 1);
        {
            let mut request = pin!(merged.subscribe(binding, "demo://a"));
            let mut cx = Context::from_waker(std::task::Waker::noop());
            assert!(request.as_mut().poll(&mut cx).is_pending());
            if accepted_first {
                assert_eq!(run_all(&merged, YES), 1);
            }
        }
        let state = merged.lock();
        assert!(state.waiting.is_empty() && !state.subscriptions.is_wanted());
        assert!(state.subscriptions.subscribers("demo://a").is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn every_waiting_agent_gets_the_backends_own_error() {
    let merged = merged(false);
    let (one, two) = (agent(&merged, 1), agent(&merged, 2));
    let (a, b) = (merged.subscribe(one.0, "demo://a"), merged.subscribe(two.0, "demo://a"));
    let run = async { run_all(&merged, NO) };
    let (a, b, sent) = tokio::join!(a, b, run);
    assert_eq!(sent, 1);
    for outcome in [a, b] {
        let Err(NotSubscribed::Refused(answer)) = outcome else { panic!("accepted") };
        assert_eq!(&answer.message.bytes()[..], NO);
    }
    assert_eq!(merged.subscriptions(), 0);
}

#[tokio::test(start_paused = true)]
async fn only_subscribers_hear_of_a_change_and_a_gone_seat_takes_its_subscriptions_along() {
    let merged = merged(false);
    let (one, two) = (agent(&merged, 1), agent(&merged, 2));
    let (subscribed, _) = tokio::join!(merged.subscribe(one.0, "demo://a"), async { run_all(&merged, YES) });
    assert!(subscribed.is_ok());
    assert!(merged.updated("demo://a", &LINE) && !merged.updated("demo://b", &LINE));
    assert_eq!((one.1.taken(), two.1.taken()), (1, 0));
    merged.remove_agent(one.0);
    assert!(!merged.updated("demo://a", &LINE) && !merged.wants_session());
}

#[tokio::test(start_paused = true)]
async fn a_log_line_of_no_call_is_for_nobody_unless_the_operator_says_so() {
    for fan_out in [false, true] {
        let merged = merged(fan_out);
        let (one, two) = (agent(&merged, 1), agent(&merged, 2));
        merged.ask_level(AgentKey(1), one.0, Level::Error);
        assert_eq!(merged.uncorrelated_log(&LINE, Some("info")), fan_out);
        assert_eq!((one.1.taken(), two.1.taken()), (0, usize::from(fan_out)));
    }
}

#[tokio::test(start_paused = true)]
async fn changes_of_a_list_are_told_once() {
    let merged = merged(false);
    let (_, inbox, _outlet) = agent(&merged, 1);
    for _ in 0..5 {
        merged.changed(&Method::ToolsListChanged);
    }
    merged.tell_news(clock::now());
    assert_eq!(inbox.taken(), 0);
    tokio::time::advance(list_changed::WINDOW).await;
    merged.tell_news(clock::now());
    merged.tell_news(clock::now());
    assert_eq!(inbox.taken(), 1);
}
