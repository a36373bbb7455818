//! The rules in their order, patterns, and what counts as a sign.

use std::{collections::BTreeMap, sync::Mutex as StdMutex};

use mcpool_wire::{BackendId, Revision};
use serde_json::json;

use super::*;
use crate::{
    config::{
        Endpoint, HttpEndpoint, Limits, Origin, Sharing, StdioEndpoint, Times, TransportChoice, matches,
    },
    observe::{Observe, Source},
};

#[derive(Default)]
struct Seen(StdMutex<Vec<String>>);

impl Observe for Seen {
    fn on(&self, _: &Source, event: Event<'_>) {
        let line = match event {
            Event::ModeChosen { mode, reason } => format!("{} by {}", mode.as_str(), reason.as_str()),
            Event::Demoted { evidence, .. } => format!("demoted by {}", evidence.as_str()),
            other => format!("{other:?}"),
        };
        self.0.lock().unwrap().push(line);
    }
}

fn spec(mode: ModeChoice, sharing: Sharing) -> Arc<BackendSpec> {
    Arc::new(BackendSpec {
        id: BackendId(0),
        name: "b".into(),
        durable_id: None,
        origin: Origin::File,
        generation: 1,
        endpoint: Endpoint::Http(HttpEndpoint::new("http://b/".parse().unwrap())),
        transport: TransportChoice::Auto,
        mode,
        sharing,
        fan_out_logs: false,
        times: Times::default(),
        limits: Limits::default(),
    })
}

fn policy(mode: ModeChoice, sharing: Sharing) -> (SharingPolicy, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let reporter = Reporter::new(Source { id: BackendId(0), name: "b".into() }, seen.clone());
    (SharingPolicy::new(spec(mode, sharing), reporter), seen)
}

fn server(name: &str) -> ServerFacts {
    ServerFacts {
        name: name.to_owned(),
        version: "2.1".to_owned(),
        has_session: true,
        kind: TransportKind::Http,
        era: Era::Legacy,
        has_pinned_tool: false,
    }
}

fn of(policy: &SharingPolicy, interactive: bool) -> (&'static str, &'static str) {
    let decision = policy.decide(interactive).expect("decided");
    (decision.mode.as_str(), decision.reason.as_str())
}

#[test]
fn the_operator_comes_first_and_needs_no_server() {
    for (choice, word) in
        [(ModeChoice::Shared, "shared"), (ModeChoice::Exclusive, "exclusive"), (ModeChoice::Pinned, "pinned")]
    {
        let (policy, _) = policy(choice, Sharing::default());
        for interactive in [false, true] {
            assert_eq!(of(&policy, interactive), (word, "configured"));
        }
        policy.learn(ServerFacts { has_session: false, ..server("x") });
        assert_eq!(of(&policy, false), (word, "configured"));
    }
}

#[test]
fn nothing_is_decided_about_a_server_nobody_has_met() {
    let (policy, seen) = policy(ModeChoice::Auto, Sharing::default());
    assert_eq!((policy.decide(false), policy.decide(true)), (None, None));
    policy.learn(server("x"));
    assert_eq!(of(&policy, false), ("shared", "probation"));
    assert_eq!(of(&policy, true), ("pinned", "interactive"));
    policy.learn(server("x"));
    assert_eq!(*seen.0.lock().unwrap(), ["shared by probation"], "said once");
}

#[test]
fn a_server_without_sessions_keeps_nothing() {
    let (policy, _) = policy(ModeChoice::Auto, Sharing::default());
    policy.learn(ServerFacts { has_session: false, ..server("x") });
    assert_eq!(of(&policy, false), ("stateless", "no_session"));
    assert_eq!(of(&policy, true), ("stateless", "no_session"));
}

/// How an agent of this revision that can be asked things, or cannot, uses sessions.
fn used(policy: &SharingPolicy, revision: Revision, interactive: bool) -> Option<SessionUse> {
    let capabilities = if interactive { json!({ "elicitation": {} }) } else { json!({}) };
    policy.session_use(&ClientHello { revision, capabilities, ..ClientHello::neutral() }, false)
}

