//! One message of a session on its way: answered here, or carried over, sent, and its answer carried back.
//!
//! A result may ask for input. Then the agent is asked as a server of its era would ask it, and the request is sent
//! again with what it said, under a new id: to the session it is one call all the time.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::HeaderMap;
use mcpool_wire::{
    Envelope, Forwarded, IdValue, Kind, Message, Method, RpcId, error_response,
    modern::{Carried, InputRequest, LegacyResult, code, to_legacy_result, to_modern_request},
    result_response,
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    super::{Received, leaving::Left, streamable::protocol},
    Session, discover,
    generator::Out,
    params_of,
    request::{Round, Said, begin},
    subscription_filter::NotSubscribed,
};
use crate::error::{SendError, SendPhase};

mod asking;

/// How often a request is sent again because its answer asked for something (SEMANTICS.md 11).
const MAX_ROUNDS: u32 = 8;

/// Pause before a request is sent again that asked for nothing but that; doubled each time.
const PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_millis(250);

/// Sends a message of the other era.
pub(super) async fn carry(session: Arc<Session>, message: Bytes, left: Left, out: Out<Received>) {
    let Ok(envelope) = Envelope::parse(&message) else {
        return out.fail(protocol("the message cannot be read")).await;
    };
    match (envelope.kind, envelope.id().and_then(Result::ok)) {
        (Kind::Request, Some(id)) => request(&session, &message, &envelope, &id, &left, &out).await,
        (Kind::Success | Kind::Failure, Some(id)) => {
            if let Some(number) = number_of(&envelope) {
                session.inputs.answered(number, message.clone());
            } else {
                tracing::debug!(?id, "an answer under an id that is none of ours");
            }
            out.say(Received::Accepted).await;
        }
        // Notifications have no place in this era. What they mean is done otherwise, or concerns nobody.
        _ => out.say(Received::Accepted).await,
    }
}

/// Sends a request that is written in this era as it is, with its headers.
pub(super) async fn pass(
    session: Arc<Session>,
    message: Bytes,
    own: Forwarded,
    left: Left,
    out: Out<Received>,
) {
    let Ok(envelope) = Envelope::parse(&message) else {
        return out.fail(protocol("the message cannot be read")).await;
    };
    let Some(id) = number_of(&envelope) else {
        return out.fail(protocol("the request has no id of ours")).await;
    };
    let method = envelope.method.clone().unwrap_or(Method::Other("".into()));
    let mut headers = session.headers(method.as_str(), name_of(&method, &envelope, &message).as_deref());
    for (name, value) in params_of(&own) {
        headers.append(name, value);
    }
    let mut round = match begin(&session, &headers, message.clone(), id, &left).await {
        Ok(round) => round,
        Err(error) => return out.fail(error).await,
    };
    out.say(Received::Accepted).await;
    out.finish(answer_of(&mut round, &out).await).await;
    round.read_out().await;
}

async fn request(
    session: &Arc<Session>,
    message: &Bytes,
    envelope: &Envelope<'_>,
    id: &RpcId,
    left: &Left,
    out: &Out<Received>,
) {
    let method = envelope.method.clone().unwrap_or(Method::Other("".into()));
    let uri = envelope.params.uri.as_deref().unwrap_or_default();
    let outcome = match method {
        Method::Ping => discover::probe(session).await.map(|()| result_response(id, b"{}")),
        Method::LoggingSetLevel => {
            session.set_level(envelope.params.level.as_deref().map(str::to_owned));
            Ok(result_response(id, b"{}"))
        }
        Method::ResourcesSubscribe => subscribed(id, session.filter.subscribe(uri).await),
        Method::ResourcesUnsubscribe => {
            session.filter.unsubscribe(uri);
            Ok(result_response(id, b"{}"))
        }
        method => {
            let Some(number) = number_of(envelope) else {
                return out.fail(protocol("the request has no id of ours")).await;
            };
            let name = name_of(&method, envelope, message);
            let first = Message::new(message.clone(), envelope);
            let is_first_page = !envelope.params.has_cursor;
            let call = Call { session, first, id, number, method, name, is_first_page, left, out };
            return call.run().await;
        }
    };
    if outcome.is_ok() {
        out.say(Received::Accepted).await;
    }
    out.finish(outcome).await;
}

fn subscribed(id: &RpcId, outcome: Result<(), NotSubscribed>) -> Result<Bytes, SendError> {
    match outcome {
        Ok(()) => Ok(result_response(id, b"{}")),
        Err(NotSubscribed::Full(limit)) => {
            let message = format!("{limit} resources are subscribed to, and that is the limit");
            Ok(error_response(Some(id), -32603, &message, None))
        }
        Err(NotSubscribed::NotOffered) => Ok(error_response(
            Some(id),
            -32602,
            "the backend does not announce changes of this resource",
            None,
        )),
        Err(NotSubscribed::Lost(error)) => Err(error),
    }
}

/// A request on its way through its rounds.
struct Call<'a> {
    session: &'a Session,
    first: Message,
    /// The id it came with and is answered under.
    id: &'a RpcId,
    number: u64,
    method: Method,
    name: Option<String>,
    is_first_page: bool,
    left: &'a Left,
    out: &'a Out<Received>,
}

/// What the next round carries.
#[derive(Default)]
struct Carry {
    responses: Option<String>,
    state: Option<String>,
}

