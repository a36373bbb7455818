//! `server/discover`: whether the backend speaks this era, what it says of itself, and later whether it is still there.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, atomic::AtomicU64},
};

use bytes::Bytes;
use mcpool_wire::{
    Envelope, Era, Revision, RpcId,
    modern::{key, to_modern_request},
    raw_members, read_leniently, result_response,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::watch;

use super::{
    super::{
        ConnectRequest, Opened, TransportKind,
        classify::Asked,
        early::{First, first_answer},
        headers::Headers,
        http::{Content, HttpClient, Reply, Target},
        leaving::Left,
        streamable::ENDPOINT_FOR_POST,
    },
    Declared, Sender, Session,
    input_requests::Inputs,
    request::ask_own,
    subscription_filter::Filter,
    tools::Tools,
};
use crate::error::{Cause, Refusal, SendError};

const DISCOVER: &str = "server/discover";

/// What a backend says of itself, member by member, as it came.
type Said = BTreeMap<String, Box<RawValue>>;

/// Statuses by which servers of the other era, and what is no MCP server, refuse the request.
const NOT_SPOKEN: [u16; 6] = [400, 404, 405, 406, 415, 501];

/// Asks what the backend is; done when it said so.
pub(super) async fn open(
    http: Arc<HttpClient>,
    target: Arc<Target>,
    request: ConnectRequest,
) -> Result<Opened, SendError> {
    let headers = Headers::new(&http, request.headers, None, Some(Revision::V2026_07_28));
    let mut session = Session {
        http,
        target,
        headers,
        declared: Declared::of(&request.initialize),
        level: Mutex::default(),
        tools: Tools::default(),
        inputs: Inputs::default(),
        filter: Filter::default(),
        last_id: AtomicU64::new(0),
        settled: watch::Sender::new(false),
    };
    let message = format!("{{\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"{DISCOVER}\",\"params\":{{}}}}");
    let body = to_modern_request(&Bytes::from(message), &session.stamp(None));
    let reply = session.post(&session.headers(DISCOVER, None), body, &Left::default()).await?;
    let answer = answer(&session, reply).await?;
    let said = read(&answer)?;
    let capabilities = said.get("capabilities").map(|raw| read_leniently(raw.get())).unwrap_or_default();
    session.filter = Filter::promised(&capabilities);
    let id = Envelope::parse(&request.initialize).ok().and_then(|envelope| envelope.id()?.ok());
    Ok(Opened {
        kind: TransportKind::Http,
        era: Era::Modern,
        has_session: false,
        answer: initialized(&id.unwrap_or_else(|| RpcId::number(0)), &said),
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
fn read(answer: &[u8]) -> Result<Said, SendError> {
    #[derive(Deserialize)]
    struct Whole<'a> {
        #[serde(borrow)]
        result: Option<&'a RawValue>,
    }
    let result = serde_json::from_slice::<Whole<'_>>(answer).ok().and_then(|whole| whole.result);
    let Some(said) = result.and_then(|result| raw_members(result.get())) else {
        return Err(not_spoken(Refusal::read(200, answer)));
    };
    let modern = Revision::V2026_07_28.as_str();
    let versions = said.get("supportedVersions").map(|raw| read_leniently(raw.get())).unwrap_or_default();
    if !versions.as_array().is_some_and(|versions| versions.iter().any(|version| version == modern)) {
        let message = format!("{DISCOVER} was answered without \"{modern}\" among the versions");
        return Err(not_spoken(Refusal { status: 200, message, code: None, retry_after: None }));
    }
    Ok(said)
}

fn not_spoken(refusal: Refusal) -> SendError {
    SendError::refused(Cause::WrongTransport(refusal))
}

/// The answer to `initialize` that says the same. Extensions are not bridged.
fn initialized(id: &RpcId, said: &Said) -> Bytes {
    let members = |key: &str| said.get(key).and_then(|raw| raw_members(raw.get()));
    let mut capabilities = members("capabilities").unwrap_or_default();
    capabilities.remove("extensions");
    let capabilities = serde_json::to_string(&capabilities).unwrap_or_else(|_| "{}".to_owned());
    let info = members("_meta").and_then(|mut meta| meta.remove(key::SERVER_INFO));
    let info = info.as_ref().map_or("null", |info| info.get());
    let instructions = said.get("instructions").map(|text| format!(",\"instructions\":{text}"));
    let result = format!(
        "{{\"protocolVersion\":\"{}\",\"capabilities\":{capabilities},\"serverInfo\":{info}{}}}",
        Revision::V2026_07_28,
        instructions.unwrap_or_default()
    );
    result_response(id, result.as_bytes())
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
