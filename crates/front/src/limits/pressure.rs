//! Pressure levels of the memory account and their thresholds. [`crate::limits::memory`] says what each level does.

/// The memory pressure: how near the limit the bytes held for agents are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PressureLevel {
    /// Far from the limit.
    #[default]
    Calm = 0,
    /// Large bodies and new agent sessions wait.
    Holding = 1,
    /// No new work; agents that do not read are closed.
    Refusing = 2,
    /// At the limit.
    Shedding = 3,
}

impl PressureLevel {
    /// All levels, from low to high.
    pub const ALL: [Self; 4] = [Self::Calm, Self::Holding, Self::Refusing, Self::Shedding];

    /// The word in metrics, logs and bodies.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Holding => "holding",
            Self::Refusing => "refusing",
            Self::Shedding => "shedding",
        }
    }

    /// The level that this many bytes require, coming from this one.
    pub(crate) fn asked_by(self, held: usize, limit: usize) -> Self {
        let entered =
            Self::ALL.into_iter().rfind(|level| held >= level.entered_at(limit)).unwrap_or_default();
        let kept = Self::ALL.into_iter().rfind(|level| held >= level.left_at(limit)).unwrap_or_default();
        entered.max(kept.min(self))
    }

    pub(crate) fn entered_at(self, limit: usize) -> usize {
        match self {
            Self::Calm => 0,
            Self::Holding => limit / 8 * 6,
            Self::Refusing => limit / 8 * 7,
            Self::Shedding => limit,
        }
    }

    /// The bytes below which this level is left.
    pub(crate) fn left_at(self, limit: usize) -> usize {
        match self {
            Self::Calm => 0,
            Self::Holding | Self::Refusing | Self::Shedding => self.entered_at(limit) - limit / 8,
        }
    }

    pub(crate) fn above(self) -> Option<Self> {
        Self::ALL.into_iter().find(|level| *level > self)
    }
}
