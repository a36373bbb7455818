//! Streamable HTTP of the legacy revisions: one endpoint, an answer per POST, an optional GET stream.
//!
//! The subtle thing: the session id goes out with the headers of the `initialize` answer, so on an event-stream
//! answer a hasty client can use it before the handshake is done, as with the real servers.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::body::{Body, Piece};
use super::catalog::is_known_version;
use super::dispatch::{Dispatch, Step};
use super::http::{
    Answer as HttpAnswer, Conn, accepts, event_stream, is_json, not_allowed, read_body, refuse, respond,
    stream_options,
};
use super::job::{Job, Out};
use super::message::{BadMessage, Framing, Message, Reply, read};
use super::session::{STREAM_BUFFER, Session, Wire};
use super::sse::StreamGuard;
use super::tools::Work;
use crate::script::{Answer, FaultKind, IdDialect, Lost, Script, Stage};

/// Whether the version a request names is one this server speaks.
fn takes_version(script: &Script, version: &str) -> bool {
    let agreed = script.protocol_version.as_deref().filter(|_| script.strict_version);
    is_known_version(version) && agreed.is_none_or(|agreed| agreed == version)
}

const SESSION: &str = "mcp-session-id";
const VERSION: &str = "mcp-protocol-version";
const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";

impl Conn {
    /// POST: one message; a request is answered right here.
    pub(crate) async fn http_post(&self, request: Request<Incoming>, script: &Arc<Script>) -> HttpAnswer {
        if script.require_accept && !accepts(request.headers(), &[JSON, EVENTS]) {
            let text = "Not Acceptable: Client must accept both application/json and text/event-stream";
            return refused(StatusCode::NOT_ACCEPTABLE, -32600, text, None);
        }
        if !is_json(request.headers()) {
            let text = "Unsupported Media Type: Content-Type must be application/json";
            return refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, -32600, text, None);
        }
        let (parts, body) = request.into_parts();
        let body = match read_body(body).await {
            Ok(body) => body,
            Err(answer) => return answer,
        };
        let request = Request::from_parts(parts, ());
        self.shared.records.keep(script.record, &request, body.clone());
        let headers = request.into_parts().0.headers;
        let message = match read(&body) {
            Ok(message) => message,
            Err(BadMessage::Json) => return refused(StatusCode::BAD_REQUEST, -32700, "Parse error", None),
            Err(BadMessage::Shape(id)) => {
                return refused(StatusCode::BAD_REQUEST, -32600, "Invalid Request", id.as_deref());
            }
        };
        let session = match self.admit(&headers, &message, script) {
            Ok(session) => session,
            Err(answer) => return *answer,
        };
        let opened = session.wire == Wire::Http && !headers.contains_key(SESSION);
        let step = Dispatch { shared: &self.shared, script, session: &session }.take(&message, &body);
        let answer = self.http_answer(step, &session, script).await;
        if !opened {
            return answer;
        }
        answer.and_then(|answer| with_session(answer, &session))
    }

    /// Finds or opens the session a message belongs to.
    fn admit(
        &self,
        headers: &HeaderMap,
        message: &Message<'_>,
        script: &Arc<Script>,
    ) -> Result<Arc<Session>, Box<HttpAnswer>> {
        let id = message.id.map(|id| id.get());
        if let Some(version) = headers.get(VERSION)
            && !version.to_str().is_ok_and(|version| takes_version(script, version))
        {
            // As the SDKs do, under no id of the request.
            let text = "Bad Request: Unsupported protocol version";
            return Err(Box::new(refused(StatusCode::BAD_REQUEST, -32600, text, None)));
        }
        if script.no_session_id {
            return Ok(Session::stateless());
        }
        if headers.contains_key(SESSION) {
            return self.known(headers, script);
        }
        if message.method.as_deref() == Some("initialize") && id.is_some() {
            let opened = self.shared.sessions.open(Wire::Http, script.session_cap, &self.shared.stats);
            let text = "Too many open sessions";
            return opened
                .inspect(|session| self.own(session, headers, script))
                .ok_or_else(|| Box::new(refused(StatusCode::SERVICE_UNAVAILABLE, -32603, text, id)));
        }
        if id.is_some() && message.method.is_some() {
            self.shared.stats.too_early.fetch_add(1, Relaxed);
        }
        Err(Box::new(missing(script, id)))
    }

    fn known(&self, headers: &HeaderMap, script: &Script) -> Result<Arc<Session>, Box<HttpAnswer>> {
        let session = headers.get(SESSION).and_then(|v| v.to_str().ok());
        let find = |id| self.shared.sessions.find(id, Wire::Http, script.idle_expiry);
        let found = session.and_then(find).filter(|session| self.knows(session, headers, script));
        found.ok_or_else(|| {
            // Both say so under no id of the request.
            Box::new(match script.lost {
                Lost::NotFound => refused(StatusCode::NOT_FOUND, -32600, "Session not found", None),
                Lost::BadRequest => {
                    let text = "Bad Request: No valid session ID provided";
                    refused(StatusCode::BAD_REQUEST, -32000, text, None)
                }
            })
        })
    }

    async fn http_answer(&self, step: Step, session: &Arc<Session>, script: &Arc<Script>) -> HttpAnswer {
        match step {
            Step::Taken => accepted(),
            Step::Bad => refused(StatusCode::BAD_REQUEST, -32600, "Invalid Request", None),
            Step::Fault(fault) => refuse(fault).await.unwrap_or_else(accepted),
            Step::TooEarly(id) => {
                let body = Reply::invalid_params().frame(&id, Framing::Json);
                respond(StatusCode::BAD_REQUEST, JSON, Body::full(body))
            }
            Step::Instant(id, reply) => instant(&id, &reply, script),
            Step::Later(job) => self.later(*job, session, script).await,
        }
    }

    async fn later(&self, job: Job, session: &Arc<Session>, script: &Arc<Script>) -> HttpAnswer {
        let (tx, mut rx) = mpsc::channel(STREAM_BUFFER);
        if streams(&job, script) {
            let options = stream_options(script, false);
            let messages = if job.says_on_get() { session.stream() } else { Some(tx.clone()) };
            self.run.spawn(job.run(Out { tx, framing: Framing::Sse, messages }));
            return event_stream(priming(script), rx, options, ());
        }
        let messages = session.stream();
        self.run.spawn(job.run(Out { tx, framing: Framing::Json, messages }));
        let body = match rx.recv().await {
            Some(Piece::Event(bytes)) => Body::full(bytes),
            Some(Piece::Cut(bytes)) => Body::cut(bytes),
            Some(Piece::End) | None => Body::default(),
        };
        respond(StatusCode::OK, JSON, body)
    }

    /// GET: the session's own stream.
    pub(crate) async fn http_listen(&self, request: &Request<Incoming>, script: &Arc<Script>) -> HttpAnswer {
        if !script.get_stream || script.no_session_id {
            return not_allowed("POST, DELETE");
        }
        if script.require_accept && !accepts(request.headers(), &[EVENTS]) {
            let text = "Not Acceptable: Client must accept text/event-stream";
            return refused(StatusCode::NOT_ACCEPTABLE, -32600, text, None);
        }
        if !request.headers().contains_key(SESSION) {
            return missing(script, None);
        }
        let session = match self.known(request.headers(), script) {
            Ok(session) => session,
            Err(answer) => return *answer,
        };
        match self.shared.hit(Stage::Listen) {
            Some(FaultKind::Delay(time)) => tokio::time::sleep(time).await,
            Some(FaultKind::Empty) => return respond(StatusCode::OK, EVENTS, Body::default()),
            Some(fault) => {
                if let Some(answer) = refuse(fault).await {
                    return answer;
                }
            }
            None => {}
        }
        let Some(rx) = session.attach() else {
            let text = "Conflict: Only one SSE stream is allowed per session";
            return refused(StatusCode::CONFLICT, -32600, text, None);
        };
        self.watch(&session, script);
        let guard = StreamGuard::new(&self.shared, &session, false);
        event_stream(priming(script), rx, stream_options(script, true), guard)
    }

    /// DELETE: ends the session; its calls in flight end without an answer.
    pub(crate) fn http_delete(&self, request: &Request<Incoming>, script: &Arc<Script>) -> HttpAnswer {
        if script.no_session_id {
            return not_allowed("POST");
        }
        if !request.headers().contains_key(SESSION) {
            return missing(script, None);
        }
        let session = match self.known(request.headers(), script) {
            Ok(session) => session,
            Err(answer) => return *answer,
        };
        self.shared.stats.deletes.fetch_add(1, Relaxed);
        self.shared.sessions.close(&session);
        Ok(Response::new(Body::default()))
    }
}

