//! What agents that read notice of agents that do not (RELIABILITY.md F11): rounds in which some are deaf beside rounds
//! in which everybody reads. `MCPOOL_LONG=1` runs the full size.
//!
//! The subtle thing: it is the same agents on the same connections in all rounds, turn about, so that what the machine
//! does meanwhile hits both kinds alike; a ratio is taken within a pair of rounds.

#![allow(clippy::print_stdout, reason = "the figures are for whoever reads the run")]

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use mcpool_testkit::{
    Script, Server,
    agent::{Agent, Transport},
};
use mcpool_upstream::ModeChoice;
use serde_json::json;
use tokio::{
    io::AsyncReadExt as _,
    net::TcpStream,
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    rig::{Rig, Wanted},
    slow_readers::{deaf, post},
    wires::{agent, echoes, serve, until, wanted},
};

struct Size {
    reading: usize,
    deaf: usize,
    pairs: usize,
    /// Notifications of a round, and the time between them.
    told: usize,
    pace: Duration,
}

impl Size {
    fn wanted() -> Self {
        if std::env::var_os("MCPOOL_LONG").is_some() {
            // A MiB per second to all of them.
            Self { reading: 950, deaf: 50, pairs: 10, told: 10, pace: Duration::from_secs(1) }
        } else {
            Self { reading: 38, deaf: 2, pairs: 3, told: 8, pace: Duration::from_millis(100) }
        }
    }
}

/// What those who read noticed in one round.
#[derive(Default)]
struct Noticed {
    /// How long their calls took.
    calls: Vec<Duration>,
    /// How long after it was told a notification was heard, by each.
    heard: Vec<Duration>,
    /// By the first of them: as long as the gateway did not read on.
    first: Vec<Duration>,
}

/// What was heard in this round: which, and how long after it was told.
type Heard = Mutex<Vec<(usize, Duration)>>;

/// Everybody, in all rounds.
struct Hall {
    server: Server,
    rig: Rig,
    reading: Vec<Agent>,
    /// The agents that are deaf at times.
    others: Vec<String>,
    /// Whether they read.
    open: watch::Sender<bool>,
    told: Arc<Mutex<Vec<Instant>>>,
    heard: Arc<Heard>,
    tasks: JoinSet<()>,
}

impl Hall {
    async fn fill(size: &Size) -> Self {
        let server = serve(Script::default()).await;
        let mut want = Wanted { fan_out_logs: true, ..wanted(&server, Transport::Sse, ModeChoice::Shared) };
        // Here they are to stay.
        want.front.write_stall = Duration::from_secs(600);
        want.limits.shared_sessions = 1;
        let rig = Rig::start(want).await;
        let (open, opened) = watch::channel(true);
        let mut hall = Self {
            server,
            rig,
            reading: Vec::new(),
            others: Vec::new(),
            open,
            told: Arc::default(),
            heard: Arc::default(),
            tasks: JoinSet::new(),
        };
        for _ in 0..size.reading {
            let one = agent(&hall.rig, Transport::Sse).await;
            hall.tasks.spawn(listen(one.clone(), hall.told.clone(), hall.heard.clone()));
            hall.reading.push(one);
        }
        for _ in 0..size.deaf {
            let (stream, session) = deaf(&hall.rig, 64 << 10).await;
            hall.tasks.spawn(read_at_times(stream, opened.clone()));
            hall.others.push(session);
        }
        hall
    }

    fn kept(&self) -> usize {
        self.rig.gauges.outbound_bytes.load(Ordering::Relaxed)
    }

    /// The others read no more, and are told so much for themselves alone that the gateway has to keep some of it.
    async fn deafen(&self) {
        self.open.send_replace(false);
        let mut id = 0;
        while self.kept() < self.others.len() * DEAF {
            id += 1;
            assert!(id < 400, "the kernel takes in everything");
            let params = json!({ "name": "echo", "arguments": { "nonce": "x".repeat(60 << 10) } });
            let call = json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params });
            join_all(self.others.iter().map(|session| post(&self.rig, session, &call))).await;
            // The answers come, and the kernel takes in what it will.
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// The others read what was kept for them, and on.
    async fn undeafen(&self) {
        self.open.send_replace(true);
        until("nothing is kept", || self.kept() == 0).await;
    }

    async fn round(&self, size: &Size) -> Noticed {
        lock(&self.told).clear();
        lock(&self.heard).clear();
        let stop = AtomicBool::new(false);
        let telling = async {
            for n in 0..size.told {
                let params =
                    json!({ "level": "error", "logger": n.to_string(), "data": "x".repeat(1 << 10) });
                lock(&self.told).push(Instant::now());
                assert!(self.server.notify("notifications/message", &params) > 0, "a session listens");
                sleep(size.pace).await;
            }
            stop.store(true, Ordering::Relaxed);
        };
        let calling = join_all(self.reading.iter().take(20).map(|agent| calls(agent, &stop)));
        let (calls, ()) = tokio::join!(calling, telling);
        let all = self.reading.len() * size.told;
        until("everybody who reads has heard everything", || lock(&self.heard).len() == all).await;
        let heard = std::mem::take(&mut *lock(&self.heard));
        let mut first = vec![Duration::MAX; size.told];
        for (number, lag) in &heard {
            first[*number] = first[*number].min(*lag);
        }
        let heard = heard.into_iter().map(|(_, lag)| lag).collect();
        Noticed { calls: calls.into_iter().flatten().collect(), heard, first }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("not poisoned")
}

/// Calls until told to stop.
async fn calls(agent: &Agent, stop: &AtomicBool) -> Vec<Duration> {
    let mut took = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        echoes(agent, &took.len().to_string()).await;
        took.push(begun.elapsed());
        sleep(PACE).await;
    }
    took
}

