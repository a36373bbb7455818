//! The strikes to come, each with the bytes it still lets pass.
//!
//! The subtle thing: bytes are counted where they are about to be written, by whoever writes them, under one lock; so
//! one byte is struck at most once, however many connections carry some.

use std::sync::Mutex;

use super::{Shot, Strike, Way};
use mcpool_demo::server::lock;

/// Strikes that may wait at once.
const MOST: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Strikes(Mutex<Vec<Strike>>);

impl Strikes {
    pub(super) fn add(&self, strike: Strike) -> bool {
        let mut waiting = lock(&self.0);
        let has_room = waiting.len() < MOST;
        if has_room {
            waiting.push(strike);
        }
        has_room
    }

    pub(super) fn clear(&self) {
        lock(&self.0).clear();
    }

    /// This many bytes are about to go this way: how many of them do before something happens, and what; `None` if all
    /// of them may go. Those that may are counted.
    pub(super) fn meet(&self, way: Way, bytes: usize) -> Option<(usize, Shot)> {
        let mut waiting = lock(&self.0);
        let first = waiting
            .iter()
            .enumerate()
            .filter(|(_, strike)| strike.way == way && strike.after <= bytes as u64)
            .min_by_key(|(_, strike)| strike.after)
            .map(|(at, _)| at);
        let struck = first.map(|at| waiting.remove(at));
        let passed = struck.map_or(bytes as u64, |strike| strike.after);
        for strike in waiting.iter_mut().filter(|strike| strike.way == way) {
            strike.after -= passed;
        }
        // Not above `bytes`, so it fits.
        struck.map(|strike| (usize::try_from(strike.after).unwrap_or(bytes), strike.shot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault_proxy::End;

    #[test]
    fn each_strike_counts_the_bytes_of_its_own_direction_from_its_beginning() {
        let strikes = Strikes::default();
        strikes.add(Strike { way: Way::ToClient, after: 10, shot: Shot::Hold });
        assert_eq!(strikes.meet(Way::ToServer, 100), None);
        assert_eq!(strikes.meet(Way::ToClient, 4), None);
        strikes.add(Strike { way: Way::ToClient, after: 0, shot: Shot::Cut(End::Close) });
        assert_eq!(strikes.meet(Way::ToClient, 100), Some((0, Shot::Cut(End::Close))));
        assert_eq!(strikes.meet(Way::ToClient, 6), Some((6, Shot::Hold)));
        assert_eq!(strikes.meet(Way::ToClient, 100), None);
    }

    #[test]
    fn they_are_bounded() {
        let strikes = Strikes::default();
        let strike = Strike { way: Way::ToClient, after: 0, shot: Shot::Hold };
        assert!((0..MOST).all(|_| strikes.add(strike)) && !strikes.add(strike));
        strikes.clear();
        assert!(strikes.add(strike));
    }
}
