//! Accept loop, routes and read-only pages of the admin listener.

use std::{
    convert::Infallible,
    io::Write as _,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{ConnectInfo, Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use flate2::{Compression, write::GzEncoder};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use mcpool_front::LimitUse;
use serde_json::{Map, Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use super::{
    Control, census, events,
    guard::{Foreign, guard},
    listener::{Connection, Connections, Held, Noted, Place, most, turn_away},
    verbs,
};
use mcpool_router::verbs::Verb;

pub(super) struct Shared {
    pub(super) control: Arc<dyn Control>,
    pub(super) stop: CancellationToken,
    connections: Arc<Connections>,
    /// Time of the last log line about a missing token: milliseconds since `started` plus 1; 0 = never.
    told: AtomicU64,
    started: tokio::time::Instant,
}

/// Serves until `stop`, then gives busy connections one second. Also runs the upkeep of the metrics.
///
/// # Cancel safety
/// Dropping the future stops accepting; connections finish their current response.
pub async fn run(control: Arc<dyn Control>, listener: TcpListener, stop: CancellationToken) {
    let shared = Arc::new(Shared {
        control,
        stop: stop.clone(),
        connections: Arc::default(),
        told: AtomicU64::new(0),
        started: tokio::time::Instant::now(),
    });
    let (tasks, kill) = (TaskTracker::new(), CancellationToken::new());
    let _kill = kill.clone().drop_guard();
    tokio::select! {
        () = accept(&shared, &listener, &tasks, &kill) => {}
        () = upkeep(shared.control.as_ref()) => {}
        () = stop.cancelled() => {}
    }
    tasks.close();
    // Busy connections get a moment; idle ones end at once.
    let _ = tokio::time::timeout(LAST_MOMENT, tasks.wait()).await;
}

async fn accept(shared: &Arc<Shared>, listener: &TcpListener, tasks: &TaskTracker, kill: &CancellationToken) {
    let routes = routes(shared);
    let mut backoff = Duration::ZERO;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                backoff = Duration::ZERO;
                match shared.connections.enter(peer.ip(), &shared.control.front()) {
                    Some(place) => {
                        let serving = serve(shared.clone(), routes.clone(), (stream, peer), place);
                        let kill = kill.clone();
                        tasks.spawn(async move { kill.run_until_cancelled(serving).await });
                    }
                    None => turn_away(&stream, peer),
                }
            }
            Err(error) => {
                // Out of descriptors: close the longest-idle connection.
                shared.connections.evict();
                backoff = (backoff * 2).clamp(Duration::from_millis(5), Duration::from_secs(1));
                tracing::warn!(%error, ?backoff, "cannot accept connections of operators");
                tokio::time::sleep(backoff).await;
            }
        }
    }
}

/// Serves one connection until it ends, exceeds a timeout or is evicted.
async fn serve(shared: Arc<Shared>, routes: Router, (stream, peer): (TcpStream, SocketAddr), place: Place) {
    let front = shared.control.front();
    let connection = place.connection.clone();
    let served = connection.clone();
    let service = service_fn(move |mut request: axum::http::Request<Incoming>| {
        let (routes, serving) = (routes.clone(), served.serve());
        request.extensions_mut().insert(ConnectInfo(Peer(peer)));
        async move {
            let response =
                routes.oneshot(request.map(Body::new)).await.unwrap_or_else(|never| match never {});
            Ok::<_, Infallible>(response.map(|body| Held::new(body, serving).boxed()))
        }
    });
    let _ = stream.set_nodelay(true);
    let io = Noted { io: TokioIo::new(stream), connection: connection.clone() };
    let http = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(front.limits.header_bytes.max(8 << 10))
        .serve_connection(io, service);
    let mut http = std::pin::pin!(http);
    let mut looks = tokio::time::interval(Connection::look(&front.times));
    let mut stopping = false;
    loop {
        tokio::select! {
            done = http.as_mut() => {
                if let Err(error) = done {
                    tracing::debug!(%peer, %error, "operator's connection ended");
                }
                return;
            }
            () = connection.end.cancelled() => return,
            _ = looks.tick() => if connection.is_late(&front.times) { return },
            () = shared.stop.cancelled(), if !stopping => {
                stopping = true;
                http.as_mut().graceful_shutdown();
            }
        }
    }
}

