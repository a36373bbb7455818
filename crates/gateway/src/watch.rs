//! Notices that the configuration file has another content.
//!
//! Not the file is watched but the folders that lead to it: editors put a new file in place of the old one, and
//! Kubernetes swaps a symbolic link above it. Whatever happens there, the content decides. A file that is gone is about
//! to be written, and is spoken of only when it stays away.

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
/// A file that names less than before, or is gone, may be half written: it is believed when nothing has happened for
/// this long.
pub(crate) const STILL: Duration = Duration::from_secs(3);
/// Longest wait for that.
const RESTLESS: Duration = Duration::from_secs(30);
/// Symbolic links on the way to a file, as many as Linux follows.
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

/// What became of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It has another content.
    Content,
    /// It cannot be read any more: why.
    Gone(String),
    /// It is there again, with the content it last had.
    Back,
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
        let mut watch =
            Self { file: file.to_owned(), watcher, stirred, folders: BTreeSet::new(), seen, is_gone: false };
        watch.follow()?;
        Ok(watch)
    }

    /// Resolves when the file has another content than it last had, or stays away, or is back.
    ///
    /// # Cancel safety
    /// Dropping the future loses at most the note that something stirred; what stirs next is noticed.
    pub async fn changed(&mut self) -> Change {
        loop {
            if self.stirred.recv().await.is_none() {
                // The watcher lives as long as we do.
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

    /// Waits until the file has been left alone for a while; the fingerprint of what it says then, if it can be read.
    ///
    /// # Cancel safety
    /// As [`Watch::changed`].
    pub async fn still(&mut self) -> Option<u64> {
        self.quiet(STILL, RESTLESS).await;
        let now = self.read().await.ok();
        self.seen = now.or(self.seen);
        now
    }

    /// Waits until nothing has stirred for this long, or something has for that long.
    async fn quiet(&mut self, quiet: Duration, at_latest: Duration) {
        let latest = Instant::now() + at_latest;
        while tokio::time::timeout_at(latest.min(Instant::now() + quiet), self.stirred.recv()).await.is_ok() {
            // A link may lead elsewhere now, and what stirs there counts, too.
            let _ = self.follow();
        }
    }

    async fn read(&mut self) -> Result<u64, String> {
        // A folder that is not there (any more) is tried again with the next event.
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
