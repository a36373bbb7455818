//! Prints the effective configuration as a valid file with masked secrets.
//!
//! Values of headers and program variables and the query of a URL are always masked, because they hold credentials.

use mcpool_front::{FrontLimits, FrontTimes};
use mcpool_upstream::{Endpoint, Profile, Sharing};
use toml::{Table, Value};
use url::Url;

use super::Config;
use mcpool_router::settings::{
    BackendSettings,
    value::{show_duration, show_percent, show_size},
};

/// Replaces a secret.
pub(crate) const MASK: &str = "***";

/// Replaces the token; long enough to be accepted when the output is read again.
const MASKED_TOKEN: &str = "***masked***";

impl Config {
    /// All settings in force under the file's keys, secrets masked.
    #[must_use]
    pub fn shown(&self) -> Table {
        let mut top = Table::new();
        put(&mut top, "listen", self.listen.to_string());
        put(&mut top, "admin_listen", self.admin_listen.to_string());
        if self.admin_token.is_some() {
            put(&mut top, "admin_token", MASKED_TOKEN);
        }
        if let Some(name) = &self.default_backend {
            put(&mut top, "default_backend", name.to_string());
        }
        put(&mut top, "default_mode", self.default_mode.as_str());
        let front = &self.front;
        put(&mut top, "allowed_hosts", front.allowed_hosts.clone());
        put(&mut top, "allowed_origins", front.allowed_origins.clone());
        put(&mut top, "unauthenticated", front.unauthenticated.as_str());
        put(&mut top, "watch", self.watch);
        put(&mut top, "sessions", self.shown_sessions());
        put(&mut top, "limits", limits(&front.limits));
        put(&mut top, "times", times(&front.times));
        let mut log = Table::new();
        put(&mut log, "format", self.log.format.as_str());
        put(&mut log, "level", self.log.level.clone());
        put(&mut top, "log", log);
        let mut shutdown = Table::new();
        put(&mut shutdown, "delay", show_duration(self.delay));
        put(&mut shutdown, "grace", show_duration(self.grace));
        put(&mut top, "shutdown", shutdown);
        let profiles = self.profiles.iter().map(|profile| Value::Table(show_profile(profile)));
        put(&mut top, "profiles", profiles.collect::<Vec<_>>());
        if !self.backends.is_empty() {
            let named = self.backends.iter().map(|one| {
                let ca_file = self.ca_files.get(&one.spec.name).map(String::as_str);
                let args = self.args.get(&one.spec.name).cloned().unwrap_or_default();
                (one.spec.name.to_string(), Value::Table(backend(one, ca_file, args)))
            });
            put(&mut top, "backends", named.collect::<Table>());
        }
        top
    }
}

impl Config {
    pub(super) fn shown_sessions(&self) -> Table {
        let mut table = Table::new();
        let keys = self.sessions.keys.iter().map(|_| Value::from(MASK));
        put(&mut table, "keys", keys.collect::<Vec<_>>());
        if let Some((path, _)) = &self.sessions.key_file {
            put(&mut table, "key_file", path.clone());
        }
        let folder = self.state_dir().map_or_else(String::new, |folder| folder.display().to_string());
        put(&mut table, "state_dir", folder);
        table
    }
}

fn limits(limits: &FrontLimits) -> Table {
    let mut table = Table::new();
    put(&mut table, "connections", number(limits.connections));
    put(&mut table, "connections_per_peer", number(limits.connections_per_peer));
    put(&mut table, "agent_sessions", number(limits.agent_sessions));
    put(&mut table, "sessions_per_peer", number(limits.sessions_per_peer));
    put(&mut table, "deleted_sessions", number(limits.deleted_sessions));
    put(&mut table, "calls_per_agent", number(limits.calls_per_agent));
    put(&mut table, "calls_per_principal", number(limits.calls_per_principal));
    put(&mut table, "body", show_size(limits.body_bytes as u64));
    put(&mut table, "body_rate", show_size(limits.body_rate as u64));
    put(&mut table, "buffered", show_size(limits.buffered_bytes as u64));
    put(&mut table, "header", show_size(limits.header_bytes as u64));
    put(&mut table, "agent_messages", number(limits.outbound_messages));
    put(&mut table, "agent_buffer", show_size(limits.outbound_bytes as u64));
    put(&mut table, "replay_events", number(limits.replay_events));
    put(&mut table, "replay_buffer", show_size(limits.replay_bytes as u64));
    put(&mut table, "replay_total", show_size(limits.replay_total_bytes as u64));
    put(&mut table, "adopted_calls", number(limits.adopted_calls));
    table
}

fn times(times: &FrontTimes) -> Table {
    let mut table = Table::new();
    for (key, time) in [
        ("header", times.header),
        ("keep_alive", times.keep_alive),
        ("body_idle", times.body_idle),
        ("overload_wait", times.overload_wait),
        ("write_stall", times.write_stall),
        ("call", times.call),
        ("open", times.open),
        ("reconnect_grace", times.reconnect_grace),
        ("orphan", times.orphan),
        ("parked", times.parked),
        ("agent_idle", times.agent_idle),
        ("session_lifetime", times.session_lifetime),
        ("stream_ping", times.stream_ping),
        ("answer_as_stream", times.answer_as_stream),
        ("retry", times.retry),
    ] {
        put(&mut table, key, show_duration(time));
    }
    table
}

