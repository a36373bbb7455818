//! One request in flight: its exchange, and the wait for its response.
//!
//! The exchange (the POST) and the ticket (a response through the driver) are polled together, because either may come
//! first: an SSE response can overtake the 202 of its own POST. Dropping an [`InFlight`] passes the rest to the driver,
//! so that connections stay reusable and cancelled work is accounted for.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use mcpool_wire::{CallTrace, Era, LinkEvent};

use super::{
    Errand, Session,
    pending::{Outcome, Ticket},
    route::{Origin, Routed},
    stray::Stray,
};
use crate::{
    clock,
    error::{Cause, SendError, SendPhase},
    kinds::TransportKind,
    transport::{Exchange, Received},
};

pub(super) struct InFlight {
    session: Arc<Session>,
    ticket: Ticket,
    exchange: Option<Exchange>,
    trace: Option<Arc<CallTrace>>,
    /// True while the message waits for a connection; nothing was sent.
    pub(super) waits: bool,
    /// True once the backend accepted the message.
    accepted: bool,
    /// True if a response can only come on the session's stream.
    is_elsewhere: bool,
    /// A message in place of a response.
    stray: Option<Stray>,
    /// True once the result was taken from the map.
    settled: bool,
    /// True if the result must not affect the session.
    is_quiet: bool,
}

impl InFlight {
    pub(super) fn new(
        session: Arc<Session>,
        ticket: Ticket,
        exchange: Exchange,
        trace: Option<Arc<CallTrace>>,
    ) -> Self {
        Self {
            session,
            ticket,
            exchange: Some(exchange),
            trace,
            waits: false,
            accepted: false,
            is_elsewhere: false,
            stray: None,
            settled: false,
            is_quiet: false,
        }
    }

    pub(super) fn quietly(mut self) -> Self {
        self.is_quiet = true;
        self
    }

    pub(super) async fn answer(&mut self) -> Outcome {
        let outcome = poll_fn(|cx| self.poll_answer(cx)).await;
        self.settled = true;
        outcome
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        loop {
            if let Poll::Ready(outcome) = Pin::new(&mut self.ticket.answer).poll(cx) {
                let gone = || Err(SendError::maybe_sent(Cause::Closed("its book is gone")));
                let outcome = outcome.unwrap_or_else(|_| gone());
                return Poll::Ready(outcome.map_err(|error| self.know_better(error, cx)));
            }
            let Some(exchange) = &mut self.exchange else { return Poll::Pending };
            let polled = exchange.as_mut().poll_next(cx);
            if let Poll::Ready(item) = &polled {
                let is_unsent = matches!(item, Some(Err(error)) if error.phase != SendPhase::MaybeSent);
                if std::mem::take(&mut self.waits)
                    && !is_unsent
                    && let Some(trace) = &self.trace
                {
                    trace.mark_sent(clock::now());
                }
            }
            match polled {
                Poll::Pending | Poll::Ready(Some(Ok(Received::Left))) => return Poll::Pending,
                Poll::Ready(Some(Ok(Received::Accepted))) => {
                    self.accepted = true;
                    if let Some(trace) = &self.trace {
                        trace.mark_accepted(clock::now());
                    }
                }
                Poll::Ready(Some(Ok(Received::Message(bytes)))) => {
                    self.session.heard();
                    let origin = Origin::Exchange { call: self.ticket.id, trace: self.trace.as_ref() };
                    match self.session.route(bytes, origin) {
                        Routed::Answer(answer) => {
                            self.session.pending.remove(self.ticket.id);
                            // Most bodies end with their response: then the connection is free and the driver has
                            // nothing to read.
                            if let Poll::Ready(None | Some(Err(_))) = exchange.as_mut().poll_next(cx) {
                                self.exchange = None;
                            }
                            return Poll::Ready(Ok(answer));
                        }
                        Routed::Stray(stray) => {
                            self.stray = Some(match self.stray.take() {
                                Some(first) => first.or(stray),
                                None => stray,
                            });
                        }
                        Routed::Elsewhere => {}
                    }
                }
                Poll::Ready(Some(Ok(Received::Alive))) => {
                    self.session.heard();
                    if let Some(trace) = &self.trace {
                        trace.mark_part(clock::now());
                    }
                }
                Poll::Ready(Some(Ok(Received::TooLarge { answers, limit }))) => {
                    self.session.heard();
                    let own = self.ticket.id;
                    let others: Vec<u64> = answers.iter().copied().filter(|id| *id != own).collect();
                    let is_own = others.len() < answers.len();
                    if !is_own || !others.is_empty() {
                        self.session.route_too_large(&others, limit);
                    }
                    if is_own {
                        self.exchange = None;
                        return Poll::Ready(self.fail(SendError::maybe_sent(Cause::TooLarge(limit))));
                    }
                }
                // Like other clients, accepts the response on any stream within the call's time.
                Poll::Ready(Some(Ok(Received::Elsewhere))) if self.trace.is_some() => {
                    self.session.heard();
                    self.is_elsewhere = true;
                }
                Poll::Ready(Some(Ok(Received::Elsewhere))) => {
                    self.exchange = None;
                    return Poll::Ready(self.fail(SendError::unanswered()));
                }
                Poll::Ready(Some(Ok(Received::Paused(wait)))) => {
                    self.session.pending.push_to(self.ticket.id, LinkEvent::Paused(wait));
                }
                Poll::Ready(Some(Err(error))) => {
                    self.exchange = None;
                    return Poll::Ready(match self.stray.take().filter(Stray::is_error) {
                        Some(said) => self.settle_with(said),
                        None => self.fail(error),
                    });
                }
                Poll::Ready(None) => {
                    self.exchange = None;
                    if let Some(said) = self.stray.take() {
                        return Poll::Ready(self.settle_with(said));
                    }
                    if self.session.kind == TransportKind::Http {
                        return Poll::Ready(self.fail(SendError::unanswered()));
                    }
                }
            }
        }
    }

