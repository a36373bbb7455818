//! The sources of backends: the configuration file, the command line, the demo. Each gives a set of its own; the merged
//! set is what runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mcpool_upstream::Origin;

use crate::settings::BackendSettings;

/// The backends of each source, and the one behind `/mcp` and `/sse`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    /// By origin, in order of precedence.
    sets: BTreeMap<Origin, Vec<BackendSettings>>,
    /// Given by the file, whatever the source of the backend.
    pub(crate) default_backend: Option<Arc<str>>,
}

impl Sources {
    /// Replaces the sets of these origins by these backends.
    pub(crate) fn replace(&mut self, origins: &[Origin], backends: Vec<BackendSettings>) {
        self.sets.retain(|origin, _| !origins.contains(origin));
        for one in backends {
            self.sets.entry(one.spec.origin).or_default().push(one);
        }
    }

    /// The backends that run. Of several with one name it is that of the first source; the others are hidden.
    pub(crate) fn merged(&self) -> impl Iterator<Item = &BackendSettings> {
        let mut names = BTreeSet::new();
        self.sets.values().flatten().filter(move |one| names.insert(&one.spec.name))
    }
}
