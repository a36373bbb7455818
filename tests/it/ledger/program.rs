//! What one program does: some calls, one after the other, and how the backend reacts each time it gets one.

use crate::model::program::Dice;

/// How a backend is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Streamable HTTP with session ids, and without.
    Sessions,
    NoSessions,
    Sse,
    /// The era without handshake.
    Modern,
    /// A program: a message is a line, and a connection that breaks is its end.
    Stdio,
}

pub(super) const KINDS: [Kind; 5] = [Kind::Sessions, Kind::NoSessions, Kind::Sse, Kind::Modern, Kind::Stdio];

#[derive(Clone, Debug)]
pub(super) struct Program {
    pub(super) calls: Vec<Call>,
}

#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) what: What,
    /// The message is written in the era without handshake, where the backend speaks it.
    pub(super) is_modern: bool,
    /// The backend has forgotten its sessions when the call comes.
    pub(super) forgotten: bool,
    /// To the first, second, .. time the backend gets it; the last one for all others.
    pub(super) reactions: Vec<Reaction>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A tool that may change something, and one that only reads.
    Write,
    Read,
    Prompt,
    Resource,
}

#[derive(Clone, Debug)]
pub(super) struct Reaction {
    /// The backend runs the call, unless what it says is a refusal.
    pub(super) wants_to_run: bool,
    pub(super) status: u16,
    pub(super) content: &'static str,
    pub(super) id: Id,
    pub(super) body: Body,
    pub(super) end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Id {
    Ours,
    AsText,
    Null,
    Foreign,
    Word,
    Absent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Result,
    Error(i64, &'static str),
    /// The same with members that are null beside it.
    Nulls,
    /// In an array, behind a notification.
    Array,
    Html,
    Empty,
    /// JSON that is no message.
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Whole,
    /// The body breaks off in the middle.
    Cut,
    /// The connection breaks before the status.
    Broken,
}

const STATUSES: [u16; 30] = [
    200, 200, 200, 200, 200, 201, 202, 204, 301, 302, 303, 400, 400, 401, 403, 404, 404, 404, 405, 409, 410,
    413, 415, 422, 429, 500, 501, 502, 503, 504,
];

const CONTENTS: [&str; 6] = [
    "application/json",
    "application/json",
    "application/json",
    "text/event-stream",
    "text/plain",
    "text/html",
];

/// What tools and transports say.
const ERRORS: [(i64, &str); 20] = [
    (-32000, "Issue 12 not found"),
    (-32000, "shell session not found"),
    (-32000, "session expired, start a new one"),
    (-32603, "no active session: tab 3 was closed"),
    (-32000, "No valid session ID for the bank"),
    (-32602, "Unknown tool: x"),
    (-32601, "Method not found"),
    (-32603, "database is busy, try again"),
    (-32000, "rate limit"),
    (-32000, "too many sessions"),
    (-32000, "Unsupported protocol version of the archive"),
    (-32602, "received before initialization of the robot"),
    (-31905, "the session broke"),
    (1, "server not initialized by the user"),
    (-32001, "Session not found"),
    (-32600, "Session not found"),
    (-32000, "Bad Request: Server not initialized"),
    (-32000, "Bad Request: No valid session ID provided"),
    (-32600, "Bad Request: Missing session ID"),
    (-32600, "Not Found: Session has been terminated"),
];

/// From here on they are a transport's own words.
const OWN_WORDS: usize = 14;

impl Program {
    pub(super) fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x1ed6e4);
        let calls = (0..=dice.roll(3)).map(|_| Call::of(&mut dice)).collect();
        Self { calls }
    }
}

impl Call {
    fn of(dice: &mut Dice) -> Self {
        let what = [What::Write, What::Write, What::Read, What::Prompt, What::Resource][dice.roll(5)];
        let first = Reaction::of(dice);
        // A backend that says the same each time is the one that is asked again and again.
        let mut reactions = vec![first];
        if dice.roll(2) == 0 {
            reactions.push(Reaction::of(dice));
        }
        Self { what, is_modern: dice.roll(2) == 0, forgotten: dice.roll(8) == 0, reactions }
    }

    /// The same where there are lines alone.
    pub(super) fn into_lines(mut self) -> Self {
        for reaction in &mut self.reactions {
            (reaction.status, reaction.content) = (200, "application/json");
        }
        self
    }

    pub(super) fn reaction(&self, time: usize) -> &Reaction {
        &self.reactions[time.min(self.reactions.len() - 1)]
    }
}

impl Reaction {
    fn of(dice: &mut Dice) -> Self {
        let (code, words) = ERRORS[dice.roll(ERRORS.len())];
        Self {
            wants_to_run: dice.roll(4) > 0,
            status: STATUSES[dice.roll(STATUSES.len())],
            content: CONTENTS[dice.roll(CONTENTS.len())],
            id: [Id::Ours, Id::Ours, Id::Ours, Id::AsText, Id::Null, Id::Foreign, Id::Word, Id::Absent]
                [dice.roll(8)],
            body: match dice.roll(10) {
                0 | 1 => Body::Result,
                2..=5 => Body::Error(code, words),
                6 => [Body::Nulls, Body::Array][dice.roll(2)],
                7 => Body::Html,
                8 => Body::Empty,
                _ => Body::Json,
            },
            end: match dice.roll(12) {
                0 => End::Cut,
                1 => End::Broken,
                _ => End::Whole,
            },
        }
    }

    /// Whether the body holds a whole response.
    fn responds(&self) -> bool {
        let is_response = matches!(self.body, Body::Result | Body::Error(..) | Body::Nulls | Body::Array);
        is_response && self.end == End::Whole && self.status != 204
    }

    /// Whether it is a response under the call's own id.
    fn is_under_our_id(&self) -> bool {
        self.responds() && matches!(self.id, Id::Ours | Id::AsText)
    }

    /// Whether it is a transport's own word that it does not know the session.
    fn is_own_word(&self) -> bool {
        let is_own = |code, words| ERRORS.iter().skip(OWN_WORDS).any(|error| *error == (code, words));
        matches!(self.status, 400 | 404)
            && self.responds()
            && matches!(self.body, Body::Error(code, words) if is_own(code, words))
    }

    /// Whether the protocol's words say that the call was refused before it ran.
    pub(super) fn is_refusal(&self, kind: Kind) -> bool {
        if self.end != End::Whole {
            return false;
        }
        let is_error = matches!(self.body, Body::Error(..));
        match self.status {
            _ if self.is_own_word() => true,
            401 | 403 => !self.responds() || is_error && !self.is_under_our_id(),
            404 => !self.responds() && matches!(kind, Kind::Sessions | Kind::Sse),
            405 | 413 | 415 | 429 => !self.responds(),
            _ => false,
        }
    }

    /// Whether it is the answer to the call, which ends it.
    pub(super) fn is_answer(&self, kind: Kind) -> bool {
        // Over HTTP+SSE the answer comes on the stream, and the body of a success is none of the protocol's.
        let is_read = kind != Kind::Sse || !(200..300).contains(&self.status);
        is_read && self.is_under_our_id() && !self.is_own_word()
    }
}
