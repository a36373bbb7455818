//! Upkeep of the state folder, which may be removed or replaced while the gateway runs.
//!
//! The key is in memory, so a missing file is written again. A replaced file is the operator's and stays: the next
//! start reads it.
//!
//! The lock file, held open, shows whether the folder is still ours: if another file has its name, or none, the
//! folder's content is not from this process.

use std::{os::unix::fs::MetadataExt as _, path::PathBuf, time::Duration};

use super::{File, KEY, LOCK, SessionKey, fs, in_file, io, keys_of, lock_folder, write_key};
use crate::observe::{FolderNote, Status};

/// Interval of checks.
const LOOK: Duration = Duration::from_secs(5);

/// The folder and its expected content.
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) lock: File,
    /// The stored key; `None` if keys are configured.
    pub(super) key: Option<SessionKey>,
}

/// Result of a check.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// As expected.
    Ours,
    /// A missing part was restored: this one.
    Restored(&'static str),
    /// A key from elsewhere.
    OtherKey,
}

impl Folder {
    /// Checks the folder at intervals until dropped; reports problems in the log and on `/readyz`.
    pub(super) async fn maintain(mut self, status: &Status) {
        let mut told = None;
        loop {
            tokio::time::sleep(LOOK).await;
            // Blocking: the disk may hang.
            let looked = tokio::task::spawn_blocking(move || {
                let outcome = self.restore();
                (self, outcome)
            });
            let Ok((folder, outcome)) = looked.await else { return };
            self = folder;
            let path = self.path.display();
            let note = match outcome {
                Ok(Condition::Ours) => None,
                Ok(Condition::Restored(what)) => {
                    tracing::warn!(%path, "{what} was removed or replaced while the gateway runs; it was written anew");
                    None
                }
                Ok(Condition::OtherKey) => Some(FolderNote {
                    why: format!(
                        "{path}/{KEY} holds another key than the gateway uses: it takes effect at the next start, and \
                         agents whose ids it does not open initialise again then"
                    ),
                    is_trouble: false,
                }),
                Err(why) => Some(FolderNote {
                    why: format!(
                        "{path} was changed while the gateway runs, and cannot be used after a restart: {why}; agents \
                         initialise again then, and deleted sessions may come back"
                    ),
                    is_trouble: true,
                }),
            };
            if let Some(FolderNote { why, is_trouble }) = note.as_ref().filter(|_| note != told) {
                let message = if *is_trouble {
                    "the folder of the session key is lost"
                } else {
                    "the session key was replaced"
                };
                tracing::warn!(why, "{message}");
            }
            status.state_folder(note.clone());
            told = note;
        }
    }

    /// Restores the folder if it is not ours.
    pub(super) fn restore(&mut self) -> io::Result<Condition> {
        if !self.is_ours()? {
            self.lock = lock_folder(&self.path)?;
            if let Some(key) = &self.key {
                write_key(&self.path, key).map_err(in_file(KEY))?;
            }
            return Ok(Condition::Restored("the folder of the session key"));
        }
        let Some(key) = &self.key else { return Ok(Condition::Ours) };
        match fs::read_to_string(self.path.join(KEY)) {
            Ok(text) => match keys_of(&text) {
                Ok(keys) if keys.first() == Some(key) => Ok(Condition::Ours),
                Ok(_) => Ok(Condition::OtherKey),
                // A foreign, maybe partial file stays.
                Err(why) => Err(in_file(KEY)(io::Error::other(why))),
            },
            Err(why) if why.kind() == io::ErrorKind::NotFound => {
                write_key(&self.path, key).map_err(in_file(KEY))?;
                Ok(Condition::Restored("the session key"))
            }
            Err(why) => Err(in_file(KEY)(why)),
        }
    }

    fn is_ours(&self) -> io::Result<bool> {
        let ours = self.lock.metadata()?;
        match fs::metadata(self.path.join(LOCK)) {
            Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(why) => Err(in_file(LOCK)(why)),
        }
    }
}
