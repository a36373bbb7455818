//! The driver, one session's task: it reads, routes and handles timers. It never awaits a peer: its own sends (probes,
//! cancellations, ping responses, rests of cancelled exchanges) run in a set of futures polled by the same loop, so one
//! slow POST delays nothing else.

use std::{sync::Arc, time::Instant};

use futures::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, OptionFuture},
    stream::FuturesUnordered,
};
use tokio::sync::mpsc;

use super::{
    Errand, Session,
    arriving::Arriving,
    errands::{Sent, abandon, end, read_out},
    lock,
    route::Origin,
    state::{Facts, Input, Standing, State},
};
use crate::{
    clock,
    config::Times,
    descriptors,
    error::{Cause, SendError},
    kinds::{CloseReason, TransportKind},
    observe::Event,
    quirks::Quirk,
    transport::{Heard, Inbound},
};

/// Maximum number of queued errands. Beyond it they are dropped, which loses only courtesies.
pub(crate) const MAX_ERRANDS: usize = 1024;

/// Maximum number of concurrent sends; errands wait beyond it.
const MAX_SENDS: usize = 1024;

/// Pause before a probe that lacked a file descriptor is repeated.
const WITHOUT_DESCRIPTOR: std::time::Duration = std::time::Duration::from_secs(1);

pub(crate) struct Driver {
    session: Arc<Session>,
    inbound: Inbound,
    errands: mpsc::Receiver<Errand>,
    state: State,
    times: Times,
    sends: FuturesUnordered<BoxFuture<'static, Sent>>,
    last_error: Option<SendError>,
    /// True if a connection broke without a sign of life since.
    broke: bool,
    /// The last probe for silence, so that wake-ups do not postpone the timer.
    asked: Instant,
    arriving: Arriving,
}

enum Wake {
    Heard(Option<Result<Heard, SendError>>),
    Errand(Option<Errand>),
    Nudged,
    Sent(Sent),
    Timer,
}

impl Driver {
    pub(crate) fn new(
        session: Arc<Session>,
        inbound: Inbound,
        errands: mpsc::Receiver<Errand>,
        times: Times,
    ) -> Self {
        Self {
            session,
            inbound,
            errands,
            state: State::Initializing,
            times,
            sends: FuturesUnordered::new(),
            last_error: None,
            broke: false,
            asked: clock::now(),
            arriving: Arriving::default(),
        }
    }

    /// Runs until the session ends; returns the reason.
    pub(crate) async fn run(mut self) -> (CloseReason, Option<SendError>) {
        loop {
            // Yields, so that a chatty backend cannot starve others.
            tokio::task::coop::consume_budget().await;
            let wake = self.wake().await;
            if let Some(reason) = self.handle(wake) {
                let reason = self.seen(reason);
                self.finish(reason).await;
                return (reason, self.last_error);
            }
        }
    }

    /// Prefers `Broken` over `Lost` after a broken connection: a restarted backend knows no session, and over
    /// Streamable HTTP the next request reports it as lost.
    fn seen(&self, reason: CloseReason) -> CloseReason {
        match reason {
            CloseReason::Lost if self.broke => CloseReason::Broken,
            reason => reason,
        }
    }

    async fn wake(&mut self) -> Wake {
        let timer = clock::at(self.next_timer());
        let may_send = self.sends.len() < MAX_SENDS;
        let sends = OptionFuture::from((!self.sends.is_empty()).then(|| self.sends.next()));
        tokio::select! {
            // Not `biased`: a chatty backend must not starve errands.
            heard = self.inbound.next() => Wake::Heard(heard),
            errand = self.errands.recv(), if may_send => Wake::Errand(errand),
            () = self.session.nudge.notified() => Wake::Nudged,
            Some(Some(sent)) = sends => Wake::Sent(sent),
            () = tokio::time::sleep_until(timer) => Wake::Timer,
        }
    }

