//! What the admin listener shows and orders: the parts of this process behind its [`Control`].

use std::{net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use mcpool_admin::{Control, Followed};
use mcpool_front::{Census, FrontConfig, Gauges, Health as _, LimitUse, Readiness};
use mcpool_router::verbs::{Done, Verb};
use serde_json::{Map, Value, json};

use crate::{
    config::{Config, parse_duration},
    observe::{Events, Metrics, Status, descriptors},
    reload::ReloadHook,
};

/// Data sources of the admin listener.
pub struct Admin {
    /// Health and backends.
    pub status: Arc<Status>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Gauges of the agent listener.
    pub gauges: Arc<Gauges>,
    /// The configuration in force.
    pub config: Arc<ArcSwap<Config>>,
    /// Recent events.
    pub events: Arc<Events>,
    /// Agents and running calls.
    pub census: Option<Arc<dyn Census>>,
    /// Reloads the configuration, if supported.
    pub reload: Option<ReloadHook>,
}

impl Control for Admin {
    fn front(&self) -> FrontConfig {
        self.config.load().front.clone()
    }

    fn is_token(&self, presented: Option<&str>) -> Option<bool> {
        let config = self.config.load();
        let token = config.admin_token.as_ref()?;
        Some(presented.is_some_and(|presented| token.is(presented)))
    }

    fn readiness(&self) -> (Readiness, Map<String, Value>) {
        let mut readiness = self.status.readiness();
        let mut details = self.status.details();
        if let Some(overload) = self.gauges.overload() {
            details.insert("overload".to_owned(), overload);
            readiness = if readiness == Readiness::Ok { Readiness::Degraded } else { readiness };
        }
        let strain = self.gauges.strain();
        readiness =
            if readiness == Readiness::Ok && strain.refuses() { Readiness::Degraded } else { readiness };
        strain.put_into(&mut details);
        (readiness, details)
    }

    fn limits(&self) -> Vec<LimitUse> {
        let mut limits = self.gauges.limits();
        limits.extend(descriptors().map(|(used, limit)| LimitUse { name: "descriptors", used, limit }));
        limits
    }

    fn metrics(&self, limits: &[LimitUse]) -> String {
        self.metrics.limits(limits);
        self.metrics.render(self.status.gateway(), &self.gauges, self.status.readiness())
    }

    fn upkeep(&self) {
        self.metrics.upkeep();
    }

    fn panicked(&self) {
        self.metrics.panicked("admin");
    }

    fn backends(&self) -> Vec<Value> {
        self.status.backends()
    }

    fn names(&self) -> String {
        self.status.names()
    }

    fn backend(&self, name: &str) -> Option<Value> {
        self.status.backend(name)
    }

    fn sessions(&self, name: &str) -> Option<Value> {
        self.status.sessions(name)
    }

    fn perform(&self, name: &str, verb: Verb, wait: Duration) -> Option<BoxFuture<'static, Done>> {
        let registered = self.status.find(name)?;
        Some(async move { registered.perform(verb, wait).await }.boxed())
    }

    fn performed(&self, name: &str, verb: Verb, sentence: &str, by: (SocketAddr, Duration)) {
        self.events.operator(name, verb.as_str(), sentence, by);
    }

    fn reload(&self) -> Option<BoxFuture<'static, Result<String, String>>> {
        self.reload.as_ref().map(|reload| reload())
    }

    fn census(&self) -> Option<&dyn Census> {
        self.census.as_deref()
    }

    fn events(&self) -> Vec<Arc<str>> {
        self.events.recent()
    }

    fn follow(&self) -> Option<Followed> {
        self.events.follow().map(|(recent, live)| (recent, live.boxed()))
    }

    fn config(&self) -> Value {
        let config = self.config.load();
        json!({
            "file": config.file,
            "generation": config.generation,
            "environment": config.variables,
            "config": config.shown(),
        })
    }

    fn duration(&self, text: &str) -> Result<Duration, String> {
        parse_duration(text)
    }
}

#[cfg(test)]
mod tests;
