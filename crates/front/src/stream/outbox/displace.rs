//! Two who want to read one stream. The newer one does, since the older may be a connection that died unnoticed; but
//! when both live, each would come back for ever, and both would be sent what is kept for a resume.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Outbox, Presence, Reader, State};

/// For how long a reader that displaced another stays, at least; twice as long each time.
const PROTECTED: Duration = Duration::from_secs(60);

/// Somebody reads already, and stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken;

/// How often, and how far apart, it is looked whether who reads has gone: a client that comes back at once is served
/// while its connection of before still seems to be there.
const LOOKS: u32 = 10;
const BETWEEN: Duration = Duration::from_millis(50);

/// Tries until nobody else stays; an error if somebody does.
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
    /// The reader of a request that asks for this stream, if that may displace who reads now. The newest reads, once: an
    /// older one that comes back is not let in again for a while, so that two never displace each other for ever.
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
        // Whoever knows an event only the present reader was sent is that reader, over another connection.
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
