//! The event stream that answers one POST, resumed if it breaks before the response (2025-11-25 polling).
//!
//! Resuming is a GET with `Last-Event-ID`: it attaches to the running call and never runs it again. The message was
//! accepted before, so every error is `MaybeSent`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use http::Method;

use super::{
    Received,
    classify::Asked,
    get_stream::grown,
    http::{Content, Events},
    parts::holds_response,
    sse_reader::{SseError, SseEvent, SseItem},
    streamable::Session,
};
use crate::error::{Cause, SendError, SendPhase};

/// Pause before resuming, unless the server sets one.
const PAUSE: Duration = Duration::from_millis(500);
/// Minimum pause.
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// Maximum pause between polls of a running call, unless the server sets a longer one. The call's own deadline bounds
/// the polling.
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// Maximum number of consecutive attempts without an event.
const MAX_FAILURES: u32 = 5;

/// The messages of one response stream.
pub(super) struct Reading {
    session: Arc<Session>,
    events: Option<Events>,
    last_id: Option<String>,
    pause: Duration,
    answered: bool,
    failures: u32,
    /// Number of resumptions.
    resumes: u32,
}

impl Reading {
    pub(super) fn new(session: Arc<Session>, events: Events) -> Self {
        Self {
            session,
            events: Some(events),
            last_id: None,
            pause: PAUSE,
            answered: false,
            failures: 0,
            resumes: 0,
        }
    }

    /// The next message, or that the server ended the stream and is polled later; `None` after an error.
    pub(super) async fn next(&mut self) -> Option<Result<Received, SendError>> {
        loop {
            let Some(events) = &mut self.events else {
                match self.resume().await {
                    Ok(events) => self.events = Some(events),
                    Err(error) if self.is_hopeless(&error.cause) => return Some(Err(accepted(error))),
                    Err(_) => self.failures += 1,
                }
                continue;
            };
            match events.next().await {
                Some(Ok(SseItem::Event(event))) => {
                    return Some(Ok(self.take(event).map_or(Received::Alive, Received::Message)));
                }
                Some(Ok(SseItem::Retry(pause))) => self.pause = pause,
                Some(Ok(SseItem::Alive)) => return Some(Ok(Received::Alive)),
                // A response without a matching request is this call's.
                Some(Err(SseError::TooLarge { cap, answers, is_answer: true })) if answers.is_empty() => {
                    return Some(Err(SendError::maybe_sent(Cause::TooLarge(cap))));
                }
                Some(Err(SseError::TooLarge { cap, answers, .. })) => {
                    return Some(Ok(Received::TooLarge { answers, limit: cap }));
                }
                Some(Err(SseError::Body(_))) if self.can_resume() => self.events = None,
                None if self.can_resume() => {
                    self.events = None;
                    return Some(Ok(Received::Paused(self.next_pause())));
                }
                Some(Err(SseError::Body(error))) => return Some(Err(error)),
                None => return None,
            }
        }
    }

    fn take(&mut self, event: SseEvent) -> Option<Bytes> {
        self.failures = 0;
        if event.id.is_some() {
            self.last_id = event.id;
        }
        if event.name.is_some() || event.data.is_empty() {
            return None;
        }
        // Without ids nothing can be resumed, so this is not needed.
        if self.last_id.is_some() && !self.answered {
            self.answered = holds_response(&event.data);
        }
        Some(event.data)
    }

    fn can_resume(&self) -> bool {
        self.last_id.is_some() && !self.answered
    }

    fn is_hopeless(&self, cause: &Cause) -> bool {
        self.failures + 1 >= MAX_FAILURES
            || matches!(cause, Cause::SessionLost(_) | Cause::Credential(_) | Cause::WrongTransport(_))
    }

    /// Grows even if events come: a server may end each stream after one.
    fn next_pause(&self) -> Duration {
        let pause = self.pause.max(MIN_PAUSE);
        match self.failures {
            0 => grown(pause, self.resumes, MAX_PAUSE),
            failures => pause.saturating_mul(2_u32.saturating_pow(failures)),
        }
    }

    async fn resume(&mut self) -> Result<Events, SendError> {
        tokio::time::sleep(self.next_pause()).await;
        let reply = self.session.request(Method::GET, self.last_id.as_deref(), Bytes::new()).await?;
        if !reply.is_success() {
            return Err(reply.refusal(Asked::Listen).await.0);
        }
        if reply.content() != Content::Events {
            let refusal = reply.refused("no stream to resume".to_owned());
            return Err(SendError::refused(Cause::WrongTransport(refusal)));
        }
        self.resumes = self.resumes.saturating_add(1);
        Ok(reply.events(self.session.max_message()))
    }
}

fn accepted(error: SendError) -> SendError {
    SendError { phase: SendPhase::MaybeSent, ..error }
}
