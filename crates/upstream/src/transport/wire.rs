//! HTTP without sockets, for tests that need many programs in little time: a backend is a function from a request to a
//! response, and everything above the connection is as it is in the gateway.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures::{future::BoxFuture, stream::BoxStream};

use http_body_util::{BodyExt as _, Full};

pub use super::stdio::Program;
use super::{Transport, coding::Body, http::Http, of_http, stdio::Stdio};
use crate::{
    config::{HttpEndpoint, Limits, StdioEndpoint, Times, TransportChoice},
    credential::StaticHeaders,
    error::{Cause, SendError},
};

/// A response whose body comes in pieces and may break off.
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: Vec<(&'static str, String)>,
    /// Its body.
    pub body: BoxStream<'static, Result<Bytes, io::Error>>,
}

/// A backend: what it says to a request, or nothing where the connection breaks.
pub type Answering = Arc<dyn Fn(http::Request<Bytes>) -> BoxFuture<'static, Option<Response>> + Send + Sync>;

/// The transport of an HTTP backend that answers so.
///
/// # Errors
/// As [`http_transport`](super::http_transport).
pub fn http_transport_over(
    answering: Answering,
    endpoint: &HttpEndpoint,
    choice: TransportChoice,
    times: &Times,
    limits: &Limits,
) -> Result<Arc<dyn Transport>, String> {
    let http = Http::new(&"wire".into(), endpoint, StaticHeaders::holding(&endpoint.headers), times, limits)?;
    of_http(&Arc::new(http.over(answering)), endpoint, choice)
}

/// The transport of a program that is a future.
#[must_use]
pub fn stdio_transport_over(program: Program, limits: &Limits) -> Arc<dyn Transport> {
    let (command, args, env, cwd) = ("program".into(), Vec::new(), std::collections::BTreeMap::new(), None);
    let endpoint = StdioEndpoint { command, args, env, cwd };
    // No long pauses between starts: programs end often here.
    let handshake = std::time::Duration::from_millis(200);
    Arc::new(Stdio::new("wire".into(), endpoint, limits.max_message, handshake).over(program))
}

/// What it says, as an answer of a connection.
pub(super) async fn said(
    answering: &Answering,
    request: http::Request<Full<Bytes>>,
) -> Result<(http::response::Parts, Body), SendError> {
    let broke = || SendError::maybe_sent(Cause::Broken("reset".to_owned()));
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let said = answering(http::Request::from_parts(head, body)).await.ok_or_else(broke)?;
    let mut response = http::Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(said.status).map_err(|_| broke())?;
    for (name, value) in said.headers {
        if let Ok(value) = http::HeaderValue::from_str(&value) {
            response.headers_mut().append(name, value);
        }
    }
    Ok((response.into_parts().0, Body::Wire(said.body)))
}
