//! From a request to the work it needs: an answer at once, or a [`Work`] that takes time.
//!
//! The subtle thing: `add` is executed while it is planned, before any scripted delay, so a caller that goes
//! away during the delay has caused the execution, as with a real server.

use std::borrow::Cow;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::message::{Message, Params, Reply, is_plain_id, plain, quote};
use super::session::Session;
use super::stats::{Stats, lock};
use super::{Shared, catalog, residue};
use crate::script::Script;

/// Largest text `big` answers.
const BIG: usize = 16 << 20;
/// Most steps `progress` reports.
const STEPS: u64 = 10_000;
/// Longest time a tool takes on a caller's word.
const LONGEST: u64 = 600_000;

/// What a request needs.
#[derive(Debug)]
pub(crate) enum Work {
    /// Nothing but this answer.
    Ready(Reply),
    /// Time, then this answer.
    Sleep(Duration, Reply),
    /// Notifications at an interval, then an answer.
    Progress { steps: u64, every: Duration, nonce: String, token: Option<String>, log: bool },
    /// An answer of the client.
    Ask { method: &'static str, params: String, within: Duration },
    /// The roots of the client, and a look whether they hold this path.
    Allowed { path: String },
    /// A read, some time, and a write of what was read with one item more.
    Store { item: String, time: Duration },
    /// Time in which the whole server does nothing else.
    Block(Duration),
}

/// What any tool takes.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Args<'a> {
    #[serde(borrow, default)]
    nonce: Option<&'a RawValue>,
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
    #[serde(default)]
    pub(crate) ms: u64,
    #[serde(default)]
    log: bool,
    #[serde(borrow, default)]
    pub(crate) key: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) value: Option<Cow<'a, str>>,
    #[serde(default)]
    steps: u64,
    #[serde(default)]
    interval_ms: u64,
    #[serde(default)]
    bytes: u64,
    #[serde(default)]
    code: Option<i64>,
    #[serde(borrow, default)]
    kind: Option<Cow<'a, str>>,
    #[serde(default)]
    timeout_ms: Option<u64>,
}

/// Plans any request but `initialize`.
pub(crate) fn plan(message: &Message<'_>, session: &Session, script: &Script, shared: &Shared) -> Work {
    let nothing = Params::default();
    let params = message.params.as_ref().unwrap_or(&nothing);
    let method = message.method.as_deref().unwrap_or_default();
    if method == "tools/call" {
        return call(params, session, script, shared);
    }
    Work::Ready(match method {
        "ping" => fixed("{}"),
        "tools/list" => Reply::Result(tool_list(session, script).into()),
        "resources/list" => fixed(catalog::RESOURCES),
        "resources/templates/list" => fixed(catalog::TEMPLATES),
        "prompts/list" => fixed(catalog::PROMPTS),
        "completion/complete" => fixed(catalog::COMPLETION),
        "resources/read" => read(params.uri.as_deref()),
        "resources/subscribe" | "resources/unsubscribe" => subscription(method, params, session),
        "prompts/get" => prompt(params),
        "logging/setLevel" => match params.level.as_deref() {
            Some(level) => {
                session.residue.set_level(level);
                fixed("{}")
            }
            None => Reply::invalid_params(),
        },
        _ => Reply::error(-32601, "Method not found"),
    })
}

fn call(params: &Params<'_>, session: &Session, script: &Script, shared: &Shared) -> Work {
    if params.name.as_deref() == Some("raw") {
        // Not listed: for tests of bytes, which come back unread.
        let raw = params.arguments.map_or("null", |a| a.get());
        return Work::Ready(Reply::Lines(format!("{{\"content\":[],\"structuredContent\":{raw}}}")));
    }
    let args = match params.arguments.map_or("{}", |a| a.get()) {
        "{}" | "null" => Args::default(),
        raw if !raw.starts_with('{') => {
            return Work::Ready(tool_text("invalid arguments: not an object", true));
        }
        raw => match serde_json::from_str(raw) {
            Ok(args) => args,
            Err(e) => return Work::Ready(tool_text(&format!("invalid arguments: {e}"), true)),
        },
    };
    let token = params.meta.as_ref().and_then(|m| m.progress_token);
    let token = token.filter(|t| is_plain_id(t.get())).map(|t| t.get().to_owned());
    match params.name.as_deref().unwrap_or_default() {
        "echo" => Work::Ready(echo(&args)),
        "sleep" => Work::Sleep(millis(args.ms), tool_text(&args.nonce_or("slept"), false)),
        "progress" => Work::Progress {
            steps: args.steps.min(STEPS),
            every: millis(args.interval_ms),
            nonce: args.nonce_or("").into_owned(),
            token,
            log: args.log,
        },
        "add" => Work::Ready(add(&args, &shared.stats)),
        "big" => Work::Ready(big(args.bytes)),
        "fail" => Work::Ready(tool_text(&args.text_or("failed as asked"), true)),
        "rpc_error" => Work::Ready(Reply::error(
            args.code.unwrap_or(-32603),
            args.text_or("an error as asked").into_owned(),
        )),
        "session" => Work::Ready(tool_text(&session.id, false)),
        "ask" => ask(&args, session),
        other => {
            let known = script.state_tools.then(|| residue::call(other, &args, session, &shared.world));
            known.flatten().unwrap_or_else(|| Work::Ready(tool_text(&format!("Unknown tool: {other}"), true)))
        }
    }
}

