//! `GET /api/v1/agents` and `GET /api/v1/calls`: agents and running calls.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use mcpool_front::{Census, CensusQuery};
use serde_json::Value;

use super::server::{Shared, problem};

/// Default and maximum number of rows.
const USUAL: usize = 100;
const MOST: usize = 1_000;

pub(super) async fn agents(State(shared): State<Arc<Shared>>, uri: Uri) -> Response {
    answer(&shared, &uri, |census, query| census.agents(query))
}

pub(super) async fn calls(State(shared): State<Arc<Shared>>, uri: Uri) -> Response {
    answer(&shared, &uri, |census, query| census.calls(query))
}

fn answer(shared: &Shared, uri: &Uri, ask: impl Fn(&dyn Census, &CensusQuery) -> Value) -> Response {
    let Some(census) = shared.control.census() else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "agents are not served yet");
    };
    match query(uri.query().unwrap_or_default()) {
        Ok(query) => match &query.backend {
            Some(name) if shared.control.backend(name).is_none() => shared.unknown_backend(name),
            _ => Json(ask(census, &query)).into_response(),
        },
        Err(why) => problem(StatusCode::BAD_REQUEST, &why),
    }
}

/// Parses `backend`, `limit` and `after` of a query.
fn query(text: &str) -> Result<CensusQuery, String> {
    let mut query = CensusQuery { limit: USUAL, ..CensusQuery::default() };
    for (key, value) in url::form_urlencoded::parse(text.as_bytes()) {
        let number = || format!("{key} is a number, not {value:?}");
        match key.as_ref() {
            "backend" => query.backend = Some(value.into_owned()),
            "limit" => query.limit = value.parse().map_err(|_| number())?,
            "after" => query.after = value.parse().map_err(|_| number())?,
            other => return Err(format!("{other:?} is no option; there are: backend, limit, after")),
        }
    }
    if !(1..=MOST).contains(&query.limit) {
        return Err(format!("limit is 1 to {MOST}"));
    }
    Ok(query)
}
