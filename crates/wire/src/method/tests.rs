//! The method table: names, labels, scope, safe repetition.

use std::collections::HashSet;

use super::*;

#[test]
fn every_known_method_survives_the_round_trip() {
    for (name, method) in NAMES {
        assert_eq!(&Method::parse(name), method);
        assert_eq!(method.as_str(), *name);
        assert_eq!(method.label(), *name);
    }
    let distinct: HashSet<_> = NAMES.iter().map(|(name, _)| name).collect();
    assert_eq!(distinct.len(), NAMES.len());
}

#[test]
fn names_are_compared_exactly() {
    for name in ["", "Tools/call", "tools/call ", "tools", "vendor/thing", "other"] {
        let method = Method::parse(name);
        assert_eq!(method, Method::Other(name.into()));
        assert_eq!(method.as_str(), name);
        assert_eq!(method.label(), "other");
    }
}

#[test]
fn the_labels_are_all_there_is() {
    let labels: HashSet<_> = Method::labels().collect();
    assert_eq!(labels.len(), NAMES.len() + 1);
    for name in ["tools/call", "ping", "notifications/progress", "anything else"] {
        assert!(labels.contains(Method::parse(name).label()));
    }
}

#[test]
fn what_a_shared_session_cannot_carry_is_not_per_call() {
    for (name, scope) in [
        ("tools/call", Scope::PerCall),
        ("resources/read", Scope::PerCall),
        ("notifications/cancelled", Scope::PerCall),
        ("notifications/progress", Scope::PerCall),
        ("initialize", Scope::PerSession),
        ("notifications/initialized", Scope::PerSession),
        ("ping", Scope::PerSession),
        ("notifications/tools/list_changed", Scope::PerSession),
        ("logging/setLevel", Scope::PerAgent),
        ("resources/subscribe", Scope::PerAgent),
        ("notifications/roots/list_changed", Scope::PerAgent),
        ("sampling/createMessage", Scope::PerAgent),
        ("elicitation/create", Scope::PerAgent),
        ("roots/list", Scope::PerAgent),
        ("vendor/thing", Scope::PerAgent),
    ] {
        assert_eq!(Method::parse(name).scope(), scope, "{name}");
    }
}

#[test]
fn exactly_the_listed_requests_may_be_repeated() {
    let safe: Vec<&str> = Method::labels().filter(|name| Method::parse(name).is_safe()).collect();
    assert_eq!(
        safe,
        [
            "ping",
            "tools/list",
            "prompts/list",
            "prompts/get",
            "resources/list",
            "resources/templates/list",
            "resources/read",
            "resources/subscribe",
            "resources/unsubscribe",
            "completion/complete",
            "logging/setLevel",
            "tasks/get",
            "tasks/result",
            "tasks/list",
            "tasks/cancel",
            "server/discover",
            "subscriptions/listen",
        ]
    );
}