    fn handle(&mut self, wake: Wake) -> Option<CloseReason> {
        match wake {
            Wake::Heard(Some(Ok(Heard::NoStream(why)))) => {
                // Not a sign of life: it may be from a proxy.
                self.session.note(Quirk::NoStream, &why);
                None
            }
            Wake::Heard(Some(Ok(heard))) => {
                self.session.heard();
                self.arriving.heard(&heard, &self.session.pending);
                match heard {
                    Heard::Message(bytes) => drop(self.session.route(bytes, Origin::Stream)),
                    Heard::Alive | Heard::Part | Heard::NoStream(_) => {}
                    Heard::Noise => self.session.dropped("malformed"),
                    Heard::TooLarge { answers, limit } => self.session.route_too_large(&answers, limit),
                }
                self.input(Input::Heard)
            }
            Wake::Heard(Some(Err(error))) => self.stream_lost(error),
            Wake::Heard(None) => self
                .stream_lost(SendError::maybe_sent(Cause::Broken("the backend ended its stream".to_owned()))),
            Wake::Errand(errand) => {
                self.run_errand(errand?);
                self.quarantine().or_else(|| self.settle())
            }
            // Callers also nudge if the errand queue was full.
            Wake::Nudged => self.take_wishes().or_else(|| self.quarantine()),
            Wake::Sent(Sent::Nothing) => None,
            Wake::Sent(Sent::Probe(ok, sent)) => {
                let took = clock::now().saturating_duration_since(sent);
                self.session.reporter.on(Event::Probed { ok, took });
                // Any later sign of life counts as an answer. Calls are counted first, as the last call records its
                // sign of life before it ends.
                let facts = self.facts();
                let lives = ok || self.session.last_heard() > sent;
                if !lives && lock(&self.session.wishes).lost.is_some() {
                    return self.take_wishes();
                }
                self.input_with(if lives { Input::ProbeAnswered } else { Input::ProbeMissed }, facts)
            }
            Wake::Timer => self.tick(),
        }
    }

    fn tick(&mut self) -> Option<CloseReason> {
        let now = clock::now();
        let buried = self.session.pending.bury(now, self.times.cancel_grace);
        for _ in 0..buried {
            self.session.dropped_answer();
        }
        self.session.give_up_asks(now);
        if now >= self.silence() {
            self.asked = now;
            if !self.session.is_parked()
                && let Some(reason) = self.input(Input::Silence)
            {
                return Some(reason);
            }
        }
        self.settle()
    }

    /// Checks if the session can end, or if a suspect one showed a sign of life on a call's own connection.
    fn settle(&mut self) -> Option<CloseReason> {
        let facts = self.facts();
        let lives = matches!(self.state, State::Suspect { since, .. } if self.session.last_heard() > since);
        self.input_with(if lives { Input::Heard } else { Input::Settled }, facts)
    }

    /// The time of the next probe: after some silence, sooner while the session is suspect.
    fn silence(&self) -> Instant {
        let again = self.asked + self.times.probe_timeout;
        match self.state {
            State::Suspect { .. } => again,
            _ => again.max(self.session.last_heard() + self.times.probe_interval),
        }
    }

    fn take_wishes(&mut self) -> Option<CloseReason> {
        let wishes = std::mem::take(&mut *lock(&self.session.wishes));
        if wishes.handshaken
            && let Some(reason) = self.input(Input::Handshaken)
        {
            return Some(reason);
        }
        // Recorded before any end, so that the broken connection is known as its cause.
        self.broke |= wishes.broke;
        if let Some(error) = wishes.lost {
            return self.lost(error);
        }
        if (wishes.broke || wishes.look)
            && let Some(reason) = self.input(Input::ConnectionBroke)
        {
            return Some(reason);
        }
        if let Some(reason) = wishes.cut {
            return self.input(Input::Cut(reason));
        }
        if let Some(reason) = wishes.drain
            && let Some(reason) = self.input(Input::Drain(reason))
        {
            return Some(reason);
        }
        self.settle()
    }

    /// Handles a rejected message: nothing more can be sent, but the stream may still answer earlier requests.
    fn lost(&mut self, error: SendError) -> Option<CloseReason> {
        let input = match error.cause {
            Cause::SessionLost(_) | Cause::WrongVersion(_) => Input::SessionLost,
            Cause::Connect(_) | Cause::Tls(_) => Input::Unreachable,
            _ => return self.stream_lost(error),
        };
        self.last_error = Some(error);
        self.input(input)
    }

    fn stream_lost(&mut self, error: SendError) -> Option<CloseReason> {
        self.last_error = Some(error);
        // The stream has ended; calls in flight may still be answered on their own connections.
        self.inbound = futures::stream::pending().boxed();
        self.input(Input::StreamLost)
    }

