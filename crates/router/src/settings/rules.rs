//! The rules of a backend: turn an input into settings, or name every problem.

use std::{path::Path, sync::Arc, time::Duration};

use mcpool_upstream::{
    BackendSpec, Endpoint, EraChoice, HttpEndpoint, Limits, ModeChoice, Origin, Profile, SerialWrites,
    Sharing, StateChoice, StaticHeaders, Times, TransportChoice, transport,
};
use mcpool_wire::BackendId;
use url::Url;

use super::{
    BackendSettings, RetrySettings,
    check::Check,
    headers,
    input::{BackendInput, BreakerInput, Problem, RetryInput},
    program,
    value::parse_percent,
};

/// The rules, and what is common to the backends of one source.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'r> {
    /// Names that have a meaning of their own in URLs.
    pub reserved: &'r [&'r str],
    /// The mode of backends without one.
    pub default_mode: ModeChoice,
    /// Known servers.
    pub profiles: &'r Arc<[Profile]>,
    /// The folder that relative paths refer to. `None` for an input that is not from this machine's configuration: it
    /// may not name files or programs.
    pub folder: Option<&'r Path>,
}

impl Rules<'_> {
    /// Checks the input of one backend.
    ///
    /// # Errors
    /// All its problems.
    pub fn check(
        &self,
        name: &str,
        input: &BackendInput,
        origin: Origin,
    ) -> Result<BackendSettings, Vec<Problem>> {
        let mut check = Check::default();
        let settings = self.settings(&mut check, name, input, origin);
        match settings {
            Some(settings) if check.problems.is_empty() => Ok(settings),
            _ => Err(check.problems),
        }
    }

    /// A backend with default settings.
    #[must_use]
    pub fn plain(&self, name: &str, url: Url, origin: Origin) -> BackendSettings {
        BackendSettings {
            spec: BackendSpec {
                id: BackendId(0),
                name: name.into(),
                durable_id: None,
                origin,
                generation: 1,
                endpoint: Endpoint::Http(HttpEndpoint::new(url)),
                transport: TransportChoice::Auto,
                mode: self.default_mode,
                sharing: Sharing { profiles: self.profiles.clone(), ..Sharing::default() },
                fan_out_logs: false,
                times: Times::default(),
                limits: Limits::default(),
            },
            breaker: mcpool_breaker::Settings::default(),
            retry: RetrySettings::default(),
        }
    }

    fn settings(
        &self,
        check: &mut Check,
        name: &str,
        input: &BackendInput,
        origin: Origin,
    ) -> Option<BackendSettings> {
        if let Err(reason) = check_name(name, self.reserved) {
            check.quoting("", reason);
        }
        if input.url.is_none() && input.local.command.is_none() {
            check.plain(
                "url",
                "missing; a backend needs the URL of its MCP server, or the command that starts it",
            );
        }
        let is_process = input.local.command.is_some();
        let endpoint = self.endpoint(check, input);
        let transport = transport_of(check, input, is_process);
        let modes = &[ModeChoice::Auto, ModeChoice::Shared, ModeChoice::Exclusive, ModeChoice::Pinned];
        let mode = check.word("mode", input.mode.as_ref(), (modes, ModeChoice::as_str), self.default_mode);
        let (times, limits) = (times(check, input, is_process), limits(check, input, is_process));
        let breaker = breaker(check, &input.breaker, &times, &limits);
        let retry = retry(check, &input.retry);
        let sharing = self.sharing(check, input, endpoint.as_ref());
        let spec = BackendSpec {
            id: BackendId(0),
            name: name.into(),
            durable_id: None,
            origin,
            generation: 1,
            endpoint: endpoint?,
            transport,
            mode,
            sharing,
            fan_out_logs: input.fan_out_logs.unwrap_or(false),
            times,
            limits,
        };
        if input.local.ca_file.is_some() {
            // Only the transport validates certificates.
            if let Err(why) = transport::transport(&spec, &StaticHeaders::of(&spec)) {
                check.plain("tls.ca_file", why);
            }
        }
        Some(BackendSettings { spec, breaker, retry })
    }

    fn endpoint(&self, check: &mut Check, input: &BackendInput) -> Option<Endpoint> {
        program::keep_apart(check, input);
        let Some(folder) = self.folder else {
            program::keep_out(check, &input.local);
            return http_endpoint(check, input, None);
        };
        if let Some(command) = &input.local.command {
            return program::check(check, command, &input.local, folder).map(Endpoint::Stdio);
        }
        http_endpoint(check, input, Some(folder))
    }

    fn sharing(&self, check: &mut Check, input: &BackendInput, endpoint: Option<&Endpoint>) -> Sharing {
        let states = (&[StateChoice::Unknown, StateChoice::None][..], StateChoice::as_str as fn(_) -> _);
        let configured = match endpoint {
            Some(Endpoint::Http(http)) => &http.headers[..],
            Some(Endpoint::Stdio(_)) | None => &[],
        };
        let mut pinned_tools = Vec::new();
        let state = check.word("state", input.state.as_ref(), states, StateChoice::Unknown);
        for (pattern, mode) in &input.tools {
            let pinned = |word: &str| match word {
                "pinned" => Ok(pattern.clone()),
                _ => Err(format!("{word:?} is unknown; a tool can only be \"pinned\"")),
            };
            pinned_tools.extend(check.parsed(&format!("tools.{pattern}"), Some(mode), pinned));
        }
        Sharing {
            state,
            reset_on_release: input.reset_on_release.unwrap_or(false),
            pinned_tools,
            profiles: self.profiles.clone(),
            forward_headers: headers::forwarded(check, &input.forward_headers, configured),
        }
    }
}

