//! The revocation list: deleted agent sessions, kept for as long as their sealed ids could restore them.
//!
//! The list is bounded: beyond the limit its oldest entry goes, and all ids as old as it or older become invalid. So a
//! deleted session is never restored, and the cost is that other sessions of that age cannot be restored either. Also
//! written to a file (`revoked_file`), so that a restart does not restore them.

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

/// Most revocations on their way to the file; beyond, a deletion waits.
const MAX_PENDING: usize = 256;
/// Longest wait of a deletion for the disk: until a restart it counts in any case.
const PATIENCE: Duration = Duration::from_secs(2);

/// One revoked id: its time of issue, and its fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Revocation {
    pub(crate) issued: u64,
    pub(crate) fingerprint: u64,
}

/// The revoked ids, and the way to their file.
pub(crate) struct RevocationList {
    revoked: Arc<RevokedIds>,
    pending: Option<mpsc::Sender<PendingRevocation>>,
}

/// The status of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RevocationStatus {
    /// It was not revoked.
    Valid,
    /// It was revoked.
    Deleted,
    /// It is so old that it may have been revoked.
    Forgotten,
}

/// The revoked ids, shared with the task that writes them.
pub(crate) struct RevokedIds {
    inner: Mutex<Inner>,
    limit: usize,
    /// Whether some found no room on their way to the file.
    unwritten: AtomicBool,
}

#[derive(Default)]
struct Inner {
    /// Oldest first, without duplicates. A queue, because a tree that grows at its end has half-empty nodes.
    ids: VecDeque<Revocation>,
    /// The time of issue up to which ids are no longer remembered one by one.
    forgotten: u64,
}

impl RevocationList {
    /// Reads the list from this file. Returns it with the task that writes the file; without a file the list lasts
    /// until a restart.
    ///
    /// An unusable file is logged. If it cannot be read, no id from before `now` is restored.
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

    /// Revokes an id; entries from before `expired` are dropped.
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

    /// Queues a revocation for the file, without waiting.
    pub(crate) fn write(&self, one: Revocation) {
        let Some(pending) = &self.pending else { return };
        if let Err(mpsc::error::TrySendError::Full(_)) =
            pending.try_send(PendingRevocation { one, done: None })
        {
            // The queued ones are written soon, and then the whole list is.
            self.revoked.unwritten.store(true, Ordering::Release);
        }
    }

    /// Waits until a revocation is written, or that takes too long.
    pub(crate) async fn written(&self, one: Revocation) {
        let Some(pending) = &self.pending else { return };
        let (done, written) = oneshot::channel();
        let written = async {
            if pending.send(PendingRevocation { one, done: Some(done) }).await.is_ok() {
                // The writer logs its own failures.
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

    /// Whether the whole file must be written; resets the mark.
    pub(crate) fn is_unwritten(&self) -> bool {
        self.unwritten.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// The content of a newly written file.
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
