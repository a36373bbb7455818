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

use crate::session_id::revoked_file::{Burial, Keeper, Kept};

/// Burials on their way to the file; who deletes waits for room.
const BURIALS: usize = 256;
/// Longest wait of a deletion for the disk: it counts in this life anyhow.
const PATIENCE: Duration = Duration::from_secs(2);

/// One deleted session: when its id was given out, and a number that stands for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tombstone {
    pub(crate) issued: u64,
    pub(crate) print: u64,
}

/// All of them.
pub(crate) struct Tombstones {
    dead: Arc<Dead>,
    burials: Option<mpsc::Sender<Burial>>,
}

/// What is remembered of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nothing speaks against it.
    Alive,
    /// It was deleted.
    Deleted,
    /// So old that it may have been deleted.
    Forgotten,
}

/// The deleted, shared with the task that writes them down.
pub(crate) struct Dead {
    book: Mutex<Book>,
    limit: usize,
    /// Whether some found no room on their way to the file.
    unwritten: AtomicBool,
}

#[derive(Default)]
struct Book {
    /// Oldest first, each once. A queue, because a tree that grows at its end has its nodes half empty.
    known: VecDeque<Tombstone>,
    /// Ids given out up to this moment are not remembered one by one.
    forgotten: u64,
}

impl Tombstones {
    /// Those of this file, and the task that keeps it; only of this life without a file.
    ///
    /// A file that cannot be used is said in the log. Where it cannot be read, no id from before `now` is restored.
    pub(crate) fn open(file: Option<&Path>, limit: usize, now: u64) -> (Self, Option<Keeper>) {
        let Some(path) = file else {
            return (Self { dead: Arc::new(Dead::new(Kept::default(), limit)), burials: None }, None);
        };
        let kept = Kept::read(path).unwrap_or_else(|why| {
            tracing::warn!(
                file = %path.display(), %why,
                "cannot read which agent sessions were deleted, so none from before is restored"
            );
            Kept { forgotten: now, known: Vec::new() }
        });
        let dead = Arc::new(Dead::new(kept, limit));
        let (burials, waiting) = mpsc::channel(BURIALS);
        let keeper = Keeper::open(path, Arc::clone(&dead), waiting);
        (Self { dead, burials: keeper.is_some().then_some(burials) }, keeper)
    }

    pub(crate) fn fate(&self, one: Tombstone) -> Fate {
        self.dead.with(|book| match (book.known.binary_search(&one).is_ok(), one.issued <= book.forgotten) {
            (true, _) => Fate::Deleted,
            (false, true) => Fate::Forgotten,
            (false, false) => Fate::Alive,
        })
    }

    /// Notes a deletion; ids from before `expired` are worth nothing any more.
    pub(crate) fn bury(&self, one: Tombstone, expired: u64) {
        self.dead.with(|book| {
            if let Err(at) = book.known.binary_search(&one) {
                book.known.insert(at, one);
            }
            book.forget_beyond(self.dead.limit);
            while book.known.front().is_some_and(|oldest| oldest.issued < expired) {
                book.forget_one();
            }
        });
    }

    /// Has a deletion written down without waiting for it.
    pub(crate) fn write(&self, one: Tombstone) {
        let Some(burials) = &self.burials else { return };
        if let Err(mpsc::error::TrySendError::Full(_)) = burials.try_send(Burial { one, done: None }) {
            // Those that are waiting are written soon, and then everything is.
            self.dead.unwritten.store(true, Ordering::Release);
        }
    }

    /// Waits until a deletion is written down, or that takes too long.
    pub(crate) async fn written(&self, one: Tombstone) {
        let Some(burials) = &self.burials else { return };
        let (done, written) = oneshot::channel();
        let written = async {
            if burials.send(Burial { one, done: Some(done) }).await.is_ok() {
                // The keeper says itself what went wrong.
                let _ = written.await;
            }
        };
        let _ = tokio::time::timeout(PATIENCE, written).await;
    }
}

impl Dead {
    fn new(kept: Kept, limit: usize) -> Self {
        let mut known = kept.known;
        known.sort_unstable();
        known.dedup();
        let mut book = Book { known: known.into(), forgotten: kept.forgotten };
        book.forget_beyond(limit);
        Self { book: Mutex::new(book), limit, unwritten: AtomicBool::new(false) }
    }

    /// Whether the file has to be written as a whole; asked for once.
    pub(crate) fn is_unwritten(&self) -> bool {
        self.unwritten.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// What a file written anew holds.
    pub(crate) fn kept(&self) -> Kept {
        self.with(|book| Kept { forgotten: book.forgotten, known: book.known.iter().copied().collect() })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Book) -> T) -> T {
        // Consistent between any two statements, so a panic elsewhere does not spoil it.
        act(&mut self.book.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Book {
    fn forget_beyond(&mut self, limit: usize) {
        while self.known.len() > limit {
            self.forget_one();
        }
    }

    fn forget_one(&mut self) {
        if let Some(oldest) = self.known.pop_front() {
            self.forgotten = self.forgotten.max(oldest.issued);
        }
    }
}

#[cfg(test)]
mod tests;
