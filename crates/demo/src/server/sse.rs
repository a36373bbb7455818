//! HTTP+SSE of 2024-11-05: one stream per session, and a POST that only acknowledges.
//!
//! The subtle thing: the session is the stream. Its guard rides in the response body, so the session ends in
//! the moment hyper drops that body, whatever the reason.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::Shared;
use super::body::{Body, Piece};
use super::dispatch::{Dispatch, Step};
use super::http::{
    Answer, Conn, accepts, event_stream, is_json, read_body, refuse, respond, stream_options, text,
};
use super::job::Out;
use super::message::{BadMessage, Framing, Reply, read};
use super::session::{Session, Wire};
use super::stats::{Held, Kind};
use crate::script::{FaultKind, PingKiller, Script, Stage};

impl Conn {
    /// GET: opens a session and its stream.
    pub(crate) async fn sse_open(&self, request: &Request<Incoming>, script: &Arc<Script>) -> Answer {
        if script.require_accept && !accepts(request.headers(), &["text/event-stream"]) {
            return text(StatusCode::NOT_ACCEPTABLE, "Not Acceptable");
        }
        let fault = self.shared.hit(Stage::Listen);
        if let Some(FaultKind::Delay(time)) = fault {
            tokio::time::sleep(time).await;
        }
        if let Some(fault) = fault.clone()
            && let Some(answer) = refuse(fault).await
        {
            return answer;
        }
        let opened = self.shared.sessions.open(Wire::Sse, script.session_cap, &self.shared.stats);
        let Some(session) = opened else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "Too many open sessions");
        };
        self.own(&session, request.headers(), script);
        let guard = StreamGuard::new(&self.shared, &session, true);
        let Some(rx) = session.attach() else {
            return text(StatusCode::CONFLICT, "Conflict");
        };
        let head = endpoint_event(script, &session.id);
        match fault {
            Some(FaultKind::CutAt(at)) => {
                let at = at.min(head.len());
                return respond(StatusCode::OK, "text/event-stream", Body::cut(head.slice(..at)));
            }
            Some(FaultKind::Empty) => {
                return respond(StatusCode::OK, "text/event-stream", Body::default());
            }
            Some(FaultKind::Silent) => {
                return event_stream(Bytes::new(), rx, stream_options(script, true), guard);
            }
            _ => {}
        }
        self.watch(&session, script);
        event_stream(head, rx, stream_options(script, true), guard)
    }

    /// POST: hands one message to the session.
    pub(crate) async fn sse_post(&self, request: Request<Incoming>, script: &Arc<Script>) -> Answer {
        let id = match session_of(request.uri().query()) {
            None => return text(StatusCode::BAD_REQUEST, "session_id is required"),
            Some(id) if !is_session_id(id) => {
                return text(StatusCode::BAD_REQUEST, "Invalid session ID");
            }
            Some(id) => id,
        };
        let found = self.shared.sessions.find(id, Wire::Sse, None);
        let Some(session) = found.filter(|session| self.knows(session, request.headers(), script)) else {
            return text(StatusCode::NOT_FOUND, "Could not find session");
        };
        let Some(stream) = session.stream() else {
            return text(StatusCode::NOT_FOUND, "Could not find session");
        };
        if !is_json(request.headers()) {
            return text(StatusCode::BAD_REQUEST, "Invalid Content-Type header");
        }
        let (parts, body) = request.into_parts();
        let body = match read_body(body).await {
            Ok(body) => body,
            Err(answer) => return answer,
        };
        self.shared.records.keep(script.record, &Request::from_parts(parts, ()), body.clone());
        self.sse_take(&session, script, stream, &body).await
    }

    async fn sse_take(
        &self,
        session: &Arc<Session>,
        script: &Arc<Script>,
        stream: mpsc::Sender<Piece>,
        body: &Bytes,
    ) -> Answer {
        let message = match read(body) {
            Ok(message) => message,
            Err(BadMessage::Json | BadMessage::Shape(_)) => {
                return text(StatusCode::BAD_REQUEST, "Could not parse message");
            }
        };
        if !script.handover_delay.is_zero() && message.method.as_deref() == Some("notifications/initialized")
        {
            self.hand_over_later(session, script, body.clone());
            return accepted();
        }
        let step = Dispatch { shared: &self.shared, script, session }.take(&message, body);
        let reply = match step {
            Step::Taken => return accepted(),
            Step::Bad => return text(StatusCode::BAD_REQUEST, "Could not parse message"),
            Step::Fault(fault) => return refuse(fault).await.unwrap_or_else(accepted),
            Step::Later(job) => {
                let messages = Some(stream.clone());
                self.run.spawn(job.run(Out { tx: stream, framing: Framing::Sse, messages }));
                return accepted();
            }
            Step::Instant(id, reply) => reply.frame(&id, Framing::Sse),
            Step::TooEarly(id) => Reply::invalid_params().frame(&id, Framing::Sse),
        };
        if script.no_backpressure {
            self.run.spawn(async move { drop(stream.send(Piece::Event(reply)).await) });
            return accepted();
        }
        // a stream nobody reads holds this POST back, and with it the client that caused it
        let _ = stream.send(Piece::Event(reply)).await;
        accepted()
    }

    /// The acknowledgement of a message overtakes the message itself.
    fn hand_over_later(&self, session: &Arc<Session>, script: &Arc<Script>, body: Bytes) {
        let (shared, session, script) = (Arc::clone(&self.shared), Arc::clone(session), Arc::clone(script));
        self.run.spawn(async move {
            tokio::time::sleep(script.handover_delay).await;
            if let Ok(message) = read(&body) {
                let _ =
                    Dispatch { shared: &shared, script: &script, session: &session }.take(&message, &body);
            }
        });
    }

    /// Starts the ping killer of a session's stream, when the script has one.
    pub(crate) fn watch(&self, session: &Arc<Session>, script: &Script) {
        if let Some(killer) = script.ping_killer {
            let (shared, session) = (Arc::clone(&self.shared), Arc::clone(session));
            self.run.spawn(ping(shared, session, killer));
        }
    }
}

