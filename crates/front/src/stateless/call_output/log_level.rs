//! Log levels of MCP, ordered by severity.

/// One of the eight levels; a more severe one is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::stateless) struct LogLevel(usize);

/// All levels, the least severe first.
const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

impl LogLevel {
    pub(in crate::stateless) fn parse(name: &str) -> Option<Self> {
        LEVELS.iter().position(|level| *level == name).map(Self)
    }

    pub(in crate::stateless) fn as_str(self) -> &'static str {
        LEVELS[self.0]
    }
}
