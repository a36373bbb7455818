//! Notices that the configuration file has another content.
//!
//! Not the file is watched but the folders that lead to it: editors put a new file in place of the old one, and
//! Kubernetes swaps a symbolic link above it. Whatever happens there, the content decides. A file that is gone is not
//! a change: it is about to be written.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use tokio::{sync::mpsc, time::Instant};

use crate::config::fingerprint;

/// The file is read when nothing has happened for this long.
const QUIET: Duration = Duration::from_millis(300);
/// Or when something has been happening for this long.
const AT_LATEST: Duration = Duration::from_secs(3);
/// Symbolic links on the way to a file, as many as Linux follows.
const MOST_LINKS: usize = 40;

/// Watches one file.
pub struct Watch {
    file: PathBuf,
    watcher: RecommendedWatcher,
    stirred: mpsc::Receiver<()>,
    folders: BTreeSet<PathBuf>,
    seen: Option<u64>,
}

impl Watch {
    /// Watches a file that was read with this fingerprint.
    ///
    /// # Errors
    /// A sentence when the operating system cannot.
    pub fn start(file: &Path, seen: Option<u64>) -> Result<Self, String> {
        // What stirs is looked at once, however often it stirs.
        let (stir, stirred) = mpsc::channel(1);
        // Whatever was noted already is not lost: it may have happened before the watch began.
        let _ = stir.try_send(());
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.is_ok_and(|event| !is_reading(event.kind)) {
                let _ = stir.try_send(());
            }
        });
        let watcher = watcher.map_err(|why| why.to_string())?;
        let mut watch = Self { file: file.to_owned(), watcher, stirred, folders: BTreeSet::new(), seen };
        watch.follow()?;
        Ok(watch)
    }

    /// Resolves when the file has another content than it last had.
    ///
    /// # Cancel safety
    /// Dropping the future loses at most the note that something stirred; what stirs next is noticed.
    pub async fn changed(&mut self) {
        loop {
            if self.stirred.recv().await.is_none() {
                // The watcher lives as long as we do.
                std::future::pending::<()>().await;
            }
            let latest = Instant::now() + AT_LATEST;
            while tokio::time::timeout_at(latest.min(Instant::now() + QUIET), self.stirred.recv())
                .await
                .is_ok()
            {}
            // A link may lead elsewhere now; a folder that is not there (any more) is tried again with the next event.
            let _ = self.follow();
            let Ok(text) = tokio::fs::read(&self.file).await else { continue };
            let now = Some(fingerprint(&text));
            if now != self.seen {
                self.seen = now;
                return;
            }
        }
    }

    /// Watches the folders that lead to the file now.
    fn follow(&mut self) -> Result<(), String> {
        let folders = leading_to(&self.file);
        for gone in self.folders.difference(&folders) {
            // An error means that it is gone altogether.
            let _ = self.watcher.unwatch(gone);
        }
        let mut outcome = Ok(());
        let mut watched = BTreeSet::new();
        for folder in folders {
            if !self.folders.contains(&folder)
                && let Err(why) = self.watcher.watch(&folder, RecursiveMode::NonRecursive)
            {
                outcome = Err(format!("{}: {why}", folder.display()));
                continue;
            }
            watched.insert(folder);
        }
        self.folders = watched;
        outcome
    }
}

/// Our own reading of the file is no reason to read it.
fn is_reading(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => true,
        _ => false,
    }
}

/// The folders in which a change can lead to another file: the one it is in, and that of every link on the way.
fn leading_to(file: &Path) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    let mut path = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    for _ in 0..MOST_LINKS {
        let parent = |path: &Path| path.parent().unwrap_or(Path::new("/")).to_owned();
        folders.insert(parent(&path));
        // The first link from the root on.
        let prefixes: Vec<&Path> = path.ancestors().collect();
        let link =
            prefixes.into_iter().rev().find_map(|part| Some((part.to_owned(), fs::read_link(part).ok()?)));
        let Some((link, target)) = link else { break };
        folders.insert(parent(&link));
        let rest = path.strip_prefix(&link).unwrap_or(Path::new("")).to_owned();
        let target = parent(&link).join(target);
        // Joining nothing would leave a slash behind.
        path = if rest.as_os_str().is_empty() { target } else { target.join(rest) };
    }
    folders.retain(|folder| folder.is_dir());
    folders
}

#[cfg(test)]
mod tests;
