//! The configuration: turns the file as written (`raw`) into a validated [`Config`].
//!
//! Precedence: command line, environment, file, defaults. The inner crates get plain structs and know no files.
//! `config/mcpool.toml` lists every key; a test compares it with this code.

mod backend;
mod check;
mod document;
mod front;
mod masked;
mod memory;
mod overrides;
mod problem;
mod profiles;
mod raw;
mod restart_only;
mod secret;
mod sessions;
mod variables;

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hasher as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mcpool_front::{FrontConfig, FrontTimes, Unauthenticated, check_allowed_host, check_allowed_origin};
use mcpool_upstream::{ModeChoice, Origin, Profile};
use mcpool_wire::BackendId;
use toml::Spanned;
use url::Url;

use self::{
    check::{Checker, Environment},
    overrides::level,
    raw::RawConfig,
};
pub(crate) use self::{
    masked::{masked_text, reached_at},
    sessions::keys_of,
};
pub use self::{
    overrides::{BackendFlag, LogConfig, LogFormat, Overrides},
    problem::{Place, Problem, Problems},
    secret::Secret,
    sessions::SessionSettings,
};
use mcpool_router::settings::{BackendSettings, rules::Rules};
pub(crate) use mcpool_router::settings::{
    rules::parse_url,
    value::{parse_duration, show_duration},
};

/// The default file, used if it exists and neither a file nor a backend is given.
pub const DEFAULT_FILE: &str = "config/mcpool.toml";

/// The validated configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The source file.
    pub file: Option<PathBuf>,
    /// The address for agents. Default `127.0.0.1:8800`.
    pub listen: SocketAddr,
    /// The address for operators. Default `127.0.0.1:8801`.
    pub admin_listen: SocketAddr,
    /// The token required under `/api`, if any.
    pub admin_token: Option<Secret>,
    /// The mode of backends without one. Default `auto`.
    pub default_mode: ModeChoice,
    /// The backend behind `/mcp` and `/sse` if there are several.
    pub default_backend: Option<Arc<str>>,
    /// The agent listener.
    pub front: FrontConfig,
    /// Keys that seal agent session ids, and the state folder.
    pub sessions: SessionSettings,
    /// Log settings.
    pub log: LogConfig,
    /// True to reload when the file changes. Default true.
    pub watch: bool,
    /// Time during which agents are still served after a shutdown request. Default 0 s.
    pub delay: Duration,
    /// Maximum duration of the shutdown after that. Default 30 s.
    pub grace: Duration,
    /// Known servers beside the built-in ones.
    pub profiles: Vec<Profile>,
    /// The backends, by name.
    pub backends: Vec<BackendSettings>,
    /// CA files by backend, as written.
    pub ca_files: BTreeMap<Arc<str>, String>,
    /// Program arguments by backend, as written: expanded variables may be secret.
    pub args: BTreeMap<Arc<str>, Vec<String>>,
    /// Environment variables used in the file, and whether they are set.
    pub variables: BTreeMap<String, bool>,
    /// Number of this configuration in the process, from 1.
    pub generation: u32,
    /// Hash of the file, to detect changes.
    pub fingerprint: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            file: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 8800)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 8801)),
            admin_token: None,
            default_mode: ModeChoice::Auto,
            default_backend: None,
            front: FrontConfig { limits: front::default_limits(), ..FrontConfig::default() },
            sessions: SessionSettings::default(),
            log: LogConfig { format: LogFormat::Text, level: "info".to_owned() },
            watch: true,
            delay: Duration::ZERO,
            grace: FrontTimes::default().drain,
            profiles: Vec::new(),
            backends: Vec::new(),
            ca_files: BTreeMap::new(),
            args: BTreeMap::new(),
            variables: BTreeMap::new(),
            generation: 1,
            fingerprint: None,
        }
    }
}

