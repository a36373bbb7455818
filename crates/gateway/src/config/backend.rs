//! One backend, from its table or from `--backend NAME=URL`.

use std::{path::Path, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue};
use mcpool_upstream::{
    BackendSpec, Endpoint, EraChoice, HttpEndpoint, Limits, ModeChoice, Origin, Profile, SerialWrites,
    Sharing, StaticHeaders, Times, TransportChoice, transport,
};
use mcpool_wire::BackendId;
use toml::Spanned;
use url::Url;

use super::{
    BackendFlag,
    check::{Checker, Words},
    process,
    raw::{RawBackend, RawBreaker, RawRetry, Text},
    sharing,
};
use mcpool_router::settings::{BackendSettings, RetrySettings, value::parse_percent};

/// Settings common to all backends of one file.
pub(super) struct Common<'a> {
    pub(super) default_mode: ModeChoice,
    /// Known servers.
    pub(super) profiles: &'a Arc<[Profile]>,
    /// The folder that relative paths refer to.
    pub(super) folder: &'a Path,
}

/// A backend with default settings.
pub(super) fn plain(
    id: BackendId,
    name: &str,
    url: Url,
    origin: Origin,
    mode: ModeChoice,
    profiles: &Arc<[Profile]>,
) -> BackendSettings {
    BackendSettings {
        spec: BackendSpec {
            id,
            name: name.into(),
            durable_id: None,
            origin,
            generation: 1,
            endpoint: Endpoint::Http(HttpEndpoint::new(url)),
            transport: TransportChoice::Auto,
            mode,
            sharing: Sharing { profiles: profiles.clone(), ..Sharing::default() },
            fan_out_logs: false,
            times: Times::default(),
            limits: Limits::default(),
        },
        breaker: mcpool_breaker::Settings::default(),
        retry: RetrySettings::default(),
    }
}

/// Reads one backend's table. `None` without a usable URL or command; the checker has the reasons.
pub(super) fn read(
    checker: &mut Checker<'_>,
    id: BackendId,
    name: &Spanned<String>,
    raw: &RawBackend,
    common: &Common<'_>,
) -> Option<BackendSettings> {
    checker.section("backends.");
    if let Err(reason) = check_name(name.get_ref()) {
        checker.problem(name.get_ref(), Some(&name.span()), reason);
    }
    checker.section(format!("backends.{}.", name.get_ref()));
    if raw.url.is_none() && raw.command.is_none() {
        let reason = "missing; a backend needs the URL of its MCP server, or the command that starts it";
        checker.problem("url", Some(&name.span()), reason);
    }
    let is_process = raw.command.is_some();
    let endpoint = endpoint(checker, raw, common);
    let transport = transport(checker, raw, is_process);
    let mode = checker.word("mode", &raw.mode, modes(), common.default_mode);
    let (times, limits) = (times(checker, raw, is_process), limits(checker, raw, is_process));
    let breaker = breaker(checker, name.get_ref(), &raw.breaker, &times, &limits);
    let retry = retry(checker, name.get_ref(), &raw.retry);
    checker.section(format!("backends.{}.", name.get_ref()));
    let headers = endpoint.as_ref().map_or(&[][..], headers_of);
    let sharing = sharing::read(checker, raw, common.profiles, headers);
    let spec = BackendSpec {
        id,
        name: name.get_ref().as_str().into(),
        durable_id: None,
        origin: Origin::File,
        generation: 1,
        endpoint: endpoint?,
        transport,
        mode,
        sharing,
        fan_out_logs: Checker::switch(&raw.fan_out_logs, false),
        times,
        limits,
    };
    usable(checker, &spec, &raw.tls.ca_file);
    Some(BackendSettings { spec, breaker, retry })
}

fn endpoint(checker: &mut Checker<'_>, raw: &RawBackend, common: &Common<'_>) -> Option<Endpoint> {
    process::keep_apart(checker, raw);
    if let Some(command) = &raw.command {
        return process::read(checker, command, raw, common.folder).map(Endpoint::Stdio);
    }
    let url = checker.parsed("url", &raw.url, parse_url);
    let headers = headers(checker, raw);
    let ca_pem = roots(checker, &raw.tls.ca_file, common.folder);
    let era = era(checker, raw);
    Some(Endpoint::Http(HttpEndpoint { headers, ca_pem, era, ..HttpEndpoint::new(url?) }))
}

