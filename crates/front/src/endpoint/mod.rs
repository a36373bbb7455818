//! The endpoint of one connection: checks a request, finds its route, and hands its message to a transport.
//!
//! The request decides, not the path. A POST that names an HTTP+SSE session is a message of that session, a POST that
//! is marked as stateless (2026-07-28) is served without a session, and any other POST is Streamable HTTP. A GET with a
//! session opens a stream of it; a GET without one opens an HTTP+SSE session.

pub(crate) mod cors;
pub(crate) mod pages;
pub(crate) mod route;

use std::{convert::Infallible, future::Future, net::SocketAddr, pin::Pin, sync::Arc};

use http::{HeaderName, HeaderValue, Method, Request, StatusCode, header, request::Parts};
use hyper::{body::Incoming as Payload, service::Service};
use mcpool_wire::{Backends, Era, IdScanner};
use serde_json::json;

use crate::{
    endpoint::route::{Route, session_of},
    guard::{GuardedRequest, Verdict},
    host_policy::TurnedAway,
    http::{
        headers::{Accept, SESSION_ID, VERSION, coding_of, is_json, text},
        request_body::{self, Received},
        response::{Response, refusal},
        response_body::AgentBody,
    },
    limits::refused::{NoPlace, overloaded},
    message::Parcel,
    observe::{Cause, FrontEvent, Transport},
    session::{Front, RequestHead},
    sse,
    stateless::{self, Stateless},
    stream::connection::ConnectionState,
    streamable::{self, batch},
};

/// Headers that may occur only once, besides all that begin with `mcp-`: of two values it would be unclear which one
/// counts.
const SINGLE: [&str; 5] = ["host", "authorization", "content-type", "last-event-id", "origin"];

/// The service of one connection.
pub(crate) struct Endpoint<B: Backends> {
    pub(crate) front: Arc<Front<B>>,
    pub(crate) stateless: Arc<Stateless<B::Link>>,
    pub(crate) peer: SocketAddr,
    pub(crate) connection: Arc<ConnectionState>,
}

impl<B: Backends> Service<Request<Payload>> for Endpoint<B> {
    type Response = http::Response<AgentBody>;
    type Error = Infallible;
    // Boxed: hyper reserves room for it in every connection, even an idle one.
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Payload>) -> Self::Future {
        let in_flight = self.connection.request_in_flight();
        let (front, stateless) = (Arc::clone(&self.front), Arc::clone(&self.stateless));
        let (peer, connection) = (self.peer, Arc::clone(&self.connection));
        // Work that is rare or long has a box of its own, so that this one stays small.
        Box::pin(async move {
            let (parts, payload) = request.into_parts();
            let response = serve(&front, &stateless, peer, &parts, payload, &connection).await;
            let Response { http: mut response, cause, transport } = response;
            let code = response.status().as_u16();
            front.common.emit(&FrontEvent::Responded { transport, code, cause });
            cors::share(&front.common.in_force().hosts, &parts, response.headers_mut());
            Ok(response.map(|body| body.holding(in_flight)))
        })
    }
}

async fn serve<B: Backends>(
    front: &Arc<Front<B>>,
    stateless: &Arc<Stateless<B::Link>>,
    peer: SocketAddr,
    parts: &Parts,
    payload: Payload,
    connection: &Arc<ConnectionState>,
) -> Response {
    let route = Route::of(parts.uri.path(), parts.uri.query());
    if let Err(refused) = admit(front, peer, &route, parts) {
        return *refused;
    }
    if parts.method == Method::OPTIONS
        && let Some(methods) = route.methods()
    {
        return cors::preflight(&front.common.in_force().config, &parts.headers, methods);
    }
    if route.is_health() {
        return health(front, &route, parts);
    }
    let backend = route.backend();
    let identity = match front.guard.check(&GuardedRequest { peer, parts, backend }) {
        Verdict::Admitted(identity) => identity,
        Verdict::Refused(refusal) => return Response::denied(&refusal),
    };
    let head = RequestHead { peer: peer.ip(), headers: &parts.headers, backend, identity: &identity };
    match route {
        Route::Agent(_) => match parts.method {
            Method::POST => post(front, stateless, &head, parts, payload, connection).await,
            Method::GET => Box::pin(get(front, &head)).await,
            Method::DELETE => Box::pin(streamable::delete(front, &head)).await,
            _ => Response::method_not_allowed("GET, POST, DELETE, OPTIONS"),
        },
        Route::Messages(name, session) => match parts.method {
            Method::POST => {
                let held = front.agents.backend_of(session);
                let held = held.filter(|held| name.is_none_or(|name| name == &**held));
                let head = RequestHead { backend: held.as_deref().or(Some("")), ..head };
                post(front, stateless, &head, parts, payload, connection).await
            }
            _ => Response::method_not_allowed("POST, OPTIONS"),
        },
        Route::Servers if is_read(parts) => pages::servers(front, &head, &parts.uri),
        Route::Servers => Response::method_not_allowed("GET, HEAD"),
        Route::Unknown | Route::Health | Route::Livez | Route::Readyz => unknown_path(),
    }
}

