//! The GET stream of a Streamable HTTP session: opened concurrently with calls, kept open, and ended with the session.
//!
//! A server need not offer it. An error, or withheld headers, means that it is unavailable now: it is tried again after
//! growing pauses. Servers and proxies often close silent streams, so an end leads to a reconnection. The session is
//! over when nothing listens any more, or when a server that had the stream open no longer knows the session.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::Method;

use super::{
    Heard, Inbound,
    classify::Asked,
    http::{Content, Events},
    keepalive::Keepalive,
    sse_reader::{SseError, SseEvent, SseItem},
    streamable::Session,
};
use crate::{
    clock,
    error::{Cause, SendError},
};

/// First pause before a reconnection, unless the server sets a longer one. Short, because it also detects a dead
/// backend; not shorter, because a server may set zero.
pub(super) const PAUSE: Duration = Duration::from_millis(100);
/// Maximum pause after short-lived streams, unless the server sets a longer one.
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(5);
/// The same if the last stream brought a message: the server may expect one request per message.
const MAX_PAUSE_POLLED: Duration = Duration::from_secs(1);
/// Maximum pause after rejections.
pub(super) const MAX_PAUSE_REFUSED: Duration = Duration::from_secs(300);
/// Minimum life of a stream after which the pause is reset.
pub(super) const STEADY: Duration = Duration::from_secs(10);
/// Maximum consecutive rejections because our lost older stream is still open there: 11 to 15 s. Later rejections mean
/// that another session has it.
const BUSY_ATTEMPTS: u32 = 8;
/// Maximum delay of response headers, as in other clients.
pub(super) const HEADERS: Duration = Duration::from_secs(300);

/// The backend's own messages across reconnections.
pub(super) struct Listening {
    session: Arc<Session>,
    early: VecDeque<Bytes>,
    state: State,
    keepalive: Keepalive,
    last_id: Option<String>,
    /// The reconnection time set by the server.
    retry: Option<Duration>,
    /// Opening time of the current or last stream.
    opened: Option<Instant>,
    /// Consecutive short-lived streams.
    short_lived: u32,
    /// True if the last stream brought a message.
    is_polled: bool,
    /// Consecutive rejections, and the pause set by the last one.
    refusals: u32,
    retry_after: Option<Duration>,
    /// Rejections because of an older stream.
    busy: u32,
}

/// An item of a stream; `None` at its end.
type Item = Option<Result<SseItem, SseError<SendError>>>;

enum State {
    Open(Events),
    /// To be opened after a pause.
    Closed,
    /// The backend has no such stream.
    NotOffered,
    Over,
}

/// Result of opening the stream.
enum Opening {
    Open(Events),
    /// The server offers none.
    Never,
    /// Unavailable now.
    Refused(String, Option<Duration>),
}

impl Listening {
    pub(super) fn new(session: Arc<Session>, early: VecDeque<Bytes>) -> Self {
        // Without a session the backend has no addressee.
        let state = if session.has_session() { State::Closed } else { State::NotOffered };
        if matches!(state, State::NotOffered) {
            session.hears_nothing();
        }
        Self {
            keepalive: Keepalive::new(session.patience(), clock::now()),
            session,
            early,
            state,
            last_id: None,
            retry: None,
            opened: None,
            short_lived: 0,
            is_polled: false,
            refusals: 0,
            retry_after: None,
            busy: 0,
        }
    }

    pub(super) fn into_inbound(self) -> Inbound {
        Box::pin(stream::unfold(self, |mut listening| async move {
            let heard = listening.next().await?;
            if heard.is_err() {
                listening.state = State::Over;
            }
            Some((heard, listening))
        }))
    }

    async fn next(&mut self) -> Option<Result<Heard, SendError>> {
        if let Some(message) = self.early.pop_front() {
            return Some(Ok(Heard::Message(message)));
        }
        loop {
            match &mut self.state {
                State::Open(events) => match in_time(events, &self.keepalive).await {
                    Some(item) => {
                        self.keepalive.heard(matches!(item, Some(Ok(SseItem::Alive))), clock::now());
                        if let Some(heard) = self.item(item) {
                            return Some(Ok(heard));
                        }
                    }
                    None => {
                        tracing::info!("a stream that was kept alive fell silent; it is opened anew");
                        self.ended();
                    }
                },
                State::Closed => match self.open().await {
                    Ok(None) => {}
                    Ok(Some(why)) => return Some(Ok(Heard::NoStream(why))),
                    Err(error) => return Some(Err(error)),
                },
                State::NotOffered => std::future::pending().await,
                State::Over => return None,
            }
        }
    }

    fn item(&mut self, item: Item) -> Option<Heard> {
        match item {
            Some(Ok(SseItem::Event(event))) => return Some(self.take(event)),
            Some(Ok(SseItem::Alive)) => return Some(Heard::Alive),
            Some(Ok(SseItem::Retry(pause))) => self.retry = Some(pause),
            Some(Err(SseError::TooLarge { cap, answers, .. })) => {
                return Some(Heard::TooLarge { answers, limit: cap });
            }
            Some(Err(SseError::Body(_))) | None => self.ended(),
        }
        None
    }

