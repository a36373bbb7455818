//! Responses: the place that pairs a JSON-RPC error with an HTTP status.
//!
//! On an existing session an agent with handshake gets 200 or 202 for whatever happens behind the gateway; other
//! statuses are for its own mistakes and for unknown sessions (PROTOCOL.md 0.2, SEMANTICS.md 7).

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use mcpool_wire::{CallError, DecodeError, ErrorKind, RpcId, error_response};
use serde_json::{Value, json};

use crate::{
    guard::Refusal,
    http::response_body::AgentBody,
    limits::refused::NoPlace,
    observe::{Cause, Transport},
    stream::{connection::Unwritten, outbox::Reader},
};

/// The error body for a message that was refused here, before anything was sent to a backend.
pub(crate) fn refusal(id: Option<&RpcId>, code: i32, message: &str) -> Bytes {
    error_response(id, code, message, Some(&refused_here()))
}

/// The error data of a refusal: the call did not run.
pub(crate) fn refused_here() -> Value {
    json!({ "source": "gateway", "executed": "no", "retryable": false })
}

/// A response with its cause and transport, which metrics count it under.
pub(crate) struct Response {
    pub(crate) http: http::Response<AgentBody>,
    pub(crate) cause: Cause,
    pub(crate) transport: Transport,
}

