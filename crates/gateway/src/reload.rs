//! Reload: applies a new configuration on SIGHUP, when the file changes, or on an operator's request.
//!
//! The file is read and validated before anything changes. A file with a mistake, or without backends (truncated, or
//! about to be written), is rejected and the old configuration stays. A watched file that removes backends or has a
//! mistake is read again after it has been unchanged for a while. Command-line settings keep precedence.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use futures::{FutureExt as _, future::BoxFuture};
use mcpool_front::FrontSettings;
use mcpool_upstream::Origin;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::{
    config::{Config, Overrides},
    observe::Metrics,
    signal::Hangups,
    watch::{Change, Watch},
};
use mcpool_router::gateway::{Changes, Gateway};

/// Reloads the configuration; returns what changed, or the reason of the rejection.
pub type ReloadHook = Arc<dyn Fn() -> BoxFuture<'static, Result<String, String>> + Send + Sync>;

/// Applies configurations.
pub struct Reloader {
    /// The configuration file, fixed for the life of the process.
    file: Option<PathBuf>,
    overrides: Overrides,
    config: Arc<ArcSwap<Config>>,
    parts: Parts,
    /// The demo server's URL, if it runs.
    demo: Option<Url>,
    /// Serialises reloads.
    turn: Semaphore,
}

/// The parts a configuration is applied to.
pub struct Parts {
    /// The backends.
    pub gateway: Arc<Gateway>,
    /// The agent listener.
    pub front: FrontSettings,
    /// Counts the outcomes.
    pub metrics: Arc<Metrics>,
}

impl Reloader {
    /// Creates a reloader with the configuration in force.
    #[must_use]
    pub fn new(
        overrides: Overrides,
        config: Arc<ArcSwap<Config>>,
        parts: Parts,
        demo: Option<Url>,
    ) -> Arc<Self> {
        let file = config.load().file.clone();
        Arc::new(Self { file, overrides, config, parts, demo, turn: Semaphore::new(1) })
    }

    /// A callback for others to reload.
    #[must_use]
    pub fn hook(self: &Arc<Self>) -> ReloadHook {
        let reloader = self.clone();
        Arc::new(move || {
            let reloader = reloader.clone();
            async move { reloader.reload("an operator").await }.boxed()
        })
    }

    /// Reloads on SIGHUP and, if watched, when the file changes. Ends with `stop`.
    pub async fn run(&self, mut hangups: Hangups, stop: CancellationToken) {
        let mut watch = self.watch();
        loop {
            let changed = async {
                match &mut watch {
                    Some(watch) => self.new_content(watch).await,
                    None => std::future::pending().await,
                }
            };
            let cause = tokio::select! {
                () = stop.cancelled() => return,
                () = hangups.next() => "SIGHUP",
                () = changed => "a change of the file",
            };
            // `reload` logs the outcome.
            let _ = stop.run_until_cancelled(self.reload(cause)).await;
        }
    }

    /// Resolves when the file has new content worth applying; logs other changes of the file.
    async fn new_content(&self, watch: &mut Watch) {
        let file = self.file.as_deref().unwrap_or(Path::new("")).display();
        loop {
            match watch.changed().await {
                Change::Content if self.names_every_backend().await => return,
                Change::Content => match watch.settled().await {
                    Some(now) if Some(now) == self.config.load().fingerprint => {
                        tracing::info!(target: CONFIG, %file, "the file is as it was loaded; nothing to reload");
                    }
                    _ => return,
                },
                Change::Gone(why) => {
                    tracing::warn!(target: CONFIG, %file, why, "the configuration file is gone; what was loaded from it stays in force");
                }
                Change::Back => {
                    tracing::info!(target: CONFIG, %file, "the configuration file is back and unchanged");
                }
            }
        }
    }

    /// True if the file is valid and names every running backend, so that it cannot be half written.
    async fn names_every_backend(&self) -> bool {
        let Ok(new) = self.read().await else { return false };
        let running = self.config.load();
        let has = |name: &str| new.backends.iter().any(|one| *one.spec.name == *name);
        running.backends.iter().filter(|one| one.spec.origin == Origin::File).all(|one| has(&one.spec.name))
    }

    async fn read(&self) -> Result<Config, String> {
        let (file, overrides) = (self.file.clone(), self.overrides.clone());
        // Blocking: the disk may hang.
        let read = tokio::task::spawn_blocking(move || Config::load(file.as_deref(), overrides)).await;
        let read = read.map_err(|why| format!("the configuration could not be read: {why}"))?;
        read.map_err(|problems| problems.to_string().replace('\n', "; "))
    }

    fn watch(&self) -> Option<Watch> {
        let config = self.config.load();
        let file = self.file.as_ref().filter(|_| config.watch)?;
        match Watch::start(file, config.fingerprint) {
            Ok(watch) => Some(watch),
            Err(why) => {
                let file = file.display();
                tracing::warn!(target: CONFIG, %file, why, "the file cannot be watched; send SIGHUP to reload it");
                None
            }
        }
    }

    /// Reads and applies the configuration without failing a call; returns what changed.
    ///
    /// # Errors
    /// The reason of the rejection in one line, with file and line; then nothing has changed.
    pub async fn reload(&self, cause: &str) -> Result<String, String> {
        let _turn = self.turn.acquire().await;
        match self.load_and_apply().await {
            Ok((changes, restart_only)) => {
                let changes = sentence(&changes);
                tracing::info!(target: CONFIG, cause, changes, "configuration loaded");
                if restart_only.is_empty() {
                    return Ok(changes);
                }
                let keys = restart_only.join(", ");
                tracing::warn!(target: CONFIG, keys, "a change of these keys needs a restart");
                Ok(format!("{changes}; needs a restart: {keys}"))
            }
            Err(why) => {
                self.parts.metrics.misconfigured();
                tracing::error!(target: CONFIG, cause, why, "configuration refused; the previous one stays in force");
                Err(why)
            }
        }
    }

    async fn load_and_apply(&self) -> Result<(Changes, Vec<&'static str>), String> {
        let mut new = self.read().await?;
        let running = self.config.load_full();
        if new.backends.is_empty() && running.backends.iter().any(|one| one.spec.origin != Origin::Demo) {
            return Err(NO_BACKEND.to_owned());
        }
        let restart_only = new.keep_restart_only(&running);
        new.generation = running.generation.saturating_add(1);
        if let Some(url) = self.demo.clone().filter(|_| new.backends.is_empty()) {
            new.serve_demo(url);
        }
        let Parts { gateway, front, metrics } = &self.parts;
        // The front comes first: it must know the headers that new backends need.
        front.apply(new.front.clone());
        match gateway.apply(new.backends.clone(), new.default_backend.as_deref()).await {
            Ok(changes) => {
                metrics.configured(new.generation);
                self.config.store(Arc::new(new));
                Ok((changes, restart_only))
            }
            Err(why) => {
                front.apply(running.front.clone());
                Err(why)
            }
        }
    }
}

/// The changes, for people.
fn sentence(changes: &Changes) -> String {
    let parts = [("added", &changes.added), ("changed", &changes.changed), ("removed", &changes.removed)];
    let told = parts.into_iter().filter(|(_, names)| !names.is_empty());
    let mut told: Vec<String> = told.map(|(what, names)| format!("{what}: {}", names.join(", "))).collect();
    if told.is_empty() {
        told.push("no backend changed".to_owned());
    }
    told.join("; ")
}

const CONFIG: &str = "mcpool::config";

/// Error for a file without backends, which is usually one truncated before a write.
const NO_BACKEND: &str =
    "it names no backend, and those in force would all be removed: name one, or stop the gateway";
