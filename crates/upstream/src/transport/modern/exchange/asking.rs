//! What a result asks for, as requests of a server to its agent, and what the agent says as `inputResponses`.

use bytes::Bytes;
use futures::future::join_all;
use mcpool_wire::modern::{InputRequest, input_responses};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::super::{super::Received, Session, Undeclared, generator::Out};

/// Most things one result may ask for.
const MAX_REQUESTS: usize = 32;

const ELICITATION: &str = "elicitation/create";

/// What becomes of one thing that is asked for.
enum Input<'a> {
    /// The agent is asked.
    Asked(super::super::input_requests::Question<'a>),
    /// It cannot be asked in this way, and that is an answer too.
    Known(&'static str),
}

/// Asks the agent for all of it and waits for all answers.
///
/// # Errors
/// Why there is no answer, as a sentence for the agent: then the call has none either.
pub(super) async fn ask(
    session: &Session,
    requests: &[InputRequest],
    out: &Out<Received>,
) -> Result<String, String> {
    if requests.len() > MAX_REQUESTS {
        return Err(format!("the backend asks for {} things at once (limit {MAX_REQUESTS})", requests.len()));
    }
    // Nobody is asked for anything if one of the things cannot be asked for.
    let mut allowed = Vec::with_capacity(requests.len());
    for request in requests {
        allowed.push(allow(session, request)?);
    }
    let mut inputs = Vec::with_capacity(requests.len());
    for (request, is_allowed) in requests.iter().zip(allowed) {
        if !is_allowed {
            inputs.push(Input::Known(r#"{"action":"decline"}"#));
            continue;
        }
        let id = session.next_id();
        // First the place for the answer, then the question.
        inputs.push(Input::Asked(session.inputs.ask(id)));
        out.say(Received::Message(question(id, request))).await;
    }
    let answers = join_all(requests.iter().zip(&mut inputs).map(async |(request, input)| match input {
        Input::Known(answer) => Ok((*answer).to_owned()),
        Input::Asked(question) => result(request, question.answer().await),
    }))
    .await;
    let answers = answers.into_iter().collect::<Result<Vec<String>, String>>()?;
    let named =
        requests.iter().zip(&answers).map(|(request, answer)| (request.key.as_str(), answer.as_str()));
    Ok(input_responses(named))
}

/// Whether the agent can be asked this; false: it can be asked things of this kind, but not in this way.
fn allow(session: &Session, request: &InputRequest) -> Result<bool, String> {
    let InputRequest { method, params, .. } = request;
    let params =
        params.as_deref().and_then(|params| serde_json::from_str(params).ok()).unwrap_or(Value::Null);
    match session.declared.allows(method, &params) {
        Ok(()) => Ok(true),
        Err(Undeclared::Mode) => Ok(false),
        Err(Undeclared::Capability(capability)) => {
            Err(format!("the backend asks for {method}, and the agent did not declare {capability:?}"))
        }
        Err(Undeclared::Unknown) => {
            Err(format!("the backend asks for {method}, which no agent can be asked for"))
        }
    }
}

fn question(id: u64, request: &InputRequest) -> Bytes {
    let method = json!(request.method);
    let params = request.params.as_deref().map(|params| with_elicitation_id(id, request, params));
    let params = params.map(|params| format!(",\"params\":{params}")).unwrap_or_default();
    Bytes::from(format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":{method}{params}}}"))
}

/// In the other era an elicitation by URL has an id of its own.
fn with_elicitation_id(id: u64, request: &InputRequest, params: &str) -> String {
    let read: Option<Value> = serde_json::from_str(params).ok();
    let is_url =
        read.as_ref().is_some_and(|params| params["mode"] == "url" && params.get("elicitationId").is_none());
    match params.strip_prefix('{') {
        Some(rest) if is_url && request.method == ELICITATION => {
            format!("{{\"elicitationId\":\"e{id}\",{rest}")
        }
        _ => params.to_owned(),
    }
}

/// The result in a response of the agent. One who fails at an elicitation gave none; of anything else the call cannot
/// do without.
fn result(request: &InputRequest, response: Option<Bytes>) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Response<'a> {
        #[serde(borrow)]
        result: Option<&'a RawValue>,
        error: Option<Failure>,
    }
    #[derive(Deserialize)]
    struct Failure {
        #[serde(default)]
        message: String,
    }
    let read = response.as_deref().and_then(|response| serde_json::from_slice::<Response<'_>>(response).ok());
    match read {
        Some(Response { result: Some(result), .. }) => Ok(result.get().to_owned()),
        _ if request.method == ELICITATION => Ok(r#"{"action":"cancel"}"#.to_owned()),
        Some(Response { error: Some(failure), .. }) => {
            Err(format!("the agent refused {}: {}", request.method, failure.message))
        }
        _ => Err(format!("the agent gave no answer to {}", request.method)),
    }
}
