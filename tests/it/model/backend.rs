//! The fake backend of the model: does with each call what its plan says, in any order, and keeps book of what it
//! got. It also judges what only a backend can see: ids used again, and more calls at once than it was promised.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use mcpool_upstream::{
    Cause,
    transport::memory::{Memory, MemorySession, Turn},
};
use serde_json::{Value, json};

use super::program::{Fate, LEVELS, Loss, Plan, Program};
use crate::lab::{broken, refused};

/// What nobody may ever see.
pub(super) const STRAY: &str = "stray";

/// How long a list takes: long enough to change meanwhile.
const LISTING: Duration = Duration::from_millis(5);

/// Messages a forgotten session refuses; its end comes with the first.
const REFUSALS: usize = 60;

/// Clones are the same backend.
#[derive(Clone)]
pub(super) struct Fake {
    book: Arc<Mutex<Book>>,
    in_exchange: bool,
    /// Most calls at once on one session.
    limit: usize,
}

#[derive(Default)]
struct Book {
    plans: HashMap<usize, Plan>,
    /// How often each call was received.
    received: HashMap<usize, usize>,
    version: usize,
    sessions: HashMap<usize, Kept>,
    violations: Vec<String>,
}

/// What the backend keeps for one session.
#[derive(Default)]
struct Kept {
    ids: HashSet<u64>,
    running: HashSet<u64>,
    subscribed: BTreeSet<String>,
    level: Option<String>,
    lost: bool,
}

/// One call on its way through the backend.
struct Job {
    fake: Fake,
    session: MemorySession,
    id: u64,
    number: usize,
    plan: Plan,
    /// What goes out in the exchange.
    out: Vec<Bytes>,
}

/// The mark of everything that belongs to one request.
pub(super) fn tag(number: usize) -> String {
    format!("#{number}#")
}

impl Fake {
    pub(super) fn new(program: &Program, limit: usize) -> (Self, Memory) {
        let fake = Self { book: Arc::default(), in_exchange: program.in_exchange, limit };
        let handler = fake.clone();
        let memory = Memory::new(move |turn| handler.take(&turn));
        (fake, if program.in_exchange { memory.answering_in_exchange() } else { memory })
    }

    pub(super) fn expect(&self, number: usize, plan: &Plan) {
        self.book().plans.insert(number, plan.clone());
    }

    pub(super) fn received(&self, number: usize) -> usize {
        self.book().received.get(&number).copied().unwrap_or(0)
    }

    /// What broke so far.
    pub(super) fn violation(&self) -> Option<String> {
        self.book().violations.first().cloned()
    }

    pub(super) fn version(&self) -> usize {
        self.book().version
    }

    /// The tools change; every session is told.
    pub(super) fn change_list(&self, memory: &Memory) {
        self.book().version += 1;
        for session in memory.sessions() {
            session.say(notification("notifications/tools/list_changed", json!({})));
        }
    }

    /// A resource changes; the sessions that subscribed to it are told.
    pub(super) fn update(&self, memory: &Memory, uri: &str) {
        for session in memory.sessions() {
            if self.book().kept(&session).subscribed.contains(uri) {
                session.say(notification("notifications/resources/updated", json!({ "uri": uri })));
            }
        }
    }

    /// A log line of no call on every session.
    pub(super) fn stray(&self, memory: &Memory) {
        for session in memory.sessions() {
            session.say(notification("notifications/message", json!({"level": "error", "data": STRAY})));
        }
    }

    /// Loses one of the sessions there are.
    pub(super) fn lose(&self, memory: &Memory, which: usize, loss: Loss) {
        let there: Vec<_> = memory.sessions().into_iter().filter(|s| self.is_there(s)).collect();
        if let Some(session) = there.get(which % there.len().max(1)) {
            self.lose_session(session, loss);
        }
    }

    /// What the sessions there are have subscribed to, and the levels they are set to.
    pub(super) fn kept(&self, memory: &Memory) -> (BTreeSet<String>, Vec<Option<String>>) {
        let there: Vec<_> = memory.sessions().into_iter().filter(|s| self.is_there(s)).collect();
        let mut book = self.book();
        let subscribed = there.iter().flat_map(|s| book.kept(s).subscribed.clone()).collect();
        (subscribed, there.iter().map(|s| book.kept(s).level.clone()).collect())
    }

    fn is_there(&self, session: &MemorySession) -> bool {
        !session.is_closed() && !self.book().kept(session).lost
    }

    fn lose_session(&self, session: &MemorySession, loss: Loss) {
        self.book().kept(session).lost = true;
        match loss {
            Loss::Fails => session.fail(broken()),
            Loss::Ends => session.end(),
            Loss::Forgotten => session.refuse(REFUSALS, &refused(Cause::SessionLost)),
        }
    }

