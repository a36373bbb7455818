//! Required input as server requests to the agent, and the agent's responses as `inputResponses`.

use bytes::Bytes;
use futures::future::join_all;
use mcpool_wire::modern::{InputRequest, input_responses};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::super::{super::Received, Session, Undeclared, generator::Emitter};

/// Most inputs of one result.
const MAX_REQUESTS: usize = 32;

const ELICITATION: &str = "elicitation/create";

/// The handling of one input.
enum Input<'a> {
    /// Ask the agent.
    Asked(super::super::input_requests::Question<'a>),
    /// It cannot be asked in this mode, which is a response too.
    Known(&'static str),
}

/// Asks the agent for all inputs and waits for all responses.
///
/// # Errors
/// A sentence for the agent if there is none; then the call fails.
pub(super) async fn ask(
    session: &Session,
    requests: &[InputRequest],
    out: &Emitter<Received>,
) -> Result<String, String> {
    if requests.len() > MAX_REQUESTS {
        return Err(format!("the backend asks for {} things at once (limit {MAX_REQUESTS})", requests.len()));
    }
    // Nothing is asked unless everything can be asked.
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
        // The waiting place is created before the question is sent.
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

/// True if the agent can be asked this; false if only in another mode.
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

/// A legacy elicitation by URL has an id of its own.
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

/// The result in a response of the agent. A failed elicitation counts as cancelled; without any other result the
/// call fails.
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