/// Health pages for probes. The guard is not asked: a probe has no credentials.
fn health<B: Backends>(front: &Front<B>, route: &Route<'_>, parts: &Parts) -> Response {
    match route {
        _ if !is_read(parts) => Response::method_not_allowed("GET, HEAD"),
        Route::Livez => pages::livez(),
        Route::Readyz => pages::readyz(front, is_foreign(front, parts)),
        _ => pages::health(front, is_foreign(front, parts)),
    }
}

fn is_read(parts: &Parts) -> bool {
    parts.method == Method::GET || parts.method == Method::HEAD
}

/// Whether a health page is asked for under a host name that is not served. It then names no backend.
fn is_foreign<B: Backends>(front: &Front<B>, parts: &Parts) -> bool {
    front.common.in_force().hosts.check_host(&parts.uri, &parts.headers).is_err()
}

/// Checks host, origin, peer and headers of a request before anything else is read.
fn admit<B: Backends>(
    front: &Front<B>,
    peer: SocketAddr,
    route: &Route<'_>,
    parts: &Parts,
) -> Result<(), Box<Response>> {
    let in_force = front.common.in_force();
    let limit = in_force.config.limits.header_bytes.max(8 << 10);
    if size_of(parts) > limit {
        let message = format!("the header is larger than {limit} bytes");
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Err(Box::new(Response::refused(status, None, -32600, &message)));
    }
    let hosts = &in_force.hosts;
    let checked = hosts
        .check_peer(peer)
        .and_then(|()| if route.is_health() { Ok(()) } else { hosts.check_host(&parts.uri, &parts.headers) })
        .and_then(|()| hosts.check_origin(&parts.headers));
    checked.map_err(|TurnedAway { status, kind, message }| {
        front.common.refused(kind);
        // A JSON-RPC error, which an MCP client shows and a person can read.
        Box::new(Response::json(status, Cause::Agent, refusal(None, -31910, &message)))
    })?;
    let is_single = |name: &str| SINGLE.contains(&name) || name.starts_with("mcp-");
    let is_doubled = |name: &&HeaderName| parts.headers.get_all(*name).iter().nth(1).is_some();
    // Repeated names are stored once, so equal counts mean that no header is doubled.
    let doubled = parts.headers.len() != parts.headers.keys_len();
    if doubled
        && let Some(name) = parts.headers.keys().filter(|name| is_single(name.as_str())).find(is_doubled)
    {
        let message = format!("the header {name} must not be sent twice");
        return Err(Box::new(Response::refused(StatusCode::BAD_REQUEST, None, -32600, &message)));
    }
    let forwarded = &in_force.config.forward_headers;
    if parts.headers.contains_key(header::AUTHORIZATION) && !forwarded.contains(&header::AUTHORIZATION) {
        front.common.authorization_ignored();
    }
    Ok(())
}

