//! Routing of backend messages, with the same rules for a call's response stream and the session's stream. Never
//! blocks.

use std::sync::Arc;

use bytes::Bytes;
use mcpool_wire::{
    Answer, CallError, CallTrace, DecodeError, Envelope, Era, ErrorKind, IdValue, Kind, LinkEvent, Message,
    Method, error_response, is_batch, result_response, without_nulls, without_verdict,
};

use super::{Session, lock, pending::Delivery, stray::Stray};
use crate::{
    clock,
    error::{Cause, SendError},
    kinds::{CloseReason, Evidence, Mode},
    observe::Event,
    offload::offload,
    quirks::Quirk,
    transport::parts::parts,
};

/// The stream a message came on.
pub(super) enum Origin<'a> {
    /// The session's own stream.
    Stream,
    /// The response stream of this call.
    Exchange { call: u64, trace: Option<&'a Arc<CallTrace>> },
}

/// Role of a message for the call on whose stream it came.
pub(super) enum Routed {
    /// Its response.
    Answer(Answer),
    /// A possible response if nothing better comes.
    Stray(Stray),
    /// Unrelated.
    Elsewhere,
}

impl Routed {
    /// Prefers a response, then the earlier one.
    fn or(self, later: Self) -> Self {
        match (self, later) {
            (answer @ Self::Answer(_), _) | (_, answer @ Self::Answer(_)) => answer,
            (Self::Stray(first), Self::Stray(later)) => Self::Stray(first.or(later)),
            (stray @ Self::Stray(_), _) | (_, stray) => stray,
        }
    }
}

impl Session {
    /// Routes one message, or each of an array.
    pub(super) fn route(&self, bytes: Bytes, origin: Origin<'_>) -> Routed {
        if !is_batch(&bytes) {
            return self.route_one(bytes, &origin);
        }
        match offload(bytes.len(), || parts(bytes)) {
            Ok(parts) => parts
                .into_iter()
                .map(|part| self.route_one(part, &origin))
                .fold(Routed::Elsewhere, Routed::or),
            Err(why) => self.malformed(&why, &origin),
        }
    }

    fn route_one(&self, mut bytes: Bytes, origin: &Origin<'_>) -> Routed {
        let why = match offload(bytes.len(), || Envelope::parse(&bytes)) {
            Ok(envelope) if !is_null_id(&envelope) => return self.sort(&bytes, &envelope, origin),
            Ok(_) => None,
            Err(why) => Some(why),
        };
        // Some servers send `null` for absent members.
        if let Some(mended) = without_nulls(&bytes) {
            bytes = mended;
        }
        match (Envelope::parse(&bytes), why) {
            (Ok(envelope), _) => self.sort(&bytes, &envelope, origin),
            (Err(why), None) | (Err(_), Some(why)) => self.malformed(&why, origin),
        }
    }

    fn sort(&self, bytes: &Bytes, envelope: &Envelope<'_>, origin: &Origin<'_>) -> Routed {
        let message = Message::new(bytes.clone(), envelope);
        match envelope.kind {
            Kind::Success | Kind::Failure => return self.route_answer(message, envelope, origin),
            Kind::Notification => self.route_notification(message, envelope, origin),
            Kind::Request => self.route_request(message, envelope, origin),
        }
        Routed::Elsewhere
    }

    /// Handles a malformed message: it may be the only reply to the call on whose stream it came, or to the one it
    /// names.
    fn malformed(&self, why: &DecodeError, origin: &Origin<'_>) -> Routed {
        self.dropped("malformed");
        if matches!(origin, Origin::Stream) {
            self.note(Quirk::NoMessage, &why.to_string());
        }
        let stray = Stray::malformed(why);
        if matches!(origin, Origin::Exchange { .. }) {
            return Routed::Stray(stray);
        }
        let id = why.id.as_ref().and_then(|id| id.value().as_number_lenient());
        if let Some(id) = id.and_then(|(id, _)| u64::try_from(id).ok()) {
            self.pending.complete(id, stray.answer_to(id));
        }
        Routed::Elsewhere
    }