impl Shared {
    /// True at most once a minute.
    pub(super) fn may_tell(&self) -> bool {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1);
        let told = self.told.load(Ordering::Relaxed);
        (told == 0 || now >= told + 60_000)
            && self.told.compare_exchange(told, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// The global limits and their use.
    fn limits(&self) -> Vec<LimitUse> {
        let mut limits = self.control.limits();
        let limit = most(&self.control.front());
        limits.push(LimitUse { name: "admin_connections", used: self.connections.count(), limit });
        limits
    }
}

async fn upkeep(control: &dyn Control) {
    let mut ticks = tokio::time::interval(UPKEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        control.upkeep();
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
        .route("/api/v1/agents", get(census::agents))
        .route("/api/v1/calls", get(census::calls))
        .route("/api/v1/events", get(events::events))
        .route("/api/v1/config", get(config))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(shared.clone(), guard))
        .with_state(shared.clone())
}

/// Actions take POST, everything else GET.
async fn wrong_method(uri: Uri) -> Response {
    let changes = uri.path() == "/api/v1/reload"
        || uri.path().rsplit('/').next().is_some_and(|last| Verb::NAMES.contains(&last));
    let method = if changes { "POST" } else { "GET" };
    let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, &format!("only {method} is served here"));
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(method));
    response
}

async fn metrics(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let text = shared.control.metrics(&shared.limits());
    let mut response =
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text.clone()).into_response();
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if takes_gzip(&headers)
        && let Some(packed) = gzip(text.as_bytes())
    {
        *response.body_mut() = Body::from(packed);
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    response
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let weight = parts.find_map(|part| part.strip_prefix("q=")).and_then(|q| q.parse::<f32>().ok());
        is_gzip && weight.is_none_or(|q| q > 0.0)
    })
}

fn gzip(text: &[u8]) -> Option<Vec<u8>> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(text).ok()?;
    packer.finish().ok()
}

async fn readyz(State(shared): State<Arc<Shared>>, foreign: Option<Extension<Foreign>>) -> Response {
    let (readiness, mut body) = shared.control.readiness();
    if foreign.is_some() {
        body = Map::new();
    }
    body.insert("status".to_owned(), readiness.as_str().into());
    let status = if readiness.serves() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Value::Object(body))).into_response()
}

async fn backends(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let limits = shared.limits();
    let limits = limits.iter().map(|one| json!({ "limit": one.name, "used": one.used, "most": one.limit }));
    Json(json!({ "backends": shared.control.backends(), "limits": limits.collect::<Vec<_>>() }))
}

async fn backend(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Response {
    match shared.control.backend(&name) {
        Some(picture) => Json(picture).into_response(),
        None => shared.unknown_backend(&name),
    }
}

async fn config(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(shared.control.config())
}

async fn unknown(uri: Uri) -> Response {
    tracing::debug!(path = uri.path(), "unknown path on the admin listener");
    problem(
        StatusCode::NOT_FOUND,
        "nothing is served here; try /metrics, /livez, /readyz, /api/v1/backends, /api/v1/agents, /api/v1/calls, \
         /api/v1/config, /api/v1/events",
    )
}

/// An RFC 9457 problem response.
pub(super) fn problem(status: StatusCode, detail: &str) -> Response {
    let title = status.canonical_reason().unwrap_or("error");
    let body = json!({ "type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail });
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}

/// The peer address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

/// Upkeep interval. A histogram sample takes 8 bytes until then.
const UPKEEP: Duration = Duration::from_secs(2);
const LAST_MOMENT: Duration = Duration::from_secs(1);
