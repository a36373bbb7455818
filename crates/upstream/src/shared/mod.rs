//! State that the agents of one pool share beside its sessions: subscriptions, log levels, list-change announcements,
//! list requests in flight, and page cursors. DESIGN.md 3.9, SEMANTICS.md 5 and 6.
//!
//! The parts are pure state machines. [`SharedState`] holds them under one short lock, which is released before any agent is
//! notified. The syncer of the connector sends the requests that their state calls for.

mod coalesce;
pub(crate) mod cursor;
mod list_changed;
pub(crate) mod log_level;
pub(crate) mod subscriptions;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::Instant,
};

use bytes::Bytes;
use mcpool_wire::{AgentKey, Answer, LinkEvent, Method, Outlet};
use tokio::sync::oneshot;

pub use self::coalesce::ListFlight;
pub(crate) use self::coalesce::ran_out_of_time;
use self::{
    coalesce::ListFlights,
    list_changed::ListChanges,
    log_level::{LogLevel, LogLevels},
    subscriptions::{Job, Joined, Subscriptions, Ticket, Verdict},
};
use crate::{
    clock,
    observe::{Event, Reporter},
    queue::Queue,
};

/// The shared state of one pool's agents.
pub(crate) struct SharedState {
    state: Mutex<Inner>,
    flights: ListFlights,
    /// True if log lines that belong to no call go to every agent.
    fan_out_logs: bool,
    /// Its demand wakes the connector, where the syncer runs.
    queue: Arc<Queue>,
    reporter: Reporter,
}

#[derive(Default)]
struct Inner {
    /// The agents by binding.
    agents: HashMap<u64, Member>,
    /// The newest binding of each agent.
    bindings: HashMap<AgentKey, u64>,
    last_binding: u64,
    subscriptions: Subscriptions,
    /// The agents waiting for a subscription.
    waiting: HashMap<Ticket, oneshot::Sender<Told>>,
    log_levels: LogLevels,
    list_changes: ListChanges,
}

struct Member {
    key: AgentKey,
    outlet: Weak<dyn Outlet>,
}

/// The lasting requests of one agent.
pub(crate) struct Wishes {
    subscribed: Vec<Arc<str>>,
    level: Option<LogLevel>,
}

/// The backend's response to a subscription: success, or its error.
type Told = Result<(), Answer>;

/// The reason a subscription failed.
pub(crate) enum NotSubscribed {
    /// Too many subscriptions: of the agent or the pool, and the limit.
    Full(&'static str, usize),
    /// The backend's own error.
    Refused(Answer),
}

/// A waiting subscriber; dropped before the response, it is not subscribed.
struct Waiting<'a> {
    shared: &'a SharedState,
    ticket: Ticket,
    binding: u64,
    uri: &'a str,
    told: bool,
}

impl SharedState {
    pub(crate) fn new(queue: Arc<Queue>, reporter: Reporter, fan_out_logs: bool) -> Self {
        Self { state: Mutex::default(), flights: ListFlights::default(), fan_out_logs, queue, reporter }
    }

    /// Adds an agent; returns the number of its binding.
    pub(crate) fn add_agent(&self, key: AgentKey, outlet: &Arc<dyn Outlet>) -> u64 {
        let mut state = self.lock();
        state.last_binding += 1;
        let binding = state.last_binding;
        state.agents.insert(binding, Member { key, outlet: Arc::downgrade(outlet) });
        state.bindings.insert(key, binding);
        binding
    }

    /// Removes an agent with its subscriptions and its log level.
    pub(crate) fn remove_agent(&self, binding: u64) {
        {
            let mut state = self.lock();
            let Some(member) = state.agents.remove(&binding) else { return };
            if state.bindings.get(&member.key) == Some(&binding) {
                state.bindings.remove(&member.key);
            }
            state.log_levels.leave(member.key, binding);
            state.subscriptions.leave_all(binding, clock::now());
        }
        self.wake();
    }

    /// The subscriptions and the log level of this binding.
    pub(crate) fn wishes_of(&self, binding: u64) -> Wishes {
        let state = self.lock();
        let level =
            state.agents.get(&binding).and_then(|member| state.log_levels.asked_by(member.key, binding));
        Wishes { subscribed: state.subscriptions.topics_of(binding), level }
    }

