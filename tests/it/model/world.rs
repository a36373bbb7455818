//! Runs one program and compares what happens with what may: the oracle. What belongs to a request carries its mark,
//! so the model is small: who made which request, who is subscribed to what, and who wants to hear how much.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
    time::Duration,
};

use futures::{
    FutureExt as _, StreamExt as _,
    future::{AbortHandle, Aborted, BoxFuture, abortable},
    stream::FuturesUnordered,
};
use mcpool_breaker::Settings;
use mcpool_upstream::{Limits, ModeChoice, Times};
use mcpool_wire::{Answer, CallError, Link as _};
use serde_json::{Value, json};

use super::{
    backend::{Fake, STRAY, tag},
    judge::{self, Request, What},
    program::{Event, LEVELS, Program, URIS},
};
use crate::lab::{Agent, Held, Inbox, Lab, Wish};

/// What must not be, in one sentence.
pub(super) type Violation = String;

type Ended = (usize, Result<Result<Answer, CallError>, Aborted>);

/// One program on its way.
pub(super) struct World<'a> {
    pub(super) program: &'a Program,
    lab: Lab,
    pub(super) fake: Fake,
    members: Vec<Member>,
    /// What those who left could still be sent, while anything keeps it.
    left: Vec<Weak<Inbox>>,
    next_agent: usize,
    pub(super) requests: Vec<Request>,
    aborts: Vec<AbortHandle>,
    runs: FuturesUnordered<BoxFuture<'static, Ended>>,
    /// How often the inboxes were looked into.
    pub(super) looks: u64,
    /// The version of the list everybody was told of.
    told_version: usize,
    /// Who was told of which resource, and who of a change of the list, since this was last emptied.
    updated: BTreeMap<usize, BTreeSet<usize>>,
    list_changed: BTreeSet<usize>,
}

/// One agent, as the model knows it.
pub(super) struct Member {
    agent: Agent,
    /// Its number, which no other agent has or had.
    pub(super) name: usize,
    pub(super) level: Option<usize>,
    /// How often it asked for a level.
    pub(super) level_asked: u64,
    topics: [Topic; URIS],
}

#[derive(Clone, Copy, Default)]
struct Topic {
    held: bool,
    asking: bool,
    /// It was or might have been subscribed since the last look.
    lately: bool,
}

impl<'a> World<'a> {
    pub(super) async fn start(program: &'a Program) -> Self {
        let calls_per_session = if program.exclusive { 1 } else { 2 };
        let (fake, memory) = Fake::new(program, calls_per_session);
        let lab = Lab::start(memory, wish(program, calls_per_session));
        let mut world = Self {
            program,
            lab,
            fake,
            members: Vec::new(),
            left: Vec::new(),
            next_agent: 0,
            requests: Vec::new(),
            aborts: Vec::new(),
            runs: FuturesUnordered::new(),
            looks: 0,
            told_version: 0,
            updated: BTreeMap::new(),
            list_changed: BTreeSet::new(),
        };
        for _ in 0..program.agents {
            let member = world.newcomer().await;
            world.members.push(member);
        }
        world
    }

    /// Runs the program to its end, and the end to rest.
    pub(super) async fn run(mut self) -> Result<(), Violation> {
        for (event, pause) in &self.program.events {
            self.apply(event).await?;
            self.pass(*pause).await?;
        }
        for _ in 0..100 {
            if self.runs.is_empty() {
                break;
            }
            self.pass(Duration::from_secs(5)).await?;
        }
        if let Some(open) = self.requests.iter().position(|request| request.ended.is_none()) {
            return Err(format!("request {open} never ended: {:?}", self.requests[open]));
        }
        judge::executions(&self)?;
        self.pass(REST).await?;
        self.rests().await?;
        self.all_is_told().await?;
        self.nothing_stays().await
    }

