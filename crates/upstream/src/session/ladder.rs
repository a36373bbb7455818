//! The readiness ladder of a new session (SEMANTICS.md 7): connect, `initialize`, `initialized`, the session's own
//! stream, `ping`, and one real request as a barrier. Only then is it lent, so no caller can be too early.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::StreamExt as _;
use mcpool_wire::{Answer, Method, ServerHello};

use super::Session;
use crate::{
    catalog::{Catalog, error_text, item_names},
    clock,
    error::{Cause, Refusal, SendError},
    mode,
    observe::{Event, Reporter},
    transport::{Hail, Inbound, Opened, Outbound, Received, Transport},
};

/// Pauses before a request is repeated that the backend took for too early; it was never executed.
const EARLY_PAUSES_MS: [u64; 8] = [10, 20, 40, 80, 160, 320, 640, 730];

/// Pages of `tools/list` read for their annotations.
const MAX_PAGES: usize = 20;

/// The first half: everything before the driver runs.
pub(crate) struct Greeted {
    pub(crate) opened: Opened,
    pub(crate) inbound: Inbound,
    pub(crate) hello: Arc<ServerHello>,
}

/// Connects and shakes hands.
pub(crate) async fn greet(
    transport: &dyn Transport,
    hail: Hail,
    reporter: &Reporter,
) -> Result<Greeted, SendError> {
    let opened = rung(reporter, "initialize", async {
        let opened = transport.connect(hail).await;
        if let Some(took) = opened.as_ref().ok().and_then(|opened| opened.connect_took) {
            reporter.on(Event::Rung { step: "connect", ok: true, took });
        }
        opened
    })
    .await?;
    let hello = ServerHello::parse(&opened.answer).map_err(|why| SendError::refused(Cause::Protocol(why)))?;
    if hello.revision.era() != opened.era {
        let why = format!("negotiated {}, which has no handshake", hello.revision);
        return Err(SendError::refused(Cause::Protocol(why)));
    }
    opened.outbound.agreed(hello.revision);
    rung(reporter, "initialized", say(opened.outbound.as_ref())).await?;
    let inbound = rung(reporter, "listen", opened.outbound.listen()).await?;
    Ok(Greeted { opened, inbound, hello: Arc::new(hello) })
}

/// The second half: proves that the session answers. Says whether it has a tool that fits one of the patterns.
pub(crate) async fn prove(
    session: &Arc<Session>,
    hello: &ServerHello,
    catalog: &Catalog,
    patterns: &[String],
    reporter: &Reporter,
) -> Result<bool, SendError> {
    // An error answer is an answer: some servers do not know `ping`.
    rung(reporter, "ping", session.request_own("ping", None)).await?;
    if !hello.has("tools") {
        return Ok(false);
    }
    let first = rung(reporter, "list", list_patiently(session)).await?;
    Ok(learn(session, catalog, patterns, &first).await)
}

async fn say(outbound: &dyn Outbound) -> Result<(), SendError> {
    let initialized = Bytes::from_static(b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}");
    let mut exchange = outbound.send(initialized);
    while let Some(item) = exchange.next().await {
        if let Received::Message(_) = item? {
            break;
        }
    }
    Ok(())
}

/// `tools/list`, repeated while the backend says that it is too early.
async fn list_patiently(session: &Arc<Session>) -> Result<Answer, SendError> {
    let mut pauses = EARLY_PAUSES_MS.iter();
    loop {
        let early = match session.request_own("tools/list", Some("{}")).await {
            Ok(answer) => match error_text(answer.message.bytes()) {
                None => return Ok(answer),
                Some((code, message)) => {
                    let refusal = Refusal {
                        status: 200,
                        message: format!("{code} {message}"),
                        code: Some(code),
                        retry_after: None,
                    };
                    if code != -32602 {
                        // A server that declares tools and cannot list them is still a server.
                        return Ok(answer);
                    }
                    SendError::refused(Cause::NotInitialized(refusal))
                }
            },
            Err(error) if matches!(error.cause, Cause::NotInitialized(_)) => error,
            Err(error) => return Err(error),
        };
        let Some(pause) = pauses.next() else { return Err(early) };
        tokio::time::sleep(Duration::from_millis(*pause)).await;
    }
}

async fn learn(session: &Arc<Session>, catalog: &Catalog, patterns: &[String], first: &Answer) -> bool {
    let mut cursor = catalog.learn_tools(first.message.bytes(), true);
    let mut fits = has_tool_like(patterns, first);
    for _ in 0..MAX_PAGES {
        let Some(at) = cursor.take() else { break };
        let params = serde_json::json!({ "cursor": at }).to_string();
        match session.request_own("tools/list", Some(&params)).await {
            Ok(page) => {
                cursor = catalog.learn_tools(page.message.bytes(), false);
                fits = fits || has_tool_like(patterns, &page);
            }
            // Annotations are a help, not a condition.
            Err(_) => break,
        }
    }
    fits
}

fn has_tool_like(patterns: &[String], page: &Answer) -> bool {
    if patterns.is_empty() {
        return false;
    }
    let names = item_names(&Method::ToolsList, page.message.bytes()).unwrap_or_default();
    names.iter().any(|name| patterns.iter().any(|pattern| mode::matches(pattern, name)))
}

async fn rung<T>(
    reporter: &Reporter,
    step: &'static str,
    climb: impl Future<Output = Result<T, SendError>>,
) -> Result<T, SendError> {
    let started: Instant = clock::now();
    let outcome = climb.await;
    let took = clock::now().saturating_duration_since(started);
    reporter.on(Event::Rung { step, ok: outcome.is_ok(), took });
    outcome
}
