//! Keep-alive watchdog of a stream: learns the interval at which a backend sends comments, and tells when one is overdue.
//!
//! The probes of a Streamable HTTP session use other connections. A stream that a proxy dropped silently is therefore
//! noticed by its own silence or not at all. Silence proves nothing without an interval: a backend that sends no
//! comments may be silent for hours. (TCP keep-alive, which the client has on, notices a peer that is gone.)

use std::time::{Duration, Instant};

/// Minimum number of regular comments before a missing one counts.
const LEARNED: u32 = 2;

/// The intervals seen on one stream.
#[derive(Debug)]
pub(super) struct Keepalive {
    last: Instant,
    longest: Duration,
    comments: u32,
    /// Tolerance beyond the longest interval seen. A tenth of it is the shortest pause that counts as an interval.
    slack: Duration,
}

impl Keepalive {
    /// The watchdog of a stream that was opened now.
    pub(super) fn new(slack: Duration, now: Instant) -> Self {
        Self { last: now, longest: Duration::ZERO, comments: 0, slack }
    }

    /// Notes a comment, or with `false` anything else.
    pub(super) fn heard(&mut self, is_comment: bool, now: Instant) {
        let pause = now.saturating_duration_since(self.last);
        self.last = now;
        // Some servers greet with a comment: that is no interval.
        if is_comment && pause >= self.slack / 10 {
            self.longest = self.longest.max(pause);
            self.comments = self.comments.saturating_add(1);
        }
    }

    /// The time at which the stream is overdue; `None` without an interval. One comment may be missing: with the usual
    /// interval of 15 s and a tolerance of 5 s the stream is overdue after 35 s, with 30 s after 65 s.
    pub(super) fn overdue(&self) -> Option<Instant> {
        (self.comments >= LEARNED).then(|| self.last + self.longest * 2 + self.slack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLACK: Duration = Duration::from_secs(5);

    /// Seconds from the last event until the stream is overdue; events are seconds at which comments (`true`) or messages came.
    fn overdue(heard: &[(bool, u64)]) -> Option<Duration> {
        let start = crate::clock::now();
        let at = |second| start + Duration::from_secs(second);
        let mut keepalive = Keepalive::new(SLACK, start);
        heard.iter().for_each(|(is_comment, second)| keepalive.heard(*is_comment, at(*second)));
        let last = heard.last().map_or(start, |(_, second)| at(*second));
        keepalive.overdue().map(|due| due - last)
    }

    #[test]
    fn a_comment_is_missed_where_there_were_some() {
        let seconds = |n| Some(Duration::from_secs(n));
        assert_eq!(overdue(&[]), None);
        assert_eq!(overdue(&[(true, 15)]), None);
        assert_eq!(overdue(&[(true, 15), (true, 30)]), seconds(35));
        assert_eq!(overdue(&[(true, 30), (true, 60)]), seconds(65));
        assert_eq!(overdue(&[(true, 15), (true, 30), (false, 31)]), seconds(35));
        assert_eq!(overdue(&[(true, 15), (false, 16), (true, 30)]), seconds(35), "the longest pause counts");
    }

    #[test]
    fn messages_and_greetings_are_no_rhythm() {
        assert_eq!(overdue(&[(false, 15), (false, 30), (false, 45)]), None);
        assert_eq!(overdue(&[(true, 0), (true, 0), (true, 0)]), None);
    }
}
