//! Finds out how a backend is spoken to: Streamable HTTP by `initialize`; where that is refused in words of JSON-RPC,
//! the era without handshake by one `server/discover`; then HTTP+SSE.
//!
//! Settled by the first success and remembered for the backend, so that later sessions go straight; forgotten when
//! the backend says that this is no longer its way. A timeout or a broken connection never decides anything.
//!
//! A server that speaks both eras is met in the one with a handshake: there its tools can ask an agent whatever way
//! they were written in, and what they keep per session is kept. Who knows that they do neither says so in the
//! configuration, and saves the sessions.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};

use mcpool_wire::{ServerHello, modern::code};

use super::{Hail, Opened, Transport, streamable::ENDPOINT_FOR_POST};
use crate::error::{Cause, Refusal, SendError};

/// Pauses before a second stream is asked for again while the first is being closed over there.
const CLOSING_PAUSES_MS: [u64; 4] = [100, 300, 600, 1000];

/// Tries several ways, the one that worked last first.
pub(super) struct Auto {
    ways: Arc<[Way]>,
    /// The place of the last success. One number, no order with anything else.
    first: Arc<AtomicUsize>,
}

/// One way to speak to a backend.
pub(super) struct Way {
    transport: Arc<dyn Transport>,
    /// Whether it is of use only where the one before it was refused as by a server of the other era.
    other_era: bool,
    /// Whether it begins with a GET, and thereby finds out what a refused POST leaves open.
    by_get: bool,
}

impl Way {
    pub(super) fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport, other_era: false, by_get: false }
    }

    pub(super) fn of_other_era(transport: Arc<dyn Transport>) -> Self {
        Self { transport, other_era: true, by_get: false }
    }

    pub(super) fn by_get(transport: Arc<dyn Transport>) -> Self {
        Self { transport, other_era: false, by_get: true }
    }

    /// Connects. Where the server took the POST before for the GET that opens its one stream, it may need a moment to
    /// notice that it was closed.
    async fn connect(&self, hail: &Hail, after: Option<&Refusal>) -> Result<Opened, SendError> {
        let is_second_stream =
            self.by_get && after.is_some_and(|refusal| refusal.message == ENDPOINT_FOR_POST);
        let mut pauses = CLOSING_PAUSES_MS.iter().filter(|_| is_second_stream);
        loop {
            let error = match self.transport.connect(hail.clone()).await {
                Err(error) if is_occupied(&error.cause) => error,
                settled => return settled,
            };
            let Some(pause) = pauses.next() else { return Err(error) };
            tokio::time::sleep(Duration::from_millis(*pause)).await;
        }
    }
}

/// Whether a server may have no room for the stream because of another that ends just now.
fn is_occupied(cause: &Cause) -> bool {
    matches!(cause, Cause::Status(_) | Cause::Gateway(_) | Cause::Pressure(_))
}

/// What a failed attempt by POST leaves open: refusals that may be those of another transport. A server of HTTP+SSE
/// without a session to look up complains about that in many words, or fails over it; nothing is lost yet that could be
/// meant. What a credential, a limit or an outage says concerns every transport.
fn open_question(error: SendError) -> Result<Refusal, SendError> {
    match error.cause {
        Cause::WrongTransport(refusal) | Cause::SessionLost(refusal) | Cause::NotInitialized(refusal) => {
            Ok(refusal)
        }
        Cause::Status(refusal) if (300..=501).contains(&refusal.status) => Ok(refusal),
        cause => Err(SendError { cause, ..error }),
    }
}

/// Whether a server failed over a message, rather than refused it.
fn is_failure(error: &SendError) -> bool {
    matches!(&error.cause, Cause::Status(refusal) if refusal.status >= 500)
}

impl Auto {
    pub(super) fn new(ways: impl Into<Arc<[Way]>>) -> Self {
        Self { ways: ways.into(), first: Arc::default() }
    }
}

impl Transport for Auto {
    fn connect(&self, hail: Hail) -> BoxFuture<'static, Result<Opened, SendError>> {
        let (ways, learned) = (Arc::clone(&self.ways), Arc::clone(&self.first));
        async move {
            let first = learned.load(Ordering::Relaxed).min(ways.len().saturating_sub(1));
            let others = (0..ways.len()).filter(|at| *at != first);
            let mut refusals: Vec<Refusal> = Vec::new();
            // A server that failed is told from one that speaks nothing, once nobody else answers either.
            let mut failed: Option<SendError> = None;
            for at in std::iter::once(first).chain(others) {
                let way = &ways[at];
                if way.other_era && !refusals.last().is_none_or(names_other_era) {
                    continue;
                }
                let has_get = !way.by_get && ways.iter().any(|way| way.by_get);
                match way.connect(&hail, refusals.last()).await {
                    Err(SendError { cause: Cause::WrongTransport(refusal), .. }) => refusals.push(refusal),
                    Err(error) if has_get => {
                        failed = failed.or_else(|| Some(error.clone()).filter(is_failure));
                        refusals.push(open_question(error)?);
                    }
                    Err(error) => return Err(failed.unwrap_or(error)),
                    Ok(opened) => match other_era(&opened).filter(|_| ways.len() > 1) {
                        Some(refusal) => refusals.push(refusal),
                        None => {
                            learned.store(at, Ordering::Relaxed);
                            return Ok(opened);
                        }
                    },
                }
            }
            Err(failed.unwrap_or_else(|| none(&refusals)))
        }
        .boxed()
    }

    fn renew(&self) {
        self.ways.iter().for_each(|way| way.transport.renew());
    }
}

/// Whether a refusal may be that of a server of the era without handshake: it does not know the method, or misses what
/// a request of that era carries.
fn names_other_era(refusal: &Refusal) -> bool {
    refusal.code.is_some_and(|code| matches!(code, -32022..=-32020 | -32602..=-32600))
}

/// The refusal in an answer to `initialize` that says that the server has only the other era; a result that agrees on
/// that era is one, since nobody can go on from there.
fn other_era(opened: &Opened) -> Option<Refusal> {
    let agreed = ServerHello::parse(&opened.answer).ok().map(|hello| hello.revision);
    if let Some(revision) = agreed.filter(|revision| revision.era() != opened.era) {
        let message = format!("initialize was answered with {revision}, which has no handshake");
        let code = Some(i64::from(code::UNSUPPORTED_VERSION));
        return Some(Refusal { status: 200, message, code, retry_after: None });
    }
    Some(Refusal::read(200, &opened.answer)).filter(|refusal| matches!(refusal.code, Some(-32022 | -32601)))
}

/// When all are refused, the reader needs all answers.
fn none(refusals: &[Refusal]) -> SendError {
    let Some(last) = refusals.last() else {
        return SendError::not_sent(Cause::Closed("there is no way to speak to it"));
    };
    if let [only] = refusals {
        return SendError::refused(Cause::WrongTransport(only.clone()));
    }
    let all: Vec<String> = refusals[..refusals.len() - 1].iter().map(ToString::to_string).collect();
    let message = format!("no transport is spoken here ({}; then {})", all.join("; then "), last.message);
    SendError::refused(Cause::WrongTransport(Refusal { message, ..last.clone() }))
}