#[test]
fn an_agent_without_a_session_finds_nothing_that_was_left() {
    let modern = |policy: &SharingPolicy, interactive| used(policy, Revision::V2026_07_28, interactive);
    let (policy, _) = policy(ModeChoice::Auto, Sharing::default());
    assert_eq!(modern(&policy, false), None, "nobody met the server");
    policy.learn(server("x"));
    assert_eq!(used(&policy, Revision::V2025_11_25, true), Some(SessionUse::Usual(Mode::Pinned)));
    assert_eq!(modern(&policy, true), Some(SessionUse::Fresh));
    assert_eq!(modern(&policy, false), Some(SessionUse::Usual(Mode::Shared)));
    policy.demote(Evidence::ServerRequest, "why", Instant::now());
    assert_eq!(modern(&policy, false), Some(SessionUse::Fresh), "what was seen still holds");
}

#[test]
fn what_the_operator_says_holds_for_agents_without_a_session() {
    let modern = |policy: &SharingPolicy, interactive| used(policy, Revision::V2026_07_28, interactive);
    let (pinned, _) = policy(ModeChoice::Pinned, Sharing::default());
    assert_eq!(modern(&pinned, false), None, "its era is not known");
    pinned.learn(server("x"));
    assert_eq!(modern(&pinned, false), Some(SessionUse::Fresh));
    let named = ClientHello { revision: Revision::V2026_07_28, ..ClientHello::neutral() };
    assert_eq!(
        pinned.session_use(&named, true),
        Some(SessionUse::Usual(Mode::Pinned)),
        "it says which agent it is"
    );
    let none = Sharing { state: StateChoice::None, ..Sharing::default() };
    let (stateless, _) = policy(ModeChoice::Auto, none);
    stateless.learn(server("x"));
    assert_eq!(modern(&stateless, true), Some(SessionUse::Usual(Mode::Exclusive)));
    assert_eq!(modern(&stateless, false), Some(SessionUse::Usual(Mode::Shared)));
}

#[test]
fn a_server_without_handshake_pins_nobody() {
    let (policy, _) = policy(ModeChoice::Auto, Sharing::default());
    assert_eq!(policy.era(), None);
    policy.learn(ServerFacts { has_session: false, era: Era::Modern, ..server("x") });
    assert_eq!(policy.era(), Some(Era::Modern));
    for revision in [Revision::V2025_11_25, Revision::V2026_07_28] {
        assert_eq!(used(&policy, revision, true), Some(SessionUse::Usual(Mode::Stateless)));
    }
}

#[test]
fn a_named_tool_pins_even_where_the_mode_is_set() {
    let sharing = Sharing { pinned_tools: vec!["browser_*".to_owned()], ..Sharing::default() };
    let (policy, _) = policy(ModeChoice::Shared, sharing);
    assert_eq!(policy.decide(false), None, "which tools it has is not known yet");
    policy.learn(server("x"));
    assert_eq!(of(&policy, false), ("shared", "configured"));
    policy.learn(ServerFacts { has_pinned_tool: true, ..server("x") });
    assert_eq!(of(&policy, false), ("pinned", "tool"));
}

#[test]
fn the_first_profile_that_fits_counts() {
    let profile = |server: &str, version: &str, mode| Profile {
        server: server.to_owned(),
        version: version.to_owned(),
        mode,
        shared_sessions: Some(1),
        serialize_writes: None,
    };
    let profiles = [
        profile("mem*", "1.*", Mode::Exclusive),
        profile("mem*", "*", Mode::Shared),
        profile("memory", "*", Mode::Pinned),
    ];
    let (policy, _) = policy(ModeChoice::Auto, Sharing { profiles: profiles.into(), ..Sharing::default() });
    policy.learn(server("memory"));
    assert_eq!(of(&policy, false), ("shared", "profile"));
    assert_eq!(of(&policy, true), ("shared", "profile"));
    assert_eq!(policy.profile().and_then(|profile| profile.shared_sessions), Some(1));
    policy.demote(Evidence::ServerRequest, "a sign", Instant::now());
    assert_eq!(of(&policy, false), ("shared", "profile"), "what is known is not on probation");
}

