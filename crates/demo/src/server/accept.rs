//! The listener and its connections.
//!
//! The subtle thing: a stop must look like `kill -9` from outside, so the connection futures are dropped, not
//! shut down; and nothing here trusts a client: header time, header size and the number of connections are bounded.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::http::Conn;
use super::stats::Kind;
use super::{Run, Shared};
use crate::script::{FaultKind, Stage};

/// Read buffer per connection; also the largest header block.
const BUFFER: usize = 64 * 1024;
/// Pause after a failed accept (no file handles left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Binds with SO_REUSEADDR, so that a restarted server takes its port while old connections linger.
pub fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    // deep enough for a thousand agents that connect in one instant
    socket.listen(4096)
}

/// Accepts until the life ends.
pub(crate) async fn run(listener: Arc<TcpListener>, shared: Arc<Shared>, run: Run, cap: usize) {
    let room = Arc::new(Semaphore::new(cap.min(Semaphore::MAX_PERMITS)));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let number = shared.stats.connections_opened.fetch_add(1, Relaxed);
        let held = shared.stats.hold(Kind::Connection);
        let conn = Conn { shared: Arc::clone(&shared), run: run.clone(), number };
        run.spawn(async move {
            connection(stream, conn).await;
            drop((permit, held));
        });
    }
}

async fn connection(stream: TcpStream, conn: Conn) {
    match conn.shared.hit(Stage::Connect) {
        Some(FaultKind::Hang | FaultKind::Silent) => return std::future::pending().await,
        Some(FaultKind::Delay(time)) => sleep(time).await,
        Some(_) => return,
        None => {}
    }
    // without it small answers wait for the peer's delayed acknowledgement
    let _ = stream.set_nodelay(true);
    let idle = conn.shared.script().connection_idle;
    let conn = Arc::new(conn);
    let service = service_fn(move |request| {
        let conn = Arc::clone(&conn);
        async move { conn.serve(request).await }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(idle).max_buf_size(BUFFER);
    // an error here is a client that went away or a scripted reset; both are its own affair
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
}
