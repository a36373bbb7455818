//! The programs mcpool is compared with, as small as they can be and still be right.
//!
//! [`passthrough`] is what any HTTP gateway in this language pays; [`splice`] adds the least a session gateway must
//! do (read the envelope, replace the id, put it back) and forwards with the same client library as mcpool.

pub mod passthrough;
pub mod splice;

use std::{convert::Infallible, io::Write as _, net::SocketAddr};

use anyhow::Context as _;
use bytes::Bytes;
use http_body::Body;
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};

/// Connections served at once; more wait in the accept queue.
const MAX_CONNECTIONS: usize = 16_384;

/// What can go wrong with a body on its way through.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The command line of both programs.
#[derive(Debug, clap::Parser)]
pub struct Options {
    /// The backend's address.
    #[arg(long)]
    pub to: SocketAddr,
    /// Worker threads.
    #[arg(long, default_value_t = 2)]
    pub threads: usize,
}

/// Lines that may wait for a program that is told something.
const LINES: usize = 16;

/// Runs a program on so many worker threads; it ends when its standard input is closed.
///
/// # Errors
/// When the runtime cannot be built, or what the program says.
pub fn run_program<F>(threads: usize, program: F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    run_told(threads, |_| program)
}

/// The same for a program that is told something, line by line, on its standard input.
///
/// # Errors
/// When the runtime cannot be built, or what the program says.
pub fn run_told<F>(threads: usize, program: impl FnOnce(mpsc::Receiver<String>) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let (lines, told) = mpsc::channel(LINES);
    // Whoever started us holds the other end: a benchmark that was killed leaves no process behind.
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            // A program that is told nothing has dropped its end.
            let _ = lines.blocking_send(line);
        }
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    runtime.block_on(program(told))
}

/// Says where it listens, which is what [`crate::process::Program::start`] waits for.
///
/// # Errors
/// When standard output is closed.
pub fn announce(addr: SocketAddr) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{addr}")?;
    out.flush().context("standard output is closed")
}

/// Binds a free loopback port and announces it.
///
/// # Errors
/// When there is none, or standard output is closed.
pub async fn listen() -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    announce(listener.local_addr()?)?;
    Ok(listener)
}

/// Serves HTTP/1.1 until the listener fails. Dropping the future closes every connection.
///
/// # Errors
/// What the listener says.
pub async fn serve<H, F, B>(listener: TcpListener, handler: H) -> anyhow::Result<()>
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error = BoxError> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let handler = handler.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let answer = handler(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            // A connection that fails has nobody left to be told.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        while connections.try_join_next().is_some() {}
        while connections.len() >= MAX_CONNECTIONS {
            connections.join_next().await;
        }
    }
}
