//! Watcher for the content of the configuration file.
//!
//! It watches the folders on the path to the file, not the file: editors replace files, and Kubernetes swaps a symbolic
//! link above it. Only the content counts. A missing file is usually about to be written, so it is reported only if it
//! stays missing.

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

/// Quiet time before the file is read.
const QUIET: Duration = Duration::from_millis(300);
/// Maximum delay before the file is read.
const AT_LATEST: Duration = Duration::from_secs(3);
/// Quiet time before a file is trusted that removes backends or is missing: it may be half written.
pub(crate) const STILL: Duration = Duration::from_secs(3);
/// Maximum delay for that.
const RESTLESS: Duration = Duration::from_secs(30);
/// Maximum number of symbolic links on the path, as in Linux.
const MOST_LINKS: usize = 40;

/// Watches one file.
pub struct Watch {
    file: PathBuf,
    watcher: RecommendedWatcher,
    stirred: mpsc::Receiver<()>,
    folders: BTreeSet<PathBuf>,
    seen: Option<u64>,
    is_gone: bool,
}

/// A change of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// New content.
    Content,
    /// Unreadable, with the reason.
    Gone(String),
    /// Readable again with unchanged content.
    Back,
}

impl Watch {
    /// Watches a file whose content has this fingerprint.
    ///
    /// # Errors
    /// One sentence if the operating system cannot watch.
    pub fn start(file: &Path, seen: Option<u64>) -> Result<Self, String> {
        // One slot: several events cause one read.
        let (stir, stirred) = mpsc::channel(1);
        // Starts with one event, for changes before the watch began.
        let _ = stir.try_send(());
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.is_ok_and(|event| !is_reading(event.kind)) {
                let _ = stir.try_send(());
            }
        });
        let watcher = watcher.map_err(|why| why.to_string())?;
        let mut watch =
            Self { file: file.to_owned(), watcher, stirred, folders: BTreeSet::new(), seen, is_gone: false };
        watch.follow()?;
        Ok(watch)
    }

    /// Resolves when the file has new content, stays missing, or is back.
    ///
    /// # Cancel safety
    /// Dropping the future loses at most one pending event; later ones are noticed.
    pub async fn changed(&mut self) -> Change {
        loop {
            if self.stirred.recv().await.is_none() {
                // Unreachable: the sender lives as long as `self`.
                std::future::pending::<()>().await;
            }
            self.quiet(QUIET, AT_LATEST).await;
            let mut now = self.read().await;
            if now.is_err() && !self.is_gone {
                self.quiet(STILL, RESTLESS).await;
                now = self.read().await;
            }
            match now {
                Ok(now) if Some(now) != self.seen => {
                    (self.seen, self.is_gone) = (Some(now), false);
                    return Change::Content;
                }
                Ok(_) if std::mem::take(&mut self.is_gone) => return Change::Back,
                Err(why) if !std::mem::replace(&mut self.is_gone, true) => return Change::Gone(why),
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// Waits until the file is unchanged for a while. Returns its fingerprint, if readable.
    ///
    /// # Cancel safety
    /// As [`Watch::changed`].
    pub async fn settled(&mut self) -> Option<u64> {
        self.quiet(STILL, RESTLESS).await;
        let now = self.read().await.ok();
        self.seen = now.or(self.seen);
        now
    }

    /// Waits until there is no event for `quiet`, at most for `at_latest`.
    async fn quiet(&mut self, quiet: Duration, at_latest: Duration) {
        let latest = Instant::now() + at_latest;
        while tokio::time::timeout_at(latest.min(Instant::now() + quiet), self.stirred.recv()).await.is_ok() {
            // A link may have changed its target, which must be watched too.
            let _ = self.follow();
        }
    }

    async fn read(&mut self) -> Result<u64, String> {
        // A missing folder is tried again with the next event.
        let _ = self.follow();
        match tokio::fs::read(&self.file).await {
            Ok(text) => Ok(fingerprint(&text)),
            Err(why) => Err(why.to_string()),
        }
    }

    /// Watches the folders that lead to the file now.
    fn follow(&mut self) -> Result<(), String> {
        let folders = leading_to(&self.file);
        for gone in self.folders.difference(&folders) {
            // An error means that the folder is gone.
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

/// True for events of reading, including our own.
fn is_reading(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => true,
        _ => false,
    }
}

/// Folders in which a change can lead to another file: the file's own and that of every link on the path.
fn leading_to(file: &Path) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    let mut path = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    for _ in 0..MOST_LINKS {
        let parent = |path: &Path| path.parent().unwrap_or(Path::new("/")).to_owned();
        folders.insert(parent(&path));
        // The first link from the root.
        let prefixes: Vec<&Path> = path.ancestors().collect();
        let link =
            prefixes.into_iter().rev().find_map(|part| Some((part.to_owned(), fs::read_link(part).ok()?)));
        let Some((link, target)) = link else { break };
        folders.insert(parent(&link));
        let rest = path.strip_prefix(&link).unwrap_or(Path::new("")).to_owned();
        let target = parent(&link).join(target);
        // Joining an empty path would append a slash.
        path = if rest.as_os_str().is_empty() { target } else { target.join(rest) };
    }
    folders.retain(|folder| folder.is_dir());
    folders
}

#[cfg(test)]
mod tests;
