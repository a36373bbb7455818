//! Which crate may depend on which package, and which manifest may switch what on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use super::{only_shrinks, root};

/// Every folder of `crates` -> allowed dependencies of what is built of it. Development dependencies are free, but for
/// the arrows.
const ALLOWED: &[(&str, &[&str])] = &[
    // base64: a form of header values.
    ("wire", &["base64", "bytes", "http", "serde", "serde_json"]),
    ("breaker", &["failsafe", "tower"]),
    (
        "upstream",
        &[
            "mcpool-wire",
            "arc-swap",
            // Takes off content codings nobody asked for.
            "async-compression",
            "aws-lc-rs",
            "backon",
            "base64",
            "bytes",
            // Reads `Set-Cookie`.
            "cookie",
            "deadpool",
            "eventsource-stream",
            "futures",
            "http",
            "http-body",
            "http-body-util",
            // Reads dates in headers; hyper has it.
            "httpdate",
            "hyper",
            // TLS of the client: what hyper-util leaves open.
            "hyper-rustls",
            "hyper-util",
            "memchr",
            "process-wrap",
            "rand",
            "rustls",
            "rustls-platform-verifier",
            "serde",
            "serde_json",
            // Optional: the locks of the test that runs all orders.
            "shuttle",
            "tokio",
            "tokio-util",
            // The trait in which the HTTP client takes a resolver.
            "tower-service",
            "tracing",
            "url",
        ],
    ),
    (
        "front",
        &[
            "mcpool-wire",
            "arc-swap",
            // Seals the ids of agent sessions.
            "aws-lc-rs",
            "base64",
            "bytes",
            "dashmap",
            "futures",
            "http",
            "http-body",
            "http-body-util",
            "hyper",
            "hyper-util",
            // Looks for line breaks in each message of an event stream.
            "memchr",
            "rand",
            "serde_json",
            "tokio",
            "tokio-util",
            "tracing",
        ],
    ),
    (
        "router",
        &[
            "mcpool-breaker",
            "mcpool-upstream",
            "mcpool-wire",
            "arc-swap",
            "bytes",
            "futures",
            "http",
            "rand",
            "serde_json",
            "tokio",
            "tokio-util",
            "tower",
            "tracing",
            // Checks the URL of a backend.
            "url",
        ],
    ),
    (
        "admin",
        &[
            "mcpool-front",
            "mcpool-router",
            "axum",
            // Packs the metrics page.
            "flate2",
            "futures",
            "http-body-util",
            "hyper",
            "hyper-util",
            "serde_json",
            "tokio",
            "tokio-util",
            "tower",
            "tracing",
            "url",
        ],
    ),
    (
        "demo",
        &[
            "bytes",
            "http",
            "http-body",
            "http-body-util",
            "hyper",
            "hyper-util",
            "rand",
            "serde",
            "serde_json",
            "tokio",
            "tokio-util",
        ],
    ),
    (
        "testkit",
        &[
            "mcpool-demo",
            // Seals the states the conformance fixture leaves with its clients.
            "aws-lc-rs",
            "base64",
            "bytes",
            // The fixture is a program, too.
            "clap",
            "http",
            "hyper",
            "hyper-util",
            "rand",
            "serde_json",
            "tokio",
            "tokio-util",
        ],
    ),
    (
        "gateway",
        &[
            "mcpool-admin",
            "mcpool-breaker",
            "mcpool-demo",
            "mcpool-front",
            "mcpool-router",
            "mcpool-upstream",
            "mcpool-wire",
            "arc-swap",
            "aws-lc-rs",
            "clap",
            "clap_complete",
            "futures",
            "http",
            "metrics",
            "metrics-exporter-prometheus",
            "nix",
            "notify",
            "reqwest",
            "serde",
            "serde_json",
            "strsim",
            "tikv-jemallocator",
            "tokio",
            "tokio-util",
            "toml",
            "tracing",
            "tracing-subscriber",
            "url",
        ],
    ),
    ("xtask", &["anyhow", "clap", "serde_json", "toml"]),
];

/// The folders of all crates that are part of the product.
pub(crate) fn product_crates() -> Vec<String> {
    let product = ALLOWED.iter().filter(|(name, _)| !matches!(*name, "testkit" | "xtask"));
    product.map(|(name, _)| format!("crates/{name}")).collect()
}

/// What a manifest names for the built crate, its build script and single platforms.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let manifest: toml::Table = manifest.parse().expect("a manifest");
    let platforms = manifest.get("target").and_then(|t| t.as_table()).into_iter().flat_map(|t| t.values());
    let tables = platforms.filter_map(|platform| platform.as_table()).chain([&manifest]);
    let tables = tables.flat_map(|table| [table.get("dependencies"), table.get("build-dependencies")]);
    tables.flatten().filter_map(|table| table.as_table()).flat_map(|table| table.keys().cloned()).collect()
}

fn manifest(name: &str) -> String {
    fs::read_to_string(root().join("crates").join(name).join("Cargo.toml")).expect("manifest")
}

/// What a crate depends on but may not.
fn forbidden(allowed: &[&str], manifest: &str) -> Vec<String> {
    dependencies(manifest).into_iter().filter(|name| !allowed.contains(&name.as_str())).collect()
}

