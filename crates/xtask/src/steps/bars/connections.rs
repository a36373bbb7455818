//! Floods of connections, a backend that floods, and too few descriptors for all of them.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use super::agent::{Agent, Connection, Wire, call, text_of};
use super::server::{Exchange, Server};
use super::together::{percentile_99, side_by_side};
use super::{Outcome, clock};
use crate::harness::gateway::Gateway;
use crate::harness::http;

/// E3: connections to the admin listener that keep it busy and say little.
pub(super) fn admin_floods() -> Result<Outcome> {
    const FLOOD: usize = 1100;
    let server = Server::start(|exchange| exchange.text("done"))?;
    let gateway = Gateway::of_any_health("bars-e3", "", &[("b", server.at("mcp"))])?;
    let admin = gateway.admin();
    let floods: [(&str, &[u8]); 3] = [
        ("silent", b""),
        ("half a header", b"GET /livez HTTP/1.1\r\nhost: local"),
        ("idle", b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"),
    ];
    let (mut worst, mut parts) = (Duration::ZERO, Vec::new());
    for (name, text) in floods {
        let done = AtomicBool::new(false);
        let (seen, held) = std::thread::scope(|scope| -> Result<_> {
            let looker = scope.spawn(|| {
                let (mut seen, mut failed) = (Vec::new(), 0);
                while !done.load(Ordering::SeqCst) {
                    let began = Instant::now();
                    if !matches!(http::get(admin, "/livez"), Ok((200, _))) {
                        failed += 1;
                        seen.push(Duration::from_secs(5));
                    }
                    seen.push(began.elapsed());
                    std::thread::sleep(Duration::from_millis(5));
                }
                (seen, failed)
            });
            let mut flood = Vec::new();
            for _ in 0..FLOOD {
                // One that the listener gives up while it writes is what the limits are for.
                if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", admin)) {
                    let _ = stream.write_all(text);
                    flood.push(stream);
                }
            }
            std::thread::sleep(Duration::from_secs(4));
            done.store(true, Ordering::SeqCst);
            let seen = looker.join().map_err(|_| anyhow::anyhow!("the looker panicked"))?;
            Ok((seen, flood.len()))
        })?;
        let (seen, failed) = seen;
        let (looks, late) = (seen.len(), percentile_99(seen));
        ensure!(looks > 50 && held > FLOOD / 2, "only {looks} looks beside {held} connections");
        worst = worst.max(late);
        parts.push(format!("{name} {:.1} ms ({looks} looks, {failed} failed)", late.as_secs_f64() * 1e3));
    }
    Ok(Outcome::new(worst < Duration::from_millis(50), format!("/livez p99: {}", parts.join(", "))))
}

