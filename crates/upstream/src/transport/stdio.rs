//! stdio transport: a backend that is a local program. One process is one session, one line is one message.
//!
//! Standard output is the protocol and standard error goes to the log. Both are always read, because a full pipe stops
//! the server. The process lives as long as its [`Streaming`] is held; its end ends the session, with the exit status as
//! the reason. A process that dies young is not restarted at once.

mod diagnostics;
pub(crate) mod lines;
mod process;
mod queue;
mod respawn;
mod standby;
pub mod supervised;

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture, stream};
use mcpool_wire::{Era, Revision};

use self::{
    lines::{Line, Lines},
    process::{Process, Started, Stdout},
    respawn::Respawn,
    standby::Standby,
};
use super::{
    ConnectRequest, Exchange, Heard, Inbound, Opened, Outbound, Received, Transport, TransportKind,
    early::answer_among,
};
use crate::{
    clock,
    config::StdioEndpoint,
    error::{Cause, SendError},
    tasks::Tasks,
};

/// Time for a process to end by request, and then by force: a little more than
/// [`process::POLITE`] and [`process::TERMINATE`] together.
pub(crate) const FAREWELL: Duration = Duration::from_secs(8);
/// Maximum time for reading output that is left in the pipe of an ended process.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Starts processes of one command.
pub(super) struct Stdio(Arc<Shared>);

struct Shared {
    backend: Arc<str>,
    endpoint: StdioEndpoint,
    max_line: usize,
    respawn: Arc<Respawn>,
    standby: Standby,
    /// True once the log named a line that is no message.
    is_noisy: AtomicBool,
    /// One task per process; it ends with the process.
    tasks: Tasks,
    /// Replaces processes in tests.
    #[cfg(feature = "seeded-bugs")]
    program: Option<Program>,
}

/// A stand-in process of tests: reads its input, writes its output, and has ended when it resolves.
#[cfg(feature = "seeded-bugs")]
pub type Program = Arc<dyn Fn(tokio::io::DuplexStream) -> BoxFuture<'static, ()> + Send + Sync>;

impl Shared {
    fn start(&self, respawn: &Arc<Respawn>) -> Result<Started, SendError> {
        #[cfg(feature = "seeded-bugs")]
        if let Some(program) = &self.program {
            return Ok(process::simulate(program, &self.tasks, respawn));
        }
        process::start(&self.endpoint, &self.backend, &self.tasks, respawn)
    }
}

struct Sender {
    process: Arc<Process>,
    /// The reading half, until `listen` takes it.
    stream: Mutex<Option<Streaming>>,
}

/// The reading half. Dropping it ends the process.
struct Streaming {
    lines: Lines<Stdout>,
    early: VecDeque<Bytes>,
    /// The supervisor's reason for not starting it.
    not_started: Option<io::Error>,
    shared: Arc<Shared>,
    over: bool,
    process: Arc<Process>,
}

impl Stdio {
    /// The transport of this command. The handshake timeout also limits how long a start is delayed.
    pub(super) fn new(
        backend: Arc<str>,
        endpoint: StdioEndpoint,
        max_line: usize,
        handshake: Duration,
    ) -> Self {
        let respawn = Arc::new(Respawn::new(handshake / 2));
        Self(Arc::new(Shared {
            backend,
            endpoint,
            max_line,
            respawn,
            standby: Standby::default(),
            is_noisy: AtomicBool::new(false),
            tasks: Tasks::default(),
            #[cfg(feature = "seeded-bugs")]
            program: None,
        }))
    }

    /// Runs this stand-in instead of processes.
    #[cfg(feature = "seeded-bugs")]
    pub(super) fn over(mut self, program: Program) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.0) {
            shared.program = Some(program);
        }
        self
    }
}

impl Transport for Stdio {
    fn connect(&self, request: ConnectRequest) -> BoxFuture<'static, Result<Opened, SendError>> {
        open(Arc::clone(&self.0), request.initialize).boxed()
    }

    fn renew(&self) {
        self.keep_started(false);
    }

    fn keep_started(&self, wanted: bool) {
        // A process that was never used must not delay the start of others.
        let own = Arc::new(Respawn::new(Duration::ZERO));
        self.0.standby.keep(wanted, || self.0.start(&own));
    }
}

async fn open(shared: Arc<Shared>, initialize: Bytes) -> Result<Opened, SendError> {
    let waiting = shared.standby.take();
    let pause = shared.respawn.pause();
    if waiting.is_none() && !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
    let started = clock::now();
    let (process, stdout) = match waiting {
        Some(waiting) => waiting,
        None => shared.start(&shared.respawn)?,
    };
    let connect_took = Some(clock::now().saturating_duration_since(started));
    let mut stream = Streaming {
        lines: Lines::new(stdout, shared.max_line),
        early: VecDeque::new(),
        not_started: None,
        over: false,
        process: Arc::clone(&process),
        shared,
    };
    if let Err(unsent) = queue::send(process.queue.clone(), initialize).await {
        // The exit status says more than the write that failed because of it.
        return Err(match tokio::time::timeout(LAST_WORDS * 2, stream.first_answer()).await {
            Ok(Err(why)) => SendError { phase: unsent.phase, cause: why.cause },
            Ok(Ok(_)) | Err(_) => unsent,
        });
    }
    let answer = stream.first_answer().await?;
    let stream = Mutex::new(Some(stream));
    Ok(Opened {
        kind: TransportKind::Stdio,
        era: Era::Legacy,
        has_session: true,
        answer,
        connect_took,
        outbound: Arc::new(Sender { process, stream }),
    })
}

