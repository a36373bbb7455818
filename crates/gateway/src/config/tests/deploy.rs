//! The shipped Kubernetes and systemd files contain valid configurations, with enough time to shut down.

use std::time::Duration;

use super::{file::read, *};

const MANIFESTS: &str = include_str!("../../../../../config/kubernetes/mcpool.yaml");
const UNIT: &str = include_str!("../../../../../config/systemd/mcpool.service");

/// The file in the ConfigMap, without its indentation.
fn mounted() -> Config {
    let (_, text) = MANIFESTS.split_once("mcpool.toml: |\n").unwrap();
    let lines = text.lines().take_while(|line| line.is_empty() || line.starts_with("    "));
    read(&lines.map(|line| line.strip_prefix("    ").unwrap_or(line)).collect::<Vec<_>>().join("\n"))
}

fn after<'t>(key: &str, text: &'t str) -> &'t str {
    let (_, rest) = text.split_once(key).unwrap_or_else(|| panic!("{key} is not there"));
    rest.lines().next().unwrap().trim()
}

#[test]
fn the_configuration_for_kubernetes_fits_its_manifests() {
    let config = mounted();
    for (name, address) in [("agents", config.listen), ("admin", config.admin_listen)] {
        assert!(address.ip().is_unspecified());
        assert!(MANIFESTS.contains(&format!("name: {name}, containerPort: {}", address.port())), "{name}");
        assert!(MANIFESTS.contains(&format!("name: {name}, port: {}", address.port())), "{name}");
    }
    // Probes come from the node, not from loopback.
    assert_eq!(config.front.unauthenticated, Unauthenticated::Allow);
    assert!(config.admin_token.is_some());
    let given = Duration::from_secs(after("terminationGracePeriodSeconds:", MANIFESTS).parse().unwrap());
    assert!(given > config.delay + config.grace + Duration::from_secs(5), "{given:?}");
}

#[test]
fn systemd_gives_the_gateway_the_time_it_needs_to_end() {
    let given: u64 = after("TimeoutStopSec=", UNIT).trim_end_matches('s').parse().unwrap();
    let config = Config::default();
    assert!(Duration::from_secs(given) > config.delay + config.grace + Duration::from_secs(5));
    assert!(
        UNIT.contains("KillMode=mixed\n"),
        "programs behind `command` end with the gateway, not before it"
    );
}
