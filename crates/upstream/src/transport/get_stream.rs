//! The GET stream of a Streamable HTTP session: opened beside the calls, kept open, and given up with the session.
//!
//! A server need not offer it. Whatever refuses it, or holds its headers back, says that it is not offered now: it is
//! asked for again, after pauses that grow. Servers and proxies close silent streams all the time, so an end is followed
//! by a reconnection. What decides that the session is over is that nobody listens any more, or that a server that had
//! the stream open knows the session no longer.

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
    keepalive::Rhythm,
    sse_reader::{SseError, SseEvent, SseItem},
    streamable::Session,
};
use crate::{
    clock,
    error::{Cause, SendError},
};

/// First wait before a reconnection, where the server names no longer one. Short, because it is also how a dead backend
/// is noticed, and no shorter, because a server may name none at all.
pub(super) const PAUSE: Duration = Duration::from_millis(100);
/// Longest wait after streams that end soon, where the server names no longer one.
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(5);
/// The same where the last one brought a message: the server may want to be asked for each.
const MAX_PAUSE_POLLED: Duration = Duration::from_secs(1);
/// Longest wait after refusals.
pub(super) const MAX_PAUSE_REFUSED: Duration = Duration::from_secs(300);
/// How long a stream has to stay open to be followed by the shortest wait again.
pub(super) const STEADY: Duration = Duration::from_secs(10);
/// Refusals in a row because an older stream of the session is still open, which was ours and is lost to us: 11 to 15 s.
/// After that only another session has one.
const BUSY_ATTEMPTS: u32 = 8;
/// How long headers may be held back: what clients of other makes wait.
pub(super) const HEADERS: Duration = Duration::from_secs(300);

/// What the backend says by itself, over its reconnections.
pub(super) struct Listening {
    session: Arc<Session>,
    early: VecDeque<Bytes>,
    state: State,
    rhythm: Rhythm,
    last_id: Option<String>,
    /// What the server named as the wait before a reconnection.
    retry: Option<Duration>,
    /// When the current stream, or the last one, was opened.
    opened: Option<Instant>,
    /// Streams in a row that ended soon.
    short_lived: u32,
    /// The last one brought a message.
    is_polled: bool,
    /// Refusals in a row, and the wait the last one named.
    refusals: u32,
    retry_after: Option<Duration>,
    /// Of the refusals, those that named an older stream.
    busy: u32,
}

/// What a stream yields; nothing at its end.
type Item = Option<Result<SseItem, SseError<SendError>>>;

enum State {
    Open(Events),
    /// To be opened, after a pause.
    Closed,
    /// The backend has no such stream: nothing will ever come.
    NotOffered,
    Over,
}

/// What an attempt to open the stream came to.
enum Opening {
    Open(Events),
    /// The server said that there is none.
    Never,
    /// Not now.
    Refused(String, Option<Duration>),
}

impl Listening {
    pub(super) fn new(session: Arc<Session>, early: VecDeque<Bytes>) -> Self {
        // Without a session there is nobody the backend could say anything to.
        let state = if session.has_session() { State::Closed } else { State::NotOffered };
        if matches!(state, State::NotOffered) {
            session.hears_nothing();
        }
        Self {
            rhythm: Rhythm::new(session.patience(), clock::now()),
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
                State::Open(events) => match in_time(events, &self.rhythm).await {
                    Some(item) => {
                        self.rhythm.heard(matches!(item, Some(Ok(SseItem::Alive))), clock::now());
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

    /// Opens it after its pause; says why there is none now.
    async fn open(&mut self) -> Result<Option<String>, SendError> {
        tokio::time::sleep(self.pause()).await;
        let opening = tokio::time::timeout(HEADERS, self.session.open_stream(self.last_id.as_deref())).await;
        let late = || Opening::Refused("its headers did not come".to_owned(), None);
        let why = match opening.unwrap_or_else(|_| Ok(late())) {
            Ok(Opening::Open(events)) => {
                (self.refusals, self.busy, self.retry_after, self.is_polled) = (0, 0, None, false);
                self.opened = Some(clock::now());
                // A new stream may be kept alive by somebody else, or not at all.
                self.rhythm = Rhythm::new(self.session.patience(), clock::now());
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
            // What we lack ourselves says nothing about the server.
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

    /// Whether the session is over. One whose server never had the stream open may be served elsewhere than it is.
    fn is_decisive(&self, cause: &Cause) -> bool {
        match cause {
            Cause::Connect(_) | Cause::Tls(_) | Cause::Closed(_) => true,
            Cause::SessionLost(_) | Cause::WrongVersion(_) => self.opened.is_some(),
            _ => false,
        }
    }
}

impl Session {
    /// Asks for the stream.
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

/// Doubled so often, up to the most, but no shorter than it was.
pub(super) fn grown(pause: Duration, times: u32, most: Duration) -> Duration {
    pause.saturating_mul(2_u32.saturating_pow(times.min(16))).min(most.max(pause))
}

/// Many sessions lose their streams at the same moment; they must not all come back at the same one.
pub(super) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(1.0..1.25))
}

/// The next item of a stream; nothing, if it is longer overdue than it may be.
async fn in_time(events: &mut Events, rhythm: &Rhythm) -> Option<Item> {
    match rhythm.overdue() {
        Some(due) => tokio::time::timeout_at(clock::at(due), events.next()).await.ok(),
        None => Some(events.next().await),
    }
}