#[test]
fn every_arrow_between_crates_is_an_allowed_one() {
    for (name, allowed) in ALLOWED {
        assert_eq!(
            forbidden(allowed, &manifest(name)),
            Vec::<String>::new(),
            "crate {name} depends on what it must not"
        );
    }
}

#[test]
fn a_wrong_arrow_is_noticed() {
    let manifest = "[dependencies]\nbytes = \"1\"\ntokio = \"1\"\n[build-dependencies]\ncc = \"1\"\n\
                    [target.'cfg(unix)'.dependencies]\nnix = \"1\"\n[dev-dependencies]\nproptest = \"1\"\n";
    assert_eq!(forbidden(&["bytes"], manifest), ["cc", "nix", "tokio"]);
}

#[test]
fn every_crate_has_a_row() {
    let folders = fs::read_dir(root().join("crates")).expect("the crates").flatten();
    let folders = folders.filter(|entry| entry.path().is_dir());
    let folders = folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let rows: Vec<_> = ALLOWED.iter().map(|(name, _)| *name).collect();
    only_shrinks(&folders, &rows, "folders of crates without a row in ALLOWED");
}

#[test]
fn no_product_crate_uses_the_testkit_and_none_uses_the_gateway() {
    for (name, _) in ALLOWED {
        let used = dependencies(&manifest(name));
        assert!(!used.contains("mcpool") && !used.contains("mcpool-testkit"), "{name}: {used:?}");
    }
}

/// Features for tests, the manifests that are theirs, and the only ones that may name them besides.
const TEST_FEATURES: &[(&str, &[&str], &[&str])] = &[
    ("seeded-bugs", &["crates/upstream/Cargo.toml"], &["tests/Cargo.toml"]),
    ("interleave", &["crates/upstream/Cargo.toml"], &[]),
    ("fuzzing", &["crates/upstream/Cargo.toml", "crates/front/Cargo.toml", "tests/fuzz/Cargo.toml"], &[]),
];

#[test]
fn nothing_but_a_test_switches_a_test_feature_on() {
    let mut manifests = ["Cargo.toml", "tests/Cargo.toml", "tests/fuzz/Cargo.toml", "benches/Cargo.toml"]
        .map(str::to_owned)
        .to_vec();
    for entry in fs::read_dir(root().join("crates")).expect("the crates").flatten() {
        manifests.push(format!("crates/{}/Cargo.toml", entry.file_name().to_string_lossy()));
    }
    for manifest in manifests {
        let text = fs::read_to_string(root().join(&manifest)).unwrap_or_default();
        let parsed: toml::Table = toml::from_str(&text).unwrap_or_else(|e| panic!("{manifest}: {e}"));
        assert!(
            parsed.get("features").is_none_or(|features| features.get("default").is_none()),
            "{manifest}"
        );
        // A development dependency is built for tests only.
        let shipped: toml::Table = parsed.into_iter().filter(|(key, _)| key != "dev-dependencies").collect();
        let shipped = toml::to_string(&shipped).expect("TOML");
        for (feature, owners, allowed) in TEST_FEATURES {
            let is_own = owners.contains(&manifest.as_str());
            let is_named = if allowed.contains(&manifest.as_str()) {
                shipped.contains(feature)
            } else {
                text.contains(feature)
            };
            assert!(is_own || !is_named, "{manifest} names the feature {feature}");
        }
    }
}

/// Package -> versions, as a lock file has them.
fn locked(file: &str) -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(root().join(file)).expect("a lock file");
    let lock: toml::Table = text.parse().expect("TOML");
    let mut versions = BTreeMap::<String, BTreeSet<String>>::new();
    for package in lock["package"].as_array().expect("packages") {
        let of = |key: &str| package[key].as_str().expect("a string").to_owned();
        versions.entry(of("name")).or_default().insert(of("version"));
    }
    versions
}

#[test]
fn what_is_fuzzed_is_built_of_what_is_shipped() {
    let shipped = locked("Cargo.lock");
    for (package, versions) in locked("tests/fuzz/libfuzzer/Cargo.lock") {
        let Some(known) = shipped.get(&package) else { continue };
        let foreign: Vec<_> = versions.difference(known).collect();
        assert!(foreign.is_empty(), "the fuzzed build has {package} {foreign:?}, the gateway {known:?}");
    }
}

#[test]
fn the_official_sdk_is_a_peer_of_the_tests_and_in_nothing_that_is_shipped() {
    let names = |file| locked(file).into_keys().filter(|name| name.starts_with("rmcp")).collect::<Vec<_>>();
    assert_eq!(names("tests/rmcp/Cargo.lock"), ["rmcp", "rmcp-macros"]);
    assert_eq!(names("Cargo.lock"), Vec::<String>::new());
    let manifest = fs::read_to_string(root().join("tests/rmcp/Cargo.toml")).expect("a manifest");
    let manifest: toml::Table = manifest.parse().expect("TOML");
    assert!(manifest.contains_key("workspace"), "it is a member of the gateway's workspace");
    assert_eq!(manifest["package"]["publish"].as_bool(), Some(false));
}
