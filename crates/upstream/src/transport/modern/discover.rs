//! `server/discover`: whether the backend speaks this era, what it says of itself, and later whether it is still there.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, atomic::AtomicU64},
};

use bytes::Bytes;
use mcpool_wire::{
    Envelope, Era, Revision, RpcId,
    modern::{key, to_modern_request},
    result_response,
};
use serde_json::{Value, json};

use super::{
    super::{
        Hail, Opened, TransportKind,
        classify::Asked,
        http::{Content, HttpClient, Reply, Target},
        streamable::{ENDPOINT_FOR_POST, First, first_answer},
    },
    Declared, Sender, Session,
    filter::Filter,
    inputs::Inputs,
    round::ask_own,
    tools::Tools,
};
use crate::error::{Cause, Refusal, SendError};

const DISCOVER: &str = "server/discover";

/// Statuses by which servers of the other era, and what is no MCP server, refuse the request.
const NOT_SPOKEN: [u16; 6] = [400, 404, 405, 406, 415, 501];

/// Asks what the backend is; done when it said so.
pub(super) async fn open(
    http: Arc<HttpClient>,
    target: Arc<Target>,
    hail: Hail,
) -> Result<Opened, SendError> {
    let headers = http.headers(&hail.headers, None, Some(Revision::V2026_07_28)).post;
    let mut session = Session {
        http,
        target,
        headers,
        declared: Declared::of(&hail.initialize),
        level: Mutex::default(),
        tools: Tools::default(),
        inputs: Inputs::default(),
        filter: Filter::default(),
        last_id: AtomicU64::new(0),
    };
    let message = format!("{{\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"{DISCOVER}\",\"params\":{{}}}}");
    let body = to_modern_request(&Bytes::from(message), &session.stamp(None));
    let reply = session.post(&session.headers(DISCOVER, None), body).await?;
    let answer = answer(&session, reply).await?;
    let said = read(&answer)?;
    session.filter = Filter::promised(&said);
    let id = Envelope::parse(&hail.initialize).ok().and_then(|envelope| envelope.id()?.ok());
    Ok(Opened {
        kind: TransportKind::Http,
        era: Era::Modern,
        has_session: false,
        answer: initialized(&id.unwrap_or_else(|| RpcId::number(0)), said),
        connect_took: None,
        outbound: Arc::new(Sender(Arc::new(session))),
    })
}

async fn answer(session: &Session, reply: Reply) -> Result<Bytes, SendError> {
    let status = reply.status();
    if !reply.is_success() {
        let (error, body) = reply.refusal(Asked::Open).await;
        return Err(match (NOT_SPOKEN.contains(&status), error.cause) {
            (true, _) => not_spoken(Refusal::read(status, &body)),
            (false, cause) => SendError { cause, ..error },
        });
    }
    match reply.content() {
        Content::Json => reply.body(session.http.max_message).await,
        Content::Events => {
            let refusal = reply.refused(ENDPOINT_FOR_POST.to_owned());
            match first_answer(&mut reply.events(session.http.max_message), &mut VecDeque::new()).await? {
                First::Answer(answer) => Ok(answer),
                First::Endpoint => Err(not_spoken(refusal)),
            }
        }
        Content::Other => {
            Err(not_spoken(reply.refused(format!("{DISCOVER} was answered with neither JSON nor events"))))
        }
    }
}

/// What the backend said of itself, if it speaks this era.
fn read(answer: &[u8]) -> Result<Value, SendError> {
    let mut message: Value = serde_json::from_slice(answer).unwrap_or_default();
    let result = message.get_mut("result").map(Value::take).filter(Value::is_object);
    let Some(result) = result else { return Err(not_spoken(Refusal::read(200, answer))) };
    let versions = result.get("supportedVersions").and_then(Value::as_array);
    let modern = Value::from(Revision::V2026_07_28.as_str());
    if !versions.is_some_and(|versions| versions.contains(&modern)) {
        let message = format!("{DISCOVER} was answered without {modern} among the versions");
        return Err(not_spoken(Refusal { status: 200, message, code: None, retry_after: None }));
    }
    Ok(result)
}

fn not_spoken(refusal: Refusal) -> SendError {
    SendError::refused(Cause::WrongTransport(refusal))
}

/// The answer to `initialize` that says the same. Extensions are not bridged.
fn initialized(id: &RpcId, mut said: Value) -> Bytes {
    let mut capabilities = said.get_mut("capabilities").map(Value::take).unwrap_or_default();
    if let Some(capabilities) = capabilities.as_object_mut() {
        capabilities.remove("extensions");
    }
    let info = said.get_mut("_meta").and_then(|meta| meta.get_mut(key::SERVER_INFO)).map(Value::take);
    let mut result = json!({
        "protocolVersion": Revision::V2026_07_28.as_str(),
        "capabilities": capabilities,
        "serverInfo": info,
    });
    if let (Some(text), Some(result)) = (said.get_mut("instructions"), result.as_object_mut()) {
        result.insert("instructions".to_owned(), text.take());
    }
    result_response(id, result.to_string().as_bytes())
}

/// Whether the backend is still there and still speaks this era.
pub(super) async fn probe(session: &Session) -> Result<(), SendError> {
    let answer = ask_own(session, DISCOVER, "{}").await?;
    match read(&answer) {
        Ok(_) => Ok(()),
        Err(SendError { cause: Cause::WrongTransport(refusal), .. }) => {
            Err(SendError::refused(Cause::WrongVersion(refusal)))
        }
        Err(error) => Err(error),
    }
}