impl Args<'_> {
    fn nonce_or<'s>(&'s self, other: &'s str) -> Cow<'s, str> {
        self.nonce.map_or(Cow::Borrowed(other), |n| plain(n.get()))
    }
    fn text_or<'s>(&'s self, other: &'s str) -> Cow<'s, str> {
        self.text.map_or(Cow::Borrowed(other), |n| plain(n.get()))
    }
}

/// The one tool of the hot path: splices the caller's own JSON string in, untouched.
fn echo(args: &Args<'_>) -> Reply {
    let (name, raw) = match (args.nonce, args.text) {
        (Some(raw), _) => ("nonce", raw.get()),
        (None, Some(raw)) => ("text", raw.get()),
        (None, None) => ("text", "\"\""),
    };
    // anything but a string becomes one, on one line
    let raw = if raw.starts_with('"') { Cow::Borrowed(raw) } else { Cow::Owned(quote(raw)) };
    let mut out = String::with_capacity(96 + 2 * raw.len());
    out.push_str("{\"content\":[{\"type\":\"text\",\"text\":");
    out.push_str(&raw);
    out.push_str("}],\"structuredContent\":{\"");
    out.push_str(name);
    out.push_str("\":");
    out.push_str(&raw);
    out.push_str("}}");
    Reply::Result(out.into())
}

fn add(args: &Args<'_>, stats: &Stats) -> Reply {
    if args.nonce.is_none() {
        return tool_text("nonce is required", true);
    }
    let nonce = args.nonce_or("");
    let nth = stats.executed(&nonce);
    let text = quote(&nonce);
    Reply::Result(
        format!(
            "{{\"content\":[{{\"type\":\"text\",\"text\":{text}}}],\"structuredContent\":{{\"nonce\":{text},\"executions\":{nth}}}}}"
        )
        .into(),
    )
}

fn big(bytes: u64) -> Reply {
    let bytes = usize::try_from(bytes).unwrap_or(BIG).min(BIG);
    let mut out = String::with_capacity(bytes + 48);
    out.push_str("{\"content\":[{\"type\":\"text\",\"text\":\"");
    out.extend(std::iter::repeat_n('x', bytes));
    out.push_str("\"}]}");
    Reply::Result(out.into())
}

fn ask(args: &Args<'_>, session: &Session) -> Work {
    let caps = *lock(&session.caps);
    let text = args.text_or("your answer, please");
    let (declared, method, params) = match args.kind.as_deref().unwrap_or_default() {
        "elicitation" => (
            caps.elicitation,
            "elicitation/create",
            json!({ "message": text, "requestedSchema": { "type": "object", "properties": { "answer": { "type": "string" } } } }),
        ),
        "sampling" => (
            caps.sampling,
            "sampling/createMessage",
            json!({ "messages": [{ "role": "user", "content": { "type": "text", "text": text } }], "maxTokens": 100 }),
        ),
        "roots" => (caps.roots, "roots/list", json!({})),
        other => return Work::Ready(tool_text(&format!("unknown kind: {other}"), true)),
    };
    if !declared {
        return Work::Ready(tool_text(&format!("the client did not declare what {method} needs"), true));
    }
    let within = millis(args.timeout_ms.unwrap_or(30_000));
    Work::Ask { method, params: params.to_string(), within }
}

fn read(uri: Option<&str>) -> Reply {
    let text = match uri {
        Some("demo://readme") => catalog::README.to_owned(),
        Some(uri) if uri.starts_with("demo://item/") => format!("item {}", &uri["demo://item/".len()..]),
        Some(_) => return Reply::error(-32002, "Resource not found"),
        None => return Reply::invalid_params(),
    };
    let content = json!({ "contents": [{ "uri": uri, "mimeType": "text/plain", "text": text }] });
    Reply::Result(content.to_string().into())
}

fn subscription(method: &str, params: &Params<'_>, session: &Session) -> Reply {
    let Some(uri) = params.uri.as_deref() else { return Reply::invalid_params() };
    if method == "resources/subscribe" {
        session.subscribe(uri);
    } else {
        session.unsubscribe(uri);
    }
    fixed("{}")
}

fn prompt(params: &Params<'_>) -> Reply {
    if params.name.as_deref() != Some("greet") {
        return Reply::error(-32602, "Unknown prompt");
    }
    let args = params.arguments.and_then(|a| serde_json::from_str::<serde_json::Value>(a.get()).ok());
    let who = args.as_ref().and_then(|a| a["who"].as_str()).unwrap_or("world");
    let text = format!("Hello, {who}!");
    let messages = json!({ "messages": [{ "role": "user", "content": { "type": "text", "text": text } }] });
    Reply::Result(messages.to_string().into())
}

/// A tool result of one text.
pub(crate) fn tool_text(text: &str, is_error: bool) -> Reply {
    let tail = if is_error { "}],\"isError\":true}" } else { "}]}" };
    Reply::Result(format!("{{\"content\":[{{\"type\":\"text\",\"text\":{}{tail}", quote(text)).into())
}

fn tool_list(session: &Session, script: &Script) -> String {
    let caps = *lock(&session.caps);
    let asks = !script.list_by_capability || caps.sampling || caps.elicitation || caps.roots;
    catalog::tools(asks, script.state_tools, session.residue.is_revealed())
}

fn fixed(text: &'static str) -> Reply {
    Reply::Result(Cow::Borrowed(text))
}

pub(crate) fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms.min(LONGEST))
}
