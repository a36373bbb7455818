//! Subscriptions of the agents of one pool, as a pure state machine: no clock, no runtime, no IO.
//!
//! A topic is one URI, byte for byte as agents send it. It is subscribed upstream once for all its agents, on one
//! session of the pool (the *event session*), and unsubscribed when no agent wanted it for a while. An agent waits with
//! a ticket until the backend accepts. Agents subscribed before another event session took over are notified that the
//! resource may have changed.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

/// Time an unwanted topic stays subscribed upstream, so that a returning agent costs nothing.
pub(super) const LINGER: Duration = Duration::from_secs(5);

/// Most topics of one agent.
pub(super) const MAX_PER_AGENT: usize = 1_000;

/// Most topics of one pool.
pub(super) const MAX_TOPICS: usize = 10_000;

/// Most requests in progress on the event session.
const MAX_ASKING: usize = 16;

/// Pause after a request without response, and after the rejection of a topic accepted before.
const RETRY_LOST: Duration = Duration::from_secs(1);
const RETRY_REFUSED: Duration = Duration::from_secs(30);

/// The ticket of one waiting subscriber.
pub(super) type Ticket = u64;

#[derive(Default)]
pub(super) struct Subscriptions {
    topics: HashMap<Arc<str>, Topic>,
    /// The topics of each agent, wanted or subscribed.
    agents: HashMap<u64, HashSet<Arc<str>>>,
    /// Topics to subscribe on the event session.
    queued: BTreeSet<Arc<str>>,
    /// Times at which unwanted topics end and rejected ones are tried again.
    timers: BTreeSet<(Instant, Arc<str>)>,
    asking: usize,
    lane: Option<u64>,
    last_ticket: Ticket,
}

#[derive(Default)]
struct Topic {
    /// The subscribed agents; with a ticket while it is unknown whether the agent got the response.
    subscribers: HashMap<u64, Option<Ticket>>,
    waiting: Vec<(Ticket, u64)>,
    upstream: Upstream,
    timer: Option<Instant>,
}

/// The state of a topic on the event session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Upstream {
    #[default]
    Absent,
    Queued,
    Asking,
    Held,
    Leaving,
}

/// The result of a subscribe request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joined {
    /// Subscribed at once.
    Now,
    /// Subscribed when the backend accepts.
    Waits(Ticket),
    /// Too many topics of the agent or the pool.
    Full(&'static str, usize),
}

/// A request to send on the event session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    pub(super) epoch: u64,
    pub(crate) uri: Arc<str>,
    pub(crate) subscribe: bool,
}

/// The backend's response to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accepted,
    Refused,
    /// No response: the session broke, or the time was over.
    Lost,
}

/// The agents concerned by a settled job.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// The waiting ones.
    pub(super) told: Vec<Ticket>,
    /// Those already subscribed that may have missed a change.
    pub(super) doubtful: Vec<u64>,
}

impl Subscriptions {
    /// Adds an agent to a topic.
    pub(super) fn join(&mut self, agent: u64, uri: &str) -> Joined {
        let uri = self.topics.get_key_value(uri).map_or_else(|| Arc::from(uri), |(known, _)| known.clone());
        if !self.topics.contains_key(&uri) && self.topics.len() >= MAX_TOPICS {
            return Joined::Full("all agents of this backend", MAX_TOPICS);
        }
        if self.agents.get(&agent).is_some_and(|own| !own.contains(&uri) && own.len() >= MAX_PER_AGENT) {
            return Joined::Full("one agent", MAX_PER_AGENT);
        }
        self.agents.entry(agent).or_default().insert(uri.clone());
        let topic = self.topics.entry(uri.clone()).or_default();
        if topic.subscribers.contains_key(&agent) {
            return Joined::Now;
        }
        match topic.upstream {
            Upstream::Held => {
                topic.subscribers.insert(agent, None);
                if let Some(at) = topic.timer.take() {
                    self.timers.remove(&(at, uri));
                }
                return Joined::Now;
            }
            Upstream::Absent => self.queue(&uri),
            Upstream::Queued | Upstream::Asking | Upstream::Leaving => {}
        }
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        if let Some(topic) = self.topics.get_mut(&uri) {
            topic.waiting.push((ticket, agent));
        }
        Joined::Waits(ticket)
    }

    /// The topics of an agent.
    pub(super) fn topics_of(&self, agent: u64) -> Vec<Arc<str>> {
        let has = |uri: &&Arc<str>| self.topics.get(*uri).is_some_and(|t| t.subscribers.contains_key(&agent));
        self.agents.get(&agent).into_iter().flatten().filter(has).cloned().collect()
    }

