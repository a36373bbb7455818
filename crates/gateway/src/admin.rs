//! The admin listener: metrics, health, and what the gateway knows about its backends and its configuration.
//!
//! It is guarded by the same rules as the agent listener (peers, host names, origins), and its connections are
//! bounded, so that a scraper that never closes cannot take the agents' descriptors. With an `admin_token` everything
//! under `/api` needs it; metrics and health say nothing that is worth one.

mod events;
mod verbs;

use std::{
    io,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwap;
use axum::{
    Json, Router,
    extract::{
        Path, Request, State,
        connect_info::{ConnectInfo, Connected},
    },
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::{IncomingStream, Listener},
};
use futures::FutureExt as _;
use mcpool_front::{Gauges, Health as _, HostPolicy, LimitUse, Readiness, TurnedAway};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::verbs::message_of;
use crate::{
    config::Config,
    observe::{Events, Metrics, Status, descriptors},
    reload::ReloadHook,
    verbs::Verb,
};

/// What the admin listener shows.
pub struct Admin {
    /// Health and backends.
    pub status: Arc<Status>,
    /// The series.
    pub metrics: Arc<Metrics>,
    /// Numbers of the agent listener.
    pub gauges: Arc<Gauges>,
    /// What is in force.
    pub config: Arc<ArcSwap<Config>>,
    /// What happened lately.
    pub events: Arc<Events>,
    /// Takes the configuration anew, where that is possible.
    pub reload: Option<ReloadHook>,
}

struct Shared {
    admin: Admin,
    stop: CancellationToken,
}

impl Admin {
    /// Serves until `stop`, and keeps the histograms small meanwhile. Connections that are busy then have a second.
    ///
    /// # Cancel safety
    /// Dropping the future stops accepting; connections end with what they are answering.
    pub async fn run(self, listener: TcpListener, stop: CancellationToken) {
        let shared = Arc::new(Shared { admin: self, stop: stop.clone() });
        let routes = routes(&shared).into_make_service_with_connect_info::<Peer>();
        let listener = Capped { listener, permits: Arc::new(Semaphore::new(MOST_CONNECTIONS)) };
        let serving = axum::serve(listener, routes).with_graceful_shutdown(stop.clone().cancelled_owned());
        let last_moment = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_MOMENT).await;
        };
        tokio::select! {
            served = serving => {
                if let Err(error) = served {
                    tracing::error!(%error, "the admin listener ended");
                }
            }
            () = upkeep(&shared.admin.metrics) => {}
            () = last_moment => {}
        }
    }
}

impl Admin {
    /// The limits of the gateway as a whole, and how much of each is taken.
    fn limits(&self) -> Vec<LimitUse> {
        let mut limits = self.gauges.limits();
        limits.extend(descriptors().map(|(used, limit)| LimitUse { name: "descriptors", used, limit }));
        limits
    }
}

async fn upkeep(metrics: &Metrics) {
    let mut ticks = tokio::time::interval(UPKEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        metrics.upkeep();
    }
}

fn routes(shared: &Arc<Shared>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { Json(json!({ "status": "ok" })) }))
        .route("/readyz", get(readyz))
        .route("/api/v1/backends", get(backends))
        .route("/api/v1/backends/{name}", get(backend))
        .route("/api/v1/backends/{name}/sessions", get(verbs::sessions))
        .route("/api/v1/backends/{name}/{verb}", post(verbs::perform))
        .route("/api/v1/reload", post(verbs::reload))
        .route("/api/v1/events", get(events::events))
        .route("/api/v1/config", get(config))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(shared.clone(), guard))
        .with_state(shared.clone())
}

async fn guard(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    // Operators are few: the rules are read anew each time, so that they are those in force.
    let hosts = HostPolicy::new(&shared.admin.config.load().front);
    let exempt = matches!(request.uri().path(), "/metrics" | "/livez" | "/readyz");
    let identified = shared.identify(request.headers());
    // Whoever has the token is authenticated, wherever that is.
    let checked = if identified == Some(true) { Ok(()) } else { hosts.check_peer(peer) };
    let checked = checked
        .and_then(|()| if exempt { Ok(()) } else { hosts.check_host(request.uri(), request.headers()) })
        .and_then(|()| hosts.check_origin(request.headers()));
    match checked {
        Ok(()) if identified == Some(false) && !exempt => unauthorized(),
        Ok(()) => match AssertUnwindSafe(next.run(request)).catch_unwind().await {
            Ok(response) => response,
            Err(_) => {
                shared.admin.metrics.panicked("admin");
                problem(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the gateway failed on this request; the log says where",
                )
            }
        },
        Err(TurnedAway { status, message, .. }) => problem(status, &message),
    }
}