impl Config {
    /// Loads the configuration file (see [`DEFAULT_FILE`]) and applies the overrides.
    ///
    /// # Errors
    /// All problems, with file and line.
    pub fn load(named: Option<&Path>, overrides: Overrides) -> Result<Self, Problems> {
        let default = Path::new(DEFAULT_FILE);
        let file = match named {
            None if overrides.backends.is_empty() && default.is_file() => Some(default),
            named => named,
        };
        let mut config = match file {
            Some(path) => Self::read(path)?,
            None => Self::default(),
        };
        config.apply(overrides)?;
        if config.backends.is_empty()
            && let Some(path) = named
        {
            let reason = "no backend is configured: write a table [backends.NAME] with a url or a command (in \
                          config/mcpool.toml each is a comment), or give --backend NAME=URL; without a file the demo \
                          server starts";
            return Err(at(&path.display().to_string(), None, reason.to_owned()));
        }
        config.guard_admin()?;
        Ok(config)
    }

    fn read(path: &Path) -> Result<Self, Problems> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|why| at(&name, None, format!("cannot read the configuration: {why}")))?;
        let environment = |name: &str| std::env::var(name).ok();
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut config = Self::parse(&name, &text, folder, &environment)?;
        config.file = Some(path.to_owned());
        config.fingerprint = Some(fingerprint(text.as_bytes()));
        Ok(config)
    }

    /// Parses the text of a file. Paths in it are relative to `folder`.
    ///
    /// # Errors
    /// All problems, with file and line.
    pub fn parse(
        file: &str,
        text: &str,
        folder: &Path,
        environment: Environment<'_>,
    ) -> Result<Self, Problems> {
        let mut checker = Checker::new(file, text, environment);
        let config = document::read(&mut checker, text).map(|raw| Self::check(&mut checker, &raw, folder));
        let mut problems = checker.problems;
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => {
                problems.sort_by_key(Problem::line);
                Err(Problems(problems))
            }
        }
    }

    fn check(checker: &mut Checker<'_>, raw: &RawConfig, folder: &Path) -> Self {
        let default = Self::default();
        let modes = &[ModeChoice::Auto, ModeChoice::Shared, ModeChoice::Exclusive, ModeChoice::Pinned];
        let modes = (&modes[..], ModeChoice::as_str as fn(_) -> _);
        let default_mode = checker.word("default_mode", &raw.default_mode, modes, ModeChoice::Auto);
        let config = Self {
            file: None,
            listen: checker.address("listen", &raw.listen, default.listen),
            admin_listen: checker.address("admin_listen", &raw.admin_listen, default.admin_listen),
            admin_token: checker.parsed("admin_token", &raw.admin_token, secret),
            default_mode,
            default_backend: None,
            front: FrontConfig {
                allowed_hosts: names(checker, "allowed_hosts", &raw.allowed_hosts, check_allowed_host),
                allowed_origins: names(
                    checker,
                    "allowed_origins",
                    &raw.allowed_origins,
                    check_allowed_origin,
                ),
                unauthenticated: checker.word(
                    "unauthenticated",
                    &raw.unauthenticated,
                    (&[Unauthenticated::Loopback, Unauthenticated::Allow], Unauthenticated::as_str),
                    Unauthenticated::Loopback,
                ),
                forward_headers: Vec::new(),
                limits: front::limits(checker, &raw.limits),
                times: front::times(checker, &raw.times),
                ..default.front
            },
            sessions: sessions::read(checker, &raw.sessions, folder),
            log: LogConfig {
                format: checker.word(
                    "log.format",
                    &raw.log.format,
                    (&[LogFormat::Text, LogFormat::Json], LogFormat::as_str),
                    default.log.format,
                ),
                level: checker.parsed("log.level", &raw.log.level, level).unwrap_or(default.log.level),
            },
            profiles: profiles::read(checker, &raw.profiles),
            watch: Checker::switch(&raw.watch, default.watch),
            delay: checker.duration("shutdown.delay", &raw.shutdown.delay, default.delay, Duration::ZERO),
            grace: checker.duration("shutdown.grace", &raw.shutdown.grace, default.grace, Duration::ZERO),
            ..Self::default()
        };
        config.with_backends(checker, raw, folder)
    }

    fn with_backends(mut self, checker: &mut Checker<'_>, raw: &RawConfig, folder: &Path) -> Self {
        let profiles = profiles::with_built_in(&self.profiles);
        let rules = rules(self.default_mode, &profiles, Some(folder));
        for (id, (name, raw)) in (0..).zip(&raw.backends) {
            let mut settings = backend::read(checker, name, raw, &rules);
            settings.iter_mut().for_each(|one| one.spec.id = BackendId(id));
            self.backends.extend(settings);
            if let Some(path) = &raw.tls.ca_file {
                self.ca_files.insert(name.get_ref().as_str().into(), path.get_ref().clone());
            }
            if !raw.args.is_empty() {
                let args = raw.args.iter().map(|arg| arg.get_ref().clone()).collect();
                self.args.insert(name.get_ref().as_str().into(), args);
            }
        }
        checker.section("");
        self.default_backend = checker.parsed("default_backend", &raw.default_backend, |wanted| {
            let known = raw.backends.keys().any(|name| name.get_ref() == wanted);
            let names = raw.backends.keys().map(Spanned::get_ref).cloned().collect::<Vec<_>>().join(", ");
            match (known, raw.backends.is_empty()) {
                (true, _) => Ok(wanted.into()),
                (false, false) => Err(format!("no backend is named {wanted:?}; there are: {names}")),
                (false, true) => Err(format!("no backend is named {wanted:?}; there is none")),
            }
        });
        self.front.times.drain = self.grace;
        let forwarded = self.backends.iter().flat_map(|one| &one.spec.sharing.forward_headers);
        self.front.forward_headers = forwarded.cloned().collect();
        self.variables = std::mem::take(&mut checker.variables);
        self
    }

    /// A backend with only name and URL configured.
    #[must_use]
    pub fn backend_at(name: &str, url: Url) -> BackendSettings {
        Self::default().plain(name, url, Origin::Cli)
    }

    fn plain(&self, name: &str, url: Url, origin: Origin) -> BackendSettings {
        let profiles = profiles::with_built_in(&self.profiles);
        rules(self.default_mode, &profiles, None).plain(name, url, origin)
    }

    /// Rejects a non-loopback admin listener without a token, unless `unauthenticated = "allow"`: admin actions can
    /// stop every backend.
    fn guard_admin(&self) -> Result<(), Problems> {
        let is_open = !self.admin_listen.ip().is_loopback() && self.admin_token.is_none();
        if !is_open || self.front.unauthenticated == Unauthenticated::Allow {
            return Ok(());
        }
        let reason = format!(
            "{} can be reached from other machines, so operators must authenticate: set admin_token, or \
             unauthenticated = \"allow\"",
            self.admin_listen
        );
        Err(Problems::of_flag("admin_listen", reason))
    }

    /// Adds the demo backend at this address, for a gateway without configured backends.
    pub fn serve_demo(&mut self, url: Url) {
        self.backends.push(self.plain("demo", url, Origin::Demo));
    }
}

