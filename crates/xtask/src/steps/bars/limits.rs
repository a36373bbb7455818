//! Limits that many requests of one connection, or many backends, could run into.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::json;

use super::agent::{Agent, BOTH, Connection, Wire, hello, request};
use super::server::Server;
use super::{Outcome, clock};
use crate::harness::gateway::Gateway;
use crate::harness::http;

/// E1: more sessions than there are places, from one connection.
pub(super) fn more_sessions_than_places() -> Result<Outcome> {
    const ASKED: u32 = 25_000;
    let server = Server::start(|exchange| exchange.text("done"))?;
    let table = format!("{}mode = \"shared\"\n", server.at("mcp"));
    let head = "[limits]\nagent_sessions = 20000\n[log]\nlevel = \"warn\"\n";
    let gateway = Gateway::of_any_health("bars-e1", head, &[("b", table)])?;
    let bytes = request("POST", "/b/mcp", &[BOTH], &hello(&json!({})).to_string());
    let mut connection = Connection::open(gateway.port)?;
    let (mut refused, mut first) = (0, String::new());
    let began = Instant::now();
    for number in 0..ASKED {
        connection.send(&bytes)?;
        let answer = connection.answer()?;
        if answer.status != 200 || answer.header("mcp-session-id").is_none() {
            refused += 1;
            if first.is_empty() {
                first = format!(", the first as number {number}: {} {}", answer.status, answer.text());
            }
        }
    }
    let took = began.elapsed().as_secs_f64();
    let held = gateway.metric("mcpool_agent_sessions", &[])?;
    let figure = format!("{refused} of {ASKED} refused in {took:.1} s, {held} sessions held{first}");
    Ok(Outcome::new(refused == 0 && held <= 20_000, figure))
}

/// E5: one agent's mistakes, as fast as it can make them.
pub(super) fn unknown_methods() -> Result<Outcome> {
    const LONG: Duration = Duration::from_secs(5);
    const AT_ONCE: u64 = 200;
    let server = Server::start(|exchange| exchange.text("done"))?;
    let table = format!("{}mode = \"shared\"\n", server.at("mcp"));
    let gateway = Gateway::of_any_health("bars-e5", "", &[("b", table)])?;
    let agent = Agent::open(Wire::Streamable, gateway.port, "b")?;
    let mut connection = agent.connect()?;
    let mut writer = connection.writer()?;
    let size = || fs::metadata(gateway.log_file()).map(|file| file.len());
    let (logged, began, mut answers) = (size()?, Instant::now(), 0);
    let (mut next, mut other) = (0_u64, None);
    std::thread::scope(|scope| -> Result<()> {
        // The writer goes ahead of the reader by what the sockets hold.
        let posts = |from: u64| -> Vec<u8> {
            let one = |id| json!({ "jsonrpc": "2.0", "id": id, "method": format!("no/such-{id}") });
            (from..from + AT_ONCE).flat_map(|id| agent.post(&one(id))).collect()
        };
        let (sender, sent) = std::sync::mpsc::channel();
        scope.spawn(move || {
            while began.elapsed() < LONG && writer.write_all(&posts(next)).is_ok() {
                next += AT_ONCE;
                if sender.send(AT_ONCE).is_err() {
                    return;
                }
            }
        });
        for count in sent {
            for _ in 0..count {
                let answer = connection.answer()?;
                let code = answer.message().ok().map(|message| message["error"]["code"].clone());
                if code != Some(json!(-32601)) && other.is_none() {
                    other = Some(format!("{} {}", answer.status, answer.text()));
                }
                answers += 1;
            }
        }
        Ok(())
    })?;
    let took = began.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a few megabytes")]
    let (rate, bytes) = (f64::from(answers) / took, (size()? - logged) as f64 / took / 1000.0);
    let other = other.map(|other| format!("; another answer: {other}")).unwrap_or_default();
    let figure = format!("{rate:.0} refused requests/s, {bytes:.1} KB/s of log{other}");
    Ok(Outcome::new(bytes < 50.0 && other.is_empty() && answers > 1000, figure))
}

/// E13: the metrics page of backends that nobody has called.
pub(super) fn metrics_at_rest() -> Result<Outcome> {
    let servers = (0..8).map(|_| Server::start(|exchange| exchange.text("done")));
    let servers = servers.collect::<Result<Vec<_>>>()?;
    let table = |(number, server): (usize, &Server)| (format!("b{number}"), server.at("mcp"));
    let tables: Vec<_> = servers.iter().enumerate().map(table).collect();
    let tables: Vec<_> = tables.iter().map(|(name, table)| (name.as_str(), table.clone())).collect();
    let gateway = Gateway::of_any_health("bars-e13", "", &tables)?;
    clock::until("every backend is ready", Duration::from_secs(20), || {
        gateway.metric("mcpool_backend_ready", &[]).is_ok_and(|ready| ready == 8)
    })?;
    let (status, page) = http::get(gateway.admin(), "/metrics")?;
    if status != 200 {
        bail!("/metrics answered {status}");
    }
    let samples = page.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()).count();
    let (found, says) = promtool(&gateway.config_file().with_extension("metrics"), &page)?;
    Ok(Outcome::new(samples < 2000 && found, format!("{samples} samples; {says}")))
}

/// Whether promtool finds nothing wrong with a page, or is not here.
fn promtool(file: &Path, page: &str) -> Result<(bool, String)> {
    fs::write(file, page)?;
    let checked = Command::new("promtool").args(["check", "metrics"]).stdin(fs::File::open(file)?).output();
    match checked {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Ok((true, "promtool is not installed, so its check was left out".to_owned()))
        }
        Ok(ended) if ended.status.success() => Ok((true, "promtool finds nothing".to_owned())),
        ended => {
            let ended = ended?;
            let words = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
            Ok((false, format!("promtool says: {}", words.lines().next().unwrap_or_default())))
        }
    }
}