impl Call<'_> {
    async fn run(&self) {
        let (mut carry, mut rounds, mut is_reread) = (Carry::default(), 0, false);
        let mut number = self.number;
        loop {
            let (headers, version) = self.headers();
            let (answer, round) = match self.round(number, &headers, &carry, rounds == 0 && !is_reread).await
            {
                Ok(answered) => answered,
                Err(error) if rounds == 0 => return self.out.fail(error).await,
                // It ran as far as its first question.
                Err(error) => {
                    let error = SendError { phase: SendPhase::MaybeSent, ..error };
                    return self.out.fail(error).await;
                }
            };
            number = self.session.next_id();
            if !is_reread && failure(&answer).is_some_and(|f| f.code == i64::from(code::HEADER_MISMATCH)) {
                is_reread = true;
                match self.session.reread_tools(version).await {
                    Ok(()) => continue,
                    Err(error) => return self.out.fail(error).await,
                }
            }
            let end = match to_legacy_result(&answer) {
                LegacyResult::Complete(answer) => self.complete(answer),
                LegacyResult::Unknown(kind) => self.refused(&format!(
                    "the backend answered with a result of type {kind:?}, which no agent here can read"
                )),
                LegacyResult::InputRequired { .. } if rounds == MAX_ROUNDS => {
                    self.refused(&format!("the backend asked for input {MAX_ROUNDS} times and asks again"))
                }
                LegacyResult::InputRequired { requests, state } => match self.fulfil(&requests, rounds).await
                {
                    Ok(responses) => {
                        carry = Carry { responses, state };
                        rounds += 1;
                        round.read_out().await;
                        continue;
                    }
                    Err(why) => self.refused(&why),
                },
            };
            self.out.finish(self.under_first_id(end)).await;
            return round.read_out().await;
        }
    }

    fn headers(&self) -> (HeaderMap, u64) {
        let mut headers = self.session.headers(self.method.as_str(), self.name.as_deref());
        let tool = self.name.as_deref().filter(|_| self.method == Method::ToolsCall);
        let (params, version) =
            tool.map(|tool| self.session.tools.headers(tool, self.first.bytes())).unwrap_or_default();
        headers.extend(params);
        (headers, version)
    }

    /// Sends it once, to its answer.
    async fn round(
        &self,
        number: u64,
        headers: &HeaderMap,
        carry: &Carry,
        is_first: bool,
    ) -> Result<(Bytes, Round), SendError> {
        let level = self.session.level();
        let mut stamp = self.session.stamp(level.as_deref());
        if carry.responses.is_some() || carry.state.is_some() {
            stamp.carried =
                Some(Carried { responses: carry.responses.as_deref(), state: carry.state.as_deref() });
        }
        let message = self.first.with_id(number.to_string().as_bytes());
        let body = to_modern_request(&message, &stamp);
        let mut round = begin(self.session, headers, body, number, self.left).await?;
        if is_first {
            self.out.say(Received::Accepted).await;
        }
        let answer = answer_of(&mut round, self.out).await?;
        Ok((answer, round))
    }

    /// Asks the agent. The answers as `inputResponses`; nothing where nothing was asked.
    async fn fulfil(&self, requests: &[InputRequest], rounds: u32) -> Result<Option<String>, String> {
        if requests.is_empty() {
            tokio::time::sleep((PAUSE * (1 << rounds.min(8))).min(MAX_PAUSE)).await;
            return Ok(None);
        }
        asking::ask(self.session, requests, self.out).await.map(Some)
    }

    fn complete(&self, answer: Bytes) -> Bytes {
        if self.method == Method::ToolsList {
            return self.session.tools.learn(answer, self.is_first_page);
        }
        match failure(&answer) {
            Some(Failure { code: number, message, data })
                if number == i64::from(code::MISSING_CAPABILITY) =>
            {
                let needs = data.map(|data| data["requiredCapabilities"].to_string()).unwrap_or_default();
                let message = format!("{message} (the agent did not declare {needs})");
                error_response(Some(self.id), -32602, &message, None)
            }
            _ => answer,
        }
    }

    fn refused(&self, why: &str) -> Bytes {
        error_response(Some(self.id), -32603, why, None)
    }

    fn under_first_id(&self, answer: Bytes) -> Result<Bytes, SendError> {
        let Ok(envelope) = Envelope::parse(&answer) else {
            return Err(protocol("the answer cannot be read"));
        };
        Ok(Message::new(answer.clone(), &envelope).with_id(self.id.raw()))
    }
}

/// Passes on what comes before the answer, up to it.
async fn answer_of(round: &mut Round, out: &Out<Received>) -> Result<Bytes, SendError> {
    loop {
        match round.next().await? {
            Said::Notification(message) => out.say(Received::Message(message)).await,
            Said::Alive => out.say(Received::Alive).await,
            Said::Answer(answer) => return Ok(answer),
        }
    }
}

#[derive(Deserialize)]
struct Failed {
    error: Failure,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(default)]
    code: i64,
    #[serde(default)]
    message: String,
    data: Option<Value>,
}

fn failure(answer: &[u8]) -> Option<Failure> {
    let envelope = Envelope::parse(answer).ok()?;
    if envelope.kind != Kind::Failure {
        return None;
    }
    serde_json::from_slice::<Failed>(answer).ok().map(|failed| failed.error)
}

fn number_of(envelope: &Envelope<'_>) -> Option<u64> {
    match envelope.id_value()? {
        IdValue::Num(id) => u64::try_from(id).ok(),
        _ => None,
    }
}

/// What `Mcp-Name` says of a request.
fn name_of(method: &Method, envelope: &Envelope<'_>, message: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct OfTask {
        params: Task,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Task {
        task_id: String,
    }
    match method {
        Method::ToolsCall | Method::PromptsGet => envelope.params.name.as_deref().map(str::to_owned),
        Method::ResourcesRead => envelope.params.uri.as_deref().map(str::to_owned),
        method if matches!(method.as_str(), "tasks/get" | "tasks/update" | "tasks/cancel") => {
            serde_json::from_slice::<OfTask>(message).ok().map(|of| of.params.task_id)
        }
        _ => None,
    }
}
