//! From an HTTP request to one of the endpoints.
//!
//! The subtle thing: a path is compared without its trailing slash; which spelling was mounted matters only to
//! a script that redirects.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HOST, LOCATION};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::body::{Body, Piece, ServiceError, StreamOptions, reset};
use super::session::Session;
use super::{Run, Shared};
use crate::script::{FaultKind, Script};

/// Largest request body.
const BODY: usize = 4 << 20;
/// Time a client has to send its body.
const BODY_TIME: Duration = Duration::from_secs(30);

/// What a request is answered with.
pub type Answer = Result<Response<Body>, ServiceError>;

/// What a connection needs to serve requests.
pub(crate) struct Conn {
    pub(crate) shared: Arc<Shared>,
    pub(crate) run: Run,
    /// Its number among all connections ever accepted; a balancer goes by it.
    pub(crate) number: u64,
}

enum Place {
    Sse,
    Messages,
    Http,
}

impl Conn {
    /// Serves one request.
    pub(crate) async fn serve(&self, request: Request<Incoming>) -> Answer {
        let script = self.shared.script();
        self.shared.world.unblocked().await;
        if request.method() != Method::POST {
            self.shared.records.keep(script.record, &request, Bytes::new());
        }
        let answer = self.route(request, &script).await;
        if let Ok(response) = &answer
            && !response.status().is_success()
        {
            self.shared.stats.status(response.status().as_u16());
        }
        answer
    }

    async fn route(&self, request: Request<Incoming>, script: &Arc<Script>) -> Answer {
        if let Some(only) = &script.only_host
            && request.headers().get(HOST).is_none_or(|host| host.as_bytes() != only.as_bytes())
        {
            return text(
                StatusCode::FORBIDDEN,
                "Access is only allowed at the host this server was started for",
            );
        }
        let Some((place, mount)) = find(request.uri().path(), script) else {
            return text(StatusCode::NOT_FOUND, "Not Found");
        };
        if script.redirect_slash && request.uri().path() != mount {
            return redirect(&request, mount);
        }
        match (place, request.method()) {
            (Place::Sse, &Method::GET) => self.sse_open(&request, script).await,
            (Place::Messages, &Method::POST) => self.sse_post(request, script).await,
            (Place::Http, &Method::POST) => self.http_post(request, script).await,
            (Place::Http, &Method::GET) => self.http_listen(&request, script).await,
            (Place::Http, &Method::DELETE) => self.http_delete(&request, script),
            (place, _) => not_allowed(match place {
                Place::Sse => "GET, HEAD",
                Place::Messages => "POST",
                Place::Http => "GET, POST, DELETE",
            }),
        }
    }
}

impl Conn {
    /// Marks a session as opened by the credential and the instance of this request.
    pub(crate) fn own(&self, session: &Session, headers: &HeaderMap, script: &Script) {
        session.residue.open(headers.get(AUTHORIZATION).cloned(), self.number % script.instances.max(1));
    }

    /// Whether the instance behind this connection knows the session and lets this credential use it.
    pub(crate) fn knows(&self, session: &Session, headers: &HeaderMap, script: &Script) -> bool {
        let instances = script.instances.max(1);
        let credential = script.bind_credential.then(|| headers.get(AUTHORIZATION));
        session.residue.is_of(credential, (instances > 1).then_some(self.number % instances))
    }
}

fn find<'s>(path: &str, script: &'s Script) -> Option<(Place, &'s str)> {
    let is = |mount: &str| mount.trim_end_matches('/') == path.trim_end_matches('/');
    if let Some(mount) = script.http_paths.iter().find(|m| is(m)) {
        return Some((Place::Http, mount));
    }
    let sse = script.sse_path.as_deref()?;
    if is(sse) {
        return Some((Place::Sse, sse));
    }
    is(&script.messages_path).then_some((Place::Messages, &script.messages_path))
}

