//! Who of one pool subscribed to which resource, as a pure machine: no clock, no runtime, no IO.
//!
//! A topic is one URI, byte for byte as agents send it. It is asked for upstream once for all its agents, on one
//! session of the pool (the *event lane*), and given up when nobody wanted it for a while. An agent waits with a
//! ticket until the backend accepted; whoever was subscribed before a new lane took over is told that something may
//! have changed meanwhile.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

/// How long a topic nobody wants stays subscribed upstream: who comes back meanwhile costs nothing.
pub(super) const LINGER: Duration = Duration::from_secs(5);

/// Most topics of one agent.
pub(super) const MAX_PER_AGENT: usize = 1_000;

/// Most topics of one pool.
pub(super) const MAX_TOPICS: usize = 10_000;

/// Requests under way on the lane at a time.
const MAX_ASKING: usize = 16;

/// Pause after a request whose answer was lost, and after a topic that was granted before was refused.
const RETRY_LOST: Duration = Duration::from_secs(1);
const RETRY_REFUSED: Duration = Duration::from_secs(30);

/// One waiting subscriber.
pub(super) type Ticket = u64;

#[derive(Default)]
pub(super) struct Subscriptions {
    topics: HashMap<Arc<str>, Topic>,
    /// The topics of each agent that has or wants one.
    agents: HashMap<u64, HashSet<Arc<str>>>,
    /// Topics to be asked for on the lane.
    queued: BTreeSet<Arc<str>>,
    /// When lingering topics are given up and refused ones are asked for again.
    timers: BTreeSet<(Instant, Arc<str>)>,
    asking: usize,
    lane: Option<u64>,
    last_ticket: Ticket,
}

#[derive(Default)]
struct Topic {
    /// Those who were told; a ticket stands where the telling is not known to have arrived.
    subscribers: HashMap<u64, Option<Ticket>>,
    waiting: Vec<(Ticket, u64)>,
    upstream: Upstream,
    timer: Option<Instant>,
}

/// Where a topic stands on the lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Upstream {
    #[default]
    Absent,
    Queued,
    Asking,
    Held,
    Leaving,
}

/// What becomes of an agent that subscribes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joined {
    /// It is subscribed.
    Now,
    /// It is once the backend accepted.
    Waits(Ticket),
    /// Too many topics: of this agent, or of the pool.
    Full(&'static str, usize),
}

/// Something to be sent on the lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    pub(super) epoch: u64,
    pub(crate) uri: Arc<str>,
    pub(crate) subscribe: bool,
}

/// What the backend said to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accepted,
    Refused,
    /// Nothing: the session broke, or it took too long.
    Lost,
}

/// Who is to be told of a settled job.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// Those who waited for it.
    pub(super) told: Vec<Ticket>,
    /// Those who were subscribed already and may have missed a change.
    pub(super) doubtful: Vec<u64>,
}

impl Subscriptions {
    /// An agent wants a topic.
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

    /// The topics an agent is subscribed to.
    pub(super) fn topics_of(&self, agent: u64) -> Vec<Arc<str>> {
        let has = |uri: &&Arc<str>| self.topics.get(*uri).is_some_and(|t| t.subscribers.contains_key(&agent));
        self.agents.get(&agent).into_iter().flatten().filter(has).cloned().collect()
    }

    /// An agent that was subscribed elsewhere is so here, as far as the limits go. Whether the topic is held upstream
    /// already, so that nobody will tell the agent of it by itself.
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

    /// An agent wants a topic no more.
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

    /// An agent is gone, with all it has and waits for.
    pub(super) fn leave_all(&mut self, agent: u64, now: Instant) {
        for uri in self.agents.remove(&agent).unwrap_or_default() {
            if let Some(topic) = self.topics.get_mut(&uri) {
                topic.subscribers.remove(&agent);
                topic.waiting.retain(|(_, of)| *of != agent);
            }
            self.release(&uri, now);
        }
    }

    /// Whoever waited with this ticket was told so.
    pub(super) fn confirm(&mut self, ticket: Ticket, agent: u64, uri: &str) {
        let topic = self.topics.get_mut(uri);
        if let Some(at) = topic.and_then(|t| t.subscribers.get_mut(&agent)).filter(|at| **at == Some(ticket))
        {
            *at = None;
        }
    }

    /// Whoever waited with this ticket does so no more, and was not told anything.
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

    /// The session that carries the subscriptions from now on; everything is asked for on it anew.
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

    /// What is to be sent now.
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

    /// When there is something to send that is not now.
    pub(super) fn next_due(&self) -> Option<Instant> {
        // With all places taken the end of a job is what wakes.
        self.timers.first().filter(|_| self.asking < MAX_ASKING).map(|(at, _)| *at)
    }

    /// A job ended.
    pub(super) fn settled(&mut self, job: &Job, verdict: Verdict, now: Instant) -> Settled {
        let mut settled = Settled::default();
        // What an earlier lane says no longer counts.
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

    /// Whom a change of this resource concerns: the subscribers of the URI, or, where there are none, those of the
    /// nearest one above it (a change may be of a part of what was subscribed to).
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

    /// Whether anybody has or wants a topic.
    pub(super) fn is_wanted(&self) -> bool {
        !self.agents.is_empty()
    }

    /// Topics there are, those nobody wants any more included.
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

    /// Forgets that the agent has to do with the topic, if it has not.
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

    /// Lets go of a topic nobody wants: at once where nothing is known of it upstream, else after the linger.
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