async fn post<B: Backends>(
    front: &Arc<Front<B>>,
    stateless: &Arc<Stateless<B::Link>>,
    head: &RequestHead<'_>,
    parts: &Parts,
    payload: Payload,
    connection: &Arc<ConnectionState>,
) -> Response {
    let session = session_of(parts.uri.query());
    let transport = if session.is_some() { Transport::Sse } else { Transport::Http };
    if !is_json(&parts.headers) {
        let message = "Content-Type must be application/json";
        return Response::refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, None, -32600, message).over(transport);
    }
    if let Some(coding) = coding_of(&parts.headers) {
        let message = format!("a body with Content-Encoding {coding} is not read: send it as it is");
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Response::refused(status, None, -32600, &message)
            .with(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"))
            .over(transport);
    }
    let expects = parts.headers.contains_key(header::EXPECT);
    let (bytes, charge) = match request_body::receive(&front.common, payload, expects).await {
        Ok(Received::Whole(bytes, charge)) => (bytes, charge),
        Ok(Received::Unkept(seen)) => {
            return unkept(front, head, session, &seen).over(transport);
        }
        Err(refused) => return refused.over(transport),
    };
    match (session, Parcel::parse(bytes, charge)) {
        (Some(session), Err(error)) => sse::undecodable(front, head, session, &error),
        (None, Err(error)) => Response::undecodable(&error),
        (Some(session), Ok(parcel)) => sse::parcel(front, head, session, parcel).await,
        (None, Ok(Parcel::One(incoming))) if stateless::is_modern(&parts.headers, &incoming) => {
            Box::pin(stateless::message(front, stateless, head, incoming, connection)).await
        }
        (None, Ok(Parcel::One(incoming))) => streamable::message(front, head, incoming, connection).await,
        (None, Ok(Parcel::Many(messages))) => Box::pin(batch::serve(front, head, messages, connection)).await,
    }
    .over(transport)
}

async fn get<B: Backends>(front: &Arc<Front<B>>, head: &RequestHead<'_>) -> Response {
    let headers = head.headers;
    if Era::of_header(text(headers, &VERSION)) == Era::Modern {
        return Response::method_not_allowed("POST").over(Transport::Http);
    }
    if !Accept::of(headers).events {
        let message = "a GET opens an event stream: Accept must allow text/event-stream";
        return Response::refused(StatusCode::NOT_ACCEPTABLE, None, -32600, message);
    }
    match text(headers, &SESSION_ID) {
        Some(session) => streamable::listen(front, head, session).await.over(Transport::Http),
        None => sse::connect(front, head).await.over(Transport::Sse),
    }
}

/// Refuses a message that was read without being stored, under its id if that was seen.
fn unkept<B: Backends>(
    front: &Front<B>,
    head: &RequestHead<'_>,
    session: Option<&str>,
    seen: &IdScanner,
) -> Response {
    let common = &front.common;
    common.memory.shed("body_refused");
    let id = seen.id().filter(|_| seen.has_method());
    let request_id = common.request_id().to_string();
    let refusal = || overloaded(&common.memory).to_response(id, &request_id);
    // A notification or a response: its sender waits for no answer.
    let is_silent = id.is_none() && (seen.has_method() || seen.id().is_some());
    if is_silent {
        common.dropped(if seen.has_method() { "notification" } else { "agent_response" });
    } else {
        // Debug level only: memory pressure is logged for the whole gateway, and any client can cause this line at
        // will.
        tracing::debug!(request_id, "a request was not read: too much is kept in memory");
    }
    if let Some(session) = session {
        let Some(agent) = front.known(Transport::Sse, head, session) else {
            return Response::unknown_session(id);
        };
        if !is_silent {
            agent.core.send_answer(refusal());
        }
        return Response::accepted();
    }
    match text(head.headers, &SESSION_ID) {
        Some(session) if front.known(Transport::Http, head, session).is_none() => {
            Response::unknown_session(id)
        }
        Some(_) if is_silent => Response::accepted(),
        Some(_) => Response::json(StatusCode::OK, Cause::Gateway, refusal()),
        None => Response::no_place(id, &request_id, NoPlace::Overloaded),
    }
}

/// The size of a header block as sent, without spaces.
fn size_of(parts: &Parts) -> usize {
    let fields = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    parts.uri.path_and_query().map_or(0, |uri| uri.as_str().len()) + fields.sum::<usize>()
}

fn unknown_path() -> Response {
    let body = json!({ "error": "not found", "try": ["/mcp", "/sse", "/{backend}/mcp", "/{backend}/sse", "/api/mcp/servers"] });
    Response::value(StatusCode::NOT_FOUND, Cause::Agent, &body)
}