impl Outbound for Sender {
    fn agreed(&self, _: Revision) {}

    fn listen(&self) -> BoxFuture<'static, Result<Inbound, SendError>> {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move {
            let Some(stream) = stream else {
                return Err(SendError::not_sent(Cause::Closed("its output was taken already")));
            };
            Ok(stream.into_inbound())
        }
        .boxed()
    }

    fn send(&self, message: Bytes) -> Exchange {
        let sent = queue::send(self.process.queue.clone(), message);
        Box::pin(stream::once(async move { sent.await.map(|()| Received::Accepted) }))
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        drop(self.stream.lock().unwrap_or_else(PoisonError::into_inner).take());
        let process = Arc::clone(&self.process);
        async move {
            process.stop();
            process.ended().await;
        }
        .boxed()
    }
}

impl Streaming {
    fn into_inbound(self) -> Inbound {
        Box::pin(stream::unfold(self, |mut streaming| async move {
            if streaming.over {
                return None;
            }
            let heard = streaming.next().await;
            streaming.over = heard.is_err();
            Some((heard, streaming))
        }))
    }

    /// Reads the answer to `initialize`; messages before it are stored.
    async fn first_answer(&mut self) -> Result<Bytes, SendError> {
        let mut early = VecDeque::new();
        loop {
            match self.next().await? {
                Heard::Message(message) => {
                    if let Some(answer) = answer_among(message, &mut early) {
                        self.early = early;
                        return Ok(answer);
                    }
                }
                Heard::TooLarge { answers, limit } if !answers.is_empty() => {
                    return Err(SendError::maybe_sent(Cause::TooLarge(limit)));
                }
                Heard::Noise => {
                    if let Some(why) = self.not_started.take() {
                        return Err(process::not_started(&self.shared.endpoint, &why));
                    }
                }
                Heard::Alive | Heard::Part | Heard::NoStream(_) | Heard::TooLarge { .. } => {}
            }
        }
    }

    async fn next(&mut self) -> Result<Heard, SendError> {
        if let Some(message) = self.early.pop_front() {
            return Ok(Heard::Message(message));
        }
        let process = Arc::clone(&self.process);
        tokio::select! {
            line = self.lines.next() => match line {
                Ok(Some(line)) => self.judge(line),
                // The end of the output ends the session; the exit status is the reason if it comes soon.
                Ok(None) => {
                    let why = tokio::time::timeout(LAST_WORDS, process.ended()).await.map(|ended| ended.why);
                    Err(broken(why.unwrap_or_else(|_| "it closed its output".to_owned())))
                }
                Err(error) => Err(broken(format!("its output cannot be read: {error}"))),
            },
            why = last_words(&process) => Err(broken(why)),
        }
    }

    fn judge(&mut self, line: Line) -> Result<Heard, SendError> {
        match line {
            Line::Message(message) => Ok(Heard::Message(message)),
            Line::Part => Ok(Heard::Part),
            Line::Noise(text) => {
                self.not_started = supervised::why_not_started(&text);
                if self.not_started.is_none() {
                    self.noise(&text);
                }
                Ok(Heard::Noise)
            }
            Line::TooLarge(seen) => {
                let limit = self.lines.limit();
                tracing::warn!(target: "mcpool::backend", pid = self.process.pid, limit, "a message above the limit was skipped");
                Ok(Heard::TooLarge { answers: seen.answers(), limit })
            }
        }
    }
}

impl Streaming {
    /// Lines that are no messages end no session, however many there are: a program that answers is an MCP server, and
    /// one that never does fails its handshake.
    fn noise(&self, text: &str) {
        let (backend, pid) = (self.shared.backend.as_ref(), self.process.pid);
        if self.shared.is_noisy.swap(true, Ordering::Relaxed) {
            tracing::debug!(target: "mcpool::backend", backend, pid, text, "output that is no message");
        } else {
            tracing::warn!(target: "mcpool::backend", backend, pid, text,
                "the server prints what is no message to its standard output, which is for messages alone; such lines \
                 are skipped, and logged at debug from now on"
            );
        }
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.process.stop();
    }
}

/// Resolves shortly after the process ended: escaped children may keep its output open forever.
async fn last_words(process: &Process) -> String {
    let ended = process.ended().await;
    let until: Instant = ended.at + LAST_WORDS;
    tokio::time::sleep_until(clock::at(until)).await;
    ended.why
}

fn broken(why: String) -> SendError {
    SendError::maybe_sent(Cause::Broken(why))
}
