//! A backend over rmcp: tools with nonces, progress, and a question, in both eras, as the SDK serves by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use axum::Router;
use axum::routing::get;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ElicitRequest,
    ElicitRequestParams, ElicitResult, ErrorData, Implementation, InputRequest, InputRequests,
    InputRequiredResult, JsonObject, ListToolsResult, PaginatedRequestParams, ProgressNotificationParam,
    ProtocolVersion, ServerCapabilities, ServerConfig, Tool, ToolAnnotations,
};
use rmcp::service::RequestContext;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{RoleServer, ServerHandler};
use serde_json::{Value, json};

/// What it has seen.
#[derive(Debug, Default)]
struct Seen {
    legacy: AtomicU64,
    modern: AtomicU64,
    slow_started: AtomicU64,
    slow_cancelled: AtomicU64,
}

#[derive(Debug, Clone)]
struct Server(Arc<Seen>);

/// Serves until it is ended.
pub(crate) async fn run() -> Result<()> {
    let seen = Arc::new(Seen::default());
    let server = Server(Arc::clone(&seen));
    let mcp: StreamableHttpService<Server, LocalSessionManager> = StreamableHttpService::new(
        move || Ok(server.clone()),
        Arc::default(),
        StreamableHttpServerConfig::default(),
    );
    let stats = get(move || async move { seen.shown().to_string() });
    let router = Router::new().route("/stats", stats).nest_service("/mcp", mcp);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("ready {}", listener.local_addr()?.port());
    axum::serve(listener, router).await?;
    Ok(())
}

impl Seen {
    fn shown(&self) -> Value {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        json!({"seen": {
            "legacy": of(&self.legacy),
            "modern": of(&self.modern),
            "slow_started": of(&self.slow_started),
            "slow_cancelled": of(&self.slow_cancelled),
        }})
    }
}

/// Counts a call that was dropped or cancelled before it had slept enough.
struct Asleep<'a>(&'a Seen, bool);

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        if !self.1 {
            self.0.slow_cancelled.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder().enable_tools().build();
        ServerConfig::new(capabilities).with_server_info(Implementation::new("mcpool-rmcp", "1"))
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let tools = ["echo", "slow", "progress", "ask"].map(|name| {
            let schema: JsonObject = [("type".to_owned(), json!("object"))].into_iter().collect();
            Tool::new(name, name, schema).with_annotations(ToolAnnotations::new().read_only(true))
        });
        Ok(ListToolsResult::with_all_items(tools.to_vec()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let modern =
            context.protocol_version().is_some_and(|version| version >= ProtocolVersion::V_2026_07_28);
        let count = if modern { &self.0.modern } else { &self.0.legacy };
        count.fetch_add(1, Ordering::Relaxed);
        let arguments = Value::Object(request.arguments.clone().unwrap_or_default());
        let text = |key: &str| arguments[key].as_str().unwrap_or_default().to_owned();
        match &*request.name {
            "echo" => Ok(said(text("nonce"))),
            "slow" => self.slow(arguments["ms"].as_u64().unwrap_or(0), &context).await,
            "progress" => progress(arguments["steps"].as_u64().unwrap_or(0), &context).await,
            "ask" if modern => Ok(asked_by_result(&request, text("text"))),
            "ask" => {
                let answer = context.peer.create_elicitation(question(text("text"))).await;
                let answer = answer.map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
                Ok(answered(&answer))
            }
            other => Err(ErrorData::invalid_params(format!("no tool {other}"), None)),
        }
    }
}

impl Server {
    async fn slow(
        &self,
        ms: u64,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        self.0.slow_started.fetch_add(1, Ordering::Relaxed);
        let mut asleep = Asleep(&self.0, false);
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(ms.min(60_000))) => asleep.1 = true,
            () = context.ct.cancelled() => {}
        }
        Ok(said("slept"))
    }
}

async fn progress(steps: u64, context: &RequestContext<RoleServer>) -> Result<CallToolResponse, ErrorData> {
    let token = context.meta.get_progress_token();
    for step in 1..=steps.min(1000) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let Some(token) = token.clone() else { continue };
        #[expect(clippy::cast_precision_loss, reason = "a thousand at most")]
        let note = ProgressNotificationParam::new(token, step as f64).with_total(steps as f64);
        let told = context.peer.notify_progress(note).await;
        told.map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
    }
    Ok(said("done"))
}

/// In 2026-07-28 a question is a result, and the answer comes with the same call again.
fn asked_by_result(request: &CallToolRequestParams, message: String) -> CallToolResponse {
    let answer = request.input_responses.as_ref().and_then(|answers| answers.get("answer"));
    let answer = answer.and_then(|answer| serde_json::from_value::<ElicitResult>(answer.clone()).ok());
    match answer {
        Some(answer) => answered(&answer),
        None => {
            let mut requests = InputRequests::new();
            let asked = InputRequest::Elicitation(ElicitRequest::new(question(message)));
            requests.insert("answer".to_owned(), asked);
            InputRequiredResult::new(Some(requests), None).into()
        }
    }
}

fn question(message: String) -> ElicitRequestParams {
    let schema = json!({
        "type": "object",
        "properties": {"value": {"type": "string"}},
        "required": ["value"],
    });
    ElicitRequestParams::FormElicitationParams {
        meta: None,
        message,
        requested_schema: serde_json::from_value(schema).expect("the schema above is one"),
    }
}

fn answered(answer: &ElicitResult) -> CallToolResponse {
    let value = answer.content.as_ref().and_then(|content| content["value"].as_str()).unwrap_or_default();
    let action = serde_json::to_value(&answer.action).unwrap_or_default();
    said(format!("{} {value}", action.as_str().unwrap_or_default()))
}

fn said(text: impl Into<String>) -> CallToolResponse {
    CallToolResult::success(vec![ContentBlock::text(text)]).into()
}