    fn route_answer(&self, message: Message, envelope: &Envelope<'_>, origin: &Origin<'_>) -> Routed {
        let Some((id, mangled)) = envelope.answers() else {
            self.dropped("unknown_id");
            return Routed::Stray(Stray::unaddressed(message.bytes(), envelope.kind));
        };
        if mangled {
            self.dropped("mangled_id");
            if mutant!(StringIdRefused) {
                return Routed::Elsewhere;
            }
        }
        let bytes = message.bytes().clone();
        let answer = answer_of(message, envelope);
        if matches!(origin, Origin::Exchange { call, .. } if *call == id) {
            return Routed::Answer(answer);
        }
        match self.pending.complete(id, Ok(answer)) {
            Delivery::Delivered => return Routed::Elsewhere,
            Delivery::Late => self.dropped("late_answer"),
            Delivery::Unknown => self.dropped("unknown_id"),
        }
        Routed::Stray(Stray::unaddressed(&bytes, envelope.kind))
    }

    /// Fails the calls that a message too large to store answers.
    pub(super) fn route_too_large(&self, answers: &[u64], limit: usize) {
        let told = answers.iter().filter(|id| {
            let too_large = SendError::maybe_sent(Cause::TooLarge(limit));
            self.pending.complete(**id, Err(too_large)) == Delivery::Delivered
        });
        if told.count() == 0 {
            self.dropped("too_large");
        }
    }

    fn route_notification(&self, message: Message, envelope: &Envelope<'_>, origin: &Origin<'_>) {
        match envelope.method.as_ref() {
            Some(Method::Progress) => {
                let token = envelope.params.progress_token.and_then(IdValue::number_of).map(|(n, _)| n);
                if !token.is_some_and(|token| self.pending.progress(token, &message, clock::now())) {
                    self.dropped("progress");
                }
            }
            Some(
                method @ (Method::ToolsListChanged
                | Method::PromptsListChanged
                | Method::ResourcesListChanged),
            ) => {
                let now = clock::now();
                self.catalog.invalidate(method, now);
                if self.mode == Mode::Shared {
                    self.policy.list_changed(self.lane.pool, self.epoch, method, self.last_tool_call(), now);
                }
                self.route_list_changed(method, message);
            }
            Some(Method::ResourcesUpdated) => self.route_updated(message, envelope),
            Some(Method::Cancelled) => {
                let id = envelope.params.request_id.and_then(|raw| IdValue::parse(raw).ok());
                if !self.withdrawn_by_server(id.as_ref()) {
                    self.dropped("notification");
                }
            }
            Some(Method::LogMessage) => self.route_log(message, envelope, origin),
            _ => self.to_owner(message, "notification"),
        }
    }

    /// Routes a log message to the call it came with if its agent wants that level, else to the owner of a pinned
    /// session, else nowhere unless `fan_out_logs` is set.
    fn route_log(&self, message: Message, envelope: &Envelope<'_>, origin: &Origin<'_>) {
        let line = || LinkEvent::Notification(message.bytes().clone());
        if let Origin::Exchange { call, trace: Some(trace) } = origin {
            trace.mark_part(clock::now());
            let shared = self.mode != Mode::Pinned;
            let level = envelope.params.level.as_deref();
            match self.pending.agent_of(*call).filter(|_| shared) {
                Some(agent) if !self.shared.admits(agent, level) => return,
                Some(agent) => {
                    let on_own = || self.shared.outlet_of(agent).is_some_and(|o| o.push(line()).is_ok());
                    if !self.pending.push_to(*call, line()) && !on_own() {
                        self.dropped("log");
                    }
                    return;
                }
                None if self.pending.push_to(*call, line()) => return,
                None => {}
            }
        }
        if self.mode.is_private() {
            let borrower = lock(&self.owner).as_ref().and_then(|holder| holder.borrower);
            let level = envelope.params.level.as_deref();
            if borrower.is_none_or(|agent| self.shared.admits(agent, level)) {
                self.to_owner(message, "log");
            }
            return;
        }
        if !self.shared.uncorrelated_log(message.bytes(), envelope.params.level.as_deref()) {
            tracing::debug!(session = self.epoch, "a log line of the backend belongs to no call");
            self.dropped("log");
        }
    }

