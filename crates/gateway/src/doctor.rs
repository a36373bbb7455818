//! `mcpool doctor`: connects to a server step by step, and explains what fails and how to fix it.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use mcpool_demo::{Agent, agent::AgentConfig};
use mcpool_upstream::{Cause, Decision, ModeReason};
use mcpool_wire::Era;
use serde_json::{Value, json};

use crate::{
    config::reached_at,
    embedded::EmbeddedGateway,
    observe::{Connected, Failed, Step, connect},
    terminal,
};
use mcpool_router::settings::BackendSettings;

/// Diagnoses one backend. True if it is ready.
///
/// # Errors
/// One sentence if the backend cannot be set up, or the output is closed.
pub async fn examine(backend: BackendSettings, out: &mut dyn Write) -> Result<bool, String> {
    let patience = backend.spec.times.handshake;
    terminal::line(out, &format!("{}  {}\n", backend.spec.name, reached_at(&backend.spec.endpoint)))?;
    let began = Instant::now();
    let (mut written, mut last) = (Ok(()), None);
    let connected = connect(backend, &mut |step| {
        if step.ok && written.is_ok() {
            written = terminal::line(out, &line_of(&step));
        } else if !step.ok {
            last = Some(step);
        }
    })
    .await?;
    written?;
    let took = began.elapsed();
    let Connected { outcome, gateway } = connected;
    match outcome {
        Err(failed) => {
            gateway.shutdown(GOODBYE).await;
            terminal::line(out, &diagnosis(last.as_ref(), &failed, patience))?;
            Ok(false)
        }
        Ok(transport) => {
            let era = gateway.backends().first().and_then(|one| one.backend.status().era);
            let over = spoken(transport, era);
            terminal::line(out, &format!("\nready after {}, over {over}", millis(took)))?;
            let inside = EmbeddedGateway::serve(gateway).await?;
            let told = describe(&inside, out).await;
            inside.end(GOODBYE).await;
            told.map(|()| true)
        }
    }
}

fn line_of(step: &Step) -> String {
    format!("  {:<12} {:>9}   {}", step.step, millis(step.took), meaning(step.step))
}

/// The meaning of a completed step.
fn meaning(step: &str) -> &'static str {
    match step {
        "connect" => "it accepts connections",
        "initialize" => "it is an MCP server and agrees on a revision",
        "initialized" => "it accepted the end of the handshake",
        "listen" => "the stream for server messages is open, or not offered",
        "ping" => "it answers a ping, or does not support it",
        "list" => "it answers a real request: the session is ready",
        _ => "",
    }
}

/// The failed step, its cause and the remedy.
fn diagnosis(last: Option<&Step>, failed: &Failed, patience: Duration) -> String {
    let step = match (&failed.cause, last) {
        (Some(Cause::Connect(_) | Cause::Tls(_) | Cause::Descriptors), _) => "connect",
        (_, Some(step)) => step.step,
        (_, None) => "handshake",
    };
    let after = last.map(|step| millis(step.took)).unwrap_or_default();
    let remedy = failed.cause.as_ref().map_or_else(
        || format!("it neither refuses nor answers; a slower start needs a longer handshake_timeout (now {patience:?})"),
        remedy,
    );
    format!("  {step:<12} {after:>9}   FAILED: {}\n\nnot ready\n  what to do: {remedy}", failed.why)
}

/// The remedy for a cause.
fn remedy(cause: &Cause) -> String {
    let refused = |r: &mcpool_upstream::Refusal| r.status;
    match cause {
        Cause::Connect(why) => unreachable(why),
        Cause::Descriptors => "raise `ulimit -n` of this program".to_owned(),
        Cause::Tls(_) => {
            "a private CA goes into tls.ca_file; a certificate for another name, or one that has expired, \
             must be replaced; a plain server needs http://"
                .to_owned()
        }
        Cause::Broken(_) => "it accepted the connection and closed it: see its log for the reason".to_owned(),
        Cause::Timeout(what) => format!(
            "it accepted the connection and did not answer ({what}): it is still starting, or blocked by a tool that runs \
             in its event loop; a slow start needs a longer handshake_timeout"
        ),
        Cause::SessionLost(_) => {
            "it forgot the session it had just given: several instances behind one address need \
             session affinity"
                .to_owned()
        }
        Cause::Pressure(_) => {
            "it is at a limit of its own: lower max_sessions here, or raise the limit there".to_owned()
        }
        Cause::Gateway(r) => {
            format!(
                "a proxy before it answers {}: the server behind that proxy is down or unreachable",
                refused(r)
            )
        }
        Cause::Credential(_) => {
            "it requires a credential: set headers = { Authorization = \"Bearer ${TOKEN}\" } in its table"
                .to_owned()
        }
        Cause::NotInitialized(_) => {
            "it still rejects requests as too early after 2 s: is it one of several instances \
             without session affinity?"
                .to_owned()
        }
        Cause::WrongVersion(_) => "it refuses the revision it agreed on: a defect of the server".to_owned(),
        Cause::WrongTransport(_) => {
            "no MCP is spoken at this path: servers mostly serve /mcp (Streamable HTTP) or /sse \
             (HTTP+SSE), with or without a slash at the end; `transport` must fit, or be left out"
                .to_owned()
        }
        Cause::Status(r) if refused(r) == 421 => {
            "it does not answer to this host name: it has a list of allowed hosts of its own".to_owned()
        }
        Cause::Status(_) => "the answer above is the server's own: its log says more".to_owned(),
        Cause::TooLarge(limit) => format!("its answer is larger than max_message ({limit} bytes)"),
        Cause::Protocol(_) => {
            "what answers there is no MCP server, or a broken one: is it the right URL?".to_owned()
        }
        Cause::Closed(_) => "the session was closed on this side while it was opened: try again".to_owned(),
    }
}

