//! Messages of the backend in a stateless call: progress, log messages and questions, filtered by what the caller asked
//! for.

use std::sync::Arc;

use bytes::Bytes;
use mcpool_wire::{Envelope, LinkEvent, Message, Method, Outlet, OutletFull, modern::question};
use tokio::time::Instant;

use super::{CallOutput, Consumer, GATHER, LogLevel, MOST_QUESTIONS, State, input_requests::Question};

impl CallOutput {
    fn say(&self, state: &mut State, event: LinkEvent) -> Result<(), OutletFull> {
        let (outbox, is_first) = match &state.consumer {
            Consumer::Stream { outbox, .. } => (Arc::clone(outbox), false),
            Consumer::Waiting => (self.core.call_outbox(), true),
            // Progress of a parked call has no reader.
            Consumer::Parked(_) => return Ok(()),
            Consumer::Gone => return Err(OutletFull),
        };
        let delivered = self.core.deliver(&outbox, event);
        if is_first {
            state.consumer = Consumer::Stream { outbox, is_read: false };
            self.post.wake();
            self.owner.wake();
        }
        delivered
    }

    fn ask(&self, number: u64, message: &Message) -> Result<(), OutletFull> {
        let asked = self.inputs.as_ref().filter(|inputs| inputs.allow(message.bytes()));
        let Some(json) = asked.and_then(|_| question(message.bytes())) else { return Err(OutletFull) };
        let mut state = self.lock();
        if state.questions.len() >= MOST_QUESTIONS || matches!(state.consumer, Consumer::Gone) {
            self.core.common.dropped("server_request");
            return Err(OutletFull);
        }
        if state.questions.is_empty() {
            state.gather_until = Some(Instant::now() + GATHER);
        }
        state.questions.push(Question { number, key: format!("ask-{number}"), json });
        drop(state);
        self.post.wake();
        self.owner.wake();
        Ok(())
    }
}

impl State {
    fn wants(&self, notification: &[u8]) -> bool {
        let Ok(envelope) = Envelope::parse(notification) else { return false };
        let level = envelope.params.level.as_deref().and_then(LogLevel::parse);
        envelope.method == Some(Method::LogMessage)
            && self.level.zip(level).is_some_and(|(least, level)| level >= least)
    }

    /// Progress under the token of the request to be answered. `None` if that request wants none.
    fn progress(&self, notification: Bytes) -> Option<Bytes> {
        let token = self.token.as_ref()?;
        let message = Message::new(notification.clone(), &Envelope::parse(&notification).ok()?);
        Some(if message.token()? == *token { notification.clone() } else { message.with_token(token) })
    }
}

impl Outlet for CallOutput {
    fn push(&self, event: LinkEvent) -> Result<(), OutletFull> {
        match event {
            LinkEvent::Progress(bytes) => {
                let mut state = self.lock();
                match state.progress(bytes) {
                    Some(bytes) => self.say(&mut state, LinkEvent::Progress(bytes)),
                    None => Ok(()),
                }
            }
            LinkEvent::Notification(bytes) => {
                let mut state = self.lock();
                if state.wants(&bytes) {
                    return self.say(&mut state, LinkEvent::Notification(bytes));
                }
                Ok(())
            }
            LinkEvent::Request { id, message } => self.ask(id, &message),
            LinkEvent::Withdrawn { id, .. } => {
                self.lock().questions.retain(|one| one.number != id);
                Ok(())
            }
            LinkEvent::Paused(_) | LinkEvent::Owned(_) | LinkEvent::Ended(_) => Ok(()),
        }
    }
}
