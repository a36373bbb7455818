//! State that outlives the process: the key that seals agent session ids, and the list of deleted ids, in a folder that
//! belongs to one gateway.
//!
//! Problems here never prevent a start. The log names them and their effect: ids become invalid after a restart, so
//! agents must initialize again.

mod upkeep;

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use mcpool_front::{SessionKey, SessionKeys, SessionsConfig};

use self::upkeep::Folder;
use crate::{
    config::{Config, keys_of},
    observe::Status,
};

const LOCK: &str = "lock";
const KEY: &str = "session.key";
const DELETED: &str = "deleted-sessions";

/// The open state. The folder is locked until this is dropped or the process ends.
pub struct State {
    /// Session settings for the front.
    pub sessions: SessionsConfig,
    folder: Option<Folder>,
}

impl State {
    /// Opens the folder and creates missing files.
    #[must_use]
    pub fn open(config: &Config) -> Self {
        let configured = config.sessions.configured();
        if fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0) {
            tracing::warn!("the gateway and the programs it starts run as root; run it as a user of its own");
        }
        let Some(folder) = config.state_dir() else {
            let state = Self::without_folder(&configured);
            if config.listen.port() != 0 {
                warn("there is no folder for it: set sessions.state_dir, or HOME", &configured);
            }
            return state;
        };
        let opened = lock_folder(&folder).and_then(|lock| {
            if !configured.is_empty() {
                return Ok((lock, configured.clone(), None));
            }
            let keys = stored_key(&folder)?;
            let key = keys.first().cloned();
            Ok((lock, keys, key))
        });
        match opened {
            Ok((lock, keys, key)) => {
                let sessions = SessionsConfig {
                    keys: SessionKeys::new(&keys),
                    deleted: Some(folder.join(DELETED)),
                    ..SessionsConfig::default()
                };
                Self { sessions, folder: Some(Folder { path: folder, lock, key }) }
            }
            Err(why) => {
                warn(&format!("{}: {why}", folder.display()), &configured);
                Self::without_folder(&configured)
            }
        }
    }

    fn without_folder(configured: &[SessionKey]) -> Self {
        let keys = match configured {
            [] => SessionKeys::default(),
            keys => SessionKeys::new(keys),
        };
        Self { sessions: SessionsConfig { keys, ..SessionsConfig::default() }, folder: None }
    }

    /// Maintains the folder until the future is dropped.
    ///
    /// # Cancel safety
    /// Dropping the future releases the folder to the next process that locks it.
    pub async fn maintain(self, status: &Status) {
        if let Some(folder) = self.folder {
            folder.maintain(status).await;
        }
        std::future::pending().await
    }
}

fn warn(why: &str, configured: &[SessionKey]) {
    if configured.is_empty() {
        tracing::warn!(
            why,
            "cannot store the key of agent sessions: after a restart agents must initialize again"
        );
    } else {
        tracing::warn!(
            why,
            "cannot store which agent sessions were deleted: after a restart their ids may be accepted again"
        );
    }
}

/// Creates and locks the folder: two gateways writing to one would lose each other's deletions.
fn lock_folder(folder: &Path) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    restrict_permissions(folder, 0o022)?;
    let lock = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(folder.join(LOCK))
        .map_err(in_file(LOCK))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            Err(io::Error::other("another gateway uses this folder; give each its own sessions.state_dir"))
        }
        Err(TryLockError::Error(why)) => Err(in_file(LOCK)(why)),
    }
}

/// Removes other users' permissions: a writer to the folder could replace the key, and a reader of the key could forge
/// session ids. Fails if it cannot.
fn restrict_permissions(path: &Path, others: u32) -> io::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & others == 0 {
        return Ok(());
    }
    if mode & 0o1000 != 0 {
        return Err(io::Error::other("this folder is everybody's; give the gateway one of its own"));
    }
    let mended = mode & 0o7777 & !others;
    fs::set_permissions(path, fs::Permissions::from_mode(mended)).map_err(|why| {
        io::Error::new(
            why.kind(),
            format!("{} is open to others, and chmod {mended:o}: {why}", path.display()),
        )
    })?;
    let (was, now) = (format!("{:o}", mode & 0o7777), format!("{mended:o}"));
    tracing::warn!(path = %path.display(), was, now, "permissions narrowed: others could read it and may know the key of agent sessions; remove session.key to get a new one");
    Ok(())
}

/// The stored keys, or a new one.
fn stored_key(folder: &Path) -> io::Result<Vec<SessionKey>> {
    let path = folder.join(KEY);
    match fs::read_to_string(&path) {
        Ok(text) => {
            restrict_permissions(&path, 0o077)?;
            keys_of(&text).map_err(|why| in_file(KEY)(io::Error::other(why)))
        }
        Err(why) if why.kind() == io::ErrorKind::NotFound => {
            let key = SessionKey::random()
                .ok_or_else(|| io::Error::other("the system has no randomness to give"))?;
            write_key(folder, &key).map_err(in_file(KEY))?;
            Ok(vec![key])
        }
        Err(why) => Err(in_file(KEY)(why)),
    }
}

/// Writes the key atomically, so that a crash leaves no partial key.
fn write_key(folder: &Path, key: &SessionKey) -> io::Result<()> {
    let new = folder.join("session.key.new");
    // A file left by a crash may have other permissions.
    match fs::remove_file(&new) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
        _ => {}
    }
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&new)?;
    writeln!(file, "{}", key.to_secret_text())?;
    file.sync_all()?;
    fs::rename(&new, folder.join(KEY))?;
    File::open(folder)?.sync_all()
}

fn in_file(file: &'static str) -> impl Fn(io::Error) -> io::Error {
    move |why| io::Error::new(why.kind(), format!("{file}: {why}"))
}

#[cfg(test)]
mod tests;
