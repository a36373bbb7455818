//! The folder of the state while the gateway runs: somebody may remove it, or put another one in its place.
//!
//! The subtle thing: the lock tells whether it is still ours. It is a file of ours held open, so another file under its
//! name, or none, says that what is in the folder is not what this process wrote.

use std::{os::unix::fs::MetadataExt as _, path::PathBuf, time::Duration};

use super::{File, KEY, LOCK, SessionKey, fs, io, named, own, write_key};
use crate::observe::Status;

/// How often the folder is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// The folder and what belongs into it.
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) lock: File,
    /// The key that is kept there; none where keys are configured.
    pub(super) key: Option<SessionKey>,
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
            let trouble = match outcome {
                Ok(false) => None,
                Ok(true) => {
                    tracing::warn!(%path, "the folder of the session key was removed or replaced while the gateway runs; it was written anew");
                    None
                }
                Err(why) => Some(format!(
                    "{path} was removed or replaced while the gateway runs, and cannot be written anew: {why}; after a \
                     restart agents initialise again, and deleted sessions may come back"
                )),
            };
            if let Some(why) = trouble.as_deref().filter(|_| trouble != told) {
                tracing::warn!(why, "the folder of the session key is lost");
            }
            status.state_folder(trouble.clone());
            told = trouble;
        }
    }

    /// Makes the folder ours again where it is not; whether that was needed.
    pub(super) fn mend(&mut self) -> io::Result<bool> {
        if self.is_ours()? {
            return Ok(false);
        }
        self.lock = own(&self.path)?;
        if let Some(key) = &self.key {
            write_key(&self.path, key).map_err(named(KEY))?;
        }
        Ok(true)
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