/// The rules of a backend, for this gateway.
fn rules<'r>(default_mode: ModeChoice, profiles: &'r Arc<[Profile]>, folder: Option<&'r Path>) -> Rules<'r> {
    Rules { reserved: mcpool_front::RESERVED, default_mode, profiles, folder }
}

/// Checks the name of a backend.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    mcpool_router::settings::rules::check_name(name, mcpool_front::RESERVED)
}

/// The valid strings of a list; the others are problems.
fn names(
    checker: &mut Checker<'_>,
    key: &str,
    raw: &[Spanned<String>],
    check: fn(&str) -> Result<(), &'static str>,
) -> Vec<String> {
    let mut good = Vec::new();
    for one in raw {
        let Some(value) = checker.string(key, one) else { continue };
        match check(&value) {
            Ok(()) => good.push(value),
            Err(why) => checker.problem(
                key,
                Some(&one.span()),
                format!("{:?} cannot be allowed: {why}", one.get_ref()),
            ),
        }
    }
    good
}

/// Parses a token; short ones could be guessed.
fn secret(text: &str) -> Result<Secret, String> {
    let is_plain = text.chars().all(|c| c.is_ascii_graphic());
    if text.len() < 6 || !is_plain {
        return Err("must be at least 6 printable ASCII characters without spaces".to_owned());
    }
    Ok(Secret::new(text))
}

/// A hash that detects a changed file.
pub(crate) fn fingerprint(text: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(text);
    hasher.finish()
}

fn at(file: &str, line: Option<usize>, reason: String) -> Problems {
    let place = Place::File { file: file.to_owned(), line };
    Problems(vec![Problem { place, key: String::new(), reason }])
}

#[cfg(test)]
mod tests;