    fn take(&mut self, event: SseEvent) -> Heard {
        if event.id.is_some() {
            self.last_id = event.id;
        }
        if event.name.is_some() || event.data.is_empty() {
            return Heard::Alive;
        }
        self.is_polled = true;
        Heard::Message(event.data)
    }

    fn ended(&mut self) {
        self.state = State::Closed;
        let is_steady = self.opened.is_some_and(|at| clock::now().saturating_duration_since(at) >= STEADY);
        self.short_lived = if is_steady { 0 } else { self.short_lived.saturating_add(1) };
    }

    /// Opens the stream after its pause; returns why it is unavailable.
    async fn open(&mut self) -> Result<Option<String>, SendError> {
        tokio::time::sleep(self.pause()).await;
        let opening = tokio::time::timeout(HEADERS, self.session.open_stream(self.last_id.as_deref())).await;
        let late = || Opening::Refused("its headers did not come".to_owned(), None);
        let why = match opening.unwrap_or_else(|_| Ok(late())) {
            Ok(Opening::Open(events)) => {
                (self.refusals, self.busy, self.retry_after, self.is_polled) = (0, 0, None, false);
                self.opened = Some(clock::now());
                // The new stream may have another keep-alive interval, or none.
                self.keepalive = Keepalive::new(self.session.patience(), clock::now());
                self.state = State::Open(events);
                None
            }
            Ok(Opening::Never) => {
                self.state = State::NotOffered;
                self.session.hears_nothing();
                return Ok(None);
            }
            Ok(Opening::Refused(why, retry_after)) => {
                self.refusals = self.refusals.saturating_add(1);
                self.retry_after = retry_after;
                Some(why)
            }
            Err(error) if self.is_decisive(&error.cause) => return Err(error),
            // A missing descriptor of ours says nothing about the server.
            Err(SendError { cause: Cause::Descriptors, .. }) => {
                self.refusals = self.refusals.saturating_add(1);
                return Ok(None);
            }
            Err(error) => {
                self.refusals = self.refusals.saturating_add(1);
                let is_busy = error.refusal().is_some_and(|refusal| refusal.status == 409);
                self.busy = if is_busy { self.busy.saturating_add(1) } else { 0 };
                if self.busy >= BUSY_ATTEMPTS && self.opened.is_some() {
                    let why = Cause::Timeout("waiting for an older stream of this session to end");
                    return Err(SendError::refused(why));
                }
                self.retry_after = error.refusal().and_then(|refusal| refusal.retry_after);
                Some(error.to_string())
            }
        };
        self.session.settle();
        Ok(why)
    }

    fn pause(&self) -> Duration {
        if self.refusals > 0 {
            let named = self.retry_after.unwrap_or_default().min(MAX_PAUSE_REFUSED);
            let most = if self.busy > 0 { MAX_PAUSE } else { MAX_PAUSE_REFUSED };
            return jittered(grown(PAUSE, self.refusals - 1, most).max(named));
        }
        if self.opened.is_none() {
            return Duration::ZERO;
        }
        let most = if self.is_polled { MAX_PAUSE_POLLED } else { MAX_PAUSE };
        jittered(grown(self.retry.unwrap_or(PAUSE).max(PAUSE), self.short_lived.saturating_sub(1), most))
    }

    /// True if the session is over. If its server never had the stream open, another server may have answered.
    fn is_decisive(&self, cause: &Cause) -> bool {
        match cause {
            Cause::Connect(_) | Cause::Tls(_) | Cause::Closed(_) => true,
            Cause::SessionLost(_) | Cause::WrongVersion(_) => self.opened.is_some(),
            _ => false,
        }
    }
}

impl Session {
    /// Requests the stream.
    async fn open_stream(&self, last_id: Option<&str>) -> Result<Opening, SendError> {
        let reply = self.request(Method::GET, last_id, Bytes::new()).await?;
        let status = reply.status();
        match (status, reply.content()) {
            (200..=299, Content::Events) => Ok(Opening::Open(reply.events(self.max_message()))),
            (200..=299, Content::Json | Content::Other) => {
                reply.drain().await;
                Ok(Opening::Refused(format!("GET was answered {status}, and with no stream of events"), None))
            }
            (405, _) => {
                reply.drain().await;
                Ok(Opening::Never)
            }
            (_, _) => Err(reply.refusal(Asked::Listen).await.0),
        }
    }
}

/// The pause doubled `times` times, up to `most`, and never shortened.
pub(super) fn grown(pause: Duration, times: u32, most: Duration) -> Duration {
    pause.saturating_mul(2_u32.saturating_pow(times.min(16))).min(most.max(pause))
}

/// Spreads reconnections: many sessions lose their streams at the same moment.
pub(super) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(1.0..1.25))
}

/// The next item of a stream; `None` if it is overdue.
async fn in_time(events: &mut Events, keepalive: &Keepalive) -> Option<Item> {
    match keepalive.overdue() {
        Some(due) => tokio::time::timeout_at(clock::at(due), events.next()).await.ok(),
        None => Some(events.next().await),
    }
}
