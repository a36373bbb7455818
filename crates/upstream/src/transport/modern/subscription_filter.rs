//! The filter of a session's notification stream: the lists whose changes the backend announces, and the subscribed
//! resources. A stream has one filter for its whole life, so a change opens a new stream.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::error::{Cause, SendError};

/// Most resources of one session; the limits of its agents are lower.
const MAX_URIS: usize = 10_000;

/// Longest wait of a subscription for its stream.
const PATIENCE: Duration = Duration::from_secs(10);

/// The lists: capability, name in the filter, and notification.
const LISTS: [(&str, &str, &str); 3] = [
    ("tools", "toolsListChanged", "notifications/tools/list_changed"),
    ("prompts", "promptsListChanged", "notifications/prompts/list_changed"),
    ("resources", "resourcesListChanged", "notifications/resources/list_changed"),
];

#[derive(Default)]
pub(super) struct SubscriptionFilter {
    /// Indexes into [`LISTS`].
    promised: Vec<usize>,
    wanted: Mutex<Wanted>,
    changed: watch::Sender<u64>,
    settled: watch::Sender<Settled>,
}

/// The wanted resources; the version grows with every change.
#[derive(Default)]
struct Wanted {
    uris: BTreeSet<String>,
    version: u64,
}

/// The last filter that the backend accepted.
#[derive(Clone, Debug, Default)]
struct Settled {
    version: u64,
    uris: BTreeSet<String>,
}

/// A filter to send.
pub(super) struct Snapshot {
    pub(super) version: u64,
    /// `params.notifications`; `None` for an empty filter.
    pub(super) notifications: Option<Value>,
}

/// The reason a subscription failed.
pub(super) enum NotSubscribed {
    /// The limit is reached.
    Full(usize),
    /// The backend omitted it.
    NotOffered,
    Lost(SendError),
}

impl SubscriptionFilter {
    /// The filter for a backend with these capabilities.
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

    /// Wakes on every change.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Notes that the stream of this version is open, or unavailable, and the resources the backend accepted.
    pub(super) fn settle(&self, version: u64, uris: BTreeSet<String>) {
        self.settled.send_replace(Settled { version, uris });
    }

    /// Subscribes; complete when a stream carries it.
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
            // It is omitted from the next filter; no new stream is needed.
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

    /// The announced lists, each with its notification.
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
