//! The file of revoked ids: 16 bytes each, appended, and written anew when it holds twice the limit.
//!
//! A deletion is answered once it was handed to the system, so that killing the gateway loses none; a crash of the
//! machine may lose the last ones. One task owns the file: no handler touches the disk.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    fs::File,
    io::AsyncWriteExt as _,
    sync::{mpsc, oneshot},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use crate::session_id::revoked::{Revocation, RevokedIds};

const MAGIC: &[u8; 8] = b"mcpool-1";
/// The size of a record. The first one holds the magic number and the time up to which ids are no longer remembered one
/// by one; the others are revocations.
const RECORD: usize = 16;
/// Most revocations written at once.
const BATCH: usize = 256;
/// Time between two checks whether the file is still there.
const LOOK: Duration = Duration::from_secs(5);
/// A larger file is not ours.
const MOST_BYTES: u64 = 1 << 30;

/// The content of the file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct RevocationSnapshot {
    pub(crate) forgotten: u64,
    pub(crate) ids: Vec<Revocation>,
}

/// A revocation to write, with the sender that reports when it is written.
pub(crate) struct PendingRevocation {
    pub(crate) one: Revocation,
    pub(crate) done: Option<oneshot::Sender<()>>,
}

/// The task that owns the file.
pub(crate) struct RevocationWriter {
    path: PathBuf,
    file: Option<File>,
    waiting: mpsc::Receiver<PendingRevocation>,
    /// The list, to write the file anew.
    revoked: Arc<RevokedIds>,
    records: usize,
}

impl RevocationSnapshot {
    /// Reads the file. A missing file is empty; half a record at its end, after a crash, is ignored.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        match fs::metadata(path) {
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(why) => return Err(why),
            Ok(ids) if ids.len() > MOST_BYTES => return Err(io::Error::other("it is too large")),
            Ok(_) => {}
        }
        let bytes = fs::read(path)?;
        let mut records = bytes.as_chunks::<RECORD>().0.iter().map(halves);
        match records.next() {
            Some((magic, forgotten)) if magic == u64::from_be_bytes(*MAGIC) => {
                let ids = records.map(|(issued, fingerprint)| Revocation { issued, fingerprint }).collect();
                Ok(Self { forgotten, ids })
            }
            None | Some(_) => Err(io::Error::other("it is damaged")),
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity((1 + self.ids.len()) * RECORD);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.forgotten.to_be_bytes());
        self.ids.iter().for_each(|one| bytes.extend_from_slice(&one.to_bytes()));
        bytes
    }

    /// Replaces the file as a whole.
    fn write(&self, path: &Path) -> io::Result<()> {
        let new = path.with_extension("new");
        fs::write(&new, self.to_bytes())?;
        fs::rename(&new, path)
    }
}

impl Revocation {
    fn to_bytes(self) -> [u8; RECORD] {
        (u128::from(self.issued) << 64 | u128::from(self.fingerprint)).to_be_bytes()
    }
}

impl RevocationWriter {
    /// Opens the file by writing it anew; logs why if it cannot.
    pub(crate) fn open(
        path: &Path,
        revoked: Arc<RevokedIds>,
        waiting: mpsc::Receiver<PendingRevocation>,
    ) -> Option<Self> {
        let snapshot = revoked.snapshot();
        let opened = snapshot
            .write(path)
            .and_then(|()| fs::OpenOptions::new().append(true).open(path).map(File::from_std));
        let file = opened.inspect_err(|why| cannot_write(path, why)).ok()?;
        Some(Self { path: path.to_owned(), file: Some(file), waiting, records: snapshot.ids.len(), revoked })
    }

    /// Writes revocations until the front ends, and finishes those it has begun.
    pub(crate) async fn run(mut self, kill: CancellationToken) {
        let mut pending = Vec::with_capacity(BATCH);
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                count = self.waiting.recv_many(&mut pending, BATCH) => {
                    if count == 0 {
                        return;
                    }
                }
                () = kill.cancelled() => return,
                _ = looks.tick() => {
                    // The file was removed or replaced: the list is written where the next start reads it. Its folder
                    // may not be back yet; that failure is logged.
                    if !self.is_in_place().await {
                        self.file = None;
                        let _ = self.anew().await;
                    }
                    continue;
                }
            }
            if let Err(why) = self.write(&pending).await {
                cannot_write(&self.path, &why);
                // Tried again as a whole with the next revocation.
                self.file = None;
            }
            // A deletion that waits has done what it could; it may also have given up.
            for done in pending.drain(..).filter_map(|pending| pending.done) {
                let _ = done.send(());
            }
        }
    }

    async fn write(&mut self, pending: &[PendingRevocation]) -> io::Result<()> {
        self.records += pending.len();
        let room = 2 * self.revoked.limit().max(BATCH);
        let Some(file) = self.file.as_mut().filter(|_| self.records < room && !self.revoked.is_unwritten())
        else {
            return self.anew().await;
        };
        let bytes: Vec<u8> = pending.iter().flat_map(|pending| pending.one.to_bytes()).collect();
        file.write_all(&bytes).await?;
        file.flush().await
    }

    /// Whether the path still leads to the open file.
    async fn is_in_place(&self) -> bool {
        let Some(file) = &self.file else { return false };
        let (Ok(ours), Ok(there)) = (file.metadata().await, tokio::fs::metadata(&self.path).await) else {
            return false;
        };
        (ours.dev(), ours.ino()) == (there.dev(), there.ino())
    }

    async fn anew(&mut self) -> io::Result<()> {
        let snapshot = self.revoked.snapshot();
        self.records = snapshot.ids.len();
        let new = self.path.with_extension("new");
        tokio::fs::write(&new, snapshot.to_bytes()).await?;
        tokio::fs::rename(&new, &self.path).await?;
        self.file = Some(File::options().append(true).open(&self.path).await?);
        Ok(())
    }
}

fn halves(record: &[u8; RECORD]) -> (u64, u64) {
    let whole = u128::from_be_bytes(*record);
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
    ((whole >> 64) as u64, whole as u64)
}

fn cannot_write(path: &Path, why: &io::Error) {
    tracing::warn!(file = %path.display(), %why, "cannot write down which agent sessions were deleted: they may come back after a restart");
}
