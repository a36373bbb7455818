//! The GET stream of a Streamable HTTP session: opened, kept open, and given up when the session is lost.
//!
//! Servers and proxies close silent streams all the time, so an end is followed by a reconnection; what decides
//! that the session is over is how that is refused (nobody listens, or nobody knows us), never the end itself.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::Method;

use super::{
    Heard, Inbound,
    classify::Asked,
    http::{Content, Events},
    rhythm::Rhythm,
    sse_reader::{SseError, SseEvent, SseItem},
    streamable::Session,
};
use crate::{
    clock,
    error::{Cause, SendError, SendPhase},
};

/// First wait before a reconnection, where the server names none. Short, because it is also how a dead backend
/// is noticed.
pub(super) const PAUSE: Duration = Duration::from_millis(100);
/// Longest wait, where the server names no longer one.
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(5);
/// First wait when an older stream of this session is still open over there.
const BUSY_PAUSE: Duration = Duration::from_millis(200);
/// 0.2, 0.4, 0.8, 1.6, 3.2, 5 and 5 s.
const BUSY_ATTEMPTS: u32 = 8;
/// Reconnections that fail in a row for reasons that may pass.
pub(super) const MAX_FAILURES: u32 = 6;

/// What the backend says by itself, over its reconnections.
pub(super) struct Listening {
    session: Arc<Session>,
    early: VecDeque<Bytes>,
    state: State,
    rhythm: Rhythm,
    last_id: Option<String>,
    retry: Option<Duration>,
    /// Reconnections since the backend last said something.
    idle_reconnects: u32,
    failures: u32,
}

/// What a stream yields; nothing at its end.
type Item = Option<Result<SseItem, SseError<SendError>>>;

enum State {
    Open(Events),
    Reconnecting,
    /// The backend has no such stream: nothing will ever come.
    NotOffered,
    Over,
}

impl Session {
    /// Opens the stream, `None` where the backend has none.
    pub(super) async fn open_stream(&self, last_id: Option<&str>) -> Result<Option<Events>, SendError> {
        let mut pause = BUSY_PAUSE;
        for _ in 1..BUSY_ATTEMPTS {
            let reply = self.request(Method::GET, last_id, Bytes::new()).await?;
            match (reply.status(), reply.content()) {
                (200..=299, Content::Events) => return Ok(Some(reply.events(self.max_message()))),
                (200..=299, Content::Json | Content::Other) | (405, _) => {
                    reply.drain().await;
                    return Ok(None);
                }
                (409, _) => reply.drain().await,
                (status, _) => {
                    let (error, _) = reply.refusal(Asked::Listen).await;
                    return not_offered(status, &error.cause).then_some(None).ok_or(error);
                }
            }
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
        Err(SendError::refused(Cause::Timeout("waiting for an older stream of this session to end")))
    }
}

/// A server without a route for GET says so in many ways, none of which concerns the session.
pub(super) fn not_offered(status: u16, cause: &Cause) -> bool {
    (400..=499).contains(&status) && matches!(cause, Cause::WrongTransport(_) | Cause::Status(_))
        || status == 501
}

/// Many sessions lose their streams at the same moment; they must not all come back at the same one.
pub(super) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(1.0..1.25))
}

impl Listening {
    pub(super) fn new(session: Arc<Session>, early: VecDeque<Bytes>, events: Option<Events>) -> Self {
        let state = events.map_or(State::NotOffered, State::Open);
        let rhythm = Rhythm::new(session.patience(), clock::now());
        Self { session, early, state, rhythm, last_id: None, retry: None, idle_reconnects: 0, failures: 0 }
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
                        self.state = State::Reconnecting;
                    }
                },
                State::Reconnecting => {
                    if let Err(error) = self.reconnect().await {
                        return Some(Err(error));
                    }
                }
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
            Some(Err(SseError::Body(_))) | None => self.state = State::Reconnecting,
        }
        None
    }

    fn take(&mut self, event: SseEvent) -> Heard {
        self.idle_reconnects = 0;
        if event.id.is_some() {
            self.last_id = event.id;
        }
        if event.name.is_some() || event.data.is_empty() { Heard::Alive } else { Heard::Message(event.data) }
    }

    async fn reconnect(&mut self) -> Result<(), SendError> {
        let base = self.retry.unwrap_or(PAUSE);
        let grown = base.saturating_mul(1 << self.idle_reconnects.min(6)).min(MAX_PAUSE.max(base));
        self.idle_reconnects += 1;
        tokio::time::sleep(jittered(grown)).await;
        match self.session.open_stream(self.last_id.as_deref()).await {
            Ok(events) => {
                self.failures = 0;
                // A new stream may be kept alive by somebody else, or not at all.
                self.rhythm = Rhythm::new(self.session.patience(), clock::now());
                self.state = events.map_or(State::NotOffered, State::Open);
                Ok(())
            }
            // What we lack ourselves says nothing about the session.
            Err(SendError { cause: Cause::Descriptors, .. }) => Ok(()),
            Err(error) if may_pass(&error) && self.failures + 1 < MAX_FAILURES => {
                self.failures += 1;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// The next item of a stream; nothing, if it is longer overdue than it may be.
async fn in_time(events: &mut Events, rhythm: &Rhythm) -> Option<Item> {
    match rhythm.overdue() {
        Some(due) => tokio::time::timeout_at(clock::at(due), events.next()).await.ok(),
        None => Some(events.next().await),
    }
}

pub(super) fn may_pass(error: &SendError) -> bool {
    match &error.cause {
        // Waiting for an older stream to end is over: nobody will ever be heard on this session.
        Cause::Timeout(_) if error.phase == SendPhase::Refused => false,
        Cause::Broken(_)
        | Cause::Timeout(_)
        | Cause::Gateway(_)
        | Cause::Pressure(_)
        | Cause::NotInitialized(_)
        | Cause::Descriptors
        | Cause::Status(_) => true,
        Cause::Connect(_)
        | Cause::Tls(_)
        | Cause::SessionLost(_)
        | Cause::Credential(_)
        | Cause::WrongVersion(_)
        | Cause::WrongTransport(_)
        | Cause::TooLarge(_)
        | Cause::Protocol(_)
        | Cause::Closed(_) => false,
    }
}
