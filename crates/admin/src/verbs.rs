//! Admin actions over HTTP: the actions of a backend, and reload.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{ConnectInfo, Path, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::server::{Peer, Shared, problem};
use mcpool_router::verbs::Verb;

/// Default and maximum wait for an action.
const WAIT: Duration = Duration::from_secs(30);
const MOST_WAIT: Duration = Duration::from_secs(600);

pub(super) async fn perform(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    Path((name, verb)): Path<(String, String)>,
    uri: Uri,
) -> Response {
    let (wait, pinned) = match shared.options(uri.query().unwrap_or_default()) {
        Ok(options) => options,
        Err(why) => return problem(StatusCode::BAD_REQUEST, &why),
    };
    let Some(verb) = Verb::parse(&verb, pinned) else {
        let names = Verb::NAMES.join(", ");
        return problem(StatusCode::NOT_FOUND, &format!("{verb:?} is no verb; there are: {names}"));
    };
    if pinned && !matches!(verb, Verb::Reconnect { .. }) {
        return problem(StatusCode::BAD_REQUEST, "pinned is an option of reconnect");
    }
    let Some(performing) = shared.control.perform(&name, verb, wait) else {
        return shared.unknown_backend(&name);
    };
    let action = Action::begin(verb.as_str(), Some(&name), peer);
    let done = performing.await;
    let took = action.ended(&done.sentence);
    shared.control.performed(&name, verb, &done.sentence, (peer, took));
    let status = if done.is_done { StatusCode::OK } else { StatusCode::ACCEPTED };
    (status, Json(done.details)).into_response()
}

pub(super) async fn reload(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
) -> Response {
    let Some(reloading) = shared.control.reload() else {
        let why = "this gateway cannot take its configuration anew while it runs; restart it";
        return problem(StatusCode::NOT_IMPLEMENTED, why);
    };
    let action = Action::begin("reload", None, peer);
    let outcome = reloading.await;
    action.ended(outcome.as_ref().unwrap_or_else(|why| why));
    match outcome {
        Ok(message) => Json(json!({ "done": true, "message": message })).into_response(),
        Err(why) => problem(StatusCode::UNPROCESSABLE_ENTITY, &why),
    }
}

pub(super) async fn sessions(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Response {
    match shared.control.sessions(&name) {
        Some(sessions) => Json(json!({ "backend": name, "sessions": sessions })).into_response(),
        None => shared.unknown_backend(&name),
    }
}

/// Log record of an admin action: what, on which backend, from where, result and duration. If its client disconnects,
/// the action continues, and the log says so.
struct Action<'a> {
    what: &'static str,
    backend: Option<&'a str>,
    peer: SocketAddr,
    began: Instant,
    is_told: bool,
}

impl<'a> Action<'a> {
    fn begin(what: &'static str, backend: Option<&'a str>, peer: SocketAddr) -> Self {
        tracing::info!(backend, action = what, %peer, "operator: begins");
        Self { what, backend, peer, began: Instant::now(), is_told: false }
    }

    fn ended(mut self, result: &str) -> Duration {
        self.is_told = true;
        let took = self.began.elapsed();
        self.tell(result, took);
        took
    }

    fn tell(&self, result: &str, took: Duration) {
        let Self { what, backend, peer, .. } = self;
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(backend, action = what, %peer, result, took_ms, "operator: done");
    }
}

impl Drop for Action<'_> {
    fn drop(&mut self) {
        if !self.is_told {
            let took = self.began.elapsed();
            self.tell("the operator did not wait; the action continues", took);
        }
    }
}

impl Shared {
    pub(super) fn unknown_backend(&self, name: &str) -> Response {
        let names = self.control.names();
        problem(StatusCode::NOT_FOUND, &format!("no backend is named {name:?}; there are: {names}"))
    }

    /// Parses `wait` and `pinned` of a query.
    fn options(&self, query: &str) -> Result<(Duration, bool), String> {
        let (mut wait, mut pinned) = (WAIT, false);
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match (key.as_ref(), value.as_ref()) {
                ("wait", text) => wait = self.control.duration(text).map_err(|why| format!("wait: {why}"))?,
                ("pinned", "true" | "") => pinned = true,
                ("pinned", "false") => pinned = false,
                ("pinned", other) => return Err(format!("pinned is true or false, not {other:?}")),
                (other, _) => return Err(format!("{other:?} is no option; there are: wait, pinned")),
            }
        }
        if wait > MOST_WAIT {
            return Err(format!("wait is at most {}m", MOST_WAIT.as_secs() / 60));
        }
        Ok((wait, pinned))
    }
}

/// The message in an action's response body.
#[must_use]
pub fn message_of(body: &Value) -> &str {
    body["message"].as_str().or(body["detail"].as_str()).unwrap_or_default()
}