async fn listen(agent: Agent, told: Arc<Mutex<Vec<Instant>>>, heard: Arc<Heard>) {
    while agent.closed().is_none() {
        let Ok(note) = agent.next_notification("notifications/message", Duration::from_secs(1)).await else {
            continue;
        };
        let now = Instant::now();
        let number = note["logger"].as_str().and_then(|n| n.parse::<usize>().ok()).expect("a number");
        let then = lock(&told)[number];
        lock(&heard).push((number, now - then));
    }
}

async fn read_at_times(mut stream: TcpStream, mut open: watch::Receiver<bool>) {
    let mut some = vec![0; 64 << 10];
    loop {
        let reads = *open.borrow_and_update();
        tokio::select! {
            read = stream.read(&mut some), if reads => match read {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            },
            changed = open.changed() => if changed.is_err() { return },
        }
    }
}

/// One kind of time, of one kind of round.
struct Figures {
    p99: Duration,
    longest: Duration,
    /// Times in a thousand that were longer than any pause of a reader may be.
    over: f64,
}

impl Figures {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at =
            |part: usize| times.get(times.len() * part / 100).or(times.last()).copied().unwrap_or_default();
        #[allow(clippy::cast_precision_loss, reason = "small numbers")]
        let over = times.iter().filter(|time| **time > PAUSE).count() as f64 * 1e3 / times.len() as f64;
        Self { p99: at(99), longest: at(100), over }
    }
}

/// Says what a kind of time was in the rounds of both kinds; the ratio of its p99 in the pair that differs least.
fn compare(what: &str, pairs: &[(Figures, Figures)]) -> f64 {
    let usual = |of: &dyn Fn(&(Figures, Figures)) -> f64| {
        let mut all: Vec<f64> = pairs.iter().map(of).collect();
        all.sort_unstable_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let most = |of: &dyn Fn(&(Figures, Figures)) -> f64| pairs.iter().map(of).fold(0.0, f64::max);
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let ratio = |(quiet, deaf): &(Figures, Figures)| deaf.p99.as_secs_f64() / quiet.p99.as_secs_f64();
    println!(
        "{what}: p99 {:.2} ms while all read, {:.2} ms while some are deaf, ratio {:.3}; longest {:.1} and {:.1} \
         ms; above {PAUSE:?}: {:.1} and {:.1} in a thousand (medians of {} pairs; the longest of all)",
        usual(&|(quiet, _)| ms(quiet.p99)),
        usual(&|(_, deaf)| ms(deaf.p99)),
        usual(&ratio),
        most(&|(quiet, _)| ms(quiet.longest)),
        most(&|(_, deaf)| ms(deaf.longest)),
        usual(&|(quiet, _)| quiet.over),
        usual(&|(_, deaf)| deaf.over),
        pairs.len()
    );
    pairs.iter().map(ratio).fold(f64::INFINITY, f64::min)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_that_read_notice_little_of_those_that_do_not() {
    let size = Size::wanted();
    let mut hall = Hall::fill(&size).await;
    hall.round(&size).await;
    let (mut calls, mut heard, mut first) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..size.pairs {
        // Every other pair backwards.
        let mut of_kind = [None, None];
        for turn in 0..2 {
            let some_deaf = (pair + turn) % 2 == 1;
            if some_deaf {
                hall.deafen().await;
            }
            let noticed = hall.round(&size).await;
            if some_deaf {
                assert!(hall.kept() >= hall.others.len() * DEAF, "they are deaf all the time");
                hall.undeafen().await;
            }
            of_kind[usize::from(some_deaf)] = Some(noticed);
        }
        let [quiet, deaf] = of_kind.map(|noticed| noticed.expect("both kinds"));
        calls.push((Figures::of(quiet.calls), Figures::of(deaf.calls)));
        heard.push((Figures::of(quiet.heard), Figures::of(deaf.heard)));
        first.push((Figures::of(quiet.first), Figures::of(deaf.first)));
    }
    println!("{} of {} deaf at times:", size.deaf, size.deaf + size.reading);
    let (calls, heard) = (compare("calls", &calls), compare("notifications, by each", &heard));
    compare("notifications, by the first", &first);
    // A reader that waited for one of the deaf would wait for seconds, in each pair; other programs trouble one or two.
    assert!(calls < 5.0 && heard < 5.0, "{calls} {heard}");
    assert_eq!(hall.rig.seen.slow.load(Ordering::Relaxed), 0, "nobody was closed");
    assert_eq!(hall.rig.seen.failures(), Vec::<String>::new());
    for agent in &hall.reading {
        agent.close().await;
    }
    drop(hall.open);
    let left = async { while hall.tasks.join_next().await.is_some() {} };
    // Those who only read end with the gateway.
    let _ = timeout(Duration::from_secs(3), left).await;
    hall.tasks.abort_all();
    hall.rig.stop().await;
}

/// Time between two calls of an agent.
const PACE: Duration = Duration::from_millis(30);
/// What is kept at least for each of the deaf.
const DEAF: usize = 128 << 10;
/// The longest a reader may pause.
const PAUSE: Duration = Duration::from_millis(10);
