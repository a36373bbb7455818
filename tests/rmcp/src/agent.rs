//! One agent: rmcp's client with what it answers when it is asked, and what it saw.

use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rmcp::model::{
    CallToolRequestParams, ClientCapabilities, ClientConfig, ElicitRequestParams, ElicitResult,
    ElicitationAction, ErrorData, Implementation, JsonObject, ProgressNotificationParam, ProtocolVersion,
};
use rmcp::service::{NotificationContext, RequestContext, RunningService};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{ClientHandler, ClientLifecycleMode, ClientServiceExt, RoleClient};
use serde_json::{Value, json};

use crate::{Mode, Options, Place};

/// What one agent answers and has seen.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// In each of its answers; none for an agent that cannot be asked.
    pub(crate) secret: Option<String>,
    /// What it was asked.
    pub(crate) asked: Mutex<Vec<String>>,
    /// Progress, of whatever call.
    pub(crate) progress: Mutex<Vec<f64>>,
}

/// An agent that is connected.
pub(crate) type Agent = RunningService<RoleClient, Said>;

/// Connects one.
pub(crate) async fn connect(options: &Options, place: &Place, said: Said) -> Result<Agent> {
    let config = StreamableHttpClientTransportConfig::with_uri(place.url.as_str());
    let transport = StreamableHttpClientTransport::from_config(config);
    let preferred_versions = vec![ProtocolVersion::V_2026_07_28];
    let lifecycle = match options.mode {
        Mode::Legacy => ClientLifecycleMode::Initialize,
        Mode::Modern => ClientLifecycleMode::Discover { preferred_versions },
        Mode::Auto => ClientLifecycleMode::Auto { preferred_versions, legacy_version: None },
    };
    Ok(in_time(options.patience(), said.serve_with_lifecycle(transport, lifecycle)).await??)
}

/// The revision that was agreed on.
pub(crate) fn spoken(agent: &Agent) -> Option<String> {
    agent.peer_info().map(|info| info.protocol_version.to_string())
}

/// The text a tool answers.
pub(crate) async fn call(agent: &Agent, tool: &'static str, arguments: Value) -> Result<String> {
    let arguments: JsonObject = serde_json::from_value(arguments)?;
    let result = agent.call_tool(CallToolRequestParams::new(tool).with_arguments(arguments)).await?;
    let parts = result.content.iter().filter_map(|part| part.as_text()).map(|text| text.text.as_str());
    let text = parts.collect::<Vec<_>>().join("\n");
    if result.is_error == Some(true) {
        bail!("tool error: {text}");
    }
    Ok(text)
}

/// What a future says, unless it takes too long.
pub(crate) async fn in_time<F: Future>(patience: Duration, body: F) -> Result<F::Output> {
    tokio::time::timeout(patience, body).await.with_context(|| format!("not done within {patience:?}"))
}

impl ClientHandler for Said {
    fn get_info(&self) -> ClientConfig {
        let capabilities = match self.secret {
            Some(_) => ClientCapabilities::builder().enable_elicitation().build(),
            None => ClientCapabilities::default(),
        };
        // What `initialize` offers; the mode of finding out knows the other era.
        ClientConfig::new(capabilities, Implementation::new("mcpool-gate-rmcp", "1"))
            .with_protocol_version(ProtocolVersion::V_2025_11_25)
    }

    async fn create_elicitation(
        &self,
        request: ElicitRequestParams,
        _context: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        let ElicitRequestParams::FormElicitationParams { message, requested_schema, .. } = request else {
            return Err(ErrorData::invalid_params("only forms are answered", None));
        };
        let schema = serde_json::to_value(&requested_schema).unwrap_or_default();
        let field = schema["required"][0].as_str().unwrap_or("value").to_owned();
        let answer = format!("{} heard {message}", self.secret.as_deref().unwrap_or_default());
        self.asked.lock().unwrap_or_else(|poison| poison.into_inner()).push(message);
        Ok(ElicitResult::new(ElicitationAction::Accept).with_content(json!({ field: answer })))
    }

    async fn on_progress(
        &self,
        params: ProgressNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        self.progress.lock().unwrap_or_else(|poison| poison.into_inner()).push(params.progress);
    }
}