impl Response {
    pub(crate) fn json(status: StatusCode, cause: Cause, body: Bytes) -> Self {
        let mut response = Self::bare(status, cause, AgentBody::full(body));
        response.set(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    /// 200 with a JSON body.
    pub(crate) fn ok(cause: Cause, body: Bytes) -> Self {
        Self::json(StatusCode::OK, cause, body)
    }

    /// 200 without a body.
    pub(crate) fn empty(cause: Cause) -> Self {
        Self::status(StatusCode::OK, cause)
    }

    /// 404 with a JSON body.
    pub(crate) fn not_found(body: Bytes) -> Self {
        Self::json(StatusCode::NOT_FOUND, Cause::Agent, body)
    }

    /// 503 with a JSON body: the client tries again.
    pub(crate) fn unavailable(body: Bytes) -> Self {
        Self::json(StatusCode::SERVICE_UNAVAILABLE, Cause::Gateway, body)
            .with(header::RETRY_AFTER, HeaderValue::from_static("2"))
    }

    /// 500: the gateway failed.
    pub(crate) fn internal_error() -> Self {
        Self::status(StatusCode::INTERNAL_SERVER_ERROR, Cause::Gateway)
    }

    pub(crate) fn value(status: StatusCode, cause: Cause, body: &Value) -> Self {
        Self::json(status, cause, Bytes::from(body.to_string()))
    }

    /// 202: received, without a body.
    pub(crate) fn accepted() -> Self {
        Self::bare(StatusCode::ACCEPTED, Cause::Gateway, AgentBody::empty())
    }

    pub(crate) fn status(status: StatusCode, cause: Cause) -> Self {
        Self::bare(status, cause, AgentBody::empty())
    }

    /// An event stream, never cached and never buffered on its way.
    pub(crate) fn events(body: AgentBody) -> Self {
        let mut response = Self::bare(StatusCode::OK, Cause::Gateway, body);
        response.set(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        response.set(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
        response.set(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
        response
    }

    /// The stream of an agent or of a call.
    pub(crate) fn stream(reader: Reader, first: Option<Bytes>, quiet: std::time::Duration) -> Self {
        Self::events(AgentBody::stream(reader, first, quiet))
    }

    /// The answers of a batch, charged until they are written.
    pub(crate) fn array(answers: Vec<Bytes>, unwritten: Unwritten) -> Self {
        let mut response = Self::bare(StatusCode::OK, Cause::Backend, AgentBody::array(answers, unwritten));
        response.set(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    /// 405: a stream that is over and cannot be resumed. Clients give up on a 405; on an empty stream they would
    /// reconnect for ever.
    pub(crate) fn nothing_left() -> Self {
        let message = "this stream is over, and nothing of it is left to resume";
        Self::refused(StatusCode::METHOD_NOT_ALLOWED, None, -32600, message)
            .with(header::ALLOW, HeaderValue::from_static("GET, POST, DELETE"))
    }

    /// 405: a stream that a newer connection reads; this status keeps its client from reconnecting.
    pub(crate) fn taken() -> Self {
        let message = "another connection reads this stream of the session and has displaced this one: do not come back";
        Self::refused(StatusCode::METHOD_NOT_ALLOWED, None, -32600, message)
            .with(header::ALLOW, HeaderValue::from_static("POST, DELETE"))
    }

    /// A JSON-RPC error caused by the sender.
    pub(crate) fn refused(status: StatusCode, id: Option<&RpcId>, code: i32, message: &str) -> Self {
        Self::json(status, Cause::Agent, refusal(id, code, message))
    }

    /// 400 with a JSON-RPC error.
    pub(crate) fn bad_request(id: Option<&RpcId>, code: i32, message: &str) -> Self {
        Self::refused(StatusCode::BAD_REQUEST, id, code, message)
    }

    /// 200 with a JSON-RPC error caused by the sender, on a session that exists.
    pub(crate) fn refused_ok(id: Option<&RpcId>, code: i32, message: &str) -> Self {
        Self::refused(StatusCode::OK, id, code, message)
    }

    /// 408: the body did not arrive in time.
    pub(crate) fn too_slow(message: &str) -> Self {
        Self::refused(StatusCode::REQUEST_TIMEOUT, None, -32700, message)
    }

    /// 413: the body is too large.
    pub(crate) fn too_large(message: &str) -> Self {
        Self::refused(StatusCode::PAYLOAD_TOO_LARGE, None, -32600, message)
    }

    /// 400: bytes that are no message.
    pub(crate) fn undecodable(error: &DecodeError) -> Self {
        let body = refusal(error.id.as_ref(), error.kind.code(), &error.to_string());
        Self::json(StatusCode::BAD_REQUEST, Cause::Agent, body)
    }

    /// The response when there is no place for another agent session.
    pub(crate) fn no_place(id: Option<&RpcId>, request_id: &str, why: NoPlace) -> Self {
        let (status, kind, message) = match why {
            NoPlace::Draining => {
                (StatusCode::SERVICE_UNAVAILABLE, ErrorKind::Draining, "the gateway is shutting down")
            }
            NoPlace::Full => (
                StatusCode::SERVICE_UNAVAILABLE,
                ErrorKind::Overloaded,
                "too many agent sessions (limits.agent_sessions)",
            ),
            NoPlace::Peer => (
                StatusCode::TOO_MANY_REQUESTS,
                ErrorKind::Overloaded,
                "this address has too many agent sessions (limits.sessions_per_peer)",
            ),
            NoPlace::Overloaded => (
                StatusCode::SERVICE_UNAVAILABLE,
                ErrorKind::Overloaded,
                "too little memory for another agent session now (limits.buffered)",
            ),
        };
        let after = std::time::Duration::from_secs(2);
        let error = CallError::not_sent(kind, message).retry_after(after);
        let body = error.to_response(id, request_id);
        Self::json(status, Cause::Gateway, body).with(header::RETRY_AFTER, HeaderValue::from_static("2"))
    }

    /// The response to a request that the guard refused.
    pub(crate) fn denied(refusal: &Refusal) -> Self {
        let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::FORBIDDEN);
        let mut data = refused_here();
        data["reason"] = refusal.reason.into();
        let body = error_response(None, -31910, &refusal.detail, Some(&data));
        let mut response = Self::json(status, Cause::Agent, body);
        let challenge = refusal.challenge.as_deref().and_then(|text| HeaderValue::from_str(text).ok());
        let headers = response.http.headers_mut();
        headers.extend(challenge.map(|challenge| (header::WWW_AUTHENTICATE, challenge)));
        // Rounded up, so that no client retries too early.
        let after = refusal
            .retry_after
            .map(|after| HeaderValue::from(after.as_secs() + u64::from(after.subsec_nanos() > 0)));
        headers.extend(after.map(|after| (header::RETRY_AFTER, after)));
        response
    }

    pub(crate) fn unknown_session(id: Option<&RpcId>) -> Self {
        let message = "unknown or expired session: send initialize without a session id";
        Self::refused(StatusCode::NOT_FOUND, id, -32600, message)
    }

    pub(crate) fn method_not_allowed(allow: &'static str) -> Self {
        let body = json!({ "error": format!("method not allowed, use {allow}") });
        Self::value(StatusCode::METHOD_NOT_ALLOWED, Cause::Agent, &body)
            .with(header::ALLOW, HeaderValue::from_static(allow))
    }

    pub(crate) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.set(name, value);
        self
    }

    pub(crate) fn over(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    fn set(&mut self, name: HeaderName, value: HeaderValue) {
        self.http.headers_mut().insert(name, value);
    }

    fn bare(status: StatusCode, cause: Cause, body: AgentBody) -> Self {
        let mut http = http::Response::new(body);
        *http.status_mut() = status;
        Self { http, cause, transport: Transport::Other }
    }
}
