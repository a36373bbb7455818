//! Agent sessions that were deleted, kept for as long as their sealed ids could bring them back.
//!
//! Bounded: beyond the limit the oldest tombstone goes, and with it the word of every id as old as it or older. So a
//! deleted session stays deleted in any case; what is lost is that others of that age can be restored. Kept in a file
//! too (`tombstone_file`), because a restart must not bring them back either.

use std::{
    collections::VecDeque,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

use crate::session_id::revoked_file::{PendingRevocation, RevocationSnapshot, RevocationWriter};

/// Burials on their way to the file; who deletes waits for room.
const MAX_PENDING: usize = 256;
/// Longest wait of a deletion for the disk: it counts in this life anyhow.
const PATIENCE: Duration = Duration::from_secs(2);

/// One deleted session: when its id was given out, and a number that stands for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Revocation {
    pub(crate) issued: u64,
    pub(crate) fingerprint: u64,
}

/// All of them.
pub(crate) struct RevocationList {
    revoked: Arc<RevokedIds>,
    pending: Option<mpsc::Sender<PendingRevocation>>,
}

/// What is remembered of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RevocationStatus {
    /// Nothing speaks against it.
    Valid,
    /// It was deleted.
    Deleted,
    /// So old that it may have been deleted.
    Forgotten,
}

/// The deleted, shared with the task that writes them down.
pub(crate) struct RevokedIds {
    inner: Mutex<Inner>,
    limit: usize,
    /// Whether some found no room on their way to the file.
    unwritten: AtomicBool,
}

#[derive(Default)]
struct Inner {
    /// Oldest first, each once. A queue, because a tree that grows at its end has its nodes half empty.
    ids: VecDeque<Revocation>,
    /// Ids given out up to this moment are not remembered one by one.
    forgotten: u64,
}

impl RevocationList {
    /// Those of this file, and the task that keeps it; only of this life without a file.
    ///
    /// A file that cannot be used is said in the log. Where it cannot be read, no id from before `now` is restored.
    pub(crate) fn open(file: Option<&Path>, limit: usize, now: u64) -> (Self, Option<RevocationWriter>) {
        let Some(path) = file else {
            return (
                Self {
                    revoked: Arc::new(RevokedIds::new(RevocationSnapshot::default(), limit)),
                    pending: None,
                },
                None,
            );
        };
        let snapshot = RevocationSnapshot::read(path).unwrap_or_else(|why| {
            tracing::warn!(
                file = %path.display(), %why,
                "cannot read which agent sessions were deleted, so none from before is restored"
            );
            RevocationSnapshot { forgotten: now, ids: Vec::new() }
        });
        let revoked = Arc::new(RevokedIds::new(snapshot, limit));
        let (pending, waiting) = mpsc::channel(MAX_PENDING);
        let writer = RevocationWriter::open(path, Arc::clone(&revoked), waiting);
        (Self { revoked, pending: writer.is_some().then_some(pending) }, writer)
    }

    pub(crate) fn status(&self, one: Revocation) -> RevocationStatus {
        self.revoked.with(|inner| {
            match (inner.ids.binary_search(&one).is_ok(), one.issued <= inner.forgotten) {
                (true, _) => RevocationStatus::Deleted,
                (false, true) => RevocationStatus::Forgotten,
                (false, false) => RevocationStatus::Valid,
            }
        })
    }

    /// Notes a deletion; ids from before `expired` are worth nothing any more.
    pub(crate) fn revoke(&self, one: Revocation, expired: u64) {
        self.revoked.with(|inner| {
            if let Err(at) = inner.ids.binary_search(&one) {
                inner.ids.insert(at, one);
            }
            inner.forget_beyond(self.revoked.limit);
            while inner.ids.front().is_some_and(|oldest| oldest.issued < expired) {
                inner.forget_one();
            }
        });
    }

    /// Has a deletion written down without waiting for it.
    pub(crate) fn write(&self, one: Revocation) {
        let Some(pending) = &self.pending else { return };
        if let Err(mpsc::error::TrySendError::Full(_)) =
            pending.try_send(PendingRevocation { one, done: None })
        {
            // Those that are waiting are written soon, and then everything is.
            self.revoked.unwritten.store(true, Ordering::Release);
        }
    }

    /// Waits until a deletion is written down, or that takes too long.
    pub(crate) async fn written(&self, one: Revocation) {
        let Some(pending) = &self.pending else { return };
        let (done, written) = oneshot::channel();
        let written = async {
            if pending.send(PendingRevocation { one, done: Some(done) }).await.is_ok() {
                // The keeper says itself what went wrong.
                let _ = written.await;
            }
        };
        let _ = tokio::time::timeout(PATIENCE, written).await;
    }
}

impl RevokedIds {
    fn new(snapshot: RevocationSnapshot, limit: usize) -> Self {
        let mut ids = snapshot.ids;
        ids.sort_unstable();
        ids.dedup();
        let mut inner = Inner { ids: ids.into(), forgotten: snapshot.forgotten };
        inner.forget_beyond(limit);
        Self { inner: Mutex::new(inner), limit, unwritten: AtomicBool::new(false) }
    }

    /// Whether the file has to be written as a whole; asked for once.
    pub(crate) fn is_unwritten(&self) -> bool {
        self.unwritten.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// What a file written anew holds.
    pub(crate) fn snapshot(&self) -> RevocationSnapshot {
        self.with(|inner| RevocationSnapshot {
            forgotten: inner.forgotten,
            ids: inner.ids.iter().copied().collect(),
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        // Consistent between any two statements, so a panic elsewhere does not spoil it.
        act(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Inner {
    fn forget_beyond(&mut self, limit: usize) {
        while self.ids.len() > limit {
            self.forget_one();
        }
    }

    fn forget_one(&mut self) {
        if let Some(oldest) = self.ids.pop_front() {
            self.forgotten = self.forgotten.max(oldest.issued);
        }
    }
}

#[cfg(test)]
mod tests;
