//! Announcements of changed lists: changes of one kind within a moment become one, and a large pool is notified bit by
//! bit, so that a thousand agents do not list again at once. Pure: the time is an argument.

use std::time::{Duration, Instant};

use mcpool_wire::Method;

/// Changes of one kind within this time become one.
pub(super) const WINDOW: Duration = Duration::from_millis(250);

/// Agents notified at once; more are spread over [`SPREAD`].
pub(super) const AT_ONCE: usize = 50;
pub(super) const SPREAD: Duration = Duration::from_secs(1);

/// Interval of the notifications in a large pool.
const TICK: Duration = Duration::from_millis(50);

const KINDS: [Method; 3] =
    [Method::ToolsListChanged, Method::PromptsListChanged, Method::ResourcesListChanged];

#[derive(Default)]
pub(super) struct ListChanges([Round; 3]);

/// One announcement in progress.
#[derive(Default)]
struct Round {
    /// The time it begins.
    begins: Option<Instant>,
    /// Its progress: agents with an earlier turn are notified.
    told: Duration,
    /// True if the list changed again since it began.
    again: bool,
    /// The time of the next step.
    next: Option<Instant>,
}

impl ListChanges {
    /// Notes a changed list.
    pub(super) fn changed(&mut self, kind: &Method, now: Instant) {
        let Some(round) = KINDS.iter().position(|k| k == kind).and_then(|at| self.0.get_mut(at)) else {
            return;
        };
        match round.begins {
            None => round.start(now),
            Some(begins) => round.again |= begins <= now,
        }
    }

    /// The time of the next notification.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.0.iter().filter_map(|round| round.next).min()
    }

    /// The due notifications: each kind with its agents.
    pub(super) fn take(&mut self, agents: &[u64], now: Instant) -> Vec<(Method, Vec<u64>)> {
        let spread = if agents.len() > AT_ONCE { SPREAD } else { Duration::ZERO };
        let rounds = KINDS.iter().zip(&mut self.0);
        let told = rounds.filter_map(|(kind, round)| Some((kind.clone(), round.take(agents, spread, now)?)));
        told.collect()
    }
}

impl Round {
    fn start(&mut self, now: Instant) {
        *self = Self { begins: Some(now + WINDOW), next: Some(now + WINDOW), ..Self::default() };
    }

    fn take(&mut self, agents: &[u64], spread: Duration, now: Instant) -> Option<Vec<u64>> {
        let begins = self.begins.filter(|_| self.next.is_some_and(|next| next <= now))?;
        let reached = now.saturating_duration_since(begins) + Duration::from_nanos(1);
        let is_over = reached > spread;
        let due = |agent: &u64| {
            let turn = turn_of(*agent, spread);
            turn >= self.told && (is_over || turn < reached)
        };
        let told = agents.iter().copied().filter(due).collect();
        if !is_over {
            self.told = reached;
            self.next = Some(now + TICK);
        } else if self.again {
            self.start(now);
        } else {
            *self = Self::default();
        }
        Some(told)
    }
}

/// The turn of an agent (splitmix64 finaliser).
fn turn_of(agent: u64, spread: Duration) -> Duration {
    let mut x = agent.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let share = u32::try_from((x ^ (x >> 31)) % 1000).unwrap_or(0);
    spread * share / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOLS: Method = Method::ToolsListChanged;

    #[allow(clippy::disallowed_methods, reason = "only the start of a time that is counted by hand")]
    fn start() -> Instant {
        Instant::now()
    }

    fn told(changes: &mut ListChanges, agents: &[u64], now: Instant) -> usize {
        changes.take(agents, now).iter().map(|(_, agents)| agents.len()).sum()
    }

    #[test]
    fn changes_within_the_window_are_one() {
        let (mut changes, t) = (ListChanges::default(), start());
        for ms in [0, 100, 249] {
            changes.changed(&TOOLS, t + Duration::from_millis(ms));
        }
        assert_eq!(changes.next_due(), Some(t + WINDOW));
        assert!(changes.take(&[1, 2], t + Duration::from_millis(249)).is_empty());
        assert_eq!(changes.take(&[1, 2], t + WINDOW), [(TOOLS, vec![1, 2])]);
        assert_eq!(changes.next_due(), None);
    }

    #[test]
    fn kinds_are_told_apart() {
        let (mut changes, t) = (ListChanges::default(), start());
        changes.changed(&TOOLS, t);
        changes.changed(&Method::PromptsListChanged, t);
        changes.changed(&Method::ResourcesUpdated, t);
        assert_eq!(changes.take(&[1], t + WINDOW).len(), 2);
    }

    #[test]
    fn a_large_pool_is_told_within_a_second_and_everybody_once() {
        let (mut changes, t) = (ListChanges::default(), start());
        let agents: Vec<u64> = (0..1_000).collect();
        changes.changed(&TOOLS, t);
        let mut all = Vec::new();
        let mut most = 0;
        while let Some(due) = changes.next_due() {
            assert!(due <= t + WINDOW + SPREAD + TICK);
            for (_, some) in changes.take(&agents, due) {
                most = most.max(some.len());
                all.extend(some);
            }
        }
        all.sort_unstable();
        assert_eq!(all, agents);
        assert!(most < 200, "{most} at once");
    }

    #[test]
    fn a_change_while_it_is_told_is_told_again() {
        let (mut changes, t) = (ListChanges::default(), start());
        let agents: Vec<u64> = (0..100).collect();
        changes.changed(&TOOLS, t);
        let first = told(&mut changes, &agents, t + WINDOW);
        changes.changed(&TOOLS, t + WINDOW);
        let rest = told(&mut changes, &agents, t + WINDOW + SPREAD);
        assert_eq!(first + rest, 100);
        let again = changes.next_due().expect("another round");
        assert!(told(&mut changes, &agents, again) + told(&mut changes, &agents, again + SPREAD) == 100);
        assert_eq!(changes.next_due(), None);
    }
}
