//! Limits of one peer: connections and agent sessions are counted for each.
//!
//! Peers on this machine are not counted apart, unless `FrontLimits::count_loopback` says so: they are one address
//! however many they are. A peer of IPv6 is its /64, because one machine has all of it.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

/// Of what one peer may have so many.
pub(crate) struct Peers {
    limit: usize,
    /// Whether addresses of this machine are counted like any other.
    count_loopback: bool,
    held: Mutex<HashMap<IpAddr, usize>>,
}

/// One of them; given back when it is dropped.
pub(crate) struct PeerSeat {
    peers: Arc<Peers>,
    /// None for a peer that is not counted.
    peer: Option<IpAddr>,
}

impl Peers {
    pub(crate) fn new(limit: usize, count_loopback: bool) -> Arc<Self> {
        Arc::new(Self { limit, count_loopback, held: Mutex::default() })
    }

    /// A seat, unless this peer has as many as it may.
    pub(crate) fn enter(self: &Arc<Self>, peer: IpAddr) -> Option<PeerSeat> {
        let peer = Some(counted(peer)).filter(|peer| self.count_loopback || !peer.is_loopback());
        if let Some(peer) = peer {
            let mut held = self.lock();
            let seats = held.entry(peer).or_default();
            if *seats >= self.limit {
                return None;
            }
            *seats += 1;
        }
        Some(PeerSeat { peers: Arc::clone(self), peer })
    }

    // Nothing under this lock can panic halfway.
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PeerSeat {
    fn drop(&mut self) {
        let Some(peer) = self.peer else { return };
        let mut held = self.peers.lock();
        if let Some(seats) = held.get_mut(&peer) {
            *seats -= 1;
            if *seats == 0 {
                held.remove(&peer);
            }
        }
    }
}

/// The address a peer is counted under.
fn counted(peer: IpAddr) -> IpAddr {
    let peer = peer.to_canonical();
    match peer {
        IpAddr::V6(peer) if !peer.is_loopback() => {
            let [a, b, c, d, ..] = peer.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        _ => peer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_peer_is_its_address_or_its_network() {
        for (peer, as_what) in [
            ("127.0.0.1", "127.0.0.1"),
            ("127.9.9.9", "127.9.9.9"),
            ("::1", "::1"),
            ("::ffff:127.0.0.1", "127.0.0.1"),
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ] {
            assert_eq!(counted(ip(peer)), ip(as_what), "{peer}");
        }
    }

    #[test]
    fn peers_of_this_machine_are_counted_only_where_that_is_asked_for() {
        for (count_loopback, second) in [(false, true), (true, false)] {
            let peers = Peers::new(1, count_loopback);
            let _first = peers.enter(ip("::ffff:127.0.0.1"));
            assert_eq!(peers.enter(ip("127.0.0.1")).is_some(), second);
        }
    }

    #[test]
    fn a_seat_comes_back_and_nothing_is_remembered_of_a_peer_that_left() {
        let peers = Peers::new(2, false);
        let seats = [peers.enter(ip("192.0.2.7")), peers.enter(ip("192.0.2.7"))];
        assert!(seats.iter().all(Option::is_some));
        assert!(peers.enter(ip("192.0.2.7")).is_none());
        let other = peers.enter(ip("192.0.2.8"));
        assert!(other.is_some() && peers.enter(ip("127.0.0.1")).is_some());
        drop(seats);
        assert!(peers.enter(ip("192.0.2.7")).is_some());
        drop(other);
        assert!(peers.lock().is_empty());
    }
}
