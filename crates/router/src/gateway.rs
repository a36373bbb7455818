//! The gateway behind the front: starts the configured backends, applies a new configuration, ends everything.
//!
//! Each source of backends (file, command line) changes its own set, and the merged set runs. A change replaces the
//! registry as one snapshot; `retire.rs` ends the registrations that it removed or replaced.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use mcpool_upstream::{Leaving, Origin};
use mcpool_wire::BackendId;
use tokio::sync::{Mutex, MutexGuard};

use crate::{
    events::GatewayObserve,
    link::Links,
    registry::{Registered, Registry, default_of, register},
    retire::Retirements,
    route::Router,
    settings::BackendSettings,
    sources::Sources,
    stack::now,
};

/// The gateway: the running backends, and the sources that configure them.
pub struct Gateway {
    registry: Arc<ArcSwap<Registry>>,
    /// What is in force; locked while a change is applied, so that changes do not overlap.
    sources: Mutex<Sources>,
    links: Arc<Links>,
    retirements: Retirements,
    observe: Arc<dyn GatewayObserve>,
    /// The id of the next new backend.
    next_id: AtomicU32,
}

/// The effect of a new configuration, by backend name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New names.
    pub added: Vec<Arc<str>>,
    /// Names with a different configuration.
    pub changed: Vec<Arc<str>>,
    /// Removed names.
    pub removed: Vec<Arc<str>>,
    /// The number of unchanged backends.
    pub kept: usize,
}

impl Gateway {
    /// Starts every backend. None has to be up: the gateway connects when needed.
    ///
    /// # Errors
    /// One sentence for the operator if a backend cannot be set up (unusable CA file, ...).
    pub fn start<O: GatewayObserve>(
        settings: Vec<BackendSettings>,
        default_backend: Option<&str>,
        observe: &Arc<O>,
    ) -> Result<Self, String> {
        let observe: Arc<dyn GatewayObserve> = observe.clone();
        let next_id = settings.iter().map(|one| one.spec.id.0.saturating_add(1)).max().unwrap_or(0);
        let mut sources = Sources::default();
        sources.replace(&[], settings);
        sources.default_backend = default_backend.map(Into::into);
        let mut backends = BTreeMap::new();
        for one in sources.merged() {
            let registered = register(one.clone(), None, &observe)?;
            backends.insert(registered.name.clone(), Arc::new(registered));
        }
        let default = default_of(&backends, default_backend);
        let registry = Arc::new(ArcSwap::from_pointee(Registry { backends, default }));
        let links = Arc::new(Links::default());
        let retirements = Retirements::start(registry.clone(), links.clone(), observe.clone());
        let (sources, next_id) = (Mutex::new(sources), AtomicU32::new(next_id));
        Ok(Self { registry, sources, links, retirements, observe, next_id })
    }

    /// Applies the backends of the file, the command line and the demo, as [`Self::apply_of`] does for one source.
    ///
    /// # Errors
    /// As [`Self::apply_of`].
    ///
    /// # Cancel safety
    /// As [`Self::apply_of`].
    pub async fn apply(
        &self,
        settings: Vec<BackendSettings>,
        default_backend: Option<&str>,
    ) -> Result<Changes, String> {
        let sources = self.sources.lock().await;
        let mut next = sources.clone();
        next.replace(&[Origin::File, Origin::Cli, Origin::Demo], settings);
        next.default_backend = default_backend.map(Into::into);
        self.put_in_force(sources, next).await
    }

    /// Applies a new set of backends of one source without failing a call: unchanged ones continue, others start or
    /// retire. A backend whose name an earlier [`Origin`] gives stays hidden. Waits for changes before it.
    ///
    /// # Errors
    /// One sentence for the operator if a backend cannot be set up; then nothing has changed.
    ///
    /// # Cancel safety
    /// The new set is in force even if the future is dropped while it waits.
    pub async fn apply_of(&self, origin: Origin, settings: Vec<BackendSettings>) -> Result<Changes, String> {
        let sources = self.sources.lock().await;
        let mut next = sources.clone();
        next.replace(&[origin], settings);
        self.put_in_force(sources, next).await
    }

