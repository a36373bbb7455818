//! `[sessions]`: keys that seal agent session ids, and the folder for state that outlives a restart.

use std::path::{Path, PathBuf, absolute};

use mcpool_front::SessionKey;
use toml::Spanned;

use super::{Config, check::Checker, raw::RawSessions};

/// Keys that seal agent session ids, and the state folder.
#[derive(Clone, Debug, Default)]
pub struct SessionSettings {
    /// Keys written in the configuration.
    pub keys: Vec<SessionKey>,
    /// The key file as named, with its keys.
    pub key_file: Option<(String, Vec<SessionKey>)>,
    /// The configured state folder.
    pub state_dir: Option<PathBuf>,
}

impl SessionSettings {
    /// All configured keys; the first one seals.
    #[must_use]
    pub fn configured(&self) -> Vec<SessionKey> {
        let from_file = self.key_file.iter().flat_map(|(_, keys)| keys);
        self.keys.iter().chain(from_file).cloned().collect()
    }
}

impl Config {
    /// The state folder: the configured one, or one per listen address in the user's state folder. `None` if there is
    /// no such folder, or the port is random.
    #[must_use]
    pub fn state_dir(&self) -> Option<PathBuf> {
        if self.sessions.state_dir.is_some() {
            return self.sessions.state_dir.clone();
        }
        // Separate per listener: two gateways on one machine must not accept each other's ids.
        let own = self.listen.to_string().replace(['[', ']'], "").replace(':', "-");
        (self.listen.port() != 0).then(|| Some(users_state()?.join("mcpool").join(own)))?
    }
}

/// The user's state folder (XDG).
fn users_state() -> Option<PathBuf> {
    let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")))
}

/// Parses a key file: one key per line; empty lines and comments are skipped.
///
/// # Errors
/// The mistake, without quoting a key.
pub(crate) fn keys_of(text: &str) -> Result<Vec<SessionKey>, String> {
    let lines = text.lines().zip(1..).map(|(line, number)| (line.trim(), number));
    let keys = lines
        .filter(|(line, _)| !line.is_empty() && !line.starts_with('#'))
        .map(|(line, number)| SessionKey::parse(line).map_err(|why| format!("line {number} is {why}")));
    let keys = keys.collect::<Result<Vec<_>, _>>()?;
    if keys.is_empty() { Err("there is no key in it".to_owned()) } else { Ok(keys) }
}

pub(super) fn read(checker: &mut Checker<'_>, raw: &RawSessions, folder: &Path) -> SessionSettings {
    checker.section("sessions.");
    let keys = raw.keys.iter().filter_map(|key: &Spanned<String>| {
        let text = checker.string("keys", key)?;
        SessionKey::parse(&text).map_err(|why| checker.problem("keys", Some(&key.span()), why)).ok()
    });
    let keys = keys.collect();
    let key_file = checker.parsed("key_file", &raw.key_file, |path| {
        let text = std::fs::read_to_string(folder.join(path))
            .map_err(|why| format!("cannot read {path:?}: {why}"))?;
        Ok((path.to_owned(), keys_of(&text).map_err(|why| format!("{path:?}: {why}"))?))
    });
    let state_dir = checker.parsed("state_dir", &raw.state_dir, |path| match path {
        "" => Ok(None),
        path => absolute(folder.join(path)).map(Some).map_err(|why| format!("{path:?} is not a path: {why}")),
    });
    checker.section("");
    SessionSettings { keys, key_file, state_dir: state_dir.flatten() }
}