    /// Adds an agent that was subscribed elsewhere, within the limits. True if the topic is already subscribed
    /// upstream, so that no response will notify the agent.
    pub(super) fn adopt(&mut self, agent: u64, uri: &str) -> bool {
        match self.join(agent, uri) {
            Joined::Now => true,
            Joined::Full(..) => false,
            Joined::Waits(ticket) => {
                if let Some(topic) = self.topics.get_mut(uri) {
                    topic.waiting.retain(|(waits, _)| *waits != ticket);
                    topic.subscribers.insert(agent, None);
                }
                false
            }
        }
    }

    /// Removes an agent from a topic.
    pub(super) fn leave(&mut self, agent: u64, uri: &str, now: Instant) {
        let Some((uri, _)) = self.topics.get_key_value(uri) else { return };
        let uri = uri.clone();
        if let Some(topic) = self.topics.get_mut(&uri) {
            topic.subscribers.remove(&agent);
            if mutant!(UnsubscribeForAll) {
                topic.subscribers.clear();
            }
        }
        self.part(agent, &uri, now);
    }

    /// Removes an agent from all its topics.
    pub(super) fn leave_all(&mut self, agent: u64, now: Instant) {
        for uri in self.agents.remove(&agent).unwrap_or_default() {
            if let Some(topic) = self.topics.get_mut(&uri) {
                topic.subscribers.remove(&agent);
                topic.waiting.retain(|(_, of)| *of != agent);
            }
            self.release(&uri, now);
        }
    }

    /// Confirms that the agent with this ticket got the response.
    pub(super) fn confirm(&mut self, ticket: Ticket, agent: u64, uri: &str) {
        let topic = self.topics.get_mut(uri);
        if let Some(at) = topic.and_then(|t| t.subscribers.get_mut(&agent)).filter(|at| **at == Some(ticket))
        {
            *at = None;
        }
    }

    /// Withdraws a ticket whose agent got no response.
    pub(super) fn withdraw(&mut self, ticket: Ticket, agent: u64, uri: &str, now: Instant) {
        let Some((uri, _)) = self.topics.get_key_value(uri) else { return };
        let uri = uri.clone();
        if let Some(topic) = self.topics.get_mut(&uri) {
            topic.waiting.retain(|(waits, _)| *waits != ticket);
            if topic.subscribers.get(&agent) == Some(&Some(ticket)) {
                topic.subscribers.remove(&agent);
            }
        }
        self.part(agent, &uri, now);
    }

    /// Sets the event session; every topic is subscribed on it anew.
    pub(super) fn ride(&mut self, lane: Option<u64>) {
        if self.lane == lane {
            return;
        }
        self.lane = lane;
        self.asking = 0;
        self.timers.clear();
        self.topics.retain(|_, topic| topic.is_wanted());
        self.queued = self.topics.keys().cloned().collect();
        for topic in self.topics.values_mut() {
            topic.upstream = Upstream::Queued;
            topic.timer = None;
        }
    }

    pub(super) fn lane(&self) -> Option<u64> {
        self.lane
    }

    /// The requests to send now.
    pub(super) fn jobs(&mut self, now: Instant) -> Vec<Job> {
        let Some(epoch) = self.lane else { return Vec::new() };
        let mut jobs = Vec::new();
        while self.asking < MAX_ASKING
            && let Some((at, uri)) = self.timers.first().cloned()
            && at <= now
        {
            self.timers.pop_first();
            let Some(topic) = self.topics.get_mut(&uri) else { continue };
            topic.timer = None;
            if topic.upstream == Upstream::Held {
                topic.upstream = Upstream::Leaving;
                self.asking += 1;
                jobs.push(Job { epoch, uri, subscribe: false });
            } else {
                self.queue(&uri);
            }
        }
        while self.asking < MAX_ASKING
            && let Some(uri) = self.queued.pop_first()
        {
            let Some(topic) = self.topics.get_mut(&uri) else { continue };
            topic.upstream = Upstream::Asking;
            self.asking += 1;
            jobs.push(Job { epoch, uri, subscribe: true });
        }
        jobs
    }

    /// The time of the next request that is not due now.
    pub(super) fn next_due(&self) -> Option<Instant> {
        // With all places taken the end of a job wakes it.
        self.timers.first().filter(|_| self.asking < MAX_ASKING).map(|(at, _)| *at)
    }