/// The remedy for an unreachable server, or a program that does not start.
fn unreachable(why: &str) -> String {
    if why.contains(mcpool_upstream::UNRESOLVED) {
        return "correct the host name: no resolver of this machine knows it; between containers a server is reached by \
                the name of its service, and only on a network they share"
            .to_owned();
    }
    if why.contains("does not start") {
        let path = std::env::var("PATH").unwrap_or_default();
        return format!(
            "install the program, or write its whole path as command; a relative one starts at the folder of the \
             configuration, a plain name is looked for in PATH (here: {path})"
        );
    }
    "start the server, or correct host and port; inside a container, localhost is the container itself, and the server \
     may listen on loopback only"
        .to_owned()
}

/// Describes a ready server, and what this means for agents.
async fn describe(inside: &EmbeddedGateway, out: &mut dyn Write) -> Result<(), String> {
    let backends = inside.gateway().backends();
    let Some(registered) = backends.first() else { return Ok(()) };
    let agent = Agent::ready(AgentConfig::http(inside.url("mcp"))).await.map_err(|why| why.to_string())?;
    let status = registered.backend.status();
    if let Some(server) = status.server {
        let text = |key: &str| server[key].as_str().unwrap_or("?").to_owned();
        terminal::line(out, &format!("  server      {} {}", text("name"), text("version")))?;
    }
    for missing in status.missing {
        terminal::line(out, &format!("  optional    {missing}"))?;
    }
    let listed = agent.request("tools/list", json!({})).await;
    terminal::line(
        out,
        &format!("  tools       {}", listed.as_ref().map_or_else(ToString::to_string, tools)),
    )?;
    let [neutral, interactive] = [false, true].map(|can_be_asked| registered.backend.mode_of(can_be_asked));
    terminal::line(out, &format!("  agents      {}", chosen(neutral)))?;
    if interactive != neutral {
        terminal::line(
            out,
            &format!("              those that can be asked things: {}", chosen(interactive)),
        )?;
    }
    agent.close().await;
    Ok(())
}

/// The number of tools, and how many are safe to retry after a lost session.
fn tools(list: &Value) -> String {
    let Some(tools) = list["tools"].as_array() else { return "none".to_owned() };
    let safe = tools.iter().filter(|tool| tool["annotations"]["readOnlyHint"] == true).count();
    let rest = tools.len() - safe;
    match (safe, rest) {
        (0, 0) => "none".to_owned(),
        (_, 0) => format!("{safe}, all marked readOnlyHint: their calls survive a lost session"),
        (0, _) => format!(
            "{rest}, none marked readOnlyHint: a call in flight when a session is lost fails (executed: maybe)"
        ),
        _ => format!(
            "{}, {safe} of them marked readOnlyHint: calls of these survive a lost session, others fail (executed: maybe)",
            tools.len()
        ),
    }
}

fn chosen(decision: Option<Decision>) -> String {
    let Some(Decision { mode, reason }) = decision else { return "not decided yet".to_owned() };
    let probation = if reason == ModeReason::Probation { " on probation" } else { "" };
    format!("{}{probation}, because {}", mode.as_str(), reason.sentence())
}

fn spoken(transport: &str, era: Option<Era>) -> String {
    let transport = match transport {
        "sse" => "HTTP+SSE",
        "http" => "Streamable HTTP",
        other => other,
    };
    match era {
        Some(era) => format!("{transport} ({} era)", era.as_str()),
        None => transport.to_owned(),
    }
}

fn millis(took: Duration) -> String {
    format!("{:.1} ms", took.as_secs_f64() * 1e3)
}

/// Time for sessions to close.
const GOODBYE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
