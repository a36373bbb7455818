//! The handshake of a new session (SEMANTICS.md 7): connect, `initialize`, `initialized`, then concurrently the
//! session's own stream, `ping`, and one real request as a barrier. The session is available only afterwards, so no
//! call comes too early.
//!
//! A server that answers `initialize` works. If it lacks the rest (stream, ping, list), that costs the feature and a
//! moment, and is logged once.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, Either, select},
};
use mcpool_wire::{Answer, ServerHello};

use super::{
    Session,
    probe::{ProbeWith, is_complete},
};
use crate::{
    clock,
    error::{Cause, SendError},
    observe::{Event, Reporter},
    quirks::Quirk,
    transport::{
        ConnectRequest, Exchange, Inbound, Opened, Outbound, Transport, parts::response_in,
        says_before_initialized,
    },
};

/// Pauses before a request that the backend rejected as too early, without running it, is repeated.
const EARLY_PAUSES_MS: [u64; 8] = [10, 20, 40, 80, 160, 320, 640, 730];

/// Time for `ping` before the list is requested too.
const PING_ALONE: Duration = Duration::from_millis(250);

/// Time for optional features after [`PING_ALONE`]; less than a second in total.
const PATIENCE: Duration = Duration::from_millis(650);

/// The first half of the handshake, before the driver runs.
pub(crate) struct Greeted {
    pub(crate) opened: Opened,
    pub(crate) inbound: Inbound,
    pub(crate) hello: Arc<ServerHello>,
    /// The rest of the exchange of `initialized`.
    pub(crate) acknowledged: Option<Exchange>,
    /// The reason if `initialized` was rejected.
    pub(crate) refusal: Option<String>,
}