    /// Applies the end of a job.
    pub(super) fn settled(&mut self, job: &Job, verdict: Verdict, now: Instant) -> Settled {
        let mut settled = Settled::default();
        // Responses of an earlier event session no longer count.
        if self.lane != Some(job.epoch) {
            return settled;
        }
        self.asking = self.asking.saturating_sub(1);
        let Some(topic) = self.topics.get_mut(&job.uri) else { return settled };
        topic.upstream = Upstream::Absent;
        let mut again = None;
        match verdict {
            _ if !job.subscribe => {
                if topic.is_wanted() {
                    self.queue(&job.uri);
                }
            }
            Verdict::Accepted => {
                topic.upstream = Upstream::Held;
                settled.doubtful = topic.subscribers.keys().copied().collect();
                for (ticket, agent) in std::mem::take(&mut topic.waiting) {
                    topic.subscribers.entry(agent).or_insert(Some(ticket));
                    settled.told.push(ticket);
                }
            }
            Verdict::Refused => {
                let refused = std::mem::take(&mut topic.waiting);
                again = (!topic.subscribers.is_empty()).then_some(RETRY_REFUSED);
                for (ticket, agent) in refused {
                    settled.told.push(ticket);
                    self.part(agent, &job.uri, now);
                }
            }
            Verdict::Lost => again = topic.is_wanted().then_some(RETRY_LOST),
        }
        if let (Some(pause), Some(topic)) = (again, self.topics.get_mut(&job.uri)) {
            topic.timer = Some(now + pause);
            self.timers.insert((now + pause, job.uri.clone()));
        }
        self.release(&job.uri, now);
        settled
    }

    /// The subscribers of a changed resource: of the URI, or, if there are none, of its nearest ancestor (a change may
    /// concern a part of it).
    pub(super) fn subscribers(&self, uri: &str) -> Vec<u64> {
        let mut at = uri;
        loop {
            if let Some(topic) = self.topics.get(at).filter(|topic| !topic.subscribers.is_empty()) {
                return topic.subscribers.keys().copied().collect();
            }
            let Some(cut) = at.rfind('/').filter(|cut| !at[..*cut].ends_with(['/', ':'])) else {
                return Vec::new();
            };
            at = &at[..cut];
        }
    }

    /// True if any agent has or wants a topic.
    pub(super) fn is_wanted(&self) -> bool {
        !self.agents.is_empty()
    }

    /// The number of topics, including unwanted ones.
    pub(super) fn len(&self) -> usize {
        self.topics.len()
    }

    fn queue(&mut self, uri: &Arc<str>) {
        if let Some(topic) = self.topics.get_mut(uri) {
            topic.upstream = Upstream::Queued;
            if let Some(at) = topic.timer.take() {
                self.timers.remove(&(at, uri.clone()));
            }
            self.queued.insert(uri.clone());
        }
    }

    /// Removes the agent's link to the topic if it is unused.
    fn part(&mut self, agent: u64, uri: &Arc<str>, now: Instant) {
        if self.topics.get(uri).is_some_and(|topic| topic.knows(agent)) {
            return;
        }
        if let Some(own) = self.agents.get_mut(&agent) {
            own.remove(uri);
            if own.is_empty() {
                self.agents.remove(&agent);
            }
        }
        self.release(uri, now);
    }

    /// Ends an unwanted topic: at once if it is unknown upstream, else after the linger.
    fn release(&mut self, uri: &Arc<str>, now: Instant) {
        let Some(topic) = self.topics.get_mut(uri).filter(|topic| !topic.is_wanted()) else { return };
        match topic.upstream {
            Upstream::Held if topic.timer.is_none() => {
                topic.timer = Some(now + LINGER);
                self.timers.insert((now + LINGER, uri.clone()));
            }
            Upstream::Absent | Upstream::Queued => {
                if let Some(at) = topic.timer {
                    self.timers.remove(&(at, uri.clone()));
                }
                self.queued.remove(uri);
                self.topics.remove(uri);
            }
            Upstream::Held | Upstream::Asking | Upstream::Leaving => {}
        }
    }
}

impl Topic {
    fn is_wanted(&self) -> bool {
        !self.subscribers.is_empty() || !self.waiting.is_empty()
    }

    fn knows(&self, agent: u64) -> bool {
        self.subscribers.contains_key(&agent) || self.waiting.iter().any(|(_, of)| *of == agent)
    }
}

#[cfg(test)]
mod tests;
