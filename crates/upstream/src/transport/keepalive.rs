//! The rhythm in which a backend keeps its stream alive, and the silence that is too long for it.
//!
//! Over Streamable HTTP a session's probes travel on connections of their own, so a stream that was lost by something in
//! between, without a word, is noticed by its own silence or not at all. Silence proves something only where there was
//! a rhythm: a backend that sends no comments may say nothing for hours. (A peer that is gone altogether is noticed by
//! the keep-alives of TCP, which the client has on.)

use std::time::{Duration, Instant};

/// Comments that came regularly before a missing one means something.
const LEARNED: u32 = 2;

/// What is known of one stream.
#[derive(Debug)]
pub(super) struct Keepalive {
    last: Instant,
    longest: Duration,
    comments: u32,
    /// How much later than ever before a comment may be; also, a tenth of it, the shortest pause that is one.
    slack: Duration,
}

impl Keepalive {
    /// Of a stream that was opened now.
    pub(super) fn new(slack: Duration, now: Instant) -> Self {
        Self { last: now, longest: Duration::ZERO, comments: 0, slack }
    }

    /// A comment, or with `false` anything else.
    pub(super) fn heard(&mut self, is_comment: bool, now: Instant) {
        let pause = now.saturating_duration_since(self.last);
        self.last = now;
        // Some greet with a comment: that is no rhythm.
        if is_comment && pause >= self.slack / 10 {
            self.longest = self.longest.max(pause);
            self.comments = self.comments.saturating_add(1);
        }
    }

    /// When the next sign is overdue; never, without a rhythm. One comment may be missing: with the usual 15 s
    /// between them and 5 s of slack this is after 35 s, with 30 s between them after 65 s.
    pub(super) fn overdue(&self) -> Option<Instant> {
        (self.comments >= LEARNED).then(|| self.last + self.longest * 2 + self.slack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLACK: Duration = Duration::from_secs(5);

    /// What is overdue how long after the last of these: seconds at which comments (`true`) and messages came.
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