fn instant(id: &str, reply: &Reply, script: &Script) -> HttpAnswer {
    if script.answer != Answer::Sse {
        return respond(StatusCode::OK, JSON, Body::full(reply.frame(id, Framing::Json)));
    }
    let event = reply.frame(id, Framing::Sse);
    if script.prime.is_none() && script.chunk.is_none() {
        return respond(StatusCode::OK, EVENTS, Body::full(event));
    }
    let (tx, rx) = mpsc::channel(1);
    // the channel is empty: this cannot fail
    let _ = tx.try_send(Piece::Event(event));
    event_stream(priming(script), rx, stream_options(script, false), ())
}

/// Whether a job's POST becomes an event stream.
fn streams(job: &Job, script: &Script) -> bool {
    let talks = match &job.work {
        Work::Progress { token, log, .. } => token.is_some() || *log,
        Work::Ask { .. } | Work::Allowed { .. } => true,
        Work::Ready(_) | Work::Sleep(..) | Work::Store { .. } | Work::Block(_) => false,
    };
    let needs = matches!(job.fault, Some(FaultKind::Silent | FaultKind::Double));
    match script.answer {
        Answer::Sse => true,
        Answer::Auto => talks || needs,
        Answer::Json => matches!(job.fault, Some(FaultKind::Double)),
    }
}

fn priming(script: &Script) -> Bytes {
    script.prime.map_or_else(Bytes::new, |prime| {
        let id = rand::random::<u64>();
        Bytes::from(format!("id: {id:016x}\nretry: {}\ndata:\n\n", prime.retry_ms))
    })
}

fn with_session(mut answer: Response<Body>, session: &Session) -> HttpAnswer {
    let id = http::HeaderValue::from_str(&session.id).map_err(super::body::ServiceError::other)?;
    answer.headers_mut().insert(SESSION, id);
    Ok(answer)
}

fn missing(script: &Script, id: Option<&str>) -> HttpAnswer {
    let (code, text) = match script.ids {
        IdDialect::Text => (-32600, "Bad Request: Missing session ID"),
        IdDialect::Typed => (-32000, "Bad Request: Server not initialized"),
    };
    refused(StatusCode::BAD_REQUEST, code, text, id)
}

fn refused(status: StatusCode, code: i64, text: &'static str, id: Option<&str>) -> HttpAnswer {
    let body = Reply::error(code, text).frame(id.unwrap_or("null"), Framing::Json);
    respond(status, JSON, Body::full(body))
}

fn accepted() -> HttpAnswer {
    let mut answer = Response::new(Body::default());
    *answer.status_mut() = StatusCode::ACCEPTED;
    Ok(answer)
}
