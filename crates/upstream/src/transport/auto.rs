//! Automatic choice of a backend's transport: Streamable HTTP by `initialize`; after a JSON-RPC error the modern era by
//! `server/discover`; then HTTP+SSE.
//!
//! The first success is remembered for the backend, and forgotten when the backend rejects that transport. Timeouts and
//! broken connections decide nothing.
//!
//! A server of both eras is used in the one with a handshake: there its tools can send server requests however they are
//! written, and its per-session state is kept. If a server needs neither, `era = "modern"` saves the sessions.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};

use mcpool_wire::{ServerHello, modern::code};

use super::{ConnectRequest, Opened, Transport, streamable::ENDPOINT_FOR_POST};
use crate::error::{Cause, Refusal, SendError};

/// Pauses before a second stream is tried while the server closes the first.
const CLOSING_PAUSES_MS: [u64; 4] = [100, 300, 600, 1000];

/// Tries several transports, the last successful one first.
pub(super) struct Auto {
    candidates: Arc<[Candidate]>,
    /// Index of the last success. Independent of other data, so any ordering will do.
    first: Arc<AtomicUsize>,
}

/// One candidate transport.
pub(super) struct Candidate {
    transport: Arc<dyn Transport>,
    /// True if it is tried only after an error that suggests the other era.
    other_era: bool,
    /// True if it starts with a GET, which settles what a rejected POST leaves open.
    by_get: bool,
}

impl Candidate {
    pub(super) fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport, other_era: false, by_get: false }
    }

    pub(super) fn of_other_era(transport: Arc<dyn Transport>) -> Self {
        Self { transport, other_era: true, by_get: false }
    }

    pub(super) fn by_get(transport: Arc<dyn Transport>) -> Self {
        Self { transport, other_era: false, by_get: true }
    }

    /// Connects. A server that took the previous POST for the GET of its only stream may need a moment to notice its
    /// end.
    async fn connect(&self, request: &ConnectRequest, after: Option<&Refusal>) -> Result<Opened, SendError> {
        let is_second_stream =
            self.by_get && after.is_some_and(|refusal| refusal.message == ENDPOINT_FOR_POST);
        let mut pauses = CLOSING_PAUSES_MS.iter().filter(|_| is_second_stream);
        loop {
            let error = match self.transport.connect(request.clone()).await {
                Err(error) if is_occupied(&error.cause) => error,
                settled => return settled,
            };
            let Some(pause) = pauses.next() else { return Err(error) };
            tokio::time::sleep(Duration::from_millis(*pause)).await;
        }
    }
}

/// True if the server may have no room for the stream because another is just ending.
fn is_occupied(cause: &Cause) -> bool {
    matches!(cause, Cause::Status(_) | Cause::Gateway(_) | Cause::Pressure(_))
}

/// The rejection, if another transport may succeed. An HTTP+SSE server rejects a POST without session in many ways, or
/// fails on it; nothing could be lost yet. Errors of credentials, limits or outages apply to every transport.
fn open_question(error: SendError) -> Result<Refusal, SendError> {
    match error.cause {
        Cause::WrongTransport(refusal) | Cause::SessionLost(refusal) | Cause::NotInitialized(refusal) => {
            Ok(refusal)
        }
        Cause::Status(refusal) if (300..=501).contains(&refusal.status) => Ok(refusal),
        cause => Err(SendError { cause, ..error }),
    }
}

/// True if the server failed on a message rather than rejecting it.
fn is_failure(error: &SendError) -> bool {
    matches!(&error.cause, Cause::Status(refusal) if refusal.status >= 500)
}

impl Auto {
    pub(super) fn new(candidates: impl Into<Arc<[Candidate]>>) -> Self {
        Self { candidates: candidates.into(), first: Arc::default() }
    }
}

impl Transport for Auto {
    fn connect(&self, request: ConnectRequest) -> BoxFuture<'static, Result<Opened, SendError>> {
        let (candidates, learned) = (Arc::clone(&self.candidates), Arc::clone(&self.first));
        async move {
            let first = learned.load(Ordering::Relaxed).min(candidates.len().saturating_sub(1));
            let others = (0..candidates.len()).filter(|at| *at != first);
            let mut refusals: Vec<Refusal> = Vec::new();
            // A server failure is reported only if no other transport works.
            let mut failed: Option<SendError> = None;
            for at in std::iter::once(first).chain(others) {
                let candidate = &candidates[at];
                if candidate.other_era && !refusals.last().is_none_or(names_other_era) {
                    continue;
                }
                let has_get = !candidate.by_get && candidates.iter().any(|other| other.by_get);
                match candidate.connect(&request, refusals.last()).await {
                    Err(SendError { cause: Cause::WrongTransport(refusal), .. }) => refusals.push(refusal),
                    Err(error) if has_get => {
                        failed = failed.or_else(|| Some(error.clone()).filter(is_failure));
                        refusals.push(open_question(error)?);
                    }
                    Err(error) => return Err(failed.unwrap_or(error)),
                    Ok(opened) => match other_era(&opened).filter(|_| candidates.len() > 1) {
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
        self.candidates.iter().for_each(|candidate| candidate.transport.renew());
    }
}

/// True if the error may be from a modern server: unknown method, or missing metadata.
fn names_other_era(refusal: &Refusal) -> bool {
    refusal.code.is_some_and(|code| matches!(code, -32022..=-32020 | -32602..=-32600))
}

/// The rejection in an `initialize` response that reveals a modern-only server. A result that negotiates the modern
/// revision is one too, as the handshake cannot continue.
fn other_era(opened: &Opened) -> Option<Refusal> {
    let agreed = ServerHello::parse(&opened.answer).ok().map(|hello| hello.revision);
    if let Some(revision) = agreed.filter(|revision| revision.era() != opened.era) {
        let message = format!("initialize was answered with {revision}, which has no handshake");
        let code = Some(i64::from(code::UNSUPPORTED_VERSION));
        return Some(Refusal { status: 200, message, code, retry_after: None });
    }
    Some(Refusal::read(200, &opened.answer)).filter(|refusal| matches!(refusal.code, Some(-32022 | -32601)))
}

/// Error of all candidates, with every response.
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
