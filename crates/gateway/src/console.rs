//! The live console: `mcpool status`, `agents`, `calls`, `pause`, `resume`, `reconnect`, `drain` and `reload` ask a running gateway over
//! its admin listener, and over nothing else.
//!
//! Exit status: 0 done; 1 refused, unreachable, or not through within `--wait` (it goes on); 2 a wrong command line.

mod client;
mod people;
mod table;

use std::{io::Write, time::Duration};

use http::Method;
use serde_json::Value;

use self::client::Client;
use crate::{
    admin::message_of,
    cli::{AdminArgs, AgentsArgs, CallsArgs, DoctorArgs, ReconnectArgs, StatusArgs, VerbArgs},
    config::{Config, parse_url, show_duration},
    doctor, terminal,
};
use mcpool_router::verbs::Verb;

/// What is asked of the gateway.
#[derive(Debug)]
pub enum Ask {
    /// A verb on one backend.
    Verb(Verb, VerbArgs),
    /// How backends are doing.
    Status(StatusArgs),
    /// Who is served.
    Agents(AgentsArgs),
    /// What runs now.
    Calls(CallsArgs),
    /// Takes the configuration anew.
    Reload(AdminArgs),
}

/// An answer that needs no waiting on the other side.
const SOON: Duration = Duration::from_secs(10);
/// A configuration may name a hundred backends.
const RELOAD: Duration = Duration::from_secs(120);

impl From<ReconnectArgs> for Ask {
    fn from(args: ReconnectArgs) -> Self {
        Self::Verb(Verb::Reconnect { pinned: args.pinned }, args.verb)
    }
}

/// Asks and prints; whether everything is done.
///
/// # Errors
/// Why not, as one sentence.
pub async fn run(ask: Ask, out: &mut dyn Write) -> Result<bool, String> {
    let (is_done, text) = match ask {
        Ask::Verb(verb, args) => perform(verb, &args).await?,
        Ask::Status(args) => (true, status(&args).await?),
        Ask::Agents(args) => (true, agents(&args).await?),
        Ask::Calls(args) => (true, calls(&args).await?),
        Ask::Reload(args) => (true, reload(&args).await?),
    };
    // A reader that went away does not undo what was done.
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

/// Names of backends hold nothing that would have to be escaped.
fn of(backend: Option<&str>) -> String {
    backend.map(|name| format!("&backend={name}")).unwrap_or_default()
}

async fn reload(args: &AdminArgs) -> Result<String, String> {
    let body = client(args)?.ask(Method::POST, "/api/v1/reload", RELOAD).await?.accepted()?;
    Ok(shown(args, &body, |body| message_of(body).to_owned()))
}

/// Examines a backend that only a running gateway knows: where the gateway says it is, or else as the gateway sees it.
///
/// # Errors
/// When there is no such gateway, or it knows no such backend.
pub async fn examine(args: &DoctorArgs, out: &mut dyn Write) -> Result<bool, String> {
    let name = &args.target;
    let asked = client(&args.admin)?.ask(Method::GET, &format!("/api/v1/backends/{name}"), SOON).await;
    let body = asked.and_then(client::Answer::accepted).map_err(|why| {
        format!("the configuration names no backend {name:?}, and no running gateway was of help: {why}")
    })?;
    match body["url"].as_str().map(parse_url) {
        // A masked query is not the one the gateway uses.
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
