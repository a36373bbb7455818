//! The least a session gateway does to a message: read its envelope, replace the id, forward it, put the id back.
//!
//! It keeps the agents' sessions (no pool, no breaker, no limits), so it is a lower bound, not a gateway. The subtle
//! thing: an id is remembered before its message is sent, because on HTTP+SSE the answer may overtake the 202.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{BufMut, Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, future};
use http::{HeaderMap, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{Request, Response, body::Incoming};
use mcpool_wire::{Envelope, IdValue, Kind, Message};
use tokio::net::TcpListener;

use super::BoxError;
use crate::load::Cutter;

/// Calls in flight; more are refused.
const MAX_PENDING: usize = 65_536;

type Reply = Response<UnsyncBoxBody<Bytes, BoxError>>;

/// Splices and forwards everything to `backend` until the listener fails.
///
/// # Errors
/// What the listener says, or when the client cannot be built.
pub async fn serve(listener: TcpListener, backend: SocketAddr) -> anyhow::Result<()> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tcp_nodelay(true)
        .build()?;
    let origin = format!("http://{backend}");
    let splice = Arc::new(Splice { client, origin, next: AtomicU64::new(1), pending: Mutex::default() });
    super::serve(listener, move |request| {
        let splice = splice.clone();
        async move {
            let answer = splice.forward(request).await;
            answer.unwrap_or_else(|error| text(StatusCode::BAD_GATEWAY, &error.to_string()))
        }
    })
    .await
}

struct Splice {
    client: reqwest::Client,
    origin: String,
    next: AtomicU64,
    /// Our id to the agent's.
    pending: Mutex<HashMap<u64, Bytes>>,
}

impl Splice {
    async fn forward(self: Arc<Self>, request: Request<Incoming>) -> Result<Reply, BoxError> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let body = body.collect().await?.to_bytes();
        let body = if body.is_empty() {
            body
        } else {
            match self.replace(body) {
                Ok(body) => body,
                Err((status, why)) => return Ok(text(status, &why)),
            }
        };
        let mut headers = parts.headers;
        headers.remove(header::HOST);
        headers.remove(header::CONTENT_LENGTH);
        let url = format!("{}{path}", self.origin);
        let response = self.client.request(parts.method, url).headers(headers).body(body).send().await?;
        self.answer(response).await
    }

    /// Puts our id in place of the agent's.
    fn replace(&self, body: Bytes) -> Result<Bytes, (StatusCode, String)> {
        let envelope =
            Envelope::parse(&body).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
        let (Kind::Request, Some(span)) = (envelope.kind, envelope.id_span()) else { return Ok(body) };
        let message = Message::new(body.clone(), &envelope);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut pending = self.lock();
        if pending.len() >= MAX_PENDING {
            return Err((StatusCode::SERVICE_UNAVAILABLE, "too many calls in flight".into()));
        }
        pending.insert(id, body.slice(span));
        drop(pending);
        Ok(message.with_id_and_token(id))
    }

    /// Puts the agent's id back; what is no answer of ours passes as it is.
    fn restore(&self, message: Bytes) -> Bytes {
        let Ok(envelope) = Envelope::parse(&message) else { return message };
        let (Kind::Success | Kind::Failure, Some(IdValue::Num(id))) = (envelope.kind, envelope.id_value())
        else {
            return message;
        };
        let theirs = u64::try_from(id).ok().and_then(|id| self.lock().remove(&id));
        theirs.map_or_else(
            || message.clone(),
            |theirs| Message::new(message.clone(), &envelope).with_id(&theirs),
        )
    }

    async fn answer(self: Arc<Self>, response: reqwest::Response) -> Result<Reply, BoxError> {
        let status = response.status();
        let mut headers = response.headers().clone();
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::TRANSFER_ENCODING);
        let body = if is_event_stream(&headers) {
            let mut cutter = Cutter::default();
            let events = response.bytes_stream().map_err(BoxError::from).map_ok(move |chunk| {
                cutter.buffer.extend_from_slice(&chunk);
                self.relay(&mut cutter)
            });
            // A chunk that ends no event has nothing to pass on yet.
            let events = events.try_filter(|bytes| future::ready(!bytes.is_empty()));
            StreamBody::new(events.map(|bytes| bytes.map(Frame::data))).boxed_unsync()
        } else {
            let body = response.bytes().await?;
            full(self.restore(body))
        };
        let mut reply = Response::new(body);
        *reply.status_mut() = status;
        *reply.headers_mut() = headers;
        Ok(reply)
    }

    /// Writes the whole events of the cutter again, their ids restored.
    fn relay(&self, cutter: &mut Cutter) -> Bytes {
        let mut out = BytesMut::new();
        while let Some(event) = cutter.cut() {
            let name = if event.name.is_empty() { "message" } else { &event.name };
            let data = self.restore(event.data);
            out.reserve(data.len() + name.len() + 20);
            out.put_slice(b"event: ");
            out.put_slice(name.as_bytes());
            for line in data.split(|byte| *byte == b'\n') {
                out.put_slice(b"\ndata: ");
                out.put_slice(line);
            }
            out.put_slice(b"\n\n");
        }
        out.freeze()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Bytes>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
}

fn full(bytes: Bytes) -> UnsyncBoxBody<Bytes, BoxError> {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

fn text(status: StatusCode, what: &str) -> Reply {
    let mut reply = Response::new(full(Bytes::copy_from_slice(what.as_bytes())));
    *reply.status_mut() = status;
    reply
}
