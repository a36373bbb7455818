//! Arguments of `doctor` and `rehearse`.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use http::{HeaderName, HeaderValue};
use mcpool_upstream::{Endpoint, ModeChoice};
use serde_json::Value;
use url::Url;

use crate::{
    cli::AdminArgs,
    config::{Config, Overrides, check_name, parse_url},
    rehearse::{Errand, Rehearsal},
};
use mcpool_router::settings::BackendSettings;

/// The arguments of `doctor`.
#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    /// URL, or name of a backend: in the configuration, else in the running gateway
    #[arg(value_name = "NAME|URL")]
    pub target: String,
    /// Configuration file that has the name [default: config/mcpool.toml]
    #[arg(long, value_name = "FILE", env = "MCPOOL_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where the gateway is that knows the name, if no configuration does.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// The arguments of `rehearse`.
#[derive(Args, Clone, Debug)]
pub struct RehearseArgs {
    /// URL of the server, plain http
    #[arg(value_parser = plain_url)]
    pub url: Url,
    /// Number of parallel executors
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(2..=256))]
    pub agents: u16,
    /// Number of rounds of each order
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub rounds: u16,
    /// Tool that executors call: a harmless one, best one that takes a while [default: tools/list is called]
    #[arg(long, value_name = "NAME")]
    pub tool: Option<String>,
    /// Its arguments, a JSON object
    #[arg(long, value_name = "JSON", requires = "tool", value_parser = json_object)]
    pub arguments: Option<Value>,
    /// A header of every request, such as 'Authorization: Bearer TOKEN'; may be repeated
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Seconds after which a missing answer counts as a failure
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub patience: u64,
    /// Shell command that restarts the server and returns; adds the order that needs it
    #[arg(long, value_name = "COMMAND")]
    pub restart_command: Option<String>,
    /// Mode of the pool's sessions
    #[arg(long, value_name = "MODE", default_value = "auto", value_parser = ["auto", "shared", "exclusive", "pinned"])]
    pub mode: String,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

impl DoctorArgs {
    /// The backend to examine. `None` if the configuration does not know the name; a running gateway may.
    ///
    /// # Errors
    /// The mistake in the URL or the configuration.
    pub fn backend(&self) -> Result<Option<BackendSettings>, String> {
        if self.target.contains("://") {
            return Ok(Some(Config::backend_at("server", parse_url(&self.target)?)));
        }
        check_name(&self.target)?;
        let config = Config::load(self.config.as_deref(), Overrides::default())
            .map_err(|problems| problems.to_string())?;
        Ok(config.backends.into_iter().find(|backend| *backend.spec.name == *self.target))
    }
}

impl RehearseArgs {
    /// The rehearsal described by the arguments.
    #[must_use]
    pub fn rehearsal(&self) -> Rehearsal {
        let mut backend = Config::backend_at("server", self.url.clone());
        backend.spec.mode = match self.mode.as_str() {
            "shared" => ModeChoice::Shared,
            "exclusive" => ModeChoice::Exclusive,
            "pinned" => ModeChoice::Pinned,
            _ => ModeChoice::Auto,
        };
        if let Endpoint::Http(endpoint) = &mut backend.spec.endpoint {
            endpoint.headers.clone_from(&self.headers);
        }
        let shown = |(name, value): &(HeaderName, HeaderValue)| {
            (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let arguments = self.arguments.clone().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        Rehearsal {
            backend,
            url: self.url.to_string(),
            headers: self.headers.iter().map(shown).collect(),
            agents: self.agents.into(),
            rounds: self.rounds.into(),
            patience: Duration::from_secs(self.patience),
            call: self.tool.as_ref().map_or_else(Errand::listing, |tool| Errand::tool(tool, &arguments)),
            restart: self.restart_command.clone(),
        }
    }
}

fn plain_url(text: &str) -> Result<Url, String> {
    let url = parse_url(text)?;
    if url.scheme() == "http" {
        Ok(url)
    } else {
        Err("executors speak plain http only; for https, rehearse against the server behind its TLS proxy"
            .to_owned())
    }
}

fn json_object(text: &str) -> Result<Value, String> {
    let value: Value = serde_json::from_str(text).map_err(|why| why.to_string())?;
    if value.is_object() { Ok(value) } else { Err("not a JSON object".to_owned()) }
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write 'NAME: VALUE'")?;
    let name = name.trim().parse().map_err(|_| "not a header name")?;
    let mut value: HeaderValue = value.trim().parse().map_err(|_| "not a header value")?;
    value.set_sensitive(true);
    Ok((name, value))
}

pub(super) const DOCTOR_EXAMPLES: &str = "\
Examples:
  mcpool doctor http://127.0.0.1:9000/sse/
  mcpool doctor search --config my.toml         with its headers, certificates and timeouts
  mcpool doctor demo                            a backend that only the running gateway knows

Exit status: 0 usable, 1 not usable, 2 invalid command line.";

pub(super) const REHEARSE_EXAMPLES: &str = "\
Examples:
  mcpool rehearse http://127.0.0.1:9000/mcp
  mcpool rehearse http://127.0.0.1:9000/mcp --agents 20 --tool slow --arguments '{\"ms\": 500}'
  mcpool rehearse http://127.0.0.1:9000/sse/ --restart-command 'systemctl restart search'

Directly, executors share one session as programs do that hand one connection to several workers; through the pool, each
has a conversation of its own. The server executes every call: choose a tool that changes nothing.

Exit status: 0 nothing failed through the pool, 1 something did, or the server is not usable, 2 invalid command line.";