fn http_endpoint(check: &mut Check, input: &BackendInput, folder: Option<&Path>) -> Option<Endpoint> {
    let url = check.parsed("url", input.url.as_ref(), parse_url);
    let headers = headers::configured(check, &input.headers);
    let ca_file = folder.zip(input.local.ca_file.as_ref());
    let ca_pem = ca_file.and_then(|(folder, path)| {
        check.parsed("tls.ca_file", Some(path), |path| {
            let pem =
                std::fs::read(folder.join(path)).map_err(|why| format!("cannot read {path:?}: {why}"))?;
            // An empty CA file would be accepted, and nothing trusted.
            let has_one = pem.windows(CERTIFICATE.len()).any(|part| part == CERTIFICATE);
            if has_one { Ok(pem) } else { Err(format!("{path:?} holds no PEM certificate")) }
        })
    });
    let era = era(check, input);
    Some(Endpoint::Http(HttpEndpoint { headers, ca_pem, era, ..HttpEndpoint::new(url?) }))
}

fn transport_of(check: &mut Check, input: &BackendInput, is_process: bool) -> TransportChoice {
    let default = if is_process { TransportChoice::Stdio } else { TransportChoice::Auto };
    let transports =
        &[TransportChoice::Auto, TransportChoice::Sse, TransportChoice::Http, TransportChoice::Stdio];
    let transports = (&transports[..], TransportChoice::as_str as fn(_) -> _);
    let chosen = check.word("transport", input.transport.as_ref(), transports, default);
    match (chosen, is_process) {
        (TransportChoice::Sse | TransportChoice::Http, true) => {
            check.plain("transport", "a command is spoken to over stdio");
            default
        }
        (TransportChoice::Stdio, false) => {
            check.plain("transport", "\"stdio\" needs a command, not a URL");
            default
        }
        (TransportChoice::Auto, true) => default,
        (chosen, _) => chosen,
    }
}

/// Checks a backend name: `[a-z0-9][a-z0-9-]{0,62}`, and not reserved in URLs.
///
/// # Errors
/// The mistake, and what to write.
pub fn check_name(name: &str, reserved: &[&str]) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 63 || name.starts_with('-') || !name.chars().all(allowed) {
        return Err(format!(
            "{name:?} is not a name; write 1 to 63 of a-z, 0-9 and \"-\", beginning with a letter or digit"
        ));
    }
    if reserved.contains(&name) {
        return Err(format!("{name:?} is reserved; it has a meaning of its own in URLs"));
    }
    Ok(())
}

/// The reason why a command with arguments in it is refused, with the words to write instead.
#[must_use]
pub fn one_program(command: &str, args: &[String]) -> String {
    let mut words = command.split_whitespace().map(|word| format!("{word:?}"));
    let program = words.next().unwrap_or_default();
    let args = args.iter().map(|arg| format!("{arg:?}"));
    let args = words.chain(args).collect::<Vec<_>>().join(", ");
    format!("a command is one program, without its arguments; write command = {program}, args = [{args}]")
}

