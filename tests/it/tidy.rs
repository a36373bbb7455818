//! House rules that can be checked by reading files: which crate may depend on which package, and that every source
//! file says what it is for.
//!
//! A new line in a table below is an act of architecture: say why in the commit.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Crate -> allowed normal dependencies (DESIGN.md 3.3). Development dependencies are free, but for the arrows.
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
];

/// Words that may stand in these folders only: a fixed package is fenced in.
const FENCES: &[(&str, &str)] = &[
    ("deadpool::", "crates/upstream/src/pool.rs"),
    ("failsafe::", "crates/breaker/src/policy.rs"),
    ("eventsource_stream::", "crates/upstream/src/transport/sse_reader.rs"),
    ("rustls::", "crates/upstream/src/transport/connect.rs"),
    // The commands ask a running gateway; backends are reached over hyper, whose interim answers can be bounded.
    ("reqwest::", "crates/gateway/src/console/client.rs"),
    ("async_compression::", "crates/upstream/src/transport/coding.rs"),
    ("cookie::", "crates/upstream/src/transport/cookies.rs"),
    ("process_wrap::", "crates/upstream/src/transport/stdio/process.rs"),
    ("dashmap::", "crates/front/src/"),
    // Packs the metrics page.
    ("flate2::", "crates/admin/src/server.rs"),
];

/// What must not occur in these sources: no runtime and no clock in the pure parts.
const PURE: &[(&str, &[&str])] = &[
    ("crates/wire/src", &["tokio", "Instant::now", "SystemTime", "reqwest", "hyper::"]),
    ("crates/breaker/src", &["tokio::", "mcpool_", "hyper"]),
    ("crates/upstream/src/session/state.rs", &["tokio", "Instant::now", "async "]),
    ("crates/breaker/src/circuit.rs", &["Instant::now", "async "]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_owned()
}

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    if dir.is_file() {
        out.push(dir.to_owned());
        return;
    }
    for entry in fs::read_dir(dir).expect("a folder of the workspace").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

fn is_test(path: &Path) -> bool {
    path.components().any(|c| matches!(c.as_os_str().to_str(), Some("tests" | "tests.rs")))
}

pub(crate) fn product_sources(part: &str) -> Vec<(String, String)> {
    let root = root();
    let mut files = Vec::new();
    sources(&root.join(part), &mut files);
    files
        .into_iter()
        .filter(|path| !is_test(path))
        .map(|path| {
            let name = path.strip_prefix(&root).expect("inside the root").to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).expect("readable source"))
        })
        .collect()
}

fn dependencies(manifest: &str) -> BTreeSet<String> {
    let manifest: toml::Table = manifest.parse().expect("a manifest");
    let table = manifest.get("dependencies").and_then(|d| d.as_table()).cloned().unwrap_or_default();
    table.keys().cloned().collect()
}

/// What a crate depends on but may not.
fn forbidden(allowed: &[&str], manifest: &str) -> Vec<String> {
    dependencies(manifest).into_iter().filter(|name| !allowed.contains(&name.as_str())).collect()
}

/// Code without comments, so that a comment may name what the code must not use.
pub(crate) fn code(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_arrow_between_crates_is_an_allowed_one() {
    for (name, allowed) in ALLOWED {
        let manifest =
            fs::read_to_string(root().join("crates").join(name).join("Cargo.toml")).expect("manifest");
        assert_eq!(
            forbidden(allowed, &manifest),
            Vec::<String>::new(),
            "crate {name} depends on what it must not"
        );
    }
}

#[test]
fn a_wrong_arrow_is_noticed() {
    let manifest = "[dependencies]\nbytes = \"1\"\ntokio = \"1\"\n";
    assert_eq!(forbidden(&["bytes"], manifest), ["tokio"]);
}

#[test]
fn no_product_crate_uses_the_testkit_and_none_uses_the_gateway() {
    for name in ["wire", "breaker", "upstream", "front", "router", "admin", "demo", "gateway", "testkit"] {
        let manifest =
            fs::read_to_string(root().join("crates").join(name).join("Cargo.toml")).expect("manifest");
        let used = dependencies(&manifest);
        assert!(!used.contains("mcpool") && !used.contains("mcpool-testkit"), "{name}: {used:?}");
    }
}

#[test]
fn fixed_packages_stay_inside_their_fences() {
    for part in [
        "crates/wire",
        "crates/breaker",
        "crates/upstream",
        "crates/front",
        "crates/router",
        "crates/gateway",
    ] {
        for (file, text) in product_sources(part) {
            let text = code(&text);
            for (word, fence) in FENCES {
                assert!(
                    !text.contains(word) || file.starts_with(fence),
                    "{file} names {word}, which belongs in {fence}"
                );
            }
        }
    }
}

#[test]
fn pure_parts_know_no_runtime_and_no_clock() {
    for (part, words) in PURE {
        for (file, text) in product_sources(part) {
            let text = code(&text);
            for word in *words {
                assert!(!text.contains(word), "{file} must not use {word}");
            }
        }
    }
}

#[test]
fn every_source_file_says_what_it_is_for() {
    for part in ["crates", "tests", "benches"] {
        let mut files = Vec::new();
        sources(&root().join(part), &mut files);
        for path in files {
            let text = fs::read_to_string(&path).expect("readable source");
            assert!(text.starts_with("//!"), "{} does not open with what it is for", path.display());
        }
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
