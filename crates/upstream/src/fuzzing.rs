//! Private parsers, codecs and the session's machine as plain functions, for the fuzz targets in `tests/fuzz`.
//! Nothing is decided here.

use std::{
    io,
    time::{Duration, Instant},
};

use bytes::Bytes;
use mcpool_wire::{Answer, BackendId, Message, Method};
use tokio::io::AsyncRead;

use crate::{
    error::SendError,
    kinds::CloseReason,
    session::state::{Facts, Input, State},
    shared::cursor::{self, Cursor},
    transport::{
        classify::{self, Asked, Refused},
        stdio::lines,
    },
};

/// A line of a program's standard output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// Looks like a message.
    Message(Bytes),
    /// Is none.
    Noise(String),
    /// Was above the limit.
    TooLarge {
        /// The requests it answers.
        answers: Vec<u64>,
        /// Whether it is a request or a notification.
        has_method: bool,
    },
}

/// All lines, and the most bytes that were held for them.
///
/// # Errors
/// Those of the reader.
pub async fn lines(from: impl AsyncRead + Unpin, limit: usize) -> io::Result<(Vec<Line>, usize)> {
    let mut lines = lines::Lines::new(from, limit);
    let (mut seen, mut most) = (Vec::new(), 0);
    while let Some(line) = lines.next().await? {
        most = most.max(lines.held());
        seen.push(match line {
            lines::Line::Message(message) => Line::Message(message),
            lines::Line::Noise(text) => Line::Noise(text),
            lines::Line::TooLarge(seen) => {
                Line::TooLarge { answers: seen.answers(), has_method: seen.has_method() }
            }
            lines::Line::Part => continue,
        });
    }
    Ok((seen, most.max(lines.held())))
}

/// A cursor as an agent gets it.
#[must_use]
pub fn seal(pool: u64, epoch: u64, inner: &[u8], list: &Method) -> Option<String> {
    Cursor { pool, epoch, inner: inner.to_vec() }.seal(place(list))
}

/// Pool, session and the backend's own cursor, of what an agent brought back.
#[must_use]
pub fn open(text: &str, list: &Method) -> Option<(u64, u64, Vec<u8>)> {
    Cursor::open(text, place(list)).map(|cursor| (cursor.pool, cursor.epoch, cursor.inner))
}

/// A page with its cursor sealed: `Ok(None)` where it has none, `Err` where it cannot be.
///
/// # Errors
/// The page cannot be given to an agent.
#[allow(clippy::result_unit_err, reason = "there is nothing more to say")]
pub fn seal_page(answer: &Answer, list: &Method, pool: u64, epoch: u64) -> Result<Option<Answer>, ()> {
    cursor::seal_page(answer, place(list), pool, epoch).map_err(|_| ())
}

fn place(list: &Method) -> cursor::Place<'_> {
    cursor::Place { list, backend: BackendId(1), generation: 1 }
}

/// A list request with the backend's own cursor in it.
#[must_use]
pub fn unwrapped(message: &Message, inner: &[u8]) -> Option<Message> {
    cursor::unwrapped(message, inner)
}

/// What was asked for when a backend refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in `classify`")]
pub enum Question {
    Open,
    OfSession,
    WithoutSession,
    Listen,
}

impl Question {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Open, Self::OfSession, Self::WithoutSession, Self::Listen];

    fn asked(self) -> Asked {
        match self {
            Self::Open => Asked::Open,
            Self::OfSession => Asked::Message { has_session: true },
            Self::WithoutSession => Asked::Message { has_session: false },
            Self::Listen => Asked::Listen,
        }
    }
}

/// What a refusal means.
#[must_use]
pub fn classify(question: Question, status: u16, body: &[u8], retry_after: Option<Duration>) -> SendError {
    classify::classify(question.asked(), &Refused { status, body, retry_after })
}

/// Whether the body of a refusal is the answer to its call.
#[must_use]
pub fn is_answer(status: u16, body: &[u8]) -> bool {
    classify::is_answer(status, body)
}

/// Whether an answer says "before initialization".
#[must_use]
pub fn says_before_initialized(answer: &[u8]) -> bool {
    classify::says_before_initialized(answer)
}

/// The machine of one session.
#[derive(Debug)]
pub struct Session(State);

/// What happens to a session, by the name of the machine's input.
pub const INPUTS: [&str; 11] = [
    "handshaken",
    "heard",
    "silence",
    "probe_answered",
    "probe_missed",
    "connection_broke",
    "stream_lost",
    "session_lost",
    "drain",
    "settled",
    "unreachable",
];

/// What a session is and wants after an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Where it stands.
    pub standing: &'static str,
    /// A probe is to be sent.
    pub probe: bool,
    /// It is to be closed, for this.
    pub close: Option<CloseReason>,
}

impl Default for Session {
    fn default() -> Self {
        Self(State::Initializing)
    }
}

impl Session {
    /// Where it stands.
    #[must_use]
    pub fn standing(&self) -> &'static str {
        self.0.standing().as_str()
    }

    /// Takes one of [`INPUTS`].
    pub fn on(
        &mut self,
        input: &str,
        now: Instant,
        in_flight: usize,
        answers_apart: bool,
        drain: Duration,
    ) -> Told {
        let input = match input {
            "handshaken" => Input::Handshaken,
            "heard" => Input::Heard,
            "silence" => Input::Silence,
            "probe_answered" => Input::ProbeAnswered,
            "probe_missed" => Input::ProbeMissed,
            "connection_broke" => Input::ConnectionBroke,
            "stream_lost" => Input::StreamLost,
            "session_lost" => Input::SessionLost,
            "unreachable" => Input::Unreachable,
            "drain" => Input::Drain(CloseReason::MaxAge),
            _ => Input::Settled,
        };
        let effects = self.0.on(input, Facts { now, in_flight, answers_apart, last_heard: now, drain });
        Told { standing: self.standing(), probe: effects.probe, close: effects.close }
    }
}
