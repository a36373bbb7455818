//! A request that takes time: its own task, from its delay to its answer.
//!
//! The subtle thing: on the legacy wires a dropped POST is not a cancellation, so a job is never polled by its
//! response; it runs to its end and only then finds that nobody listens.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::Shared;
use super::body::Piece;
use super::message::{Framing, Reply, outgoing, plain, quote};
use super::session::{Session, Ticket, Wire};
use super::stats::Held;
use super::tools::{Work, tool_text};
use crate::script::{CancelAnswer, FaultKind, IdDialect, Lane, Script};

/// Longest time `out_of_order` holds a call back.
const HELD_BACK: Duration = Duration::from_millis(500);

/// Longest wait for the roots of a client.
const ROOTS_TIME: Duration = Duration::from_secs(5);
/// Time between two looks for a stream.
const LOOK: Duration = Duration::from_millis(5);

/// Where a job's answer and messages go.
pub(crate) struct Out {
    /// Takes the answer.
    pub(crate) tx: mpsc::Sender<Piece>,
    pub(crate) framing: Framing,
    /// Takes what comes before the answer; always event-stream framing.
    pub(crate) messages: Option<mpsc::Sender<Piece>>,
}

/// A planned request.
pub(crate) struct Job {
    pub(crate) session: Arc<Session>,
    pub(crate) script: Arc<Script>,
    pub(crate) shared: Arc<Shared>,
    /// The id as it goes back, raw JSON.
    pub(crate) id: String,
    pub(crate) work: Work,
    pub(crate) delay: Duration,
    /// Longest wait for the session's GET stream before anything else.
    pub(crate) wait_for_get: Option<Duration>,
    /// Position among the session's calls, when `out_of_order` applies.
    pub(crate) turn: Option<u64>,
    pub(crate) fault: Option<FaultKind>,
    pub(crate) ticket: Option<Ticket>,
    /// Keeps the request counted as in flight.
    pub(crate) _held: Held,
}

enum Stop {
    Done(Reply),
    Cancelled,
    Closed,
}

impl Job {
    /// Works, then answers as the dialect and the fault say.
    pub(crate) async fn run(mut self, out: Out) {
        let stop = self.work(&out).await;
        let orphaned = self.session.wire == Wire::Http
            && self.ticket.as_ref().is_some_and(|t| t.flight.orphaned.load(Relaxed));
        match stop {
            Stop::Closed => {}
            Stop::Done(_) if orphaned => self.hang(&out).await,
            Stop::Done(reply) => self.answer(reply, &out).await,
            Stop::Cancelled => match self.script.cancel_answer {
                CancelAnswer::Silent => self.hang(&out).await,
                CancelAnswer::Error => self.answer(Reply::error(-32800, "Request cancelled"), &out).await,
                CancelAnswer::End | CancelAnswer::Ignore => {}
            },
        }
    }

