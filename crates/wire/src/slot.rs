//! The slot of a replica: which of several gateways gave out an id.

use std::fmt;

/// The number of a replica, 1 to [`Slot::MOST`]; or none, for a gateway that is alone and in ids given out before there
/// were replicas. 12 bits, the same in every kind of id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

impl Slot {
    /// No replica.
    pub const NONE: Self = Self(0);
    /// The highest number.
    pub const MOST: u16 = 4_095;

    /// The slot with this number; `None` if no replica has such a number.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        (1..=Self::MOST).contains(&number).then_some(Self(number))
    }

    /// The slot in this field of an id. A number that no replica has stands for none.
    #[must_use]
    pub fn read(field: u16) -> Self {
        Self::new(field).unwrap_or_default()
    }

    /// The number; 0 stands for none.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }
}

/// For people: the number.
impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_of_replicas_are_slots() {
        let numbers = [0, 1, 4_095, 4_096, u16::MAX];
        assert_eq!(numbers.map(|number| Slot::new(number).is_some()), [false, true, true, false, false]);
        assert_eq!(numbers.map(|field| Slot::read(field).number()), [0, 1, 4_095, 0, 0]);
        assert_eq!((Slot::NONE, Slot::read(7).to_string()), (Slot::default(), "7".to_owned()));
    }
}
