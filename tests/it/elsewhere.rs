//! Calls that are taken without an answer where they were posted (202), and calls that never leave, over real sockets.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{FutureExt as _, future::BoxFuture, future::join_all};
use mcpool_testkit::agent::{AgentError, Transport};
use mcpool_upstream::{Endpoint, EraChoice, HttpEndpoint, Resolve, Resolver};
use serde_json::{Value, json};

use crate::{
    raw::{Reply, Server, ordinary},
    rig::{Rig, Wanted},
    wires::{agent, said, until},
};

/// A server that answers calls of `later` with 202, and what it says of its stream: this while no call waits.
async fn taking(stream: u16) -> Server {
    let waiting = Mutex::new(None::<Value>);
    Server::start(move |method, message| match method {
        "tools/call" if message["params"]["name"] == "later" => {
            *waiting.lock().expect("not poisoned") = Some(message["id"].clone());
            Some(Reply::new(202, "", ""))
        }
        "GET" => {
            let id = waiting.lock().expect("not poisoned").take().filter(|_| stream != 405);
            let Some(id) = id else { return Some(Reply::new(stream, "text/plain", "no stream")) };
            let result = json!({ "content": [{ "type": "text", "text": "on the stream" }] });
            let answer = json!({ "jsonrpc": "2.0", "id": id, "result": result });
            Some(Reply::new(200, "text/event-stream", &format!("data: {answer}\n\n")))
        }
        _ => None,
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_taken_without_an_answer_is_answered_on_a_stream_that_is_opened_later() {
    for refused in [503, 404, 500] {
        let server = taking(refused).await;
        let rig = Rig::start(Wanted::shared(server.url.clone())).await;
        let agent = agent(&rig, Transport::Http).await;
        until("the stream was refused", || server.count("GET") > 0).await;
        assert_eq!(said(&agent, "later", json!({})).await, "on the stream", "{refused}");
        assert_eq!((server.count("tools/call"), server.count("initialize")), (1, 1), "{refused}");
        rig.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_taken_without_an_answer_by_a_server_without_a_stream_ends_at_once() {
    let server = taking(405).await;
    let rig = Rig::start(Wanted::shared(server.url.clone())).await;
    let agent = agent(&rig, Transport::Http).await;
    until("the stream was refused", || server.count("GET") > 0).await;
    let began = Instant::now();
    let told = agent.call_tool("later", json!({})).await;
    let Err(AgentError::Rpc { data, .. }) = told else { panic!("{told:?}") };
    assert_eq!(data["executed"], "maybe", "{data}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(server.count("tools/call"), 1);
    rig.stop().await;
}

/// A name that leads here, at once or after [`LATE`].
#[derive(Default)]
struct Name {
    is_late: AtomicBool,
}

/// What a late name takes.
const LATE: Duration = Duration::from_secs(4);
/// What a call waits for a sign of its backend.
const CALL: Duration = Duration::from_secs(2);

impl Resolve for Name {
    fn resolve(&self, _: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let is_late = self.is_late.load(Ordering::Relaxed);
        async move {
            if is_late {
                tokio::time::sleep(LATE).await;
            }
            Ok(vec![Ipv4Addr::LOCALHOST.into()])
        }
        .boxed()
    }
}

/// While a name is late, the connections there are take the first calls, and the others wait for one of their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_waits_for_a_connection_until_its_time_is_over_was_not_sent_and_never_is() {
    for era in [EraChoice::Legacy, EraChoice::Modern] {
        let server = Server::start(|method, message| {
            (message["params"]["name"] == "hang")
                .then(|| Reply::After(Duration::from_secs(60), Box::new(ordinary(method, message))))
        })
        .await;
        let name = Arc::new(Name::default());
        let url = server.url.replace("127.0.0.1", "backend.test").parse().expect("a URL");
        let resolver = Some(Resolver::new(name.clone()));
        let endpoint = Endpoint::Http(HttpEndpoint { era, resolver, ..HttpEndpoint::new(url) });
        let mut wanted = Wanted { endpoint, ..Wanted::shared(server.url.clone()) };
        (wanted.times.call_idle, wanted.times.connect) = (CALL, LATE * 3);
        wanted.times.cancel_grace = Duration::from_millis(500);
        let rig = Rig::start(wanted).await;
        let agent = agent(&rig, Transport::Http).await;
        said(&agent, "echo", json!({})).await;
        let before = server.count("tools/call");

        name.is_late.store(true, Ordering::Relaxed);
        let cancelled = agent.start_as("\"gone\"", "tools/call", json!({ "name": "hang", "arguments": {} }));
        let cancelled = cancelled.expect("started");
        let taken = server.count("tools/call");
        let calls = join_all((0..8).map(|_| agent.call_tool("hang", json!({}))));
        let cancel = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            agent.cancel("\"gone\"").await.expect("sent");
        };
        let (told, ()) = tokio::join!(calls, cancel);
        let executed = told.into_iter().map(|told| {
            let Err(AgentError::Rpc { code, data, .. }) = told else { panic!("{era:?}: {told:?}") };
            assert_eq!(code, -31906, "{era:?}: {data}");
            data["executed"].as_str().expect("a word").to_owned()
        });
        let executed: Vec<String> = executed.collect();
        let unsent = executed.iter().filter(|word| *word == "no").count();
        assert!(unsent >= 4, "{era:?}: {executed:?}");
        // Long enough for every connection to be there.
        tokio::time::sleep(LATE).await;
        let seen = server.count("tools/call") - before;
        let sent = 8 - unsent;
        assert!((sent..=sent + 1).contains(&seen), "{era:?}: {seen} calls came, {executed:?}, {taken}");
        drop(cancelled);
        name.is_late.store(false, Ordering::Relaxed);
        rig.stop().await;
    }
}

/// What ended a call is named: the time any call may take, or the time without a sign.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_ends_names_the_limit_that_ended_it() {
    let server = Server::start(|method, message| {
        (method == "tools/call")
            .then(|| Reply::After(Duration::from_secs(60), Box::new(ordinary(method, message))))
    })
    .await;
    let second = Duration::from_secs(1);
    for (idle, whole, named, other) in [
        (second * 40, second, "times.call", "call_timeout"),
        (second, second * 40, "call_timeout", "times.call"),
    ] {
        let mut wanted = Wanted::shared(server.url.clone());
        (wanted.times.call_idle, wanted.front.call) = (idle, whole);
        let rig = Rig::start(wanted).await;
        let agent = agent(&rig, Transport::Http).await;
        let told = agent.call_tool("echo", json!({})).await;
        let Err(AgentError::Rpc { code, message, data }) = told else { panic!("{told:?}") };
        assert_eq!((code, &data["executed"]), (-31906, &json!("maybe")), "{message}");
        assert!(message.contains(named) && message.contains("1s"), "{message}");
        assert!(!message.contains(other) && !message.contains("40s"), "{message}");
        rig.stop().await;
    }
}