/// The list that proved the session.
pub(crate) enum Listed {
    /// The server declares no list.
    Nothing,
    /// The server declares a list, but rejected the request.
    Refused,
    /// The list.
    Here(Answer),
    /// The pending list.
    Late(BoxFuture<'static, Result<Answer, SendError>>),
}

/// Result of a ping.
enum Pinged {
    Answered,
    /// The server received it and gave no answer.
    Refused(String),
    /// It failed, which says nothing about the next request.
    Failed(SendError),
    Silent,
}

/// Connects, sends `initialize` and `initialized`.
pub(crate) async fn greet(
    transport: &dyn Transport,
    request: ConnectRequest,
    reporter: &Reporter,
) -> Result<Greeted, SendError> {
    let opened = rung(reporter, "initialize", async {
        let opened = transport.connect(request).await;
        if let Some(took) = opened.as_ref().ok().and_then(|opened| opened.connect_took) {
            reporter.on(Event::Rung { step: "connect", ok: true, took });
        }
        opened
    })
    .await?;
    let answer = response_in(opened.answer.clone(), &mut Vec::new()).unwrap_or_else(|| opened.answer.clone());
    let hello = ServerHello::parse(&answer).map_err(|why| SendError::refused(Cause::Protocol(why)))?;
    if hello.revision.era() != opened.era {
        let why = format!("negotiated {}, which has no handshake", hello.revision);
        return Err(SendError::refused(Cause::Protocol(why)));
    }
    opened.outbound.agreed(hello.revision);
    let (acknowledged, refusal) = rung(reporter, "initialized", say(opened.outbound.as_ref())).await?;
    let inbound = opened.outbound.listen().await?;
    Ok(Greeted { opened, inbound, hello: Arc::new(hello), acknowledged, refusal })
}

/// The second half of the handshake: proves that the session answers.
pub(crate) async fn prove(
    session: &Arc<Session>,
    hello: &ServerHello,
    reporter: &Reporter,
) -> Result<Listed, SendError> {
    let stream = rung(reporter, "listen", async {
        if tokio::time::timeout(PATIENCE, session.outbound.listening()).await.is_err() {
            session.note(Quirk::NoStream, "the headers of the stream did not come in time");
        }
        Ok(())
    });
    let (listed, ()) = futures::try_join!(answers(session, hello, reporter), stream)?;
    Ok(listed)
}

/// Sends `initialized`. Its rejection has no effect by itself; the next request shows the consequence.
async fn say(outbound: &dyn Outbound) -> Result<(Option<Exchange>, Option<String>), SendError> {
    let initialized = Bytes::from_static(b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}");
    let mut exchange = outbound.tell(initialized);
    match exchange.next().await {
        Some(Ok(_)) => Ok((Some(exchange), None)),
        Some(Err(error)) if error.refusal().is_some() => Ok((None, Some(error.to_string()))),
        Some(Err(error)) => Err(error),
        None => Ok((None, None)),
    }
}

/// Sends the requests that prove the session, and chooses its health check.
async fn answers(
    session: &Arc<Session>,
    hello: &ServerHello,
    reporter: &Reporter,
) -> Result<Listed, SendError> {
    let list = ProbeWith::list_of(|capability| hello.has(capability));
    let mut pinging = Box::pin(rung(reporter, "ping", ping(session)));
    let pinged = tokio::time::timeout(PING_ALONE, &mut pinging).await.ok().transpose()?;
    let Some(list) = list else {
        let pinged = match pinged {
            Some(pinged) => pinged,
            None => tokio::time::timeout(PATIENCE, pinging).await.ok().transpose()?.unwrap_or(Pinged::Silent),
        };
        settle(session, pinged, None)?;
        return Ok(Listed::Nothing);
    };
    let too_early = Arc::new(AtomicBool::new(false));
    let mut listing = list_of(session.clone(), list, reporter.clone(), too_early.clone());
    let (pinged, listed) = match pinged {
        Some(pinged) => (pinged, None),
        None => match select(pinging, &mut listing).await {
            Either::Left((pinged, _)) => (pinged?, None),
            // A ping slower than a list still counts as answered.
            Either::Right((listed, pinging)) => {
                let late = tokio::time::timeout(PING_ALONE, pinging).await.ok().transpose()?;
                (late.unwrap_or(Pinged::Silent), Some(listed))
            }
        },
    };
    let listed = match (listed, &pinged) {
        (Some(listed), _) => Some(listed),
        // The session works, so later users request the list themselves, unless the server asked for more time.
        (None, Pinged::Answered) => match tokio::time::timeout(PATIENCE, &mut listing).await {
            Err(_) if too_early.load(Ordering::Relaxed) => Some(listing.as_mut().await),
            listed => listed.ok(),
        },
        (None, _) => Some(listing.as_mut().await),
    };
    match listed {
        None => {
            settle(session, pinged, None)?;
            Ok(Listed::Late(listing))
        }
        Some(Ok(answer)) => {
            settle(session, pinged, Some(list))?;
            Ok(if list == ProbeWith::ToolsList { Listed::Here(answer) } else { Listed::Nothing })
        }
        Some(Err(error)) if is_optional(&error) => {
            session.note(Quirk::NoList, &error.to_string());
            settle(session, pinged, None)?;
            Ok(Listed::Refused)
        }
        Some(Err(error)) => Err(error),
    }
}

async fn ping(session: &Arc<Session>) -> Result<Pinged, SendError> {
    // An error response counts: some servers do not know `ping`.
    match session.request_quietly("ping", None).await {
        Ok(_) => Ok(Pinged::Answered),
        Err(error) => match &error.cause {
            Cause::Credential(_) | Cause::Connect(_) | Cause::Tls(_) | Cause::Closed(_) => Err(error),
            _ if is_complete(&error) => Ok(Pinged::Refused(error.to_string())),
            _ => Ok(Pinged::Failed(error)),
        },
    }
}

/// Chooses the session's health check; `list` is one that was answered.
fn settle(session: &Session, pinged: Pinged, list: Option<ProbeWith>) -> Result<(), SendError> {
    let (why, without_list) = match pinged {
        Pinged::Answered => return Ok(()),
        Pinged::Failed(error) if list.is_none() => return Err(error),
        Pinged::Failed(error) => (error.to_string(), ProbeWith::Nothing),
        Pinged::Refused(why) => (why, ProbeWith::RefusedPing),
        Pinged::Silent => ("it said nothing in time".to_owned(), ProbeWith::Nothing),
    };
    session.note(Quirk::NoPing, &why);
    session.probe_with(list.unwrap_or(without_list));
    Ok(())
}

/// True if a missing list is harmless beyond the list itself.
fn is_optional(error: &SendError) -> bool {
    is_complete(error)
        && !matches!(error.cause, Cause::Credential(_) | Cause::Pressure(_) | Cause::NotInitialized(_))
}

fn list_of(
    session: Arc<Session>,
    list: ProbeWith,
    reporter: Reporter,
    too_early: Arc<AtomicBool>,
) -> BoxFuture<'static, Result<Answer, SendError>> {
    async move { rung(&reporter, "list", list_patiently(&session, list.method(), &too_early)).await }.boxed()
}

/// Requests a list, repeatedly while the backend reports that it is too early.
async fn list_patiently(
    session: &Arc<Session>,
    method: &str,
    too_early: &AtomicBool,
) -> Result<Answer, SendError> {
    let mut pauses = EARLY_PAUSES_MS.iter();
    loop {
        let outcome = session.request_quietly(method, Some("{}")).await;
        let is_early = match &outcome {
            Ok(answer) => says_before_initialized(answer.message.bytes()),
            Err(error) => matches!(error.cause, Cause::NotInitialized(_)),
        };
        let Some(pause) = pauses.next().filter(|_| is_early) else {
            // A server that cannot deliver its declared list is still usable.
            return outcome;
        };
        too_early.store(true, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(*pause)).await;
    }
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