#[test]
fn a_profile_fits_a_name_in_upper_or_lower_case() {
    let profile = Profile {
        server: "*browser*".to_owned(),
        version: "*".to_owned(),
        mode: Mode::Pinned,
        shared_sessions: None,
        serialize_writes: None,
    };
    let (policy, _) = policy(ModeChoice::Auto, Sharing { profiles: [profile].into(), ..Sharing::default() });
    let answer = json!({ "jsonrpc": "2.0", "id": 1, "result": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": { "name": "Browser MCP", "version": "1" },
    } });
    let hello = ServerHello::parse(answer.to_string().as_bytes()).unwrap();
    policy.learn(ServerFacts::of(&hello, true, TransportKind::Http, false));
    assert_eq!(of(&policy, false), ("pinned", "profile"));
}

#[test]
fn a_declared_stateless_server_lends_itself_to_one_agent_after_the_other() {
    let sharing = Sharing { state: StateChoice::None, ..Sharing::default() };
    let (policy, _) = policy(ModeChoice::Auto, sharing);
    policy.learn(server("x"));
    assert_eq!(of(&policy, false), ("shared", "state_none"));
    assert_eq!(of(&policy, true), ("exclusive", "state_none"));
    // On one pipe for all there is no telling whose call a question belongs to.
    policy.learn(ServerFacts { kind: TransportKind::Sse, ..server("x") });
    assert_eq!(of(&policy, true), ("pinned", "interactive"));
}

#[test]
fn a_sign_ends_the_probation_once_and_for_new_agents() {
    let (policy, seen) = policy(ModeChoice::Auto, Sharing::default());
    policy.demote(Evidence::ServerRequest, "too early to mean anything", Instant::now());
    policy.learn(server("x"));
    assert_eq!(of(&policy, false), ("shared", "probation"));
    policy.demote(Evidence::ListsDiffer, "they differ", Instant::now());
    policy.demote(Evidence::ServerRequest, "again", Instant::now());
    assert_eq!(of(&policy, false), ("pinned", "demoted"));
    assert_eq!(policy.demotion().expect("demoted").why, "they differ");
    assert_eq!(*seen.0.lock().unwrap(), ["shared by probation", "demoted by lists_differ"]);
}

#[test]
fn a_change_of_one_session_right_after_its_call_is_a_sign() {
    let (policy, _) = policy(ModeChoice::Auto, Sharing::default());
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let list = Method::ToolsListChanged;
    // Not after a call, or long after it.
    policy.list_changed(1, 10, &list, None, at(0));
    policy.list_changed(1, 10, &list, Some(at(0)), at(3_000));
    assert_eq!(policy.judge_changes(at(9_000)), None);
    // After a call, but the sibling announces it too.
    policy.list_changed(1, 10, &list, Some(at(20_000)), at(20_100));
    policy.list_changed(1, 11, &list, None, at(20_300));
    assert_eq!(policy.judge_changes(at(21_000)), None);
    // After a call, and another pool's change is no answer to it.
    policy.list_changed(1, 10, &list, Some(at(40_000)), at(40_100));
    policy.list_changed(2, 12, &list, None, at(40_200));
    assert_eq!(policy.judge_changes(at(40_200)), None, "the siblings have a moment");
    let why = policy.judge_changes(at(41_000)).expect("a sign");
    assert!(why.contains("session 10"), "{why}");
    assert_eq!(policy.judge_changes(at(42_000)), None, "found once");
}

#[test]
fn changes_are_remembered_in_a_bounded_number() {
    let (policy, _) = policy(ModeChoice::Auto, Sharing::default());
    let now = Instant::now();
    for epoch in 0..10_000 {
        policy.list_changed(1, epoch, &Method::ToolsListChanged, None, now);
    }
    assert_eq!(policy.lock().changes.len(), MAX_CHANGES);
}