    /// Takes over the requests of an agent from another pool: subscribes it at once, and notifies it of each resource
    /// that may have changed meanwhile.
    pub(crate) fn adopt(&self, binding: u64, agent: AgentKey, wishes: Wishes) {
        let (held, outlets) = {
            let mut state = self.lock();
            if let Some(level) = wishes.level {
                state.log_levels.ask(agent, binding, level);
            }
            let held: Vec<_> =
                wishes.subscribed.into_iter().filter(|uri| state.subscriptions.adopt(binding, uri)).collect();
            (held, state.outlets(&[binding]))
        };
        for uri in held {
            self.push_all(&outlets, &updated(&uri), "updated");
        }
        self.wake();
    }

    /// The number of agents.
    pub(crate) fn agents(&self) -> usize {
        self.lock().agents.len()
    }

    /// The number of resources subscribed upstream, or about to be.
    pub(crate) fn subscriptions(&self) -> usize {
        self.lock().subscriptions.len()
    }

    /// True if it needs a session although no call waits.
    pub(crate) fn wants_session(&self) -> bool {
        self.lock().subscriptions.is_wanted()
    }

    /// The epoch of the event session, which carries the subscriptions.
    pub(crate) fn event_lane(&self) -> Option<u64> {
        let state = self.lock();
        state.subscriptions.lane().filter(|_| state.subscriptions.is_wanted())
    }

    /// Subscribes an agent; resolves when the backend has accepted.
    ///
    /// # Cancel safety
    /// Dropped, the agent is not subscribed; a request in progress continues and is undone after the linger.
    pub(crate) async fn subscribe(&self, binding: u64, uri: &str) -> Result<(), NotSubscribed> {
        let (mut waiting, told) = {
            let mut state = self.lock();
            let ticket = match state.subscriptions.join(binding, uri) {
                Joined::Now => return Ok(()),
                Joined::Full(whose, limit) => return Err(NotSubscribed::Full(whose, limit)),
                Joined::Waits(ticket) => ticket,
            };
            let (tell, told) = oneshot::channel();
            state.waiting.insert(ticket, tell);
            (Waiting { shared: self, ticket, binding, uri, told: false }, told)
        };
        self.wake();
        // The sender is dropped with the agent's binding, which holds `self`; then nobody reads the result.
        let outcome = told.await.unwrap_or(Ok(()));
        waiting.told = true;
        outcome.map_err(NotSubscribed::Refused)
    }

    /// Unsubscribes an agent. The backend is told after no other agent wants the resource for a while.
    pub(crate) fn unsubscribe(&self, binding: u64, uri: &str) {
        self.lock().subscriptions.leave(binding, uri, clock::now());
        self.wake();
    }

    /// Sets the log level of an agent.
    pub(crate) fn ask_level(&self, agent: AgentKey, binding: u64, level: LogLevel) {
        self.lock().log_levels.ask(agent, binding, level);
        self.wake();
    }

    /// True if a log line of this level is for this agent.
    pub(crate) fn admits(&self, agent: AgentKey, level: Option<&str>) -> bool {
        self.lock().log_levels.admits(agent, level.and_then(LogLevel::parse))
    }

    /// The agent's own stream.
    pub(crate) fn outlet_of(&self, agent: AgentKey) -> Option<Arc<dyn Outlet>> {
        let state = self.lock();
        state.agents.get(state.bindings.get(&agent)?)?.outlet.upgrade()
    }

    /// Delivers a log line that belongs to no call: to no agent, or by configuration to every agent that wants its
    /// level. True if it was meant for any.
    pub(crate) fn uncorrelated_log(&self, message: &Bytes, level: Option<&str>) -> bool {
        if !self.fan_out_logs && !mutant!(LogForEverybody) {
            return false;
        }
        let level = level.and_then(LogLevel::parse);
        let outlets: Vec<_> = {
            let state = self.lock();
            let wants = |member: &&Member| state.log_levels.admits(member.key, level);
            state.agents.values().filter(wants).filter_map(|member| member.outlet.upgrade()).collect()
        };
        self.push_all(&outlets, message, "log");
        true
    }