    async fn work(&mut self, out: &Out) -> Stop {
        let work = std::mem::replace(&mut self.work, Work::Ready(Reply::Result("{}".into())));
        let cancelled = self.ticket.as_ref().map(|t| t.flight.cancelled.clone());
        let cancelled = async {
            match cancelled {
                Some(token) if self.script.cancel_answer != CancelAnswer::Ignore => token.cancelled().await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            // an answer that is ready wins over a cancellation that came with it
            biased;
            reply = self.perform(work, out) => Stop::Done(reply),
            () = self.session.closed.cancelled() => Stop::Closed,
            () = cancelled => Stop::Cancelled,
        }
    }

    async fn perform(&self, work: Work, out: &Out) -> Reply {
        if let Some(limit) = self.wait_for_get {
            let _ = timeout(limit, self.get_stream()).await;
        }
        if !self.delay.is_zero() {
            sleep(self.delay).await;
        }
        let reply = match work {
            Work::Ready(reply) => reply,
            Work::Sleep(time, reply) => {
                sleep(time).await;
                reply
            }
            Work::Progress { steps, every, nonce, token, log } => {
                self.progress(steps, every, &nonce, token.as_deref(), log, out).await
            }
            Work::Ask { method, params, within } => match self.ask(method, &params, within, out).await {
                Ok(message) => tool_text(&answer_text(&message), false),
                Err(why) => tool_text(why, true),
            },
            Work::Allowed { path } => self.allowed(&path, out).await,
            Work::Store { item, time } => {
                let seen = self.shared.world.stored();
                sleep(time).await;
                tool_text(&self.shared.world.store(seen, item).to_string(), false)
            }
            Work::Block(time) => {
                sleep(time).await;
                tool_text("unblocked", false)
            }
        };
        self.shared.world.unblocked().await;
        if self.turn.is_some_and(|n| n % 2 == 1) {
            // nobody may follow: then the time limit lets it go
            let _ = timeout(HELD_BACK, self.session.turn.notified()).await;
        }
        reply
    }

    async fn progress(
        &self,
        steps: u64,
        every: Duration,
        nonce: &str,
        token: Option<&str>,
        log: bool,
        out: &Out,
    ) -> Reply {
        for step in 1..=steps {
            sleep(every).await;
            let Some(tx) = &out.messages else { continue };
            if log && self.session.residue.logs_info() {
                let params =
                    format!("{{\"level\":\"info\",\"logger\":\"testkit\",\"data\":{}}}", quote(nonce));
                let event = outgoing(None, "notifications/message", &params, Framing::Sse);
                let _ = tx.send(Piece::Event(event)).await;
            }
            let Some(token) = token else { continue };
            let text = quote(&format!("{nonce} {step}/{steps}"));
            let params = format!(
                "{{\"progressToken\":{token},\"progress\":{step},\"total\":{steps},\"message\":{text}}}"
            );
            // nobody listening is no reason to stop
            let _ =
                tx.send(Piece::Event(outgoing(None, "notifications/progress", &params, Framing::Sse))).await;
        }
        tool_text(nonce, false)
    }

    /// Asks the client; its whole answer, or why there is none.
    async fn ask(
        &self,
        method: &'static str,
        params: &str,
        within: Duration,
        out: &Out,
    ) -> Result<Bytes, &'static str> {
        let own = match (self.session.wire, self.script.ask_on) {
            (Wire::Http, Lane::Get) => self.session.stream(),
            _ => out.messages.clone(),
        };
        let tx = own.ok_or("no stream to ask on")?;
        self.shared.stats.asks.fetch_add(1, Relaxed);
        let (id, answer) = self.session.ask();
        let sent = tx.send(Piece::Event(outgoing(Some(id), method, params, Framing::Sse))).await;
        let answer = match sent {
            Ok(()) => timeout(within, answer).await,
            Err(_) => return Err("the stream to ask on is closed"),
        };
        self.session.forget_ask(id);
        answer.map_err(|_| "the client did not answer in time")?.map_err(|_| "the question was withdrawn")
    }

    /// Whether the roots of the session, asked for once, hold this path.
    async fn allowed(&self, path: &str, out: &Out) -> Reply {
        if self.session.residue.roots().is_none() {
            match self.ask("roots/list", "{}", ROOTS_TIME, out).await {
                Ok(message) => self.session.residue.set_roots(&message),
                Err(why) => return tool_text(why, true),
            }
        }
        let roots = self.session.residue.roots().unwrap_or_default();
        if roots.iter().any(|root| path.starts_with(root.as_str())) {
            tool_text("allowed", false)
        } else {
            tool_text("path outside allowed directories", true)
        }
    }

    /// Waits until the client listens to the session's own stream.
    async fn get_stream(&self) {
        while self.session.stream().is_none() {
            sleep(LOOK).await;
        }
    }

    /// Whether its messages take the key of the GET stream (E3).
    pub(crate) fn says_on_get(&self) -> bool {
        self.script.ids == IdDialect::Text && plain(&self.id) == "_GET_stream"
    }

    async fn answer(&self, reply: Reply, out: &Out) {
        let bytes = match &self.fault {
            Some(FaultKind::ForeignId) => reply.frame("\"nobody-asked\"", out.framing),
            _ => reply.frame(&self.id, out.framing),
        };
        match &self.fault {
            Some(FaultKind::Silent) => return self.hang(out).await,
            Some(FaultKind::Empty) => return,
            Some(FaultKind::CutAt(at)) => {
                let at = bytes.len().min(*at);
                self.send(out, Piece::Cut(bytes.slice(..at))).await;
            }
            Some(FaultKind::Double) => {
                self.send(out, Piece::Event(bytes.clone())).await;
                self.send(out, Piece::Event(bytes)).await;
            }
            _ => self.send(out, Piece::Event(bytes)).await,
        }
        if matches!(self.fault, Some(FaultKind::CloseStream)) {
            self.session.detach();
        }
        if self.turn.is_some_and(|n| n % 2 == 0) {
            self.session.turn.notify_waiters();
        }
    }

    async fn send(&self, out: &Out, piece: Piece) {
        // a client that reads nothing holds its own jobs, never a thread; its going away ends the wait
        let _ = out.tx.send(piece).await;
    }

    /// Holds the answer's stream open without a word.
    async fn hang(&self, out: &Out) {
        tokio::select! {
            () = out.tx.closed() => {}
            () = self.session.closed.cancelled() => {}
        }
    }
}

/// The client's result (or error) as JSON on one line.
fn answer_text(message: &Bytes) -> String {
    let value: serde_json::Value = serde_json::from_slice(message).unwrap_or_default();
    let part = value.get("result").or_else(|| value.get("error"));
    part.unwrap_or(&serde_json::Value::Null).to_string()
}
