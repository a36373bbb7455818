//! What a session wants to hear of: the lists whose changes the backend announces, and the resources that are
//! subscribed to. A stream of news has one filter for its whole life, so a change of it is a new stream.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::error::{Cause, SendError};

/// Most resources of one session; the agents of a shared one are held to fewer before.
const MAX_URIS: usize = 10_000;

/// Longest wait of a subscription for the stream that carries it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The lists, by their capability, the name in the filter, and the notification of a change.
const LISTS: [(&str, &str, &str); 3] = [
    ("tools", "toolsListChanged", "notifications/tools/list_changed"),
    ("prompts", "promptsListChanged", "notifications/prompts/list_changed"),
    ("resources", "resourcesListChanged", "notifications/resources/list_changed"),
];

#[derive(Default)]
pub(super) struct Filter {
    /// Places in [`LISTS`].
    promised: Vec<usize>,
    wanted: Mutex<Wanted>,
    changed: watch::Sender<u64>,
    settled: watch::Sender<Settled>,
}

/// The resources wanted now; the version grows with every change.
#[derive(Default)]
struct Wanted {
    uris: BTreeSet<String>,
    version: u64,
}

/// What the backend agreed to last.
#[derive(Clone, Debug, Default)]
struct Settled {
    version: u64,
    uris: BTreeSet<String>,
}

/// A filter as it is sent.
pub(super) struct Snapshot {
    pub(super) version: u64,
    /// `params.notifications`; nothing: there is nothing to listen for.
    pub(super) notifications: Option<Value>,
}

/// Why a resource cannot be subscribed to.
pub(super) enum NotSubscribed {
    /// That many are.
    Full(usize),
    /// The backend left it out.
    NotOffered,
    Lost(SendError),
}

impl Filter {
    /// For a backend with these capabilities.
    pub(super) fn promised(capabilities: &Value) -> Self {
        let announces = |capability: &str| capabilities[capability]["listChanged"] == true;
        let promised = (0..LISTS.len()).filter(|at| announces(LISTS[*at].0)).collect();
        Self { promised, ..Self::default() }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let wanted = self.lock();
        let lists = self.promised.iter().map(|at| (LISTS[*at].1.to_owned(), Value::Bool(true)));
        let mut notifications: Map<String, Value> = lists.collect();
        if !wanted.uris.is_empty() {
            notifications.insert("resourceSubscriptions".to_owned(), json!(wanted.uris));
        }
        let notifications = (!notifications.is_empty()).then_some(Value::Object(notifications));
        Snapshot { version: wanted.version, notifications }
    }

    pub(super) fn version(&self) -> u64 {
        self.lock().version
    }

    /// Wakes with every change.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The stream with this version of the filter is open, or there is none, and the backend agreed to these resources.
    pub(super) fn settle(&self, version: u64, uris: BTreeSet<String>) {
        self.settled.send_replace(Settled { version, uris });
    }

    /// Subscribes; done when a stream carries it.
    pub(super) async fn subscribe(&self, uri: &str) -> Result<(), NotSubscribed> {
        let mut settled = self.settled.subscribe();
        let version = self.want(uri)?;
        let agreed = settled.wait_for(|settled| settled.version >= version);
        let is_agreed = match tokio::time::timeout(PATIENCE, agreed).await {
            Ok(Ok(settled)) => settled.uris.contains(uri),
            Ok(Err(_)) | Err(_) => {
                self.unsubscribe(uri);
                let late = Cause::Timeout("waiting for the stream of a subscription");
                return Err(NotSubscribed::Lost(SendError::refused(late)));
            }
        };
        if !is_agreed {
            // Left out of the next filter; nobody needs a new stream for it.
            self.lock().uris.remove(uri);
            return Err(NotSubscribed::NotOffered);
        }
        Ok(())
    }

    pub(super) fn unsubscribe(&self, uri: &str) {
        let mut wanted = self.lock();
        if wanted.uris.remove(uri) {
            self.bump(&mut wanted);
        }
    }

    /// The lists whose changes are announced, each with its notification.
    pub(super) fn lists(&self) -> impl Iterator<Item = (&'static str, &'static str)> + '_ {
        self.promised.iter().map(|at| (LISTS[*at].0, LISTS[*at].2))
    }

    /// The resources that may have changed while no stream was open.
    pub(super) fn missed(&self) -> Vec<String> {
        let updated = |uri: &String| {
            let params = json!({ "uri": uri });
            json!({ "jsonrpc": "2.0", "method": "notifications/resources/updated", "params": params })
                .to_string()
        };
        self.lock().uris.iter().map(updated).collect()
    }

    fn want(&self, uri: &str) -> Result<u64, NotSubscribed> {
        let mut wanted = self.lock();
        if wanted.uris.len() >= MAX_URIS && !wanted.uris.contains(uri) {
            return Err(NotSubscribed::Full(MAX_URIS));
        }
        if wanted.uris.insert(uri.to_owned()) {
            self.bump(&mut wanted);
        }
        Ok(wanted.version)
    }

    fn bump(&self, wanted: &mut Wanted) {
        wanted.version += 1;
        self.changed.send_replace(wanted.version);
    }

    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