/// Pings until the stream is gone or an answer is missing.
async fn ping(shared: Arc<Shared>, session: Arc<Session>, killer: PingKiller) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(killer.every) => {}
            () = session.closed.cancelled() => return,
        }
        let Some(tx) = session.stream() else { return };
        if !session.initialized.load(std::sync::atomic::Ordering::Relaxed) {
            continue;
        }
        let (id, answer) = session.ask();
        let event = super::message::outgoing(Some(id), "ping", "{}", Framing::Sse);
        let asked = async {
            tx.send(Piece::Event(event)).await.ok()?;
            answer.await.ok()
        };
        if tokio::time::timeout(killer.within, asked).await.ok().flatten().is_none() {
            session.forget_ask(id);
            shared.stats.pings_missed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            shared.sessions.close(&session);
            return;
        }
    }
}

/// Lives in a stream's body: counts it, and ends an HTTP+SSE session with it.
pub(crate) struct StreamGuard {
    shared: Arc<Shared>,
    session: Arc<Session>,
    ends_session: bool,
    _held: Held,
}

impl StreamGuard {
    pub(crate) fn new(shared: &Arc<Shared>, session: &Arc<Session>, ends_session: bool) -> Self {
        Self {
            shared: Arc::clone(shared),
            session: Arc::clone(session),
            ends_session,
            _held: shared.stats.hold(Kind::Stream),
        }
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        if self.ends_session {
            self.shared.sessions.close(&self.session);
        }
    }
}

fn endpoint_event(script: &Script, id: &str) -> Bytes {
    let (prefix, path) = (&script.endpoint_prefix, &script.messages_path);
    Bytes::from(format!("event: endpoint\ndata: {prefix}{path}?session_id={id}\n\n"))
}

fn session_of(query: Option<&str>) -> Option<&str> {
    query?.split('&').find_map(|pair| pair.strip_prefix("session_id="))
}

fn is_session_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())
}

fn accepted() -> Answer {
    text(StatusCode::ACCEPTED, "Accepted")
}