#[test]
fn the_page_on_modes_names_every_mode_reason_and_sign() {
    let page = include_str!("../../../../../config/MODES.md");
    let reasons = [
        ModeReason::Tool,
        ModeReason::Configured,
        ModeReason::NoSession,
        ModeReason::Profile,
        ModeReason::StateNone,
        ModeReason::Interactive,
        ModeReason::Probation,
        ModeReason::Demoted,
    ];
    let words = reasons.map(ModeReason::as_str).into_iter();
    let words = words.chain(Mode::ALL.map(Mode::as_str)).chain(Evidence::ALL.map(Evidence::as_str));
    for word in words {
        assert!(page.contains(&format!("`{word}`")), "{word} is not explained");
    }
}

#[test]
fn patterns_fit_whole_texts() {
    for (pattern, text, fits) in [
        ("memory", "memory", true),
        ("memory", "memory-server", false),
        ("*", "", true),
        ("mem*", "memory", true),
        ("*server", "memory-server", true),
        ("*server", "server-x", false),
        ("a*b*c", "a-b-b-c", true),
        ("a*b*c", "a-c-b", false),
        ("a*a", "a", false),
        ("**", "x", true),
        ("", "x", false),
    ] {
        assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
    }
    let long = "a".repeat(50_000);
    assert!(!matches(&"*a".repeat(1_000), &format!("{long}b")), "and in linear time");
}

#[test]
fn writes_take_turns_if_the_operator_the_profile_or_else_the_transport_says_so() {
    let known = |serialize_writes| Profile {
        server: "mem*".to_owned(),
        version: "*".to_owned(),
        mode: Mode::Shared,
        shared_sessions: None,
        serialize_writes,
    };
    for (choice, profile, expect) in [
        (SerialWrites::Auto, None, false),
        (SerialWrites::Auto, Some(true), true),
        (SerialWrites::Off, Some(true), false),
        (SerialWrites::On, Some(false), true),
    ] {
        let sharing = Sharing { profiles: [known(profile)].into(), ..Sharing::default() };
        let mut spec = BackendSpec::clone(&spec(ModeChoice::Auto, sharing));
        spec.limits.serial_writes = choice;
        let program = StdioEndpoint { command: "x".into(), args: vec![], env: BTreeMap::new(), cwd: None };
        let process = BackendSpec { endpoint: Endpoint::Stdio(program), ..spec.clone() };
        for (spec, expect) in
            [(spec, expect), (process, expect || (choice, profile) == (SerialWrites::Auto, None))]
        {
            let source = Source { id: BackendId(0), name: "b".into() };
            let policy = SharingPolicy::new(Arc::new(spec), Reporter::new(source, Arc::new(Seen::default())));
            policy.learn(server("memory"));
            assert_eq!(policy.writes_in_turn(), expect, "{choice:?} {profile:?}");
        }
    }
}

#[test]
fn a_program_nobody_knows_is_one_agents_own_and_one_that_is_known_or_declared_is_not() {
    let program = |name: &str| ServerFacts { kind: TransportKind::Stdio, ..server(name) };
    let (policy, seen) = policy(ModeChoice::Auto, Sharing::default());
    assert!(policy.pins(&program("x")) && !policy.keeps_spare());
    policy.learn(program("x"));
    assert_eq!(of(&policy, false), ("pinned", "program"));
    assert_eq!(of(&policy, true), ("pinned", "interactive"));
    assert!(policy.keeps_spare());
    assert_eq!(seen.0.lock().unwrap().as_slice(), ["pinned by program"]);
    let known = Profile {
        server: "x".to_owned(),
        version: "*".to_owned(),
        mode: Mode::Shared,
        shared_sessions: None,
        serialize_writes: None,
    };
    let sharing = Sharing { profiles: [known].into(), ..Sharing::default() };
    let declared = Sharing { state: StateChoice::None, ..Sharing::default() };
    for (mode, sharing) in
        [(ModeChoice::Auto, sharing), (ModeChoice::Auto, declared), (ModeChoice::Shared, Sharing::default())]
    {
        let (policy, _) = self::policy(mode, sharing);
        policy.learn(program("x"));
        assert_eq!(of(&policy, false).0, "shared");
        assert!(!policy.pins(&program("x")) && !policy.keeps_spare());
    }
}
