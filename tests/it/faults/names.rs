//! Backends whose names do not resolve, resolve late, lead to another address than before or to nobody every third
//! time (F5): a call waits for its own backend's name only, and what a name leads to is asked anew for each connection.
//!
//! The system's resolver is asked for names that never exist; it takes what it takes to say so, and on a machine without
//! one it may say nothing for long. Both are wanted here. Everything else is said by a resolver of our own.

use super::*;

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::{FutureExt as _, future::BoxFuture, future::join_all};
use mcpool_testkit::fault_proxy::End;
use mcpool_upstream::{Endpoint, HttpEndpoint, Resolve, Resolver};

use crate::wires::{WIRES, until};

/// Names that never exist (RFC 6761).
const NOWHERE: usize = 6;
/// What a slow resolver takes.
const LATE: Duration = Duration::from_secs(5);

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Another address of this machine.
const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
/// An address of this machine at which nobody listens.
const DEAD: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));

/// What a name leads to.
#[derive(Clone, Copy)]
enum Says {
    Nowhere,
    After(Duration, IpAddr),
    InTurn([IpAddr; 3]),
}

/// A resolver that says what it is told to.
struct Scripted {
    says: Mutex<Says>,
    asked: AtomicUsize,
}

impl Scripted {
    fn new(says: Says) -> Arc<Self> {
        Arc::new(Self { says: Mutex::new(says), asked: AtomicUsize::new(0) })
    }

