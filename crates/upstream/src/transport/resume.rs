//! The stream of events that answers one POST, resumed where it breaks before the answer (2025-11-25 polling).
//!
//! Resuming is a GET with `Last-Event-ID`: it re-attaches to the call that runs and never executes it again.
//! Whatever goes wrong here, the message was accepted before: every error says `MaybeSent`.

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

/// Wait before resuming, where the server names none.
const PAUSE: Duration = Duration::from_millis(500);
/// Shortest wait, whatever the server names.
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// Longest wait between polls of a call that runs, where the server names no longer one. How long it is polled is
/// bounded by the call's own time.
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// Attempts that bring no event, in a row.
const MAX_FAILURES: u32 = 5;

/// The messages of one answer.
pub(super) struct Reading {
    session: Arc<Session>,
    events: Option<Events>,
    last_id: Option<String>,
    pause: Duration,
    answered: bool,
    failures: u32,
    /// Resumptions so far.
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

    /// The next message, or that the server ended the stream and is asked again later; after an error there is
    /// nothing.
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
                // An answer nobody can be found for is this call's.
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
        // Without ids nothing can be resumed, and then nobody asks whether this was the answer.
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

    /// Grows also where events come: a server may end each stream after one.
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
