//! Limits per peer: connections and agent sessions are counted for each client address.
//!
//! Loopback addresses are exempt unless `FrontLimits::count_loopback` is set: every client on this machine shares them.
//! An IPv6 peer is its /64, because one machine usually owns all of it.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

/// Counts permits per client address (IPv6: per /64) up to a limit.
pub(crate) struct PerPeerLimit {
    limit: usize,
    /// Whether loopback addresses are counted like any other.
    count_loopback: bool,
    held: Mutex<HashMap<IpAddr, usize>>,
}

/// One permit; released on drop.
pub(crate) struct PeerPermit {
    peers: Arc<PerPeerLimit>,
    /// `None` for a peer that is not counted.
    peer: Option<IpAddr>,
}

impl PerPeerLimit {
    pub(crate) fn new(limit: usize, count_loopback: bool) -> Arc<Self> {
        Arc::new(Self { limit, count_loopback, held: Mutex::default() })
    }

    /// Takes a permit; `None` if this peer is at its limit.
    pub(crate) fn acquire(self: &Arc<Self>, peer: IpAddr) -> Option<PeerPermit> {
        let peer = Some(counted(peer)).filter(|peer| self.count_loopback || !peer.is_loopback());
        if let Some(peer) = peer {
            let mut held = self.lock();
            let permits = held.entry(peer).or_default();
            if *permits >= self.limit {
                return None;
            }
            *permits += 1;
        }
        Some(PeerPermit { peers: Arc::clone(self), peer })
    }

    // Code under this lock does not panic halfway.
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PeerPermit {
    fn drop(&mut self) {
        let Some(peer) = self.peer else { return };
        let mut held = self.peers.lock();
        if let Some(permits) = held.get_mut(&peer) {
            *permits -= 1;
            if *permits == 0 {
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
            let peers = PerPeerLimit::new(1, count_loopback);
            let _first = peers.acquire(ip("::ffff:127.0.0.1"));
            assert_eq!(peers.acquire(ip("127.0.0.1")).is_some(), second);
        }
    }

    #[test]
    fn a_seat_comes_back_and_nothing_is_remembered_of_a_peer_that_left() {
        let peers = PerPeerLimit::new(2, false);
        let permits = [peers.acquire(ip("192.0.2.7")), peers.acquire(ip("192.0.2.7"))];
        assert!(permits.iter().all(Option::is_some));
        assert!(peers.acquire(ip("192.0.2.7")).is_none());
        let other = peers.acquire(ip("192.0.2.8"));
        assert!(other.is_some() && peers.acquire(ip("127.0.0.1")).is_some());
        drop(permits);
        assert!(peers.acquire(ip("192.0.2.7")).is_some());
        drop(other);
        assert!(peers.lock().is_empty());
    }
}
