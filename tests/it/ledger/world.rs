//! One backend behind the whole stack of a call, and the rules.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use mcpool_breaker::Settings;
use mcpool_router::settings::RetrySettings;
use mcpool_upstream::{
    EraChoice, HttpEndpoint, Limits, ModeChoice, Times, TransportChoice,
    transport::{
        memory::Memory,
        wire::{http_transport_over, stdio_transport_over},
    },
};
use mcpool_wire::{Answer, CallError, Envelope, Era, Executed, Link as _, Message};
use serde_json::{Value, json};

use super::{
    backend::Fake,
    program::{Call, KINDS, Kind, Program, What},
};
use crate::lab::{Agent, Lab, Wish};

pub(super) struct World {
    kind: Kind,
    mode: ModeChoice,
    lab: Lab,
    fake: Fake,
    next_agent: u64,
}

const MODES: [ModeChoice; 3] = [ModeChoice::Shared, ModeChoice::Exclusive, ModeChoice::Pinned];

impl World {
    /// Each kind of backend in each mode, in turn.
    pub(super) fn start(number: u64) -> Self {
        let number = usize::try_from(number).unwrap_or(0);
        let (kind, mode) = (KINDS[number % KINDS.len()], MODES[number / KINDS.len() % MODES.len()]);
        let times = Times {
            cancel_grace: Duration::from_millis(100),
            call_idle: Duration::from_secs(2),
            ..Times::default()
        };
        let limits = Limits { min_idle: 0, shared_sessions: 2, max_sessions: 64, ..Limits::default() };
        let era = if kind == Kind::Modern { EraChoice::Modern } else { EraChoice::Legacy };
        let choice = if kind == Kind::Sse { TransportChoice::Sse } else { TransportChoice::Http };
        let endpoint = HttpEndpoint { era, ..HttpEndpoint::new("http://ledger/".parse().expect("a URL")) };
        let fake = Fake::new(kind);
        let transport = match kind {
            Kind::Stdio => Ok(stdio_transport_over(fake.program(), &limits)),
            _ => http_transport_over(fake.answering(), &endpoint, choice, &times, &limits),
        };
        let breaker = Settings { failure_threshold: 1_000_000, ..Settings::default() };
        let retry = RetrySettings { budget: 100, ..RetrySettings::default() };
        let wish = Wish { mode, times, limits, breaker, retry, ..Wish::default() };
        let lab = Lab::over(Memory::echo(), transport.expect("a transport"), wish);
        Self { kind, mode, lab, fake, next_agent: 1 }
    }

    pub(super) async fn run(&mut self, seed: u64, program: &Program) -> Result<(), String> {
        self.next_agent += 1;
        let agent = match self.kind {
            Kind::Modern => self.lab.guests(self.next_agent).await,
            _ => self.lab.agent(self.next_agent).await,
        };
        for (at, call) in (0..).zip(&program.calls) {
            let call = if self.kind == Kind::Stdio { call.clone().into_lines() } else { call.clone() };
            self.call(&agent, seed * 8 + at, &call).await?;
        }
        drop(agent);
        tokio::time::sleep(Duration::from_millis(150)).await;
        Ok(())
    }

    async fn call(&self, agent: &Agent, number: u64, call: &Call) -> Result<(), String> {
        if call.forgotten {
            self.fake.forget();
        }
        self.fake.book().calls.insert(number, call.clone());
        let (before, had_session) = (self.fake.book().handshakes, self.has_session());
        let made = make(agent, number, call, self.kind);
        let method = made.method.clone();
        let outcome = agent.link.call(made).await;
        let book = self.fake.book();
        let ledger = Ledger {
            came: book.came.get(&number).copied().unwrap_or(0),
            ran: book.ran.get(&number).copied().unwrap_or(0),
            opened: book.handshakes - before,
            may_open: 1 + usize::from(!had_session || call.forgotten),
        };
        drop(book);
        self.judge(call, &ledger, &outcome).map_err(|why| {
            format!("{:?} {:?} {method:?}: {why}; {ledger:?}; {outcome:?}", self.kind, self.mode)
        })
    }

    /// Whether there is one on which nothing goes on.
    fn has_session(&self) -> bool {
        let status = self.lab.registered.backend.status();
        status.sessions.iter().any(|session| session.standing == "ready" && session.in_flight == 0)
    }

    fn judge(&self, call: &Call, ledger: &Ledger, outcome: &Result<Answer, CallError>) -> Result<(), String> {
        let is = |holds: bool, why: &str| if holds { Ok(()) } else { Err(why.to_owned()) };
        is(call.what != What::Write || ledger.ran <= 1, "what is not known to be safe ran twice")?;
        // One lost session, two repetitions of what was refused, two of what may have run.
        is(ledger.came <= 6, "it was sent more often than it may be")?;
        // Where a connection breaks under a call that only reads, the next one may be on another session.
        let breaks = (0..ledger.came).filter(|time| !call.reaction(*time).is_refusal(self.kind)).count();
        is(ledger.opened <= ledger.may_open + breaks, "more than one new session")?;
        if let Err(error) = outcome {
            is(
                error.executed != Executed::No || ledger.ran == 0,
                "it ran, and its caller is told it did not",
            )?;
        }
        let answered = (0..ledger.came).position(|time| call.reaction(time).is_answer(self.kind));
        if let Some(time) = answered {
            is(ledger.came == time + 1, "it was sent again after it was answered")?;
            is(outcome.is_ok(), "its answer was not passed on")?;
        }
        match outcome {
            Ok(answer) => told(answer, ledger, call),
            Err(_) => Ok(()),
        }
    }
}

/// What an answer says of its execution, where it bears the gateway's word.
fn told(answer: &Answer, ledger: &Ledger, call: &Call) -> Result<(), String> {
    let answer: Value = serde_json::from_slice(answer.message.bytes()).map_err(|why| why.to_string())?;
    let data = &answer["error"]["data"];
    if data["source"] == "gateway" && data["executed"] != "maybe" {
        return Err(format!("a backend's error with a verdict: {data}"));
    }
    if answer["error"]["code"].as_i64().is_some_and(|code| (-31999..=-31900).contains(&code)) {
        return Err("a backend speaks in the gateway's name".to_owned());
    }
    let known = answer["result"]["call"].as_u64().is_some() || answer["error"].is_object();
    let is_ok = known && ledger.came > 0 && !call.reactions.is_empty();
    if is_ok { Ok(()) } else { Err(format!("an answer from nowhere: {answer}")) }
}

#[derive(Debug)]
struct Ledger {
    came: usize,
    ran: usize,
    opened: usize,
    may_open: usize,
}

fn make(agent: &Agent, number: u64, call: &Call, kind: Kind) -> mcpool_wire::Call {
    let (method, mut params) = match call.what {
        What::Write => ("tools/call", json!({"name": "write", "arguments": {}})),
        What::Read => ("tools/call", json!({"name": "read", "arguments": {}})),
        What::Prompt => ("prompts/get", json!({"name": "p"})),
        What::Resource => ("resources/read", json!({"uri": "a://b"})),
    };
    params["_meta"] = json!({"call": number});
    let is_modern = call.is_modern && kind == Kind::Modern;
    if is_modern {
        params["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2026-07-28".into();
        params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
    }
    let made = agent.request(method, &params);
    if !is_modern {
        return made;
    }
    let bytes: Bytes = made.message.bytes().clone();
    let envelope = Envelope::parse(&bytes).expect("a request");
    let message = Message::new(bytes.clone(), &envelope);
    mcpool_wire::Call { era: Era::Modern, message, headers: Arc::default(), ..made }
}
