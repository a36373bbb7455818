//! The folder of the state while the gateway runs: somebody may remove it, or put another one in its place.
//!
//! The key is held in memory, so a file that is gone is written anew. One that somebody replaced is an operator's, and
//! stays: it is what the next start reads.
//!
//! The subtle thing: the lock tells whether it is still ours. It is a file of ours held open, so another file under its
//! name, or none, says that what is in the folder is not what this process wrote.

use std::{os::unix::fs::MetadataExt as _, path::PathBuf, time::Duration};

use super::{File, KEY, LOCK, SessionKey, fs, io, keys_of, named, own, write_key};
use crate::observe::{FolderNote, Status};

/// How often the folder is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// The folder and what belongs into it.
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) lock: File,
    /// The key that is kept there; none where keys are configured.
    pub(super) key: Option<SessionKey>,
}

/// What was found in the folder.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// What this process needs.
    Ours,
    /// Something was gone, and is there again: this.
    Mended(&'static str),
    /// Another key, which somebody put there.
    OtherKey,
}

impl Folder {
    /// Looks now and then until it is dropped; says in the log and on `/readyz` what is wrong.
    pub(super) async fn keep(mut self, status: &Status) {
        let mut told = None;
        loop {
            tokio::time::sleep(LOOK).await;
            // A folder may be on a disk that does not answer.
            let looked = tokio::task::spawn_blocking(move || {
                let outcome = self.mend();
                (self, outcome)
            });
            let Ok((folder, outcome)) = looked.await else { return };
            self = folder;
            let path = self.path.display();
            let note = match outcome {
                Ok(Found::Ours) => None,
                Ok(Found::Mended(what)) => {
                    tracing::warn!(%path, "{what} was removed or replaced while the gateway runs; it was written anew");
                    None
                }
                Ok(Found::OtherKey) => Some(FolderNote {
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

    /// Makes the folder ours again where it is not.
    pub(super) fn mend(&mut self) -> io::Result<Found> {
        if !self.is_ours()? {
            self.lock = own(&self.path)?;
            if let Some(key) = &self.key {
                write_key(&self.path, key).map_err(named(KEY))?;
            }
            return Ok(Found::Mended("the folder of the session key"));
        }
        let Some(key) = &self.key else { return Ok(Found::Ours) };
        match fs::read_to_string(self.path.join(KEY)) {
            Ok(text) => match keys_of(&text) {
                Ok(keys) if keys.first() == Some(key) => Ok(Found::Ours),
                Ok(_) => Ok(Found::OtherKey),
                // Somebody's file, and perhaps half of it: it is left alone.
                Err(why) => Err(named(KEY)(io::Error::other(why))),
            },
            Err(why) if why.kind() == io::ErrorKind::NotFound => {
                write_key(&self.path, key).map_err(named(KEY))?;
                Ok(Found::Mended("the session key"))
            }
            Err(why) => Err(named(KEY)(why)),
        }
    }

    fn is_ours(&self) -> io::Result<bool> {
        let ours = self.lock.metadata()?;
        match fs::metadata(self.path.join(LOCK)) {
            Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(why) => Err(named(LOCK)(why)),
        }
    }
}
