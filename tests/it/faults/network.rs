//! A network that fails (F4): what is late, slow, cut, doubled, half-open or swallowed between the gateway and one
//! backend ends every call at its own deadline at the latest, concerns nobody else, and is over when it is over.

use super::*;

use futures::future::join_all;
use mcpool_testkit::fault_proxy::{End, Flow, Shot, Strike, Way, Weather};

use crate::wires::{WIRES, config, until};

/// Agents at work while the weather is bad.
const AT_WORK: usize = 8;

/// A backend behind a bad network, and a healthy one beside it.
struct Scene {
    proxy: FaultProxy,
    _bad: Server,
    _good: Server,
    rig: Rig,
}

impl Scene {
    async fn new(back: Transport) -> Self {
        let (bad, good) = (serve(Script::default()).await, serve(Script::default()).await);
        let proxy = FaultProxy::start(bad.addr()).await.expect("a proxy");
        let all = vec![
            ("bad", through(&proxy, &bad, back)),
            ("good", hasty(wanted(&good, back, ModeChoice::Shared))),
        ];
        let rig = Rig::start_all(all).await;
        Self { proxy, _bad: bad, _good: good, rig }
    }

    /// Calls in this weather, and after it.
    async fn endure(&self, name: &str, begin: impl AsyncFnOnce(&FaultProxy)) {
        let agents = join_all((0..AT_WORK).map(|n| agent_of(&self.rig, "bad", WIRES[n % 2]))).await;
        for agent in &agents {
            is_served(agent, "warm").await;
        }
        let other = agent_of(&self.rig, "good", Transport::Sse).await;
        let quiet = calls_in_quiet(&other).await;
        let stop = CancellationToken::new();
        let calls = async {
            begin(&self.proxy).await;
            let calls = agents.iter().enumerate().map(async |(n, agent)| {
                let began = Instant::now();
                let nonce = format!("{name}-{n}");
                let outcome = agent.call_tool("echo", json!({ "nonce": nonce })).await;
                (nonce, outcome, began.elapsed())
            });
            let ended = join_all(calls).await;
            stop.cancel();
            ended
        };
        let (ended, took) = tokio::join!(calls, keeps_calling(&other, &stop));
        for (nonce, outcome, took) in ended {
            // Three attempts with a session to be opened before each, or the wait for one.
            assert!(took < (CALL + HANDSHAKE) * 3 + Duration::from_secs(10) + SLACK, "{nonce}: {took:?}");
            is_answered(&nonce, outcome);
        }
        took.is_like(&quiet, name);
        self.proxy.clear();
        self.proxy.end_all(End::Reset);
        for agent in &agents {
            let served = async {
                while agent.call_tool("echo", json!({ "nonce": "after" })).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            let patience = Duration::from_secs(20);
            tokio::time::timeout(patience, served).await.unwrap_or_else(|_| panic!("{name}: never again"));
            assert_eq!((agent.foreign(), agent.garbage()), (0, 0), "{name}");
        }
    }
}

async fn bad_weather(back: Transport) {
    let fine = Weather::default;
    let weathers = [
        ("late", Weather { delay: Duration::from_secs(2), ..fine() }),
        ("slow", Weather { bytes_per_second: Some(1), ..fine() }),
        ("half-open", Weather { flow: Flow::Held, ..fine() }),
        ("swallowed", Weather { flow: Flow::Swallowed, ..fine() }),
        ("refused", Weather { flow: Flow::Refused, ..fine() }),
        ("doubled", Weather { twice: true, ..fine() }),
    ];
    // Side by side: most of it is waiting.
    let all = weathers.iter().map(async |(name, weather)| {
        let scene = Scene::new(back).await;
        scene.endure(name, async |proxy| proxy.set(weather.clone())).await;
        over(scene.rig).await;
    });
    join_all(all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_weather_before_an_sse_backend_concerns_nobody_else_and_passes() {
    bad_weather(Transport::Sse).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_weather_before_a_streamable_backend_concerns_nobody_else_and_passes() {
    bad_weather(Transport::Http).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_breaks_concerns_one_backend_and_passes() {
    let cut = |end| Strike { way: Way::ToClient, after: 10, shot: Shot::Cut(end) };
    let hold = Strike { way: Way::ToClient, after: 10, shot: Shot::Hold };
    let double = |way| Strike { way, after: 30, shot: Shot::Double(50) };
    let strikes = [
        ("closed", cut(End::Close)),
        ("reset", cut(End::Reset)),
        ("held", hold),
        ("bytes twice to the gateway", double(Way::ToClient)),
        ("bytes twice to the backend", double(Way::ToServer)),
    ];
    for back in WIRES {
        let all = strikes.iter().map(async |(name, strike)| {
            let scene = Scene::new(back).await;
            scene.endure(name, async |proxy| assert!(proxy.strike(*strike))).await;
            over(scene.rig).await;
        });
        join_all(all).await;
    }
}

/// Only the stream is half-open; POSTs reach the backend.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_open_stream_of_a_session_is_noticed_by_its_probes() {
    let server = serve(Script::default()).await;
    let proxy = FaultProxy::start(server.addr()).await.expect("a proxy");
    let rig = Rig::start(through(&proxy, &server, Transport::Sse)).await;
    let agent = Agent::ready(config(&rig, Transport::Sse)).await.expect("an agent");
    is_served(&agent, "warm").await;
    let times = rig.gateway.backends()[0].backend.spec().times.clone();
    // With the defaults this sum is 40 s; 65 s are allowed.
    let most = times.probe_interval + times.probe_timeout * 2 + SLACK;
    let mut noticed = false;
    // The acknowledgement of a POST may be on its way still, and be held in the stream's place: then once more.
    for _ in 0..4 {
        let (opened, struck) = (server.stats().sessions_opened, proxy.stats().struck);
        proxy.strike(Strike { way: Way::ToClient, after: 0, shot: Shot::Hold });
        let began = Instant::now();
        server.notify("notifications/tools/list_changed", &json!({}));
        until("something is held", || proxy.stats().struck > struck).await;
        while !noticed && began.elapsed() < most {
            tokio::time::sleep(Duration::from_millis(20)).await;
            noticed = server.stats().sessions_opened > opened;
        }
        if noticed {
            break;
        }
    }
    assert!(noticed, "a half-open stream was not noticed within {most:?}");
    is_served(&agent, "on the new one").await;
    drop(agent);
    over(rig).await;
}

/// The same over Streamable HTTP, where probes travel on connections of their own: it is the comments that stop. The
/// backend, which knows nothing of it, refuses a second stream beside the first; so a new session is needed, and agents
/// hear of changes again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_open_stream_of_a_streamable_session_is_noticed_by_its_silence() {
    let rhythm = Duration::from_millis(300);
    let server = serve(Script { keep_alive: Some(rhythm), ..Script::default() }).await;
    let proxy = FaultProxy::start(server.addr()).await.expect("a proxy");
    let mut wanted = through(&proxy, &server, Transport::Http);
    // Comments are signs of life, so nothing else is on its way when the stream is struck.
    wanted.times.probe_interval = Duration::from_secs(5);
    let slack = wanted.times.probe_timeout;
    let rig = Rig::start(wanted).await;
    let agent = Agent::ready(config(&rig, Transport::Http).listening()).await.expect("an agent");
    is_served(&agent, "warm").await;
    // The rhythm is learned.
    tokio::time::sleep(rhythm * 4).await;
    let opened = server.stats().sessions_opened;
    assert!(proxy.strike(Strike { way: Way::ToClient, after: 0, shot: Shot::Hold }));
    until("the stream is held", || proxy.stats().struck > 0).await;
    let began = Instant::now();
    until("it is opened anew", || server.stats().refused.contains_key(&409)).await;
    let noticed = began.elapsed();
    // With the usual 15 s between comments and the defaults this is 35 s.
    assert!(noticed > rhythm && noticed < rhythm * 2 + slack + SLACK, "noticed after {noticed:?}");
    until("a new session", || server.stats().sessions_opened > opened).await;
    let replaced = began.elapsed();
    println_figures(&format!("a half-open stream: noticed after {noticed:?}, replaced after {replaced:?}"));
    // The wait for the older stream does not depend on keys: 16 to 21 s.
    assert!(replaced < noticed + Duration::from_secs(21) + SLACK, "replaced after {replaced:?}");
    until("the agent hears of a change", || {
        server.notify("notifications/tools/list_changed", &json!({}));
        agent.notifications().iter().any(|(method, _)| method == "notifications/tools/list_changed")
    })
    .await;
    is_served(&agent, "on the new one").await;
    drop(agent);
    over(rig).await;
}