/// As Starlette does it: an absolute location built from the Host header.
fn redirect(request: &Request<Incoming>, mount: &str) -> Answer {
    let host = request.headers().get(HOST).and_then(|h| h.to_str().ok()).unwrap_or("localhost");
    let query = request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
    Response::builder()
        .status(StatusCode::TEMPORARY_REDIRECT)
        .header(LOCATION, format!("http://{host}{mount}{query}"))
        .body(Body::default())
        .map_err(ServiceError::other)
}

/// A plain-text answer.
pub fn text(status: StatusCode, text: &'static str) -> Answer {
    respond(status, "text/plain; charset=utf-8", Body::full(Bytes::from_static(text.as_bytes())))
}

/// 405 with what would be allowed.
pub fn not_allowed(allow: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")?;
    answer.headers_mut().insert(ALLOW, http::HeaderValue::from_static(allow));
    Ok(answer)
}

/// Any answer with a body.
pub fn respond(status: StatusCode, content_type: &'static str, body: Body) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    Ok(response)
}

/// An event stream fed by `rx`; `guard` lives as long as the body.
pub fn event_stream(
    head: Bytes,
    rx: tokio::sync::mpsc::Receiver<Piece>,
    options: StreamOptions,
    guard: impl std::any::Any + Send,
) -> Answer {
    let mut answer = respond(StatusCode::OK, "text/event-stream", Body::stream(head, rx, options, guard))?;
    let headers = answer.headers_mut();
    headers.insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("no-cache, no-transform"));
    headers.insert("x-accel-buffering", http::HeaderValue::from_static("no"));
    Ok(answer)
}

/// The faults that answer in place of the server. `None` for those that do not.
pub(crate) async fn refuse(fault: FaultKind) -> Option<Answer> {
    match fault {
        FaultKind::Hang => std::future::pending().await,
        FaultKind::Reset => Some(Err(reset())),
        FaultKind::Status(code, words) => {
            let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            Some(respond(status, "text/plain; charset=utf-8", Body::full(words)))
        }
        _ => None,
    }
}

/// Whether the content type is JSON; parameters are ignored.
pub fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// Whether `Accept` names each of these types literally, as the SDK servers check it.
pub(crate) fn accepts(headers: &HeaderMap, types: &[&str]) -> bool {
    let all = headers.get_all(http::header::ACCEPT);
    types.iter().all(|t| all.iter().any(|v| v.to_str().is_ok_and(|v| v.contains(t))))
}

/// Reads a bounded body. `Err` holds the answer to give instead.
pub async fn read_body(mut body: Incoming) -> Result<Bytes, Answer> {
    // Exact where the length was declared, else zero.
    if body.size_hint().lower() > BODY as u64 {
        return Err(text(StatusCode::PAYLOAD_TOO_LARGE, "Payload Too Large"));
    }
    let all = async {
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(Ok(data)) = frame.map(|f| f.into_data()) else {
                return Err(text(StatusCode::BAD_REQUEST, "Could not read the body"));
            };
            if rest.len() + first.len() + data.len() > BODY {
                return Err(text(StatusCode::PAYLOAD_TOO_LARGE, "Payload Too Large"));
            }
            match (first.is_empty(), rest.is_empty()) {
                (true, true) => first = data,
                _ => {
                    rest.extend_from_slice(&std::mem::take(&mut first));
                    rest.extend_from_slice(&data);
                }
            }
        }
        Ok(if rest.is_empty() { first } else { rest.freeze() })
    };
    match tokio::time::timeout(BODY_TIME, all).await {
        Ok(read) => read,
        Err(_) => Err(text(StatusCode::REQUEST_TIMEOUT, "Request Timeout")),
    }
}

/// The stream options the script asks for.
pub(crate) fn stream_options(script: &Script, own: bool) -> StreamOptions {
    StreamOptions {
        chunk: script.chunk,
        keep_alive: script.keep_alive,
        close_after: script.close_stream_after.filter(|_| own),
    }
}