    /// Announces a changed list to every agent, soon.
    pub(crate) fn changed(&self, kind: &Method) {
        self.flights.forget(kind);
        self.lock().list_changes.changed(kind, clock::now());
        self.wake();
    }

    /// Notifies the subscribers of a changed resource. True if there is one.
    pub(crate) fn updated(&self, uri: &str, message: &Bytes) -> bool {
        let outlets = {
            let state = self.lock();
            state.outlets(&state.subscriptions.subscribers(uri))
        };
        self.push_all(&outlets, message, "updated");
        !outlets.is_empty()
    }

    /// The list requests in progress.
    pub(crate) fn flights(&self) -> &ListFlights {
        &self.flights
    }

    /// The log level for the sessions, and true if there are subscriptions.
    pub(crate) fn wanted(&self) -> (Option<LogLevel>, bool) {
        let state = self.lock();
        (state.log_levels.wanted(), state.subscriptions.len() > 0)
    }

    /// The time of the next request or announcement.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let state = self.lock();
        [state.list_changes.next_due(), state.subscriptions.next_due()].into_iter().flatten().min()
    }

    /// The requests to send on the event session: `choose` gets its epoch and returns that of the next one.
    pub(crate) fn jobs(&self, now: Instant, choose: impl FnOnce(Option<u64>) -> Option<u64>) -> Vec<Job> {
        let mut state = self.lock();
        let epoch = choose(state.subscriptions.lane());
        state.subscriptions.ride(epoch);
        state.subscriptions.jobs(now)
    }

    pub(crate) fn settle(&self, job: &Job, answer: Option<Answer>) {
        let verdict = match &answer {
            None => Verdict::Lost,
            Some(answer) if answer.is_rpc_error => Verdict::Refused,
            Some(_) => Verdict::Accepted,
        };
        let (tell, outlets) = {
            let mut state = self.lock();
            let settled = state.subscriptions.settled(job, verdict, clock::now());
            let tell: Vec<_> = settled.told.iter().filter_map(|t| state.waiting.remove(t)).collect();
            (tell, state.outlets(&settled.doubtful))
        };
        for waiting in tell {
            let refused = answer.clone().filter(|answer| answer.is_rpc_error);
            let _ = waiting.send(refused.map_or(Ok(()), Err));
        }
        if !outlets.is_empty() {
            self.push_all(&outlets, &updated(&job.uri), "updated");
        }
    }

    /// Sends the due announcements of changed lists.
    pub(crate) fn announce_list_changes(&self, now: Instant) {
        let due: Vec<_> = {
            let mut state = self.lock();
            if state.list_changes.next_due().is_none_or(|due| due > now) {
                return;
            }
            let agents: Vec<u64> = state.agents.keys().copied().collect();
            let due = state.list_changes.take(&agents, now);
            due.iter().map(|(kind, agents)| (list_changed(kind), state.outlets(agents))).collect()
        };
        for (message, outlets) in due {
            self.push_all(&outlets, &message, "notification");
        }
    }

    fn push_all(&self, outlets: &[Arc<dyn Outlet>], message: &Bytes, kind: &'static str) {
        for outlet in outlets {
            if outlet.push(LinkEvent::Notification(message.clone())).is_err() {
                self.reporter.on(Event::Dropped { kind });
            }
        }
    }

    fn wake(&self) {
        self.queue.demand.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Inner {
    fn outlets(&self, bindings: &[u64]) -> Vec<Arc<dyn Outlet>> {
        bindings.iter().filter_map(|binding| self.agents.get(binding)?.outlet.upgrade()).collect()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.waiting.remove(&self.ticket);
        if self.told {
            state.subscriptions.confirm(self.ticket, self.binding, self.uri);
            return;
        }
        state.subscriptions.withdraw(self.ticket, self.binding, self.uri, clock::now());
        drop(state);
        self.shared.wake();
    }
}

fn updated(uri: &str) -> Bytes {
    let uri = serde_json::Value::from(uri);
    Bytes::from(format!(
        "{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/resources/updated\",\"params\":{{\"uri\":{uri}}}}}"
    ))
}

pub(crate) fn list_changed(kind: &Method) -> Bytes {
    Bytes::from(format!("{{\"jsonrpc\":\"2.0\",\"method\":\"{}\"}}", kind.as_str()))
}

#[cfg(test)]
mod tests;
