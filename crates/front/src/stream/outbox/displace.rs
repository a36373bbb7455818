//! Displacing a reader: two connections want to read one stream. The newer one gets it, since the older may have died
//! unnoticed; but if both live, each would return for ever and be sent the stored events again.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Outbox, Presence, Reader, State};

/// Least time a reader that displaced another stays; doubled each time.
const PROTECTED: Duration = Duration::from_secs(60);

/// The stream has a reader that stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken;

/// Number of checks, and the pause between them, whether the reader has gone: a client that reconnects at once is
/// served while its earlier connection still seems alive.
const LOOKS: u32 = 10;
const BETWEEN: Duration = Duration::from_millis(50);

/// Retries until the present reader has gone. `Err` if it stays.
pub(crate) async fn unless_taken<T>(mut attempt: impl FnMut() -> Result<T, Taken>) -> Result<T, Taken> {
    for _ in 0..LOOKS {
        if let Ok(done) = attempt() {
            return Ok(done);
        }
        tokio::time::sleep(BETWEEN).await;
    }
    attempt()
}

impl Outbox {
    /// Attaches the reader of a request, if it may displace the present one. The newest gets the stream, once: an older
    /// one that returns is refused for a while, so that two never displace each other for ever.
    pub(crate) fn request(self: &Arc<Self>, after: Option<u64>) -> Result<Option<Reader>, Taken> {
        if !self.may_displace(&mut self.lock(), after) {
            return Err(Taken);
        }
        Ok(match after {
            Some(seq) => self.attach_after(seq),
            None => self.attach(),
        })
    }

    fn may_displace(&self, state: &mut State, after: Option<u64>) -> bool {
        let Presence::Attached(_) = state.presence else { return true };
        let has_gone = state.connection.as_ref().is_some_and(|connection| connection.has_half_closed());
        // A client that knows an event only the present reader was sent is that reader, on another connection.
        let is_the_same = after.is_some_and(|seq| seq > state.began_after);
        if has_gone || is_the_same {
            return true;
        }
        let now = Instant::now();
        if state.protected_until.is_some_and(|until| until > now) {
            return false;
        }
        state.protected_until = Some(now + PROTECTED * (1 << state.displaced.min(6)));
        state.displaced += 1;
        true
    }
}