    fn input(&mut self, input: Input) -> Option<CloseReason> {
        self.input_with(input, self.facts())
    }

    fn input_with(&mut self, input: Input, facts: Facts) -> Option<CloseReason> {
        let mut known = self.state.standing();
        let effects = self.state.on(input, facts);
        if effects.probe {
            self.probe();
        }
        let queue = &self.session.queue;
        let after = self.state.standing();
        self.broke &= after != Standing::Ready;
        // During the handshake nothing is published; its end publishes.
        if after != Standing::Initializing {
            let told = self.session.publish(after);
            known = if known == after { told } else { known };
        }
        match after {
            _ if known == after => {}
            Standing::Ready => queue.session_ready(self.session.lane, self.session.limit),
            // Agents bound to it must not wait for it, and a new session may be needed.
            Standing::Draining => {
                queue.session_gone(self.session.lane);
                queue.demand.notify_one();
            }
            _ => {}
        }
        if after == Standing::Draining && self.awaited() == 0 && effects.close.is_none() {
            // The last call ended before it could see the drain.
            return self.state.on(Input::Settled, self.facts()).close;
        }
        effects.close
    }

    fn facts(&self) -> Facts {
        Facts {
            now: clock::now(),
            in_flight: self.awaited(),
            answers_apart: self.session.kind == TransportKind::Http,
            last_heard: self.session.last_heard(),
            drain: self.times.drain,
        }
    }

    /// Calls the end waits for. At shutdown or retirement cancelled calls do not count: the backend was notified.
    fn awaited(&self) -> usize {
        let in_flight = self.session.in_flight();
        match self.state {
            State::Draining { reason: CloseReason::Shutdown, .. } => {
                in_flight.saturating_sub(self.session.pending.zombies().0)
            }
            _ => in_flight,
        }
    }

    fn probe(&mut self) {
        let session = self.session.clone();
        let limit = self.times.probe_timeout;
        let sent = clock::now();
        let probe = async move {
            let mut lives = session.is_alive(limit).await;
            // A probe that lacked a descriptor says nothing about the session.
            while !lives && descriptors::are_short() {
                tokio::time::sleep(WITHOUT_DESCRIPTOR).await;
                lives = session.is_alive(limit).await;
            }
            Sent::Probe(lives, sent)
        };
        self.sends.push(probe.boxed());
    }

    fn run_errand(&mut self, errand: Errand) {
        let grace = self.times.cancel_grace;
        match errand {
            Errand::Send(bytes) => {
                let exchange = self.session.outbound.tell(bytes);
                self.sends.push(read_out(self.session.clone(), exchange, grace));
            }
            Errand::Finish(exchange) => self.sends.push(read_out(self.session.clone(), exchange, grace)),
            Errand::Abandon { id, exchange, accepted } => {
                self.sends.push(abandon(self.session.clone(), id, exchange, accepted, grace));
            }
        }
    }

    /// Retires the session if too many cancelled calls still run on the backend (SEMANTICS.md 5).
    fn quarantine(&mut self) -> Option<CloseReason> {
        let (zombies, _) = self.session.pending.zombies();
        let ready = matches!(self.state, State::Ready { .. });
        (ready && zombies * 4 > self.session.limit.max(4))
            .then(|| self.input(Input::Drain(CloseReason::Violation)))
            .flatten()
    }

    fn next_timer(&self) -> Instant {
        let mut next = self.silence();
        if let (_, Some(oldest)) = self.session.pending.zombies() {
            next = next.min(oldest + self.times.cancel_grace);
        }
        if let Some(at) = self.state.given_up_at(self.session.last_heard(), self.times.drain) {
            next = next.min(at);
        }
        self.session.next_ask().map_or(next, |ask| next.min(ask))
    }

    async fn finish(&mut self, reason: CloseReason) {
        let cause = match (&self.last_error, reason) {
            (Some(error), CloseReason::Broken | CloseReason::Lost) => error.cause.clone(),
            (_, reason) => Cause::Closed(reason.as_str()),
        };
        end(&self.session, &cause, (!reason.is_gone()).then_some(self.times.connect)).await;
    }
}