    async fn apply(&mut self, event: &Event) -> Result<(), Violation> {
        let memory = self.lab.memory.clone();
        match event {
            Event::Call { agent, plan } => {
                self.fake.expect(self.requests.len(), plan);
                let name = if plan.safe { "echo" } else { "write" };
                let mut params = json!({"name": name, "arguments": {"call": self.requests.len()}});
                if let Some(token) = plan.token {
                    params["_meta"] = json!({"progressToken": same(token)});
                }
                self.ask(*agent, What::Tool(plan.clone()), &same(plan.id), "tools/call", &params);
            }
            Event::Cancel { agent, all } => self.cancel(self.members[*agent].name, *all),
            Event::List { agent } => self.list(*agent),
            Event::Subscribe { agent, uri } => self.subscribe(*agent, *uri, true),
            Event::Unsubscribe { agent, uri } => self.subscribe(*agent, *uri, false),
            Event::Level { agent, level } => {
                self.members[*agent].level_asked += 1;
                let params = json!({"level": LEVELS[*level]});
                self.ask(*agent, What::Level(*level), &same(0), "logging/setLevel", &params);
            }
            Event::Replace { agent } => {
                self.cancel(self.members[*agent].name, true);
                self.pass(Duration::ZERO).await?;
                let new = self.newcomer().await;
                self.look()?;
                let old = std::mem::replace(&mut self.members[*agent], new);
                self.left.push(Arc::downgrade(&old.agent.inbox));
            }
            Event::ListChanged => self.fake.change_list(&memory),
            Event::Updated { uri } => self.fake.update(&memory, &uri_of(*uri)),
            // An exclusive session belongs to the agent it is lent to, and so does what it says.
            Event::StrayLog if self.program.exclusive => {}
            Event::StrayLog => self.fake.stray(&memory),
            Event::Lose { session, loss } => self.fake.lose(&memory, *session, *loss),
        }
        Ok(())
    }

    async fn newcomer(&mut self) -> Member {
        let name = self.next_agent;
        self.next_agent += 1;
        let agent = self.lab.agent(name as u64).await;
        Member { agent, name, level: None, level_asked: 0, topics: Default::default() }
    }

    fn ask(&mut self, at: usize, what: What, id: &Value, method: &str, params: &Value) {
        let member = &self.members[at];
        let call = member.agent.request_as(id, method, params);
        let number = self.requests.len();
        self.requests.push(Request {
            owner: member.name,
            what,
            id: id.clone(),
            ended: None,
            answered: false,
            heard: 0,
            level: (member.level, member.level_asked),
        });
        let (run, abort) = abortable(member.agent.link.call(call));
        self.aborts.push(abort);
        self.runs.push(run.map(move |outcome| (number, outcome)).boxed());
    }

    fn cancel(&mut self, owner: usize, all: bool) {
        let open = |(_, request): &(usize, &Request)| request.owner == owner && request.ended.is_none();
        let open = self.requests.iter().enumerate().filter(open).map(|(number, _)| number);
        for number in open.take(if all { usize::MAX } else { 1 }) {
            self.aborts[number].abort();
        }
    }

    fn list(&mut self, agent: usize) {
        self.ask(agent, What::List(self.told_version), &same(1), "tools/list", &json!({}));
    }

    /// One request per agent and resource at a time, so that the model knows what comes of it.
    fn subscribe(&mut self, at: usize, uri: usize, wanted: bool) {
        let topic = &mut self.members[at].topics[uri];
        if topic.asking {
            return;
        }
        (topic.asking, topic.lately) = (true, true);
        let method = if wanted { "resources/subscribe" } else { "resources/unsubscribe" };
        let what = if wanted { What::Subscribe(uri) } else { What::Unsubscribe(uri) };
        self.ask(at, what, &same(2), method, &json!({ "uri": uri_of(uri) }));
    }

    /// Lets time pass, and judges what came of it.
    async fn pass(&mut self, time: Duration) -> Result<(), Violation> {
        let version = self.fake.version();
        let until = tokio::time::sleep(time);
        tokio::pin!(until);
        loop {
            tokio::select! {
                biased;
                Some((number, outcome)) = self.runs.next(), if !self.runs.is_empty() => self.end(number, outcome)?,
                () = &mut until => break,
            }
        }
        if !time.is_zero() {
            self.told_version = version;
        }
        self.look()
    }