/// E4: what one backend sends without an end costs the agents of another nothing.
pub(super) fn endless_interim_answers() -> Result<Outcome> {
    let odd = Server::start(|exchange| {
        let hint = b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n".repeat(50);
        loop {
            exchange.raw(&hint)?;
        }
    })?;
    let sound = Server::start(|exchange| exchange.text("done"))?;
    let tables = [("odd", odd.at("mcp")), ("sound", sound.at("mcp"))];
    let gateway = Gateway::of_any_health("bars-e4", "", &tables)?;
    let mut callers = (0..4).map(|_| Agent::open(Wire::Streamable, gateway.port, "odd"));
    let mut callers = callers.by_ref().collect::<Result<Vec<_>>>()?;
    let agents = (0..8).map(|_| Agent::open(Wire::Streamable, gateway.port, "sound"));
    let agents = agents.collect::<Result<Vec<_>>>()?;
    let (done, ended) = (AtomicBool::new(false), AtomicU64::new(0));
    let pings = std::thread::scope(|scope| {
        for caller in &mut callers {
            let (done, ended) = (&done, &ended);
            scope.spawn(move || {
                while !done.load(Ordering::SeqCst) && clock::left().is_ok() {
                    // It fails as it should; what matters is that it is made.
                    let _ = caller.call("work", &json!({}));
                    ended.fetch_add(1, Ordering::SeqCst);
                    // What is tried is what the backend sends, not how often it can be called.
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
        }
        let pings = side_by_side(agents, |_, agent| -> Result<Vec<Duration>> {
            let mut connection = agent.connect()?;
            let (began, mut took) = (Instant::now(), Vec::new());
            while began.elapsed() < Duration::from_secs(5) {
                let asked = Instant::now();
                connection.send(&agent.post(&json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" })))?;
                ensure!(connection.answer()?.status == 200, "a ping was refused");
                took.push(asked.elapsed());
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(took)
        });
        done.store(true, Ordering::SeqCst);
        drop(odd);
        pings
    })?;
    let took: Vec<Duration> = pings.into_iter().collect::<Result<Vec<_>>>()?.concat();
    let (pings, late) = (took.len(), percentile_99(took));
    let figure = format!(
        "{pings} pings, p99 {:.1} ms; {} calls to the other backend ended",
        late.as_secs_f64() * 1e3,
        ended.load(Ordering::SeqCst)
    );
    Ok(Outcome::new(late < Duration::from_millis(20) && pings > 400, figure))
}

const DESCRIPTORS: u32 = 1024;
const BACKENDS: usize = 8;

/// G7: as many agents as in a busy house, all at once.
pub(super) fn few_descriptors() -> Result<Outcome> {
    let crowd = Crowd::start("bars-g7", 600)?;
    let figures = crowd.rounds(3)?;
    let Figures { answered, refused, incidents, unseen, looks, turned_away: _ } = figures;
    let figure = format!(
        "{answered} of 1800 calls answered, {refused} refused; {incidents} incidents; admin answered {looks} of {}",
        looks + unseen
    );
    Ok(Outcome::new(answered == 1800 && incidents == 0 && unseen == 0 && looks > 0, figure))
}

/// G7R: idle connections take what agents may have, so what is kept aside is needed.
pub(super) fn no_descriptors() -> Result<Outcome> {
    let crowd = Crowd::start("bars-g7r", 300)?;
    let mut idle = Vec::new();
    for _ in 0..900 {
        idle.push(TcpStream::connect(("127.0.0.1", crowd.gateway.port))?);
    }
    let figures = crowd.rounds(3)?;
    drop(idle);
    let Figures { answered, refused, incidents, unseen, looks, turned_away } = figures;
    let figure = format!(
        "{turned_away} connections got 503; {answered} of 900 calls answered, {refused} refused; {incidents} \
         incidents; admin answered {looks} of {}",
        looks + unseen
    );
    let ok = turned_away > 0 && incidents == 0 && unseen == 0 && looks > 0 && answered + refused == 900;
    Ok(Outcome::new(ok, figure))
}

/// Agents with a connection each, at several backends behind a gateway with few descriptors.
struct Crowd {
    gateway: Gateway,
    _servers: Vec<Server>,
    agents: Vec<(Agent, Connection)>,
}

struct Figures {
    answered: u64,
    refused: u64,
    incidents: u64,
    /// Looks at the admin listener, those that failed apart.
    looks: u64,
    unseen: u64,
    /// Connections that were refused for want of descriptors.
    turned_away: u64,
}

fn slow(exchange: &mut Exchange<'_>) -> std::io::Result<()> {
    exchange.wait(Duration::from_millis(300));
    exchange.text("done")
}

impl Crowd {
    fn start(name: &str, agents: usize) -> Result<Self> {
        let servers = (0..BACKENDS).map(|_| Server::start(slow)).collect::<Result<Vec<_>>>()?;
        let table = |(number, server): (usize, &Server)| {
            (format!("b{number}"), format!("{}mode = \"shared\"\n", server.at("mcp")))
        };
        let tables: Vec<_> = servers.iter().enumerate().map(table).collect();
        let tables: Vec<_> = tables.iter().map(|(name, table)| (name.as_str(), table.clone())).collect();
        let gateway = Gateway::of_any_health_with(name, "", &tables, Some(DESCRIPTORS))?;
        let open = |number: usize| -> Result<(Agent, Connection)> {
            let agent = Agent::open(Wire::Streamable, gateway.port, &format!("b{}", number % BACKENDS))?;
            let connection = agent.connect()?;
            Ok((agent, connection))
        };
        let agents = (0..agents).map(open).collect::<Result<Vec<_>>>()?;
        Ok(Self { gateway, _servers: servers, agents })
    }

    /// Every agent calls at once, so many times.
    fn rounds(mut self, rounds: u64) -> Result<Figures> {
        let (admin, done) = (self.gateway.admin(), AtomicBool::new(false));
        let (mut answered, mut refused) = (0, 0);
        let agents = &mut self.agents;
        let (looks, unseen) = std::thread::scope(|scope| -> Result<(u64, u64)> {
            let looker = scope.spawn(|| {
                let (mut looks, mut unseen) = (0, 0);
                while !done.load(Ordering::SeqCst) {
                    match http::get(admin, "/livez") {
                        Ok((200, _)) => looks += 1,
                        _ => unseen += 1,
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                (looks, unseen)
            });
            let mut go = || -> Result<()> {
                for round in 0..rounds {
                    for (agent, connection) in agents.iter_mut() {
                        connection.send(&agent.post(&call(round + 1, "work", &json!({}))))?;
                    }
                    for (_, connection) in agents.iter_mut() {
                        let told = connection.answer()?.message()?;
                        if text_of(&told) == "done" {
                            answered += 1;
                        } else {
                            refused += 1;
                        }
                    }
                }
                Ok(())
            };
            let outcome = go();
            done.store(true, Ordering::SeqCst);
            let seen = looker.join().map_err(|_| anyhow::anyhow!("the looker panicked"))?;
            outcome.map(|()| seen)
        })?;
        let incidents = self.gateway.metric("mcpool_breaker_incidents_total", &[])?;
        let turned_away = self.gateway.metric("mcpool_agent_refused_total", &[("kind", "descriptors")])?;
        Ok(Figures { answered, refused, incidents, looks, unseen, turned_away })
    }
}