    fn say(&self, says: Says) {
        *self.says.lock().expect("not poisoned") = says;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Resolve for Scripted {
    fn resolve(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        assert_eq!(host, "backend.test");
        let nth = self.asked.fetch_add(1, Ordering::Relaxed);
        let says = *self.says.lock().expect("not poisoned");
        async move {
            match says {
                Says::Nowhere => Err(io::Error::other("no such name")),
                Says::After(time, address) => {
                    tokio::time::sleep(time).await;
                    Ok(vec![address])
                }
                Says::InTurn(addresses) => Ok(vec![addresses[nth % 3]]),
            }
        }
        .boxed()
    }
}

/// The same backend by a name.
fn by_name(direct: Wanted, names: &Arc<Scripted>) -> Wanted {
    let Endpoint::Http(http) = direct.endpoint else { panic!("not over the network") };
    let mut url = http.url;
    url.set_host(Some("backend.test")).expect("a host");
    let resolver = Some(Resolver::new(names.clone()));
    Wanted { endpoint: Endpoint::Http(HttpEndpoint { resolver, ..HttpEndpoint::new(url) }), ..direct }
}

fn failures(rig: &Rig) -> Vec<String> {
    let events = rig.seen.events.lock().expect("not poisoned");
    events.iter().filter(|event| event.starts_with("OpenFailed")).cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_waits_for_the_name_of_another_backend() {
    for back in WIRES {
        let server = serve(Script::default()).await;
        let names: Vec<String> = (0..NOWHERE).map(|n| format!("nowhere-{n}")).collect();
        let nowhere = |name: &String| hasty(Wanted::shared(format!("http://{name}.invalid:9/mcp")));
        let mut all = vec![("good", hasty(wanted(&server, back, ModeChoice::Shared)))];
        all.extend(names.iter().map(|name| (name.as_str(), nowhere(name))));
        let rig = Rig::start_all(all).await;
        let other = agent_of(&rig, "good", Transport::Http).await;
        let quiet = calls_in_quiet(&other).await;
        let stop = CancellationToken::new();
        let lost = async {
            // Each of them several times: the resolver is busy all the time.
            for _ in 0..3 {
                let agents = names.iter().map(async |name| {
                    let began = Instant::now();
                    is_told(&rig, name, name).await;
                    assert!(began.elapsed() < HANDSHAKE + SLACK, "{:?}", began.elapsed());
                });
                join_all(agents).await;
            }
            stop.cancel();
        };
        let ((), took) = tokio::join!(lost, keeps_calling(&other, &stop));
        took.is_like(&quiet, "names of the system");
        drop(other);
        over(rig).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_nowhere_is_told_and_found_once_it_is_there() {
    for back in WIRES {
        let server = serve(Script::default()).await;
        let names = Scripted::new(Says::Nowhere);
        let bad = by_name(hasty(wanted(&server, back, ModeChoice::Shared)), &names);
        beside("a name that is nowhere", back, bad, async |rig| {
            join_all((0..8).map(|_| is_told(rig, "bad", "nowhere"))).await;
            let why = failures(rig);
            assert!(
                why.iter().all(|why| why.contains("Connect(") && why.contains("no such name")),
                "{why:?}"
            );
            assert!(!why.is_empty() && server.stats().connections_opened == 0);
            names.say(Says::After(Duration::ZERO, HERE));
            is_served_soon(rig, "found").await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_resolves_late_keeps_its_own_agents_waiting_and_nobody_else() {
    let slow = async |back| {
        let server = serve(Script::default()).await;
        let names = Scripted::new(Says::After(LATE, HERE));
        let mut bad = by_name(hasty(wanted(&server, back, ModeChoice::Shared)), &names);
        // One lookup for what is sent and one for the stream.
        (bad.times.connect, bad.times.handshake) = (LATE * 3, LATE * 4);
        // A session is ready before its stream and its list are, so a call may wait for a connection of its own.
        bad.times.call_idle = LATE * 3;
        beside("a name that resolves late", back, bad, async |rig| {
            let began = Instant::now();
            is_told(rig, "bad", "in time").await;
            assert!(began.elapsed() < LATE, "told after {:?}", began.elapsed());
            is_served_soon(rig, "resolved").await;
            assert!(began.elapsed() > LATE * 9 / 10, "served after {:?}", began.elapsed());
            assert_eq!(failures(rig), [""; 0]);
            // The farewell needs a connection too.
            names.say(Says::After(Duration::ZERO, HERE));
        })
        .await;
    };
    tokio::join!(slow(Transport::Sse), slow(Transport::Http));
}

/// The clients' own limit for a connection begins when there is an address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_never_resolves_is_given_up_like_a_connection() {
    let never = async |back| {
        let server = serve(Script::default()).await;
        let names = Scripted::new(Says::After(LATE * 100, HERE));
        let mut bad = by_name(hasty(wanted(&server, back, ModeChoice::Shared)), &names);
        bad.times.handshake = LATE * 100;
        beside("a name that never resolves", back, bad, async |rig| {
            until("the connection is given up", || !failures(rig).is_empty()).await;
            assert!(failures(rig)[0].contains("Timeout(\"connect\")"), "{:?}", failures(rig));
            names.say(Says::After(Duration::ZERO, HERE));
            is_served_soon(rig, "resolved").await;
        })
        .await;
    };
    tokio::join!(never(Transport::Sse), never(Transport::Http));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_moves_to_another_address_is_found_without_a_lost_call() {
    for back in WIRES {
        let old = serve(Script::default()).await;
        let new = serve(Script { addr: (THERE, old.addr().port()).into(), ..Script::default() }).await;
        let names = Scripted::new(Says::After(Duration::ZERO, HERE));
        let bad = by_name(hasty(wanted(&old, back, ModeChoice::Shared)), &names);
        beside("a backend that moves", back, bad, async |rig| {
            let agents = join_all((0..4).map(|n| agent_of(rig, "bad", WIRES[n % 2]))).await;
            let stop = CancellationToken::new();
            let calls = join_all(agents.iter().map(|agent| keeps_calling(agent, &stop)));
            let moves = async {
                let calls = |server: &Server| server.stats().requests_of("tools/call");
                until("the old one serves", || calls(&old) > 20).await;
                names.say(Says::After(Duration::ZERO, THERE));
                old.stop().await;
                until("the new one serves", || calls(&new) > 20).await;
                stop.cancel();
            };
            // Each agent called all the time, and was served each time.
            tokio::join!(calls, moves);
            for agent in &agents {
                is_served(agent, "at the new address").await;
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_leads_to_nobody_every_third_time_concerns_its_own_agents_only() {
    for back in WIRES {
        let server = serve(Script::default()).await;
        let proxy = FaultProxy::start(server.addr()).await.expect("a proxy");
        // A handshake asks twice: never both times in vain, and not always the same time.
        let names = Scripted::new(Says::InTurn([DEAD, HERE, HERE]));
        let bad = by_name(through(&proxy, &server, back), &names);
        beside("a name that flaps", back, bad, async |rig| {
            let agent = is_served_soon(rig, "at last").await;
            let (asked, began) = (names.asked(), Instant::now());
            let mut answered = 0;
            // Every connection is soon lost, so that the name is asked for again.
            for n in 0..30 {
                proxy.end_all(End::Reset);
                let nonce = format!("flapping-{n}");
                answered += usize::from(is_answered(
                    &nonce,
                    agent.call_tool("echo", json!({ "nonce": nonce })).await,
                ));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let asked = names.asked() - asked;
            println_figures(&format!(
                "{back:?}: {answered} of 30 answered in {:?}, {asked} lookups",
                began.elapsed()
            ));
            assert!(asked > 10 && answered > 0, "{answered} answered, the name was asked for {asked} times");
            names.say(Says::After(Duration::ZERO, HERE));
            is_served_soon(rig, "afterwards").await;
        })
        .await;
    }
}