    /// Takes a message when it arrives; what is to be said comes later.
    fn take(&self, turn: &Turn) -> BoxFuture<'static, Vec<Bytes>> {
        let message: Value = serde_json::from_slice(&turn.message).unwrap_or_default();
        let params = &message["params"];
        let method = message["method"].as_str().unwrap_or_default();
        let mut book = self.book();
        if !message["id"].is_null() {
            book.note_id(&turn.session, &message["id"], method);
        }
        let uri = || params["uri"].as_str().unwrap_or_default().to_owned();
        let kept = book.kept(&turn.session);
        match method {
            "tools/call" => return self.begin(&mut book, turn, &message),
            "notifications/cancelled" => {
                kept.running.remove(&params["requestId"].as_u64().unwrap_or(0));
            }
            "resources/subscribe" => drop(kept.subscribed.insert(uri())),
            "resources/unsubscribe" => drop(kept.subscribed.remove(&uri())),
            "logging/setLevel" => kept.level = params["level"].as_str().map(Into::into),
            _ => {}
        }
        let (result, takes) = match method {
            "initialize" => (hello(params), Duration::ZERO),
            "tools/list" => (tools(book.version), LISTING),
            _ => (json!({}), Duration::ZERO),
        };
        let answers = message["id"].as_u64().map(|id| response(&json!(id), &result));
        Box::pin(async move {
            if !takes.is_zero() {
                tokio::time::sleep(takes).await;
            }
            answers.into_iter().collect()
        })
    }

    fn begin(&self, book: &mut Book, turn: &Turn, message: &Value) -> BoxFuture<'static, Vec<Bytes>> {
        let id = message["id"].as_u64().unwrap_or(0);
        let number = message["params"]["arguments"]["call"].as_u64().unwrap_or(0);
        let number = usize::try_from(number).unwrap_or(0);
        let kept = book.kept(&turn.session);
        kept.running.insert(id);
        let running = kept.running.len();
        if running > self.limit {
            book.violations.push(format!("{running} calls at once on a session for {}", self.limit));
        }
        let times = book.received.entry(number).or_default();
        *times += 1;
        let first = *times == 1;
        let Some(mut plan) = book.plans.get(&number).cloned() else {
            book.violations.push(format!("call {number} was never made"));
            return Box::pin(async { Vec::new() });
        };
        if plan.fate == Fate::Die && !first {
            plan.fate = Fate::Answer;
        }
        let (fake, session) = (self.clone(), turn.session.clone());
        Box::pin(Job { fake, session, id, number, plan, out: Vec::new() }.run())
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("not poisoned")
    }
}

impl Book {
    fn kept(&mut self, session: &MemorySession) -> &mut Kept {
        self.sessions.entry(session.index()).or_default()
    }

    /// Ids are numbers of the gateway's own, and each is used once per session.
    fn note_id(&mut self, session: &MemorySession, id: &Value, method: &str) {
        let fresh = id.as_u64().is_some_and(|id| self.kept(session).ids.insert(id));
        if !fresh && !method.is_empty() {
            self.violations.push(format!("{method} came under the id {id}, used before or no number"));
        }
    }
}

impl Job {
    async fn run(mut self) -> Vec<Bytes> {
        let own = tag(self.number);
        match self.plan.fate {
            Fate::Never => return std::future::pending().await,
            Fate::Die => {
                tokio::time::sleep(self.plan.takes).await;
                self.fake.lose_session(&self.session, Loss::Fails);
                return Vec::new();
            }
            Fate::Progress(times) => {
                for part in 1..=times {
                    tokio::time::sleep(self.plan.takes).await;
                    self.say(progress(&json!(self.id), part, &own));
                }
            }
            Fate::ForeignToken => {
                for token in [json!(self.id + 1_000_000), json!("nobody"), json!(-1), json!(1.5), json!(null)]
                {
                    self.say(progress(&token, 1, STRAY));
                }
            }
            Fate::UnknownId => {
                for id in [json!(self.id + 1_000_000), json!("nobody"), json!(-1), json!(1.5), json!(null)] {
                    self.say(response(&id, &content(STRAY)));
                }
            }
            Fate::Log(level) => {
                let params = json!({"level": LEVELS[level], "data": own});
                self.say(notification("notifications/message", params));
            }
            Fate::Answer | Fate::Twice | Fate::StringId | Fate::Error => {}
        }
        tokio::time::sleep(self.plan.takes).await;
        self.fake.book().kept(&self.session).running.remove(&self.id);
        self.answer(&own);
        self.out
    }

    fn answer(&mut self, own: &str) {
        let id = json!(self.id);
        match self.plan.fate {
            Fate::StringId => self.say(response(&json!(self.id.to_string()), &content(own))),
            Fate::Error => {
                let error = json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32001, "message": own}});
                self.say(error.to_string().into());
            }
            Fate::Twice => {
                self.say(response(&id, &content(own)));
                self.say(response(&id, &content(own)));
            }
            _ => self.say(response(&id, &content(own))),
        }
    }

    fn say(&mut self, message: Bytes) {
        if self.fake.in_exchange {
            self.out.push(message);
        } else {
            self.session.say(message);
        }
    }
}

fn hello(params: &Value) -> Value {
    json!({
        "protocolVersion": params["protocolVersion"],
        "capabilities": {"tools": {"listChanged": true}, "resources": {"subscribe": true}, "logging": {}},
        "serverInfo": {"name": "model", "version": "1"},
    })
}

fn tools(version: usize) -> Value {
    json!({"tools": [
        {"name": "echo", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": true}},
        {"name": "write", "inputSchema": {"type": "object"}},
        {"name": format!("version-{version}"), "inputSchema": {"type": "object"}},
    ]})
}

fn content(text: &str) -> Value {
    json!({"content": [{"type": "text", "text": text}]})
}

fn response(id: &Value, result: &Value) -> Bytes {
    json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string().into()
}

fn notification(method: &str, params: Value) -> Bytes {
    json!({"jsonrpc": "2.0", "method": method, "params": params}).to_string().into()
}

fn progress(token: &Value, part: usize, text: &str) -> Bytes {
    let params = json!({"progressToken": token, "progress": part, "message": text});
    notification("notifications/progress", params)
}