fn headers_of(endpoint: &Endpoint) -> &[(HeaderName, HeaderValue)] {
    match endpoint {
        Endpoint::Http(http) => &http.headers,
        Endpoint::Stdio(_) => &[],
    }
}

fn transport(checker: &mut Checker<'_>, raw: &RawBackend, is_process: bool) -> TransportChoice {
    let default = if is_process { TransportChoice::Stdio } else { TransportChoice::Auto };
    let transports =
        &[TransportChoice::Auto, TransportChoice::Sse, TransportChoice::Http, TransportChoice::Stdio];
    let transports = (&transports[..], TransportChoice::as_str as fn(_) -> _);
    let chosen = checker.word("transport", &raw.transport, transports, default);
    let span = raw.transport.as_ref().map(Spanned::span);
    match (chosen, is_process) {
        (TransportChoice::Sse | TransportChoice::Http, true) => {
            checker.problem("transport", span.as_ref(), "a command is spoken to over stdio");
            default
        }
        (TransportChoice::Stdio, false) => {
            checker.problem("transport", span.as_ref(), "\"stdio\" needs a command, not a URL");
            default
        }
        (TransportChoice::Auto, true) => default,
        (chosen, _) => chosen,
    }
}

/// The values of `mode`.
pub(super) fn modes<'a>() -> Words<'a, ModeChoice> {
    let modes = &[ModeChoice::Auto, ModeChoice::Shared, ModeChoice::Exclusive, ModeChoice::Pinned];
    (modes, ModeChoice::as_str)
}

/// Checks a backend name: `[a-z0-9][a-z0-9-]{0,62}`, and not reserved in URLs.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 63 || name.starts_with('-') || !name.chars().all(allowed) {
        return Err(format!(
            "{name:?} is not a name; write 1 to 63 of a-z, 0-9 and \"-\", beginning with a letter or digit"
        ));
    }
    if mcpool_front::RESERVED.contains(&name) {
        return Err(format!("{name:?} is reserved; it has a meaning of its own in URLs"));
    }
    Ok(())
}

