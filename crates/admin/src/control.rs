//! What the admin listener needs of the process: things to show, and orders to give.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::{future::BoxFuture, stream::BoxStream};
use mcpool_front::{Census, FrontConfig, LimitUse, Readiness};
use mcpool_router::verbs::{Done, Verb};
use serde_json::{Map, Value};

/// Recent events, and a stream of new ones: one JSON line each.
pub type Followed = (Vec<Arc<str>>, BoxStream<'static, Arc<str>>);

/// The process behind the admin listener.
pub trait Control: Send + Sync + 'static {
    /// Allowed peers and hosts, limits and timeouts, as configured now.
    fn front(&self) -> FrontConfig;

    /// True if this is the admin token. `None` if no token is configured.
    fn is_token(&self, presented: Option<&str>) -> Option<bool>;

    /// Readiness of the process, and its details.
    fn readiness(&self) -> (Readiness, Map<String, Value>);

    /// The global limits and their use, except for those of the admin listener.
    fn limits(&self) -> Vec<LimitUse>;

    /// The metrics page, with these limits.
    fn metrics(&self, limits: &[LimitUse]) -> String;

    /// Upkeep of the metrics; called every two seconds.
    fn upkeep(&self);

    /// Counts a panic of an admin request.
    fn panicked(&self);

    /// Snapshots of all backends.
    fn backends(&self) -> Vec<Value>;

    /// The names of all backends, for the message about an unknown one.
    fn names(&self) -> String;

    /// Snapshot of a backend with its sessions. `None` if the name is unknown.
    fn backend(&self, name: &str) -> Option<Value>;

    /// Sessions of a backend. `None` if the name is unknown.
    fn sessions(&self, name: &str) -> Option<Value>;

    /// Performs an action on a backend and waits up to `wait` for it. `None` if the name is unknown.
    ///
    /// # Cancel safety
    /// The action takes effect with the first poll; dropping the future later does not undo it.
    fn perform(&self, name: &str, verb: Verb, wait: Duration) -> Option<BoxFuture<'static, Done>>;

    /// Records an action for the events: its result in one sentence, who gave the order, and how long it took.
    fn performed(&self, name: &str, verb: Verb, sentence: &str, by: (SocketAddr, Duration));

    /// Reloads the configuration; what changed, or the reason of the rejection. `None` if it cannot be reloaded.
    fn reload(&self) -> Option<BoxFuture<'static, Result<String, String>>>;

    /// Agents and running calls. `None` while no agents are served.
    fn census(&self) -> Option<&dyn Census>;

    /// Recent events, one JSON line each, oldest first.
    fn events(&self) -> Vec<Arc<str>>;

    /// Recent events and a stream of new ones. `None` if there are too many followers.
    fn follow(&self) -> Option<Followed>;

    /// The configuration in force, with secrets masked.
    fn config(&self) -> Value;

    /// Parses a duration as the configuration does.
    ///
    /// # Errors
    /// What is wrong with the text.
    fn duration(&self, text: &str) -> Result<Duration, String>;
}
