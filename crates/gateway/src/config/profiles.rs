//! Profiles of known servers: those of the file, and the built-in ones.

use std::sync::Arc;

use mcpool_upstream::{Mode, Profile};
use serde::Deserialize;
use toml::Spanned;

use super::{
    check::Checker,
    raw::{Amount, RawProfile, Switch},
};

/// Built-in profiles, as data.
const BUILT_IN: &str = include_str!("../profiles.toml");

/// The configured profiles; the built-in ones follow.
pub(super) fn read(checker: &mut Checker<'_>, raw: &[Spanned<RawProfile>]) -> Vec<Profile> {
    checker.section("profiles.");
    let profiles = raw.iter().filter_map(|one| profile(checker, one)).collect();
    checker.section("");
    profiles
}

/// The given profiles, then the built-in ones; the first match wins.
pub(super) fn with_built_in(own: &[Profile]) -> Arc<[Profile]> {
    own.iter().cloned().chain(built_in()).collect()
}

fn built_in() -> Vec<Profile> {
    let none = |_: &str| None;
    let mut checker = Checker::new("profiles.toml", BUILT_IN, &none);
    // Part of the program; a test parses it.
    let known: Vec<Spanned<RawProfile>> = built_in_rows().into_iter().map(BuiltIn::profile).collect();
    read(&mut checker, &known)
}

/// A built-in profile and its rationale.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BuiltIn {
    server: Spanned<String>,
    /// Real server names that the pattern matches.
    #[serde(default)]
    #[cfg_attr(not(test), expect(dead_code, reason = "checked by a test"))]
    names: Vec<String>,
    mode: Spanned<String>,
    shared_sessions: Amount,
    serialize_writes: Switch,
    /// The server's state. Documentation only.
    #[cfg_attr(not(test), expect(dead_code, reason = "for people, and checked by a test"))]
    state: String,
    /// The evidence.
    #[cfg_attr(not(test), expect(dead_code, reason = "for people, and checked by a test"))]
    seen: String,
}

impl BuiltIn {
    fn profile(self) -> Spanned<RawProfile> {
        let span = self.server.span();
        let Self { server, mode, shared_sessions, serialize_writes, .. } = self;
        let raw = RawProfile {
            server: Some(server),
            mode: Some(mode),
            shared_sessions,
            serialize_writes,
            ..RawProfile::default()
        };
        Spanned::new(span, raw)
    }
}

fn built_in_rows() -> Vec<BuiltIn> {
    #[derive(Deserialize)]
    struct File {
        profiles: Vec<BuiltIn>,
    }
    toml::from_str::<File>(BUILT_IN).map_or_else(|_| Vec::new(), |file| file.profiles)
}

fn profile(checker: &mut Checker<'_>, raw: &Spanned<RawProfile>) -> Option<Profile> {
    let span = raw.span();
    let raw = raw.get_ref();
    for (key, missing) in [("server", raw.server.is_none()), ("mode", raw.mode.is_none())] {
        if missing {
            checker.problem(key, Some(&span), "missing; a profile says the mode of a server of this name");
        }
    }
    let modes = (&[Mode::Shared, Mode::Exclusive, Mode::Pinned][..], Mode::as_str as fn(_) -> _);
    let any = |text: &str| if text.is_empty() { Err("empty".to_owned()) } else { Ok(text.to_owned()) };
    let server = checker.parsed("server", &raw.server, any);
    let version = checker.parsed("version", &raw.version, any);
    let mode = checker.word("mode", &raw.mode, modes, Mode::Pinned);
    let shared_sessions = raw
        .shared_sessions
        .is_some()
        .then(|| checker.count("shared_sessions", &raw.shared_sessions, 1, 1..=1_000_000));
    Some(Profile {
        server: server?.to_lowercase(),
        version: version.unwrap_or_else(|| "*".to_owned()),
        mode,
        shared_sessions,
        serialize_writes: raw.serialize_writes.as_ref().map(|on| *on.get_ref()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_profile_is_usable_and_says_why() {
        let built_in = built_in();
        assert_eq!(built_in.len(), BUILT_IN.matches("[[profiles]]").count());
        assert!(built_in.len() > 25);
        for (profile, row) in built_in.iter().zip(built_in_rows()) {
            let BuiltIn { names, state, seen, .. } = row;
            let server = &profile.server;
            assert!(server.replace('*', "").len() > 4, "{server} would match nearly anything");
            assert!(!state.is_empty(), "{server} does not say where its state is");
            let is_guess = seen.starts_with("A guess from the name");
            let says_how = is_guess || seen.starts_with("Ran ") || seen.starts_with("Only read: ");
            assert!(
                says_how && seen.ends_with('.'),
                "{server}: {seen:?} does not say how that was found out"
            );
            assert!(!is_guess || profile.mode == Mode::Pinned, "{server} is shared on a guess");
            let is_pattern = server.contains('*');
            assert!(!is_pattern || is_guess || !names.is_empty(), "{server} is for no real server");
            assert!(is_pattern || names.is_empty(), "{server} is a name and needs no others");
        }
    }

    #[test]
    fn each_known_server_fits_its_own_profile_alone() {
        let built_in = built_in();
        for (own, row) in built_in.iter().zip(built_in_rows()) {
            let exact = Some(row.server.into_inner()).filter(|server| !server.contains('*'));
            for name in row.names.into_iter().chain(exact) {
                let fits = |profile: &&Profile| profile.fits(&name.to_lowercase(), "1.30.0");
                assert_eq!(built_in.iter().filter(fits).collect::<Vec<_>>(), [own], "{name}");
            }
        }
    }

    #[test]
    fn a_profile_is_found_whatever_the_case_of_the_name() {
        let mode = |name: &str| {
            let known = built_in().into_iter().find(|profile| profile.fits(&name.to_lowercase(), "1"));
            known.map(|profile| profile.mode)
        };
        assert_eq!(mode("Browserbase MCP Server"), Some(Mode::Pinned));
        assert_eq!(mode("PostgreSQL tools"), Some(Mode::Pinned));
        assert_eq!(mode("Context7"), Some(Mode::Shared));
        assert_eq!(mode("a server of ours"), None);
    }
}