    /// Improves the error of an ended session: the exchange may know that the message was never sent. A message that
    /// waits for a connection is not polled, so that it is not sent now; others may have been sent meanwhile.
    fn know_better(&mut self, mut error: SendError, cx: &mut Context<'_>) -> SendError {
        if self.waits {
            return error;
        }
        if error.phase == SendPhase::NotSent {
            error.phase = SendPhase::MaybeSent;
        }
        let Some(exchange) = self.exchange.as_mut().filter(|_| !self.accepted) else { return error };
        match exchange.as_mut().poll_next(cx) {
            Poll::Ready(Some(Err(own))) if own.phase != SendPhase::MaybeSent => own,
            _ => error,
        }
    }

    /// Ends with the message that came in place of a response.
    fn settle_with(&mut self, said: Stray) -> Outcome {
        match said.answer_to(self.ticket.id) {
            Ok(answer) => {
                self.session.pending.remove(self.ticket.id);
                Ok(answer)
            }
            Err(error) => self.fail(error),
        }
    }

    fn fail(&mut self, error: SendError) -> Outcome {
        if !self.is_quiet {
            self.session.report(&error);
        }
        self.session.pending.remove(self.ticket.id);
        Err(error)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // An unsent message must not be sent now, as the caller was told so; a response elsewhere has nothing to read
        // here.
        let exchange = self.exchange.take().filter(|_| !self.waits && !self.is_elsewhere);
        let errand = if self.settled {
            let Some(exchange) = exchange else { return };
            Errand::Finish(exchange)
        } else if self.session.era == Era::Modern || self.waits {
            // Closing the exchange cancels the call, or it was never sent: nothing continues.
            drop(exchange);
            self.session.pending.remove(self.ticket.id);
            self.session.forget_asks(self.ticket.id);
            return;
        } else {
            if !self.session.pending.abandon(self.ticket.id, clock::now()) {
                return;
            }
            Errand::Abandon { id: self.ticket.id, exchange, accepted: self.accepted }
        };
        // A full queue only loses the connection and the notice; the driver still applies the grace time.
        if self.session.errands.try_send(errand).is_err() {
            self.session.nudge.notify_one();
        }
    }
}