/// Parses an http or https URL without credentials. Errors do not quote it, as it may hold a secret.
pub(crate) fn parse_url(text: &str) -> Result<Url, String> {
    let url: Url =
        text.parse().map_err(|why| format!("not a URL ({why}); write it with http:// or https://"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("not an http:// or https:// URL: its scheme is {:?}", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a URL must not hold credentials; write them into headers".to_owned());
    }
    if url.fragment().is_some() {
        return Err("a URL must not end in a \"#\" part; it is never sent".to_owned());
    }
    Ok(url)
}

fn headers(checker: &mut Checker<'_>, raw: &RawBackend) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = Vec::new();
    for (name, value) in &raw.headers {
        let key = format!("headers.{}", name.get_ref());
        let Some(text) = checker.string(&key, value) else { continue };
        match (HeaderName::try_from(name.get_ref().as_str()), HeaderValue::try_from(text)) {
            (Ok(name), _) if OUR_HEADERS.contains(&name.as_str()) => {
                let reason = "the gateway sets this header itself";
                checker.problem(&key, Some(&value.span()), reason);
            }
            (Ok(name), Ok(mut value)) => {
                value.set_sensitive(true);
                headers.push((name, value));
            }
            (Err(_), _) => checker.problem(&key, Some(&name.span()), "not a name of a header"),
            (_, Err(_)) => {
                let reason = "the value holds characters a header cannot carry (a line break?)";
                checker.problem(&key, Some(&value.span()), reason);
            }
        }
    }
    headers
}

fn times(checker: &mut Checker<'_>, raw: &RawBackend, is_process: bool) -> Times {
    let default = if is_process { Times::of_process() } else { Times::default() };
    let mut time = |key, raw, default| checker.duration(key, raw, default, SHORTEST);
    Times {
        connect: time("connect_timeout", &raw.connect_timeout, default.connect),
        handshake: time("handshake_timeout", &raw.handshake_timeout, default.handshake),
        call_idle: time("call_timeout", &raw.call_timeout, default.call_idle),
        queue: time("queue_timeout", &raw.queue_timeout, default.queue),
        idle: time("idle_timeout", &raw.idle_timeout, default.idle),
        pinned_idle: time("pinned_idle", &raw.pinned_idle, default.pinned_idle),
        max_age: time("max_age", &raw.max_age, default.max_age),
        probe_interval: time("probe_interval", &raw.probe_interval, default.probe_interval),
        probe_timeout: time("probe_timeout", &raw.probe_timeout, default.probe_timeout),
        cancel_grace: time("cancel_grace", &raw.cancel_grace, default.cancel_grace),
        drain: time("drain_timeout", &raw.drain_timeout, default.drain),
        first_open: time("first_open_timeout", &raw.first_open_timeout, default.first_open),
    }
}

fn limits(checker: &mut Checker<'_>, raw: &RawBackend, is_process: bool) -> Limits {
    let default = if is_process { Limits::of_process() } else { Limits::default() };
    let mut count = |key, raw, default, least| checker.count(key, raw, default, least..=MOST);
    let max_sessions = count("max_sessions", &raw.max_sessions, default.max_sessions, 1);
    let shared_sessions =
        count("shared_sessions", &raw.shared_sessions, default.shared_sessions.min(max_sessions), 1);
    let min_idle = count("min_idle", &raw.min_idle, default.min_idle, 0);
    let limits = Limits {
        max_sessions,
        shared_sessions,
        calls_per_session: count("calls_per_session", &raw.calls_per_session, default.calls_per_session, 1),
        min_idle,
        max_creating: count("max_creating", &raw.max_creating, default.max_creating, 1),
        queue: count("queue", &raw.queue, default.queue, 1),
        queue_bytes: checker.size("queue_bytes", &raw.queue_bytes, default.queue_bytes, 1 << 10..=1 << 30),
        max_message: checker.size("max_message", &raw.max_message, default.max_message, 1 << 10..=1 << 30),
        serial_writes: checker.word(
            "serialize_writes",
            &raw.serialize_writes,
            (&[SerialWrites::Auto, SerialWrites::On, SerialWrites::Off], SerialWrites::as_str),
            default.serial_writes,
        ),
    };
    let span = |raw: &Option<Spanned<_>>| raw.as_ref().map(Spanned::span);
    if shared_sessions > max_sessions {
        let reason = format!("{shared_sessions} is more than max_sessions, {max_sessions}");
        checker.problem("shared_sessions", span(&raw.shared_sessions).as_ref(), reason);
    }
    if min_idle > shared_sessions {
        let reason = format!("{min_idle} is more than shared_sessions, {shared_sessions}");
        checker.problem("min_idle", span(&raw.min_idle).as_ref(), reason);
    }
    limits
}

fn breaker(
    checker: &mut Checker<'_>,
    name: &str,
    raw: &RawBreaker,
    times: &Times,
    limits: &Limits,
) -> mcpool_breaker::Settings {
    checker.section(format!("backends.{name}.breaker."));
    let default = mcpool_breaker::Settings::default();
    let threshold = default.failure_threshold as usize;
    let threshold = checker.count("failure_threshold", &raw.failure_threshold, threshold, 1..=MOST);
    mcpool_breaker::Settings {
        failure_threshold: u32::try_from(threshold).unwrap_or(u32::MAX),
        recovery_timeout: checker.duration(
            "recovery_timeout",
            &raw.recovery_timeout,
            default.recovery_timeout,
            SHORTEST,
        ),
        recovery_growth: u32::try_from(checker.count(
            "recovery_growth",
            &raw.recovery_growth,
            default.recovery_growth as usize,
            1..=MOST,
        ))
        .unwrap_or(u32::MAX),
        early_probe: Checker::switch(&raw.early_probe, default.early_probe),
        hold: checker.duration("hold", &raw.hold, default.hold, Duration::ZERO),
        // The probe is a handshake: with a shorter deadline a slow backend could never close its circuit.
        probe_deadline: times.handshake,
        full_speed: full_speed(limits),
        jitter: None,
    }
}

/// The maximum number of calls in flight on shared sessions, or one per session if that is more.
fn full_speed(limits: &Limits) -> u32 {
    let shared = limits.shared_sessions.saturating_mul(limits.calls_per_session);
    u32::try_from(shared.max(limits.max_sessions)).unwrap_or(u32::MAX)
}

fn retry(checker: &mut Checker<'_>, name: &str, raw: &RawRetry) -> RetrySettings {
    checker.section(format!("backends.{name}.retry."));
    let default = RetrySettings::default();
    let attempts = checker.count("attempts", &raw.attempts, default.attempts as usize, 1..=100);
    let base = checker.duration("base", &raw.base, default.base, SHORTEST);
    let cap = checker.duration("cap", &raw.cap, default.cap, SHORTEST);
    if cap < base {
        checker.problem("cap", raw.cap.as_ref().map(Spanned::span).as_ref(), "shorter than base");
    }
    let budget = checker.parsed("budget", &raw.budget, parse_percent).unwrap_or(default.budget);
    RetrySettings { attempts: u32::try_from(attempts).unwrap_or(u32::MAX), base, cap, budget }
}

fn roots(checker: &mut Checker<'_>, raw: &Text, folder: &Path) -> Option<Vec<u8>> {
    checker.parsed("tls.ca_file", raw, |path| {
        let pem = std::fs::read(folder.join(path)).map_err(|why| format!("cannot read {path:?}: {why}"))?;
        // An empty CA file would be accepted, and nothing trusted.
        let has_one = pem.windows(CERTIFICATE.len()).any(|part| part == CERTIFICATE);
        if has_one { Ok(pem) } else { Err(format!("{path:?} holds no PEM certificate")) }
    })
}

/// Builds the transport once, as only it validates certificates.
fn usable(checker: &mut Checker<'_>, spec: &BackendSpec, ca_file: &Text) {
    let Some(ca_file) = ca_file else { return };
    if let Err(why) = transport::transport(spec, &StaticHeaders::of(spec)) {
        checker.problem("tls.ca_file", Some(&ca_file.span()), why);
    }
}

/// The protocol era. HTTP+SSE exists in the legacy era only.
fn era(checker: &mut Checker<'_>, raw: &RawBackend) -> EraChoice {
    let eras =
        (&[EraChoice::Auto, EraChoice::Legacy, EraChoice::Modern][..], EraChoice::as_str as fn(_) -> _);
    let chosen = checker.word("era", &raw.era, eras, EraChoice::default());
    let is_sse = raw.transport.as_ref().is_some_and(|transport| transport.get_ref() == "sse");
    if chosen == EraChoice::Modern && is_sse {
        let span = raw.era.as_ref().map(Spanned::span);
        checker.problem("era", span.as_ref(), "HTTP+SSE is spoken in the legacy era only");
        return EraChoice::default();
    }
    chosen
}

/// A backend from `--backend NAME=URL`.
pub(super) fn from_flag(
    id: BackendId,
    flag: &BackendFlag,
    mode: ModeChoice,
    profiles: &Arc<[Profile]>,
) -> BackendSettings {
    plain(id, &flag.name, flag.url.clone(), Origin::Cli, mode, profiles)
}

/// Shortest allowed duration: zero would disable a required timeout, or spin.
const SHORTEST: Duration = Duration::from_millis(1);
const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";
/// Upper bound for counts: more than sensible, and far from overflow.
const MOST: usize = 1_000_000;
/// Headers written by the transports.
pub(super) const OUR_HEADERS: [&str; 10] = [
    "host",
    "accept",
    "connection",
    "content-length",
    "content-type",
    "last-event-id",
    "mcp-protocol-version",
    "mcp-session-id",
    "transfer-encoding",
    "upgrade",
];
