//! The rules: what may come of a request, and what an agent may hear.

use mcpool_wire::{Answer, CallError, ErrorKind, Executed, LinkEvent};
use serde_json::Value;

use super::{
    program::{Fate, LEVELS, Plan},
    world::{Member, Violation, World, tagged},
};

/// One request, as the model knows it.
#[derive(Debug)]
pub(super) struct Request {
    /// The agent that made it.
    pub(super) owner: usize,
    pub(super) what: What,
    /// Under which id.
    pub(super) id: Value,
    /// At which look it ended.
    pub(super) ended: Option<u64>,
    /// With an answer that is no error.
    pub(super) answered: bool,
    /// Progress and log lines of it that were heard.
    pub(super) heard: usize,
    /// The level its agent had asked for, and how often it had asked, when it was made.
    pub(super) level: (Option<usize>, u64),
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Tool(Plan),
    /// The oldest version of the list that is still right.
    List(usize),
    Subscribe(usize),
    Unsubscribe(usize),
    Level(usize),
}

/// What an agent heard.
pub(super) enum Heard {
    /// Progress or a log line of its request with this number.
    Part(usize),
    ListChanged,
    Updated(String),
}

/// Judges how a request ended; says whether it was answered without an error.
pub(super) fn outcome(
    world: &World<'_>,
    number: usize,
    outcome: &Result<Answer, CallError>,
) -> Result<bool, Violation> {
    let request = &world.requests[number];
    match outcome {
        Ok(answer) => self::answer(world, number, request, answer),
        Err(error) => refusal(world, number, request, error).map(|()| false),
    }
}

fn answer(world: &World<'_>, number: usize, request: &Request, answer: &Answer) -> Result<bool, Violation> {
    let bytes = answer.message.with_id(request.id.to_string().as_bytes());
    let value: Value = serde_json::from_slice(&bytes).map_err(|e| format!("no JSON: {e}"))?;
    if value["id"] != request.id {
        return Err(format!("request {number} came back under {} for {}", value["id"], request.id));
    }
    match &request.what {
        What::Tool(plan) => {
            let text = String::from_utf8_lossy(&bytes);
            let of = tagged(world, &text)?;
            if of != number || answer.is_rpc_error != (plan.fate == Fate::Error) {
                return Err(format!("request {number} got {text}"));
            }
            if plan.fate == Fate::Never || world.fake.received(number) == 0 {
                return Err(format!("request {number} was never answered, and got {text}"));
            }
        }
        What::List(oldest) => {
            let names = value["result"]["tools"].as_array().into_iter().flatten();
            let version =
                names.filter_map(|tool| tool["name"].as_str()?.strip_prefix("version-")?.parse().ok()).max();
            if version.is_none_or(|version: usize| version < *oldest) {
                return Err(format!("list {number} is of version {version:?}, and {oldest} was known"));
            }
        }
        What::Subscribe(_) | What::Unsubscribe(_) | What::Level(_) => {
            if value["result"].as_object().is_none_or(|result| !result.is_empty()) {
                return Err(format!("request {number} got {value}"));
            }
        }
    }
    Ok(!answer.is_rpc_error)
}

fn refusal(world: &World<'_>, number: usize, request: &Request, error: &CallError) -> Result<(), Violation> {
    let program = world.program;
    let may_be = match error.kind {
        // Nobody waits longer than for an answer that does not come, or behind one.
        ErrorKind::Deadline | ErrorKind::QueueTimeout => program.silences,
        // Sessions end by themselves where too many cancelled calls burn on them.
        ErrorKind::Lost => program.deaths || program.silences,
        _ => false,
    };
    if !may_be {
        return Err(format!("request {number} failed: {error:?}"));
    }
    let received = world.fake.received(number);
    if matches!(request.what, What::Tool(_)) && error.executed == Executed::No && received > 0 {
        return Err(format!("request {number} was received {received} times and not executed: {error:?}"));
    }
    Ok(())
}

/// Judges what an agent was sent.
pub(super) fn event(world: &World<'_>, member: &Member, event: &LinkEvent) -> Result<Heard, Violation> {
    let (LinkEvent::Progress(bytes) | LinkEvent::Notification(bytes)) = event else {
        return Err(format!("agent {} was sent {event:?}", member.name));
    };
    let text = String::from_utf8_lossy(bytes);
    let value: Value = serde_json::from_slice(bytes).map_err(|e| format!("no JSON: {e}"))?;
    let params = &value["params"];
    let heard = match value["method"].as_str().unwrap_or_default() {
        "notifications/tools/list_changed" => return Ok(Heard::ListChanged),
        "notifications/resources/updated" => {
            return Ok(Heard::Updated(params["uri"].as_str().unwrap_or_default().to_owned()));
        }
        "notifications/progress" if matches!(event, LinkEvent::Progress(_)) => {
            Heard::Part(tagged(world, &text)?)
        }
        "notifications/message" if matches!(event, LinkEvent::Notification(_)) => {
            Heard::Part(tagged(world, &text)?)
        }
        _ => return Err(format!("agent {} was sent {text}", member.name)),
    };
    let Heard::Part(number) = heard else { return Ok(heard) };
    let request = &world.requests[number];
    if request.owner != member.name {
        return Err(format!("agent {} heard what is of agent {}: {text}", member.name, request.owner));
    }
    // Who drops a request may still find what came before; and a session that was lent for it is the agent's until
    // the backend is done with it, so its log lines are.
    let is_lent = world.program.exclusive && !request.answered && params["level"].is_string();
    if !is_lent && request.ended.is_some_and(|ended| ended + 1 < world.looks) {
        return Err(format!("request {number} was over when this came: {text}"));
    }
    part(member, request, params).map_err(|why| format!("{why}: {text}"))?;
    Ok(heard)
}

/// Whether it only says that a list or a resource changed.
pub(super) fn is_change(event: &LinkEvent) -> bool {
    let LinkEvent::Notification(bytes) = event else { return false };
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let method = value["method"].as_str().unwrap_or_default();
    method.ends_with("/list_changed") || method.ends_with("/updated")
}

/// The token of progress is the agent's own, and a log line is not below the level it asked for all the time.
fn part(member: &Member, request: &Request, params: &Value) -> Result<(), Violation> {
    let What::Tool(plan) = &request.what else { return Err("not of a call".to_owned()) };
    if let Some(level) = params["level"].as_str() {
        let level = LEVELS.iter().position(|known| *known == level);
        let (asked, times) = request.level;
        if times == member.level_asked && asked == member.level && level < asked {
            return Err(format!("agent {} asked for {asked:?}", member.name));
        }
        return Ok(());
    }
    let own = plan.token.map(|token| if token == 0 { Value::from(1) } else { Value::from("1") });
    if own.as_ref() == Some(&params["progressToken"]) { Ok(()) } else { Err(format!("not under {own:?}")) }
}

/// What the backend was asked to do, once all is over: nothing twice unless that changes nothing, and what an answered
/// call said on its way arrived.
pub(super) fn executions(world: &World<'_>) -> Result<(), Violation> {
    for (number, request) in world.requests.iter().enumerate() {
        let What::Tool(plan) = &request.what else { continue };
        let received = world.fake.received(number);
        if !plan.safe && received > 1 {
            return Err(format!("call {number} was executed {received} times"));
        }
        let said = match plan.fate {
            Fate::Progress(times) if plan.token.is_some() => times,
            _ => 0,
        };
        if request.answered && request.heard < said {
            return Err(format!("call {number} said {said} parts, and {} arrived", request.heard));
        }
    }
    Ok(())
}