fn backend(settings: &BackendSettings, ca_file: Option<&str>, args: Vec<String>) -> Table {
    let spec = &settings.spec;
    let mut table = Table::new();
    match &spec.endpoint {
        Endpoint::Http(http) => {
            put(&mut table, "url", masked_url(&http.url));
            let names = http.headers.iter().map(|(name, _)| name.to_string());
            put_masked(&mut table, "headers", names);
            put(&mut table, "era", http.era.as_str());
        }
        Endpoint::Stdio(program) => {
            put(&mut table, "command", program.command.to_string_lossy().into_owned());
            put(&mut table, "args", args);
            put_masked(&mut table, "env", program.env.keys().cloned());
            if let Some(folder) = &program.cwd {
                put(&mut table, "cwd", folder.display().to_string());
            }
        }
    }
    put(&mut table, "transport", spec.transport.as_str());
    put(&mut table, "mode", spec.mode.as_str());
    sharing_of(&mut table, &spec.sharing);
    put(&mut table, "fan_out_logs", spec.fan_out_logs);
    if let Some(path) = ca_file {
        let mut tls = Table::new();
        put(&mut tls, "ca_file", path);
        put(&mut table, "tls", tls);
    }
    times_of(&mut table, settings);
    limits_of(&mut table, settings);
    let mut breaker = Table::new();
    put(&mut breaker, "failure_threshold", i64::from(settings.breaker.failure_threshold));
    put(&mut breaker, "recovery_timeout", show_duration(settings.breaker.recovery_timeout));
    put(&mut breaker, "recovery_growth", i64::from(settings.breaker.recovery_growth));
    put(&mut breaker, "early_probe", settings.breaker.early_probe);
    put(&mut breaker, "hold", show_duration(settings.breaker.hold));
    put(&mut table, "breaker", breaker);
    let mut retry = Table::new();
    put(&mut retry, "attempts", i64::from(settings.retry.attempts));
    put(&mut retry, "base", show_duration(settings.retry.base));
    put(&mut retry, "cap", show_duration(settings.retry.cap));
    put(&mut retry, "budget", show_percent(settings.retry.budget));
    put(&mut table, "retry", retry);
    table
}

fn sharing_of(table: &mut Table, sharing: &Sharing) {
    put(table, "state", sharing.state.as_str());
    put(table, "reset_on_release", sharing.reset_on_release);
    let tools = sharing.pinned_tools.iter().map(|pattern| (pattern.clone(), "pinned".into()));
    put(table, "tools", tools.collect::<Table>());
    let names = sharing.forward_headers.iter().map(|name| Value::from(name.as_str()));
    put(table, "forward_headers", names.collect::<Vec<_>>());
}

fn show_profile(profile: &Profile) -> Table {
    let mut table = Table::new();
    put(&mut table, "server", profile.server.clone());
    put(&mut table, "version", profile.version.clone());
    put(&mut table, "mode", profile.mode.as_str());
    if let Some(most) = profile.shared_sessions {
        put(&mut table, "shared_sessions", number(most));
    }
    if let Some(on) = profile.serialize_writes {
        put(&mut table, "serialize_writes", on);
    }
    table
}

fn times_of(table: &mut Table, settings: &BackendSettings) {
    let times = &settings.spec.times;
    for (key, time) in [
        ("connect_timeout", times.connect),
        ("handshake_timeout", times.handshake),
        ("first_open_timeout", times.first_open),
        ("call_timeout", times.call_idle),
        ("idle_timeout", times.idle),
        ("pinned_idle", times.pinned_idle),
        ("max_age", times.max_age),
        ("drain_timeout", times.drain),
        ("queue_timeout", times.queue),
        ("probe_interval", times.probe_interval),
        ("probe_timeout", times.probe_timeout),
        ("cancel_grace", times.cancel_grace),
    ] {
        put(table, key, show_duration(time));
    }
}

fn limits_of(table: &mut Table, settings: &BackendSettings) {
    let limits = &settings.spec.limits;
    for (key, count) in [
        ("max_sessions", limits.max_sessions),
        ("shared_sessions", limits.shared_sessions),
        ("calls_per_session", limits.calls_per_session),
        ("min_idle", limits.min_idle),
        ("max_creating", limits.max_creating),
        ("queue", limits.queue),
    ] {
        put(table, key, number(count));
    }
    put(table, "queue_bytes", show_size(limits.queue_bytes as u64));
    put(table, "max_message", show_size(limits.max_message as u64));
    put(table, "serialize_writes", limits.serial_writes.as_str());
}

/// Adds a table of names with masked values, unless it is empty.
fn put_masked(table: &mut Table, key: &str, names: impl Iterator<Item = String>) {
    let masked: Table = names.map(|name| (name, MASK.into())).collect();
    if !masked.is_empty() {
        put(table, key, masked);
    }
}

/// The address of a backend, for people. Arguments of a program may be secret.
pub(crate) fn reached_at(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Http(http) => masked_url(&http.url),
        Endpoint::Stdio(program) => program.command.to_string_lossy().into_owned(),
    }
}

/// A URL with its secret parts masked.
pub(crate) fn masked_url(url: &Url) -> String {
    match url.query() {
        None => url.to_string(),
        Some(_) => {
            let mut shown = url.clone();
            shown.set_query(Some(MASK));
            shown.to_string()
        }
    }
}

/// Masks the credentials of a URL or the value of a header in an argument.
pub(crate) fn masked_text(text: &str) -> String {
    if let Some((scheme, rest)) = text.split_once("://") {
        let authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        return match rest[..authority].rfind('@') {
            Some(at) => format!("{scheme}://{MASK}{}", &rest[at..]),
            None => text.to_owned(),
        };
    }
    match text.split_once(':') {
        Some((name, value)) if !value.trim().is_empty() && value.parse::<u16>().is_err() => {
            format!("{name}: {MASK}")
        }
        _ => text.to_owned(),
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn put(table: &mut Table, key: &str, value: impl Into<Value>) {
    table.insert(key.to_owned(), value.into());
}
