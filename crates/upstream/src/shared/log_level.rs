//! Log levels of the agents of one pool.
//!
//! The level is a setting of a whole session upstream, so a shared one gets the most verbose level that any agent
//! requested, and each agent is filtered by its own. Pure, except for the level noted per session.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
};

use mcpool_wire::AgentKey;

/// The eight levels of syslog, the most verbose first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LogLevel {
    Debug,
    Info,
    Notice,
    Warning,
    Error,
    Critical,
    Alert,
    Emergency,
}

/// The level of a session after the last agent with a level is gone. The server's own default is unknown; most begin
/// here.
const UNASKED: LogLevel = LogLevel::Info;

const NAMES: [(&str, LogLevel); 8] = [
    ("debug", LogLevel::Debug),
    ("info", LogLevel::Info),
    ("notice", LogLevel::Notice),
    ("warning", LogLevel::Warning),
    ("error", LogLevel::Error),
    ("critical", LogLevel::Critical),
    ("alert", LogLevel::Alert),
    ("emergency", LogLevel::Emergency),
];

impl LogLevel {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, level)| *level)
    }

    pub(crate) fn as_str(self) -> &'static str {
        NAMES.iter().find(|(_, level)| *level == self).map_or("", |(name, _)| name)
    }
}

/// The requested levels. An agent without one gets every message.
#[derive(Default)]
pub(super) struct LogLevels {
    /// By agent, with the number of its binding.
    asked: HashMap<AgentKey, (u64, LogLevel)>,
}

impl LogLevels {
    pub(super) fn ask(&mut self, agent: AgentKey, binding: u64, level: LogLevel) {
        self.asked.insert(agent, (binding, level));
    }

    /// The level requested by this binding.
    pub(super) fn asked_by(&self, agent: AgentKey, binding: u64) -> Option<LogLevel> {
        self.asked.get(&agent).filter(|(of, _)| *of == binding).map(|(_, level)| *level)
    }

    /// Removes a binding; the level of a newer binding of the same agent stays.
    pub(super) fn leave(&mut self, agent: AgentKey, binding: u64) {
        if self.asked.get(&agent).is_some_and(|(of, _)| *of == binding) {
            self.asked.remove(&agent);
        }
    }

    /// True if this agent gets a message of this level, or without one.
    pub(super) fn admits(&self, agent: AgentKey, level: Option<LogLevel>) -> bool {
        let asked = self.asked.get(&agent).map(|(_, level)| *level).filter(|_| !mutant!(LevelIgnored));
        asked.zip(level).is_none_or(|(asked, level)| level >= asked)
    }

    /// The level for the sessions, if any agent requested one.
    pub(super) fn wanted(&self) -> Option<LogLevel> {
        self.asked.values().map(|(_, level)| *level).min()
    }
}

/// The level set on one session.
#[derive(Default)]
pub(crate) struct SessionLogLevel(Mutex<Told>);

#[derive(Default)]
struct Told {
    level: Option<LogLevel>,
    under_way: bool,
}

impl SessionLogLevel {
    /// The level to set now, if it changed. One request at a time: two could overtake each other.
    pub(crate) fn begin(&self, wanted: Option<LogLevel>) -> Option<LogLevel> {
        let mut told = self.lock();
        let wanted = wanted.or(told.level.map(|_| UNASKED));
        if told.under_way || told.level == wanted {
            return None;
        }
        told.level = wanted;
        told.under_way = wanted.is_some();
        wanted
    }

    pub(crate) fn done(&self) {
        self.lock().under_way = false;
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANNA: AgentKey = AgentKey(1);
    const BERT: AgentKey = AgentKey(2);

    #[test]
    fn the_most_verbose_wins_and_each_is_filtered_by_its_own() {
        let mut levels = LogLevels::default();
        assert_eq!(levels.wanted(), None);
        levels.ask(ANNA, 1, LogLevel::Debug);
        levels.ask(BERT, 2, LogLevel::Error);
        assert_eq!(levels.wanted(), Some(LogLevel::Debug));
        assert!(levels.admits(ANNA, Some(LogLevel::Debug)) && !levels.admits(BERT, Some(LogLevel::Warning)));
        assert!(levels.admits(BERT, Some(LogLevel::Error)) && levels.admits(BERT, None));
        assert!(levels.admits(AgentKey(3), Some(LogLevel::Debug)), "who asked for nothing gets what comes");
        levels.leave(ANNA, 1);
        assert_eq!(levels.wanted(), Some(LogLevel::Error));
    }

    #[test]
    fn an_old_seat_does_not_take_the_word_of_the_new_one_with_it() {
        let mut levels = LogLevels::default();
        levels.ask(ANNA, 1, LogLevel::Debug);
        levels.ask(ANNA, 2, LogLevel::Alert);
        levels.leave(ANNA, 1);
        assert_eq!(levels.wanted(), Some(LogLevel::Alert));
    }

    #[test]
    fn a_session_is_told_once_and_one_thing_at_a_time() {
        let told = SessionLogLevel::default();
        assert_eq!(told.begin(None), None, "nobody asked: the server's own choice stands");
        assert_eq!(told.begin(Some(LogLevel::Debug)), Some(LogLevel::Debug));
        assert_eq!(told.begin(Some(LogLevel::Error)), None, "the first is under way");
        told.done();
        assert_eq!(told.begin(Some(LogLevel::Error)), Some(LogLevel::Error));
        told.done();
        assert_eq!(told.begin(Some(LogLevel::Error)), None);
        assert_eq!(told.begin(None), Some(UNASKED), "lowered when the last one left");
    }

    #[test]
    fn every_level_has_its_name() {
        for (name, level) in NAMES {
            assert_eq!((LogLevel::parse(name), level.as_str()), (Some(level), name));
        }
        assert_eq!(LogLevel::parse("verbose"), None);
    }
}
