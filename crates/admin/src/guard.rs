//! Access control of the admin listener. Any web page can send requests to it, also under a name that resolves to this
//! machine; names of backends, their errors and actions must be out of its reach.

use std::{net::IpAddr, panic::AssertUnwindSafe, sync::Arc};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    middleware::Next,
    response::Response,
};
use futures::FutureExt as _;
use mcpool_front::{HostPolicy, TurnedAway, host_of};

use super::server::{Peer, Shared, problem};

/// Marks a request under an unknown host name: its response must not mention backends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Foreign;

/// Header that a page may send only with the target's permission, like `Authorization`.
pub const ADMIN_HEADER: HeaderName = HeaderName::from_static("mcpool-admin");

pub(super) async fn guard(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    // Rules are rebuilt per request, so that a reload applies. Operators are few.
    let hosts = HostPolicy::new(&shared.control.front());
    let path = request.uri().path();
    let exempt = matches!(path, "/metrics" | "/livez" | "/readyz");
    let identified = shared.identify(request.headers());
    // The token authenticates from any address.
    let checked = if identified == Some(true) { Ok(()) } else { hosts.check_peer(peer) };
    let host = if exempt && identified == Some(true) {
        Ok(())
    } else {
        hosts.check_host(request.uri(), request.headers())
    };
    let host = match host {
        Err(_) if path == "/livez" => Ok(()),
        Err(_) if path == "/readyz" => {
            request.extensions_mut().insert(Foreign);
            Ok(())
        }
        // DNS rebinding needs a name, so addresses are safe. Scrapers use addresses.
        Err(_) if path == "/metrics" && is_address(&request) => Ok(()),
        checked => checked,
    };
    let checked = checked.and(host).and_then(|()| hosts.check_origin(request.headers()));
    match checked {
        Ok(()) if identified == Some(false) && !exempt => {
            shared.denied(peer.ip(), request.uri());
            unauthorized()
        }
        Ok(()) => match own_doing(&request) {
            Ok(()) => passed(&shared, request, next).await,
            Err(why) => problem(StatusCode::FORBIDDEN, why),
        },
        Err(TurnedAway { status, message, .. }) => problem(status, &message),
    }
}

async fn passed(shared: &Shared, request: Request, next: Next) -> Response {
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => {
            shared.control.panicked();
            let why = "the gateway failed on this request; the log says where";
            problem(StatusCode::INTERNAL_SERVER_ERROR, why)
        }
    }
}

impl Shared {
    /// True if the request has the token; `None` if no token is configured.
    fn identify(&self, headers: &HeaderMap) -> Option<bool> {
        let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let presented = value.and_then(|value| value.split_once(' '));
        let bearer = presented.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        self.control.is_token(bearer.map(|(_, presented)| presented.trim()))
    }

    fn denied(&self, peer: IpAddr, uri: &Uri) {
        if self.may_tell() {
            tracing::warn!(%peer, path = uri.path(), "request without the admin_token refused (said once a minute)");
        }
    }
}

/// Rejects cross-site requests that change something: a page can send what forms send, and from another origin nothing
/// else.
fn own_doing(request: &Request) -> Result<(), &'static str> {
    if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        return Ok(());
    }
    let headers = request.headers();
    let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    if let Some(origin) = text(&header::ORIGIN) {
        let own = host_of(request.uri(), headers);
        let from = origin.split_once("://").map(|(_, authority)| authority);
        if from.is_none() || !from.is_some_and(|from| from.eq_ignore_ascii_case(&own)) {
            return Err("only pages of this listener's own origin may change something here");
        }
    }
    if text(&HeaderName::from_static("sec-fetch-site"))
        .is_some_and(|site| !matches!(site, "same-origin" | "none"))
    {
        return Err("only pages of this listener's own origin may change something here");
    }
    let media = text(&header::CONTENT_TYPE).unwrap_or_default().split(';').next().unwrap_or_default();
    let is_json = media.trim().eq_ignore_ascii_case("application/json");
    // Any mcpool header proves that no form sent it.
    let is_ours = |name: &HeaderName| name.as_str().starts_with("mcpool-") || *name == header::AUTHORIZATION;
    let is_marked = headers.keys().any(is_ours);
    if is_json || is_marked {
        return Ok(());
    }
    Err("what changes something needs a header that no form can send: add \"Mcpool-Admin: 1\" or \
         \"Content-Type: application/json\"")
}

/// True if the request names its host by address.
fn is_address(request: &Request) -> bool {
    let host = host_of(request.uri(), request.headers());
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !port.is_empty() => name,
        _ => &host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    bare.unwrap_or(name).parse::<IpAddr>().is_ok()
}

fn unauthorized() -> Response {
    let why = "this needs the admin_token of the configuration: Authorization: Bearer TOKEN";
    let mut response = problem(StatusCode::UNAUTHORIZED, why);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}
