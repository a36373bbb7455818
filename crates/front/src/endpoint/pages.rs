//! Pages for people and probes: discovery of servers, health, readiness.

use std::time::{SystemTime, UNIX_EPOCH};

use http::{StatusCode, Uri, header};
use mcpool_wire::{Backends, Identity, ServerEntry};
use serde_json::{Value, json};

use crate::{
    http::response::Response,
    observe::{Cause, Readiness},
    session::{Front, RequestHead},
};

/// `GET /api/mcp/servers`: the backends an agent may use, with URLs as this caller reaches the gateway.
pub(crate) fn servers<B: Backends>(front: &Front<B>, head: &RequestHead<'_>, uri: &Uri) -> Response {
    let host = uri.authority().map(|authority| authority.as_str());
    let host = host.or_else(|| head.headers.get(header::HOST).and_then(|value| value.to_str().ok()));
    let base = format!("http://{}", host.unwrap_or("localhost"));
    let servers: Vec<Value> =
        front.backends.servers(head.identity).into_iter().map(|entry| with_urls(entry, &base)).collect();
    Response::value(StatusCode::OK, Cause::Gateway, &json!({ "servers": servers }))
}

/// `GET /health`. Under a foreign host name it says nothing about backends.
pub(crate) fn health<B: Backends>(front: &Front<B>, is_foreign: bool) -> Response {
    // A probe has no identity.
    let probe = Identity::anonymous();
    let backends = if is_foreign { Vec::new() } else { front.backends.servers(&probe) };
    let body = json!({
        "status": readiness(front).as_str(),
        "service": "mcpool",
        "version": front.health.version(),
        "timestamp": rfc3339(SystemTime::now()),
        "backends": backends,
    });
    Response::value(StatusCode::OK, Cause::Gateway, &body)
}

pub(crate) fn livez() -> Response {
    Response::value(StatusCode::OK, Cause::Gateway, &json!({ "status": "ok" }))
}

pub(crate) fn readyz<B: Backends>(front: &Front<B>, is_foreign: bool) -> Response {
    let readiness = readiness(front);
    let mut body = front.health.details();
    if let Some(overload) = front.common.gauges.overload() {
        body.insert("overload".to_owned(), overload);
    }
    front.common.gauges.strain().put_into(&mut body);
    if is_foreign {
        body.clear();
    }
    body.insert("status".to_owned(), readiness.as_str().into());
    let status = if readiness.serves() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Response::value(status, Cause::Gateway, &Value::Object(body))
}

fn readiness<B: Backends>(front: &Front<B>) -> Readiness {
    match front.health.readiness() {
        _ if front.common.is_draining() => Readiness::Draining,
        Readiness::Ok if !front.common.memory.is_calm() => Readiness::Degraded,
        Readiness::Ok if front.common.gauges.strain().refuses() => Readiness::Degraded,
        readiness => readiness,
    }
}

fn with_urls(entry: ServerEntry, base: &str) -> Value {
    let ServerEntry { name, transport, mode, state, reason } = entry;
    json!({
        "urls": { "mcp": format!("{base}/{name}/mcp"), "sse": format!("{base}/{name}/sse") },
        "name": name,
        "transport": transport,
        "mode": mode,
        "state": state,
        "reason": reason,
    })
}

/// UTC to the second. Civil date from days since 1970 by counting in eras of 400 years that start in March.
fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn timestamps_are_civil_utc() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