impl Shared {
    /// Whether the request carries the token; nothing where there is none to carry.
    fn identify(&self, headers: &HeaderMap) -> Option<bool> {
        let config = self.admin.config.load();
        let token = config.admin_token.as_ref()?;
        let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let presented = value.and_then(|value| value.split_once(' '));
        let bearer = presented.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        Some(bearer.is_some_and(|(_, presented)| token.is(presented.trim())))
    }
}

fn unauthorized() -> Response {
    let why = "this needs the admin_token of the configuration: Authorization: Bearer TOKEN";
    let mut response = problem(StatusCode::UNAUTHORIZED, why);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// What is changed is POSTed, what is read is GETted.
async fn wrong_method(uri: Uri) -> Response {
    let changes = uri.path() == "/api/v1/reload"
        || uri.path().rsplit('/').next().is_some_and(|last| Verb::NAMES.contains(&last));
    let method = if changes { "POST" } else { "GET" };
    let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, &format!("only {method} is served here"));
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(method));
    response
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let Admin { status, metrics, gauges, .. } = &shared.admin;
    metrics.limits(&shared.admin.limits());
    let text = metrics.render(status.gateway(), gauges, status.readiness());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let mut readiness = shared.admin.status.readiness();
    let mut body = shared.admin.status.details();
    if let Some(overload) = shared.admin.gauges.overload() {
        body.insert("overload".to_owned(), overload);
        readiness = if readiness == Readiness::Ok { Readiness::Degraded } else { readiness };
    }
    let strain = shared.admin.gauges.strain();
    readiness = if readiness == Readiness::Ok && strain.refuses() { Readiness::Degraded } else { readiness };
    strain.put_into(&mut body);
    body.insert("status".to_owned(), readiness.as_str().into());
    let status = if readiness.serves() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Value::Object(body))).into_response()
}

async fn backends(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let limits = shared.admin.limits();
    let limits = limits.iter().map(|one| json!({ "limit": one.name, "used": one.used, "most": one.limit }));
    Json(json!({ "backends": shared.admin.status.backends(), "limits": limits.collect::<Vec<_>>() }))
}

async fn backend(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Response {
    match shared.admin.status.backend(&name) {
        Some(picture) => Json(picture).into_response(),
        None => shared.unknown_backend(&name),
    }
}

async fn config(State(shared): State<Arc<Shared>>) -> Response {
    let config = shared.admin.config.load();
    let body = json!({
        "file": config.file,
        "generation": config.generation,
        "environment": config.variables,
        "config": config.shown(),
    });
    Json(body).into_response()
}

async fn unknown(uri: Uri) -> Response {
    tracing::debug!(path = uri.path(), "unknown path on the admin listener");
    problem(
        StatusCode::NOT_FOUND,
        "nothing is served here; try /metrics, /livez, /readyz, /api/v1/backends, /api/v1/config, /api/v1/events",
    )
}

/// An error as of RFC 9457.
fn problem(status: StatusCode, detail: &str) -> Response {
    let title = status.canonical_reason().unwrap_or("error");
    let body = json!({ "type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail });
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}

/// A listener that holds back connections above a number.
struct Capped {
    listener: TcpListener,
    permits: Arc<Semaphore>,
}

/// A connection and its permit.
struct Counted {
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
}

/// Who connected.
#[derive(Clone, Copy, Debug)]
struct Peer(SocketAddr);

impl Listener for Capped {
    type Io = Counted;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Counted, SocketAddr) {
        let permit = self.permits.clone().acquire_owned().await.expect("the semaphore is never closed");
        // axum's own accept retries and backs off.
        let (stream, peer) = Listener::accept(&mut self.listener).await;
        (Counted { stream, _permit: permit }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connected<IncomingStream<'_, Capped>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Capped>) -> Self {
        Self(*stream.remote_addr())
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Operators and scrapers are few.
const MOST_CONNECTIONS: usize = 1_024;
/// A sample takes 8 bytes until the next upkeep.
const UPKEEP: Duration = Duration::from_secs(2);
const LAST_MOMENT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
