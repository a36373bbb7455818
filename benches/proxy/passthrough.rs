//! A bare HTTP/1.1 pass-through: hyper in front, hyper behind, nothing read or changed.
//!
//! The subtle thing: a backend connection goes back to the pool only when its response was read to the end, so a
//! call never waits behind somebody's event stream.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::{Either, Full};
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use super::BoxError;

/// Idle backend connections kept; more are closed.
const MAX_IDLE: usize = 1024;

/// Forwards everything to `backend` until the listener fails.
///
/// # Errors
/// What the listener says.
pub async fn serve(listener: TcpListener, backend: SocketAddr) -> anyhow::Result<()> {
    let pool = Arc::new(Pool { backend, idle: Mutex::default(), drivers: TaskTracker::new() });
    super::serve(listener, move |request| {
        let pool = pool.clone();
        async move {
            match pool.forward(request).await {
                Ok(response) => response.map(Either::Left),
                Err(error) => {
                    let mut response = Response::new(Either::Right(Failed(Full::from(error.to_string()))));
                    *response.status_mut() = http::StatusCode::BAD_GATEWAY;
                    response
                }
            }
        }
    })
    .await
}

struct Pool {
    backend: SocketAddr,
    idle: Mutex<Vec<SendRequest<Incoming>>>,
    /// Owns the tasks that drive backend connections; each ends with its connection.
    drivers: TaskTracker,
}

impl Pool {
    async fn forward(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Pooled>, BoxError> {
        let mut sender = self.take().await?;
        let response = sender.send_request(request).await?;
        Ok(response.map(|body| Pooled { body, ended: false, sender: Some(sender), pool: self }))
    }

    async fn take(&self) -> Result<SendRequest<Incoming>, BoxError> {
        while let Some(mut sender) = self.pop() {
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let stream = TcpStream::connect(self.backend).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        self.drivers.spawn(connection);
        Ok(sender)
    }

    fn pop(&self) -> Option<SendRequest<Incoming>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn give_back(&self, sender: SendRequest<Incoming>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(sender);
        }
    }
}

/// A response body that gives its connection back when it was read.
struct Pooled {
    body: Incoming,
    ended: bool,
    sender: Option<SendRequest<Incoming>>,
    pool: Arc<Pool>,
}

impl Body for Pooled {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let frame = std::task::ready!(Pin::new(&mut this.body).poll_frame(cx));
        this.ended = frame.is_none();
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take()
            && (self.ended || self.body.is_end_stream())
        {
            self.pool.give_back(sender);
        }
    }
}

/// An error text as a body.
struct Failed(Full<Bytes>);

impl Body for Failed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.0).poll_frame(cx).map_err(|never| match never {})
    }
}
