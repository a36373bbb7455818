//! How severe a log message is.

/// One of the eight levels; the more severe, the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::stateless) struct LogLevel(usize);

/// The least severe first.
const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

impl LogLevel {
    pub(in crate::stateless) fn parse(name: &str) -> Option<Self> {
        LEVELS.iter().position(|level| *level == name).map(Self)
    }

    pub(in crate::stateless) fn as_str(self) -> &'static str {
        LEVELS[self.0]
    }
}
