//! `GET /api/v1/events`: recent events and then new ones, one JSON object per line.

use std::{convert::Infallible, sync::Arc};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use futures::{StreamExt as _, stream};

use super::server::{Shared, problem};

pub(super) async fn events(State(shared): State<Arc<Shared>>, uri: Uri) -> Response {
    let follows = match uri.query().unwrap_or_default() {
        "" | "follow=true" => true,
        "follow=false" => false,
        other => {
            return problem(
                StatusCode::BAD_REQUEST,
                &format!("{other:?}: the only option is follow=true or false"),
            );
        }
    };
    let line = |line: Arc<str>| Ok::<_, Infallible>(Bytes::from(format!("{line}\n")));
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-cache")];
    if !follows {
        let recent = shared.control.events();
        return (kind, Body::from_stream(stream::iter(recent).map(line))).into_response();
    }
    let Some((recent, live)) = shared.control.follow() else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "too many follow the events already");
    };
    // Ends the stream, so that shutdown does not wait for followers.
    let live = live.take_until(shared.stop.clone().cancelled_owned());
    (kind, Body::from_stream(stream::iter(recent).chain(live).map(line))).into_response()
}
