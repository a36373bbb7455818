//! Random programs: what the agents do, what the backend does, and when. A program follows from its seed alone.

use std::time::Duration;

/// The least a program has of each.
pub(super) const AGENTS: usize = 3;
pub(super) const EVENTS: usize = 30;

/// Resources agents subscribe to.
pub(super) const URIS: usize = 3;

/// The levels programs use, the most verbose first.
pub(super) const LEVELS: [&str; 3] = ["debug", "warning", "error"];

/// One program.
#[derive(Clone, Debug)]
pub(super) struct Program {
    /// Each session is lent to one call at a time, instead of shared.
    pub(super) exclusive: bool,
    /// Answers come in the exchange of their request, instead of on the session's one stream.
    pub(super) in_exchange: bool,
    /// Sessions may be lost; answers may never come.
    pub(super) deaths: bool,
    pub(super) silences: bool,
    pub(super) agents: usize,
    /// Each with the pause after it.
    pub(super) events: Vec<(Event, Duration)>,
}

/// One step.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Call {
        agent: usize,
        plan: Plan,
    },
    /// The agent wants none of the answers it waits for, or only not the one to its oldest call.
    Cancel {
        agent: usize,
        all: bool,
    },
    List {
        agent: usize,
    },
    Subscribe {
        agent: usize,
        uri: usize,
    },
    Unsubscribe {
        agent: usize,
        uri: usize,
    },
    Level {
        agent: usize,
        level: usize,
    },
    /// The agent goes, with everything it has under way, and another one comes in its place.
    Replace {
        agent: usize,
    },
    /// The tools of the backend change, and it says so.
    ListChanged,
    /// A resource changes.
    Updated {
        uri: usize,
    },
    /// The backend writes a log line that belongs to no call.
    StrayLog,
    /// Something breaks, see [`Loss`], on one of the sessions.
    Lose {
        session: usize,
        loss: Loss,
    },
}

/// One call of a tool.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The tool is marked read-only.
    pub(super) safe: bool,
    /// Which of the ids and tokens that all agents use.
    pub(super) id: usize,
    pub(super) token: Option<usize>,
    pub(super) fate: Fate,
    /// How long the backend takes.
    pub(super) takes: Duration,
}

/// What the backend does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Answer,
    /// The same answer twice.
    Twice,
    /// The id comes back as a string.
    StringId,
    /// Before the answer there is one under an id nobody uses, and one without a usable id.
    UnknownId,
    /// Before the answer there is progress under the call's token.
    Progress(usize),
    /// Before the answer there is progress under tokens nobody uses.
    ForeignToken,
    /// Before the answer there is a log line of this level.
    Log(usize),
    /// A JSON-RPC error.
    Error,
    Never,
    /// The session breaks instead, the first time.
    Die,
}

/// How a session is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// Its stream fails.
    Fails,
    /// Its stream ends.
    Ends,
    /// The backend has forgotten it, and says so when it is used.
    Forgotten,
}

/// A small generator (splitmix64).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((x ^ (x >> 31)) % sides as u64).unwrap_or(0)
    }

    fn one_in(&mut self, sides: usize) -> bool {
        self.roll(sides) == 0
    }

    fn pause(&mut self) -> Duration {
        // Often none at all: then several things happen before anybody is polled.
        let millis = [0, 0, 1, 5, 20, 60].get(self.roll(6)).copied().unwrap_or(0);
        Duration::from_millis(millis)
    }
}

impl Program {
    pub(super) fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let mut program = Self {
            exclusive: dice.one_in(4),
            in_exchange: dice.one_in(3),
            deaths: dice.one_in(2),
            silences: dice.one_in(4),
            agents: AGENTS + dice.roll(2),
            events: Vec::new(),
        };
        for _ in 0..EVENTS + dice.roll(10) {
            let event = program.event(&mut dice);
            program.events.push((event, dice.pause()));
        }
        program
    }

    fn event(&self, dice: &mut Dice) -> Event {
        let agent = dice.roll(self.agents);
        match dice.roll(20) {
            0..=8 => Event::Call { agent, plan: self.plan(dice) },
            9..=10 => Event::Cancel { agent, all: dice.one_in(3) },
            11 => Event::List { agent },
            12..=13 => Event::Subscribe { agent, uri: dice.roll(URIS) },
            14 => Event::Unsubscribe { agent, uri: dice.roll(URIS) },
            15 => Event::Level { agent, level: dice.roll(LEVELS.len()) },
            16 if dice.one_in(2) => Event::Replace { agent },
            17 => Event::ListChanged,
            18 if dice.one_in(2) => Event::StrayLog,
            19 if self.deaths => Event::Lose { session: dice.roll(4), loss: Self::loss(dice) },
            _ => Event::Updated { uri: dice.roll(URIS) },
        }
    }

    fn plan(&self, dice: &mut Dice) -> Plan {
        let fate = match dice.roll(16) {
            0 => Fate::Twice,
            1 => Fate::StringId,
            2 => Fate::UnknownId,
            3..=4 => Fate::Progress(1 + dice.roll(3)),
            5 => Fate::ForeignToken,
            6..=7 => Fate::Log(dice.roll(LEVELS.len())),
            8 => Fate::Error,
            9 if self.silences => Fate::Never,
            10 if self.deaths => Fate::Die,
            _ => Fate::Answer,
        };
        let token = (!dice.one_in(3)).then(|| dice.roll(2));
        let takes = Duration::from_millis([0, 1, 10, 50, 150].get(dice.roll(5)).copied().unwrap_or(0));
        Plan { safe: dice.one_in(2), id: dice.roll(3), token, fate, takes }
    }

    fn loss(dice: &mut Dice) -> Loss {
        match dice.roll(3) {
            0 => Loss::Fails,
            1 => Loss::Ends,
            _ => Loss::Forgotten,
        }
    }
}
