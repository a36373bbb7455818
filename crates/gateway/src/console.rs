//! The live console: `mcpool status`, `agents`, `calls`, `pause`, `resume`, `reconnect`, `drain` and `reload`, over the
//! admin listener of a running gateway.
//!
//! Exit status: 0 done; 1 rejected, unreachable, or not finished within `--wait` (it continues); 2 invalid command
//! line.

mod client;
mod people;
mod table;

use std::{io::Write, time::Duration};

use http::Method;
use serde_json::Value;

use self::client::Client;
use crate::{
    cli::{AdminArgs, AgentsArgs, CallsArgs, DoctorArgs, ReconnectArgs, StatusArgs, VerbArgs},
    config::{Config, parse_url, show_duration},
    doctor, terminal,
};
use mcpool_admin::message_of;
use mcpool_router::verbs::Verb;

/// A console command.
#[derive(Debug)]
pub enum Ask {
    /// An admin action on one backend.
    Verb(Verb, VerbArgs),
    /// State of the backends.
    Status(StatusArgs),
    /// Connected agents.
    Agents(AgentsArgs),
    /// Running calls.
    Calls(CallsArgs),
    /// Reload of the configuration.
    Reload(AdminArgs),
}

/// Timeout of a request that needs no waiting.
const SOON: Duration = Duration::from_secs(10);
/// Timeout of a reload; there may be a hundred backends.
const RELOAD: Duration = Duration::from_secs(120);

impl From<ReconnectArgs> for Ask {
    fn from(args: ReconnectArgs) -> Self {
        Self::Verb(Verb::Reconnect { pinned: args.pinned }, args.verb)
    }
}

/// Runs a command and prints the result. True if it is complete.
///
/// # Errors
/// The reason for a failure, as one sentence.
pub async fn run(ask: Ask, out: &mut dyn Write) -> Result<bool, String> {
    let (is_done, text) = match ask {
        Ask::Verb(verb, args) => perform(verb, &args).await?,
        Ask::Status(args) => (true, status(&args).await?),
        Ask::Agents(args) => (true, agents(&args).await?),
        Ask::Calls(args) => (true, calls(&args).await?),
        Ask::Reload(args) => (true, reload(&args).await?),
    };
    // A closed output does not undo the action.
    let _ = terminal::line(out, text.trim_end());
    Ok(is_done)
}

async fn perform(verb: Verb, args: &VerbArgs) -> Result<(bool, String), String> {
    let pinned = matches!(verb, Verb::Reconnect { pinned: true });
    let path = format!(
        "/api/v1/backends/{}/{}?wait={}{}",
        args.name,
        verb.as_str(),
        show_duration(args.wait),
        if pinned { "&pinned=true" } else { "" }
    );
    let body = client(&args.admin)?.ask(Method::POST, &path, args.wait + SOON).await?.accepted()?;
    let is_done = body["done"] == true;
    Ok((is_done, shown(&args.admin, &body, |body| message_of(body).to_owned())))
}

async fn status(args: &StatusArgs) -> Result<String, String> {
    let client = client(&args.admin)?;
    let path = match &args.name {
        Some(name) => format!("/api/v1/backends/{name}"),
        None => "/api/v1/backends".to_owned(),
    };
    let body = client.ask(Method::GET, &path, SOON).await?.accepted()?;
    Ok(shown(&args.admin, &body, if args.name.is_some() { table::backend } else { table::backends }))
}

async fn agents(args: &AgentsArgs) -> Result<String, String> {
    let path =
        format!("/api/v1/agents?limit={}&after={}{}", args.limit, args.after, of(args.backend.as_deref()));
    let body = client(&args.admin)?.ask(Method::GET, &path, SOON).await?.accepted()?;
    Ok(shown(&args.admin, &body, people::agents))
}

async fn calls(args: &CallsArgs) -> Result<String, String> {
    let path = format!("/api/v1/calls?limit={}{}", args.limit, of(args.backend.as_deref()));
    let body = client(&args.admin)?.ask(Method::GET, &path, SOON).await?.accepted()?;
    Ok(shown(&args.admin, &body, people::calls))
}

/// Backend names need no escaping.
fn of(backend: Option<&str>) -> String {
    backend.map(|name| format!("&backend={name}")).unwrap_or_default()
}

async fn reload(args: &AdminArgs) -> Result<String, String> {
    let body = client(args)?.ask(Method::POST, "/api/v1/reload", RELOAD).await?.accepted()?;
    Ok(shown(args, &body, |body| message_of(body).to_owned()))
}

/// Diagnoses a backend that only a running gateway knows: at its address, or else by the gateway's status.
///
/// # Errors
/// If there is no such gateway or backend.
pub async fn examine(args: &DoctorArgs, out: &mut dyn Write) -> Result<bool, String> {
    let name = &args.target;
    let asked = client(&args.admin)?.ask(Method::GET, &format!("/api/v1/backends/{name}"), SOON).await;
    let body = asked.and_then(client::Answer::accepted).map_err(|why| {
        format!("the configuration names no backend {name:?}, and no running gateway was of help: {why}")
    })?;
    match body["url"].as_str().map(parse_url) {
        // A masked query is unusable for a connection.
        Some(Ok(url)) if url.query().is_none() => doctor::examine(Config::backend_at(name, url), out).await,
        _ => {
            terminal::line(out, "the gateway alone can reach this backend; it sees:\n")?;
            terminal::line(out, table::backend(&body).trim_end())?;
            Ok(matches!(body["state"].as_str(), Some("ready" | "full" | "idle")))
        }
    }
}

fn client(args: &AdminArgs) -> Result<Client, String> {
    Client::new(&args.address(), args.token.as_deref())
}

fn shown(args: &AdminArgs, body: &Value, text: impl FnOnce(&Value) -> String) -> String {
    if args.json { body.to_string() } else { text(body) }
}