    async fn put_in_force(
        &self,
        mut sources: MutexGuard<'_, Sources>,
        new: Sources,
    ) -> Result<Changes, String> {
        let before = self.registry.load_full();
        let mut next = Next::default();
        for one in new.merged() {
            if let Err(why) = next.add(one.clone(), &before, self) {
                next.discard().await;
                return Err(why);
            }
        }
        let Next { backends, mut changes, .. } = next;
        let default = default_of(&backends, new.default_backend.as_deref());
        changes.removed =
            before.backends.keys().filter(|name| !backends.contains_key(*name)).cloned().collect();
        self.registry.store(Arc::new(Registry { backends, default }));
        *sources = new;
        for (names, why) in [(&changes.changed, Leaving::Replaced), (&changes.removed, Leaving::Removed)] {
            for old in names.iter().filter_map(|name| before.backends.get(name)) {
                self.observe.leaves(&old.name, &old.breaker.snapshot(now()));
                self.retirements.begin(old.clone(), why).await;
            }
        }
        Ok(changes)
    }

    /// The router for the front.
    #[must_use]
    pub fn router(&self) -> Router {
        Router::new(self.registry.clone(), self.links.clone())
    }

    /// All backends, sorted by name.
    #[must_use]
    pub fn backends(&self) -> Vec<Arc<Registered>> {
        self.registry.load().backends.values().cloned().collect()
    }

    /// Retiring registrations that still have sessions, oldest first.
    #[must_use]
    pub fn leaving(&self) -> Vec<Arc<Registered>> {
        self.retirements.retiring()
    }

    /// The backend behind `/mcp` and `/sse`.
    #[must_use]
    pub fn default_backend(&self) -> Option<Arc<str>> {
        self.registry.load().default.as_ref().map(|target| Arc::clone(&target.name))
    }

    /// Ends every session. Returns what still runs at the deadline.
    ///
    /// # Cancel safety
    /// If the future is dropped, the sessions still end by themselves.
    pub async fn shutdown(&self, deadline: Duration) -> Vec<String> {
        let all = self.backends().into_iter().chain(self.leaving());
        let ends = all.map(|registered| async move {
            let left = registered.backend.shutdown(deadline).await;
            left.into_iter().map(|(task, n)| format!("{n} {task} of {}", registered.name)).collect::<Vec<_>>()
        });
        let (left, ()) = futures::join!(futures::future::join_all(ends), self.retirements.stop(deadline));
        left.into_iter().flatten().collect()
    }
}

/// The next set of backends, before it is applied.
#[derive(Default)]
struct Next {
    backends: BTreeMap<Arc<str>, Arc<Registered>>,
    changes: Changes,
    started: Vec<Arc<Registered>>,
}

impl Next {
    /// Adds a backend: reuses the registration if its configuration is unchanged, else starts a new one.
    fn add(&mut self, mut one: BackendSettings, before: &Registry, gateway: &Gateway) -> Result<(), String> {
        let name = one.spec.name.clone();
        let known = before.backends.get(&name);
        if let Some(known) = known {
            (one.spec.id, one.spec.generation) = (known.settings.spec.id, known.settings.spec.generation);
            if one == known.settings {
                self.changes.kept += 1;
                self.backends.insert(name, known.clone());
                return Ok(());
            }
            one.spec.generation += 1;
            self.changes.changed.push(name.clone());
        } else {
            one.spec.id = BackendId(gateway.next_id.fetch_add(1, Ordering::Relaxed));
            self.changes.added.push(name.clone());
        }
        let registered = Arc::new(register(one, known, &gateway.observe)?);
        self.started.push(registered.clone());
        self.backends.insert(name, registered);
        Ok(())
    }

    /// Shuts down the backends started for this set, which is discarded because another failed to start.
    async fn discard(self) {
        for one in self.started {
            one.backend.shutdown(Duration::ZERO).await;
        }
    }
}