/// Parses an http or https URL without credentials. Errors do not quote it, as it may hold a secret.
///
/// # Errors
/// The mistake, and what to write.
pub fn parse_url(text: &str) -> Result<Url, String> {
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

fn times(check: &mut Check, input: &BackendInput, is_process: bool) -> Times {
    let default = if is_process { Times::of_process() } else { Times::default() };
    let mut time =
        |path, text: &Option<String>, default| check.duration(path, text.as_ref(), default, SHORTEST);
    Times {
        connect: time("connect_timeout", &input.connect_timeout, default.connect),
        handshake: time("handshake_timeout", &input.handshake_timeout, default.handshake),
        call_idle: time("call_timeout", &input.call_timeout, default.call_idle),
        queue: time("queue_timeout", &input.queue_timeout, default.queue),
        idle: time("idle_timeout", &input.idle_timeout, default.idle),
        pinned_idle: time("pinned_idle", &input.pinned_idle, default.pinned_idle),
        max_age: time("max_age", &input.max_age, default.max_age),
        probe_interval: time("probe_interval", &input.probe_interval, default.probe_interval),
        probe_timeout: time("probe_timeout", &input.probe_timeout, default.probe_timeout),
        cancel_grace: time("cancel_grace", &input.cancel_grace, default.cancel_grace),
        drain: time("drain_timeout", &input.drain_timeout, default.drain),
        first_open: time("first_open_timeout", &input.first_open_timeout, default.first_open),
    }
}

fn limits(check: &mut Check, input: &BackendInput, is_process: bool) -> Limits {
    let default = if is_process { Limits::of_process() } else { Limits::default() };
    let mut count =
        |path, number: &Option<_>, default, least| check.count(path, number.as_ref(), default, least..=MOST);
    let max_sessions = count("max_sessions", &input.max_sessions, default.max_sessions, 1);
    let shared_sessions =
        count("shared_sessions", &input.shared_sessions, default.shared_sessions.min(max_sessions), 1);
    let min_idle = count("min_idle", &input.min_idle, default.min_idle, 0);
    let calls_per_session =
        count("calls_per_session", &input.calls_per_session, default.calls_per_session, 1);
    let max_creating = count("max_creating", &input.max_creating, default.max_creating, 1);
    let queue = count("queue", &input.queue, default.queue, 1);
    let mut size =
        |path, number: &Option<_>, default| check.size(path, number.as_ref(), default, 1 << 10..=1 << 30);
    let limits = Limits {
        max_sessions,
        shared_sessions,
        calls_per_session,
        min_idle,
        max_creating,
        queue,
        queue_bytes: size("queue_bytes", &input.queue_bytes, default.queue_bytes),
        max_message: size("max_message", &input.max_message, default.max_message),
        serial_writes: check.word(
            "serialize_writes",
            input.serialize_writes.as_ref(),
            (&[SerialWrites::Auto, SerialWrites::On, SerialWrites::Off], SerialWrites::as_str),
            default.serial_writes,
        ),
    };
    if shared_sessions > max_sessions {
        let reason = format!("{shared_sessions} is more than max_sessions, {max_sessions}");
        check.plain("shared_sessions", reason);
    }
    if min_idle > shared_sessions {
        check.plain("min_idle", format!("{min_idle} is more than shared_sessions, {shared_sessions}"));
    }
    limits
}

fn breaker(
    check: &mut Check,
    input: &BreakerInput,
    times: &Times,
    limits: &Limits,
) -> mcpool_breaker::Settings {
    let default = mcpool_breaker::Settings::default();
    let count = |check: &mut Check, path, number: &Option<_>, default: u32| {
        let count = check.count(path, number.as_ref(), default as usize, 1..=MOST);
        u32::try_from(count).unwrap_or(u32::MAX)
    };
    let time = |check: &mut Check, path, text: &Option<String>, default, least| {
        check.duration(path, text.as_ref(), default, least)
    };
    let (threshold, recovery) = (&input.failure_threshold, &input.recovery_timeout);
    mcpool_breaker::Settings {
        failure_threshold: count(check, "breaker.failure_threshold", threshold, default.failure_threshold),
        recovery_timeout: time(
            check,
            "breaker.recovery_timeout",
            recovery,
            default.recovery_timeout,
            SHORTEST,
        ),
        recovery_growth: count(
            check,
            "breaker.recovery_growth",
            &input.recovery_growth,
            default.recovery_growth,
        ),
        early_probe: input.early_probe.unwrap_or(default.early_probe),
        hold: time(check, "breaker.hold", &input.hold, default.hold, Duration::ZERO),
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

fn retry(check: &mut Check, input: &RetryInput) -> RetrySettings {
    let default = RetrySettings::default();
    let attempts = check.count("retry.attempts", input.attempts.as_ref(), default.attempts as usize, 1..=100);
    let base = check.duration("retry.base", input.base.as_ref(), default.base, SHORTEST);
    let cap = check.duration("retry.cap", input.cap.as_ref(), default.cap, SHORTEST);
    if cap < base {
        check.plain("retry.cap", "shorter than base");
    }
    let budget = check.parsed("retry.budget", input.budget.as_ref(), parse_percent);
    let attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
    RetrySettings { attempts, base, cap, budget: budget.unwrap_or(default.budget) }
}

/// The protocol era. HTTP+SSE exists in the legacy era only.
fn era(check: &mut Check, input: &BackendInput) -> EraChoice {
    let eras =
        (&[EraChoice::Auto, EraChoice::Legacy, EraChoice::Modern][..], EraChoice::as_str as fn(_) -> _);
    let chosen = check.word("era", input.era.as_ref(), eras, EraChoice::default());
    if chosen == EraChoice::Modern && input.transport.as_deref() == Some("sse") {
        check.plain("era", "HTTP+SSE is spoken in the legacy era only");
        return EraChoice::default();
    }
    chosen
}

/// Shortest allowed duration: zero would disable a required timeout, or spin.
const SHORTEST: Duration = Duration::from_millis(1);
const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";
/// Upper bound for counts: more than sensible, and far from overflow.
const MOST: usize = 1_000_000;