    fn end(
        &mut self,
        number: usize,
        outcome: Result<Result<Answer, CallError>, Aborted>,
    ) -> Result<(), Violation> {
        let looks = self.looks;
        let request = &mut self.requests[number];
        if request.ended.replace(looks).is_some() {
            return Err(format!("request {number} ended twice"));
        }
        let (owner, what) = (request.owner, request.what.clone());
        let answer = match &outcome {
            Ok(outcome) => Some(judge::outcome(self, number, outcome)?),
            Err(Aborted) => None,
        };
        self.requests[number].answered = answer == Some(true);
        let Some(member) = self.members.iter_mut().find(|member| member.name == owner) else { return Ok(()) };
        match what {
            What::Subscribe(uri) | What::Unsubscribe(uri) => {
                let topic = &mut member.topics[uri];
                topic.asking = false;
                if answer == Some(true) {
                    topic.held = matches!(what, What::Subscribe(_));
                    topic.lately |= topic.held;
                }
            }
            What::Level(level) if answer == Some(true) => member.level = Some(level),
            What::Level(_) | What::Tool(_) | What::List(_) => {}
        }
        Ok(())
    }

    /// Looks into every inbox.
    fn look(&mut self) -> Result<(), Violation> {
        self.looks += 1;
        for at in 0..self.members.len() {
            for event in self.members[at].agent.inbox.taken() {
                match judge::event(self, &self.members[at], &event)? {
                    judge::Heard::Part(number) => self.requests[number].heard += 1,
                    judge::Heard::ListChanged => drop(self.list_changed.insert(at)),
                    judge::Heard::Updated(uri) => {
                        let uri = (0..URIS).find(|known| uri_of(*known) == uri);
                        let Some(uri) = uri.filter(|uri| self.members[at].topics[*uri].lately) else {
                            return Err(format!("agent {at} was told of {uri:?}, which it does not want"));
                        };
                        self.updated.entry(at).or_default().insert(uri);
                    }
                }
            }
            for topic in &mut self.members[at].topics {
                topic.lately = topic.held || topic.asking;
            }
        }
        // A list request an agent began and others carry on keeps its binding, with its subscriptions, for so long.
        let lists = |request: &Request| {
            matches!(request.what, What::List(_)) && request.ended.is_none_or(|ended| ended + 1 >= self.looks)
        };
        let is_carried_on = self.requests.iter().any(lists);
        let mut late = self.left.iter().filter_map(Weak::upgrade).flat_map(|inbox| inbox.taken());
        if let Some(late) = late.find(|late| !(is_carried_on && judge::is_change(late))) {
            return Err(format!("an agent that left was sent {late:?}"));
        }
        self.fake.violation().map_or(Ok(()), Err)
    }

    /// Nothing is held for anybody but what the agents are subscribed to.
    async fn rests(&mut self) -> Result<(), Violation> {
        let wanted: BTreeSet<usize> =
            (0..URIS).filter(|uri| self.members.iter().any(|m| m.topics[*uri].held)).collect();
        let held = self.held().await?;
        let status = self.lab.registered.backend.status();
        let agents = self.members.len();
        if (status.agents, status.subscriptions, held.places) != (agents, wanted.len(), status.sessions.len())
        {
            return Err(format!("{agents} agents want {wanted:?}; held is {held:?} in {status:?}"));
        }
        let (subscribed, levels) = self.fake.kept(&self.lab.memory);
        if subscribed != wanted.into_iter().map(uri_of).collect() {
            return Err(format!("the backend has the subscriptions {subscribed:?}"));
        }
        let most = self.members.iter().filter_map(|member| member.level).min().map(|at| LEVELS[at]);
        let is_right = |level: &Option<String>| match most {
            Some(most) => level.as_deref() == Some(most),
            None => level.as_deref().is_none_or(|level| level == "info"),
        };
        if levels.iter().all(is_right) {
            Ok(())
        } else {
            Err(format!("the levels are {levels:?}, not {most:?}"))
        }
    }