    fn route_list_changed(&self, method: &Method, message: Message) {
        if self.mode == Mode::Pinned {
            self.to_owner(message, "notification");
        } else if self.catalog.announces(method) {
            self.shared.changed(method);
        } else {
            // Agents were not promised such notifications.
            self.dropped("notification");
        }
    }

    fn route_updated(&self, message: Message, envelope: &Envelope<'_>) {
        if self.mode == Mode::Pinned {
            return self.to_owner(message, "notification");
        }
        let uri = envelope.params.uri.as_deref().unwrap_or_default();
        if !self.shared.updated(uri, message.bytes()) {
            self.dropped("updated");
        }
    }

    fn route_request(&self, message: Message, envelope: &Envelope<'_>, origin: &Origin<'_>) {
        let Some(Ok(id)) = envelope.id() else { return self.dropped("server_request") };
        if envelope.method == Some(Method::Ping) {
            return self.send_later(result_response(&id, b"{}"));
        }
        let is_asked = self.mode.is_private() || self.asks_callers(origin);
        if is_asked && self.ask_owner(&message, &id, envelope.method.as_ref(), origin) {
            return;
        }
        // A shared session declared no capabilities, so no agent can be guessed as the addressee.
        self.dropped("server_request");
        if self.mode == Mode::Shared && is_asking(envelope) {
            let why = "the server asked its client for something although nothing was declared";
            self.policy.demote(Evidence::ServerRequest, why, clock::now());
        }
        self.send_later(error_response(Some(&id), -32601, "not offered on this session", None));
    }

    /// True if a server request on a call's stream is for that call's agent: without sessions each call declares its
    /// agent's capabilities.
    fn asks_callers(&self, origin: &Origin<'_>) -> bool {
        self.era == Era::Modern && matches!(origin, Origin::Exchange { trace: Some(_), .. })
    }

    fn to_owner(&self, message: Message, kind: &'static str) {
        let delivered = self
            .owner()
            .is_some_and(|owner| owner.push(LinkEvent::Notification(message.bytes().clone())).is_ok());
        if !delivered {
            self.dropped(kind);
        }
    }

    /// Notifies the owner that its pinned session, and so its state, has ended.
    pub(crate) fn tell_owner_it_ended(&self, reason: CloseReason, why: &str, backend: &Arc<str>) {
        if self.mode != Mode::Pinned || matches!(reason, CloseReason::AgentGone) {
            return;
        }
        let Some(owner) = self.owner() else { return };
        let message =
            format!("the agent's own session with backend {backend:?} ended ({}): {why}", reason.as_str());
        let error = CallError::not_sent(ErrorKind::Lost, message).of_backend(backend.clone());
        if owner.push(LinkEvent::Ended(error)).is_err() {
            self.reporter.on(Event::Dropped { kind: "notification" });
        }
    }

    pub(super) fn owner(&self) -> Option<Arc<dyn mcpool_wire::Outlet>> {
        lock(&self.owner).as_ref()?.outlet.upgrade()
    }

    pub(super) fn dropped(&self, kind: &'static str) {
        self.reporter.on(Event::Dropped { kind });
    }
}

/// True for server requests that need a declared capability.
fn is_asking(envelope: &Envelope<'_>) -> bool {
    let method = envelope.method.as_ref();
    matches!(method, Some(Method::SamplingCreateMessage | Method::ElicitationCreate | Method::RootsList))
}

/// True if a non-response has a `null` id, which counts as absent.
fn is_null_id(envelope: &Envelope<'_>) -> bool {
    envelope.kind == Kind::Request && envelope.is_null_id()
}

/// A response in the form for callers.
fn answer_of(message: Message, envelope: &Envelope<'_>) -> Answer {
    if envelope.kind == Kind::Failure
        && let Some(amended) = without_verdict(message.bytes())
        && let Ok(envelope) = Envelope::parse(&amended)
    {
        let message = Message::new(amended.clone(), &envelope);
        return Answer { is_rpc_error: true, is_tool_error: false, message };
    }
    Answer { is_rpc_error: envelope.kind == Kind::Failure, is_tool_error: envelope.result.is_error, message }
}
