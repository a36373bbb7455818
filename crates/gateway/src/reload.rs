//! Another configuration while the gateway runs: on SIGHUP, when the file changes, or when an operator asks.
//!
//! The file is read and checked whole before anything changes; one with a mistake is refused, and the one before stays
//! in force. So is one that leaves no backend: it was truncated, or is about to be written. Where the file is watched, one
//! that takes backends away or has a mistake is looked at again when it has been left alone for a while. What the command
//! line said keeps winning.

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

/// Reads the configuration again; says what changed, or why it was refused.
pub type ReloadHook = Arc<dyn Fn() -> BoxFuture<'static, Result<String, String>> + Send + Sync>;

/// Puts configurations in force.
pub struct Reloader {
    /// The file it came from, for as long as the process lives.
    file: Option<PathBuf>,
    overrides: Overrides,
    config: Arc<ArcSwap<Config>>,
    parts: Parts,
    /// The server that stands in where no backend is configured, if it runs.
    demo: Option<Url>,
    /// One at a time.
    turn: Semaphore,
}

/// What a configuration is put in force at.
pub struct Parts {
    /// The backends.
    pub gateway: Arc<Gateway>,
    /// The agent listener.
    pub front: FrontSettings,
    /// Told how it went.
    pub metrics: Arc<Metrics>,
}

impl Reloader {
    /// For this configuration, which is in force.
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

    /// For whoever else may ask.
    #[must_use]
    pub fn hook(self: &Arc<Self>) -> ReloadHook {
        let reloader = self.clone();
        Arc::new(move || {
            let reloader = reloader.clone();
            async move { reloader.reload("an operator").await }.boxed()
        })
    }

    /// Reloads on SIGHUP and, where it is to be watched, when the file changes. Ends with `stop`.
    pub async fn run(&self, mut hangups: Hangups, stop: CancellationToken) {
        let mut watch = self.watch();
        loop {
            let changed = async {
                match &mut watch {
                    Some(watch) => self.wanted_by(watch).await,
                    None => std::future::pending().await,
                }
            };
            let cause = tokio::select! {
                () = stop.cancelled() => return,
                () = hangups.next() => "SIGHUP",
                () = changed => "a change of the file",
            };
            // The outcome is in the log.
            let _ = stop.run_until_cancelled(self.reload(cause)).await;
        }
    }

    /// Resolves when the file says something else that is worth taking, and tells what else becomes of it.
    async fn wanted_by(&self, watch: &mut Watch) {
        let file = self.file.as_deref().unwrap_or(Path::new("")).display();
        loop {
            match watch.changed().await {
                Change::Content if self.takes_nothing_away().await => return,
                Change::Content => match watch.still().await {
                    Some(now) if Some(now) == self.config.load().fingerprint => {
                        tracing::info!(target: CONFIG, %file, "the file says again what is in force");
                    }
                    _ => return,
                },
                Change::Gone(why) => {
                    tracing::warn!(target: CONFIG, %file, why, "the configuration file is gone; what it said stays in force");
                }
                Change::Back => {
                    tracing::info!(target: CONFIG, %file, "the configuration file is there again, and says what is in force");
                }
            }
        }
    }

    /// Whether the file is without mistake and names every backend there is: then it is no half of a file.
    async fn takes_nothing_away(&self) -> bool {
        let Ok(new) = self.read().await else { return false };
        let running = self.config.load();
        let has = |name: &str| new.backends.iter().any(|one| *one.spec.name == *name);
        running.backends.iter().filter(|one| one.spec.origin == Origin::File).all(|one| has(&one.spec.name))
    }

    async fn read(&self) -> Result<Config, String> {
        let (file, overrides) = (self.file.clone(), self.overrides.clone());
        // A file may be on a disk that does not answer.
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
                tracing::warn!(target: CONFIG, %file, why, "changes of the file are not noticed; send SIGHUP");
                None
            }
        }
    }

    /// Reads the configuration and puts it in force, without a failed call; gives back what changed.
    ///
    /// # Errors
    /// Why it was refused, in one line, with file and line; then nothing has changed.
    pub async fn reload(&self, cause: &str) -> Result<String, String> {
        let _turn = self.turn.acquire().await;
        match self.take().await {
            Ok((changes, fixed)) => {
                let changes = sentence(&changes);
                tracing::info!(target: CONFIG, cause, changes, "configuration taken");
                if fixed.is_empty() {
                    return Ok(changes);
                }
                let keys = fixed.join(", ");
                tracing::warn!(target: CONFIG, keys, "this part of the configuration needs a restart");
                Ok(format!("{changes}; needs a restart: {keys}"))
            }
            Err(why) => {
                self.parts.metrics.misconfigured();
                tracing::error!(target: CONFIG, cause, why, "configuration refused; the one before stays in force");
                Err(why)
            }
        }
    }

    async fn take(&self) -> Result<(Changes, Vec<&'static str>), String> {
        let mut new = self.read().await?;
        let running = self.config.load_full();
        if new.backends.is_empty() && running.backends.iter().any(|one| one.spec.origin != Origin::Demo) {
            return Err(NO_BACKEND.to_owned());
        }
        let fixed = new.keep_fixed(&running);
        new.generation = running.generation.saturating_add(1);
        if let Some(url) = self.demo.clone().filter(|_| new.backends.is_empty()) {
            new.serve_demo(url);
        }
        let Parts { gateway, front, metrics } = &self.parts;
        // First the front: it must know the headers that a new backend wants of its agents.
        front.apply(new.front.clone());
        match gateway.apply(new.backends.clone(), new.default_backend.as_deref()).await {
            Ok(changes) => {
                metrics.configured(new.generation);
                self.config.store(Arc::new(new));
                Ok((changes, fixed))
            }
            Err(why) => {
                front.apply(running.front.clone());
                Err(why)
            }
        }
    }
}

/// What changed, for people.
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

/// Every agent would lose its backend, which nobody means: a file is truncated before it is written.
const NO_BACKEND: &str =
    "it names no backend, and those in force would all be removed: name one, or stop the gateway";
