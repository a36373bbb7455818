//! Protocol revisions by date, and the two eras they belong to.

use std::fmt;

/// An MCP revision that the gateway supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Revision {
    /// 2024-11-05: HTTP+SSE, two endpoints.
    V2024_11_05,
    /// 2025-03-26: Streamable HTTP, batches.
    V2025_03_26,
    /// 2025-06-18: version header, structured content, elicitation.
    V2025_06_18,
    /// 2025-11-25: tasks, url elicitation, stream priming.
    V2025_11_25,
    /// 2026-07-28: stateless; no handshake, no session.
    V2026_07_28,
}

/// The protocol era: with or without handshake and session. Independent of the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Era {
    /// Every revision with `initialize`: 2024-11-05 to 2025-11-25.
    Legacy,
    /// 2026-07-28: each request carries everything.
    Modern,
}

impl Revision {
    /// The newest revision with a handshake; the gateway offers it to backends.
    pub const LATEST_LEGACY: Self = Self::V2025_11_25;

    const ALL: [Self; 5] =
        [Self::V2024_11_05, Self::V2025_03_26, Self::V2025_06_18, Self::V2025_11_25, Self::V2026_07_28];

    /// The date as sent on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V2024_11_05 => "2024-11-05",
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
            Self::V2026_07_28 => "2026-07-28",
        }
    }

    /// The revision of this date; `None` if unknown.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.as_str() == text)
    }

    /// The newest revision with a handshake that a text mentions, except this one. Servers list their versions this way
    /// when they reject one.
    #[must_use]
    pub fn listed_beside(self, text: &[u8]) -> Option<Self> {
        let named = |revision: &Self| text.windows(10).any(|part| part == revision.as_str().as_bytes());
        Self::ALL.into_iter().rev().find(|r| *r != self && r.era() == Era::Legacy && named(r))
    }

    /// The era of this revision.
    #[must_use]
    pub fn era(self) -> Era {
        if self == Self::V2026_07_28 { Era::Modern } else { Era::Legacy }
    }

    /// The version to answer `initialize` with: the requested one if it has a handshake, else [`Self::LATEST_LEGACY`].
    /// `initialize` can never negotiate 2026-07-28.
    #[must_use]
    pub fn negotiate(requested: &str) -> Self {
        Self::parse(requested).filter(|r| r.era() == Era::Legacy).unwrap_or(Self::LATEST_LEGACY)
    }

    /// True if requests of this revision carry `MCP-Protocol-Version`.
    #[must_use]
    pub fn has_version_header(self) -> bool {
        self >= Self::V2025_06_18
    }
}

impl Era {
    /// The era of an incoming HTTP message, by its version header: modern only for a modern date.
    #[must_use]
    pub fn of_header(version: Option<&str>) -> Self {
        version.and_then(Revision::parse).map_or(Self::Legacy, Revision::era)
    }

    /// The value in metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Modern => "modern",
        }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests;