    /// At rest, everybody is told what concerns him, and nobody else.
    async fn all_is_told(&mut self) -> Result<(), Violation> {
        let memory = self.lab.memory.clone();
        self.updated.clear();
        self.list_changed.clear();
        self.fake.stray(&memory);
        (0..URIS).for_each(|uri| self.fake.update(&memory, &uri_of(uri)));
        let is_open = !self.lab.standings().is_empty();
        self.fake.change_list(&memory);
        self.pass(Duration::from_secs(2)).await?;
        for (at, member) in self.members.iter().enumerate() {
            let held: BTreeSet<usize> = (0..URIS).filter(|uri| member.topics[*uri].held).collect();
            let told = self.updated.get(&at).cloned().unwrap_or_default();
            if held != told {
                return Err(format!("agent {at} has {held:?} and was told of {told:?}"));
            }
            if is_open && !self.list_changed.contains(&at) {
                return Err(format!("agent {at} was not told that the list changed"));
            }
        }
        (0..self.members.len()).for_each(|at| self.list(at));
        self.pass(Duration::from_secs(10)).await
    }

    /// When the agents are gone nothing is held, and what runs can be stopped.
    async fn nothing_stays(mut self) -> Result<(), Violation> {
        self.left.extend(self.members.drain(..).map(|member| Arc::downgrade(&member.agent.inbox)));
        self.pass(REST).await?;
        self.held().await?;
        if self.left.iter().any(|inbox| inbox.strong_count() > 0) {
            return Err("the inbox of an agent that left is kept".to_owned());
        }
        let backend = &self.lab.registered.backend;
        let status = backend.status();
        if (status.agents, status.subscriptions) != (0, 0) {
            return Err(format!("nobody is there, and held is {status:?}"));
        }
        let running = backend.shutdown(Duration::from_secs(30)).await;
        if running.is_empty() { Ok(()) } else { Err(format!("{running:?} do not stop")) }
    }

    /// What is held once it is quiet: no slot, no entry, no waiter.
    async fn held(&mut self) -> Result<Held, Violation> {
        for _ in 0..5 {
            let held = self.lab.held();
            if (held.in_flight, held.pending, held.waiting) == (0, 0, 0) {
                return Ok(held);
            }
            // A probe may be under way.
            self.pass(Duration::from_millis(7)).await?;
        }
        Err(format!("at rest is held {:?}", self.lab.held()))
    }
}

/// Longer than every grace, linger, probe interval and pause there is.
const REST: Duration = Duration::from_secs(75);

fn wish(program: &Program, calls_per_session: usize) -> Wish {
    let times = Times {
        call_idle: Duration::from_secs(60),
        queue: Duration::from_secs(50),
        cancel_grace: Duration::from_secs(2),
        ..Times::default()
    };
    let limits =
        Limits { min_idle: 2, max_sessions: 4, shared_sessions: 2, calls_per_session, ..Limits::default() };
    let mode = if program.exclusive { ModeChoice::Exclusive } else { ModeChoice::Shared };
    // The circuit has tests of its own.
    let breaker = Settings { failure_threshold: u32::MAX, ..Settings::default() };
    Wish { mode, times, limits, breaker, ..Wish::default() }
}

/// The ids and tokens that all agents use, equal but for their types.
fn same(which: usize) -> Value {
    match which {
        0 => json!(1),
        1 => json!("1"),
        _ => json!(0),
    }
}

fn uri_of(uri: usize) -> String {
    format!("lab://r/{uri}")
}

/// The request whose mark a text has; none for what nobody may see.
pub(super) fn tagged(world: &World<'_>, text: &str) -> Result<usize, Violation> {
    let number = text.split('#').nth(1).and_then(|number| number.parse().ok());
    number
        .filter(|number| text.matches(&tag(*number)).count() == 1 && !text.contains(STRAY))
        .filter(|number| *number < world.requests.len())
        .ok_or_else(|| format!("this belongs to nobody: {text}"))
}
