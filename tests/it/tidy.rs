//! House rules that can be checked by reading files: which file may name what, how long it may be, and that it says what
//! it is for; `crates` has the rules for manifests.
//!
//! A new line in a table is an act of architecture: say why in the commit.

mod crates;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

pub(crate) use self::crates::product_crates;

/// Words that may stand in these folders only: a fixed package is fenced in.
const FENCES: &[(&str, &str)] = &[
    ("deadpool::", "crates/upstream/src/pool/budget.rs"),
    ("failsafe::", "crates/breaker/src/policy.rs"),
    ("eventsource_stream::", "crates/upstream/src/transport/sse_reader.rs"),
    ("rustls::", "crates/upstream/src/transport/connect.rs"),
    // The commands ask a running gateway; backends are reached over hyper, whose interim answers can be bounded.
    ("reqwest::", "crates/gateway/src/console/client.rs"),
    ("async_compression::", "crates/upstream/src/transport/coding.rs"),
    ("cookie::", "crates/upstream/src/transport/cookies.rs"),
    ("process_wrap::", "crates/upstream/src/transport/stdio/process.rs"),
    ("dashmap::", "crates/front/src/"),
    ("axum::", "crates/admin/src/"),
    // Packs the metrics page.
    ("flate2::", "crates/admin/src/server.rs"),
];

/// What must not occur in these sources: no runtime and no clock in the pure parts.
const PURE: &[(&str, &[&str])] = &[
    ("crates/wire/src", &["tokio", "Instant::now", "SystemTime", "reqwest", "hyper::"]),
    ("crates/breaker/src", &["tokio::", "mcpool_", "hyper"]),
    ("crates/upstream/src/session/state.rs", &["tokio", "Instant::now", "async "]),
    ("crates/breaker/src/circuit.rs", &["Instant::now", "async "]),
    ("crates/breaker/src/circuit", &["Instant::now", "async "]),
];

/// The most lines of a source file, without its tests.
const LINES: usize = 400;

/// Files that are longer today, with the most lines of each. A file that was shortened must be taken out here.
const LONG: &[(&str, usize)] = &[];

/// Where `front` names an HTTP status: the place where errors become answers, the routes, and the era whose errors have
/// statuses of their own.
const STATUS: &[&str] =
    &["crates/front/src/http/response.rs", "crates/front/src/endpoint/", "crates/front/src/stateless/"];

/// Files of `front` that name an HTTP status besides today. One that does no more must be taken out here.
const STATUS_TOO: &[&str] = &["crates/front/src/host_policy.rs"];

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

/// Asserts that no more is found than is known, and that what is known is still found.
fn only_shrinks(found: &BTreeSet<String>, known: &[&str], rule: &str) {
    let known: BTreeSet<_> = known.iter().map(|name| (*name).to_owned()).collect();
    let new: Vec<_> = found.difference(&known).collect();
    assert!(new.is_empty(), "{rule}: {new:?}");
    let gone: Vec<_> = known.difference(found).collect();
    assert!(gone.is_empty(), "{rule}: take these out of the table of exceptions: {gone:?}");
}

/// Code without comments, so that a comment may name what the code must not use.
pub(crate) fn code(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn fixed_packages_stay_inside_their_fences() {
    for part in product_crates() {
        for (file, text) in product_sources(&part) {
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
fn admin_knows_of_the_router_what_an_operator_may_order() {
    for (file, text) in product_sources("crates/admin") {
        let text = code(&text);
        let mut named = text.split("mcpool_router::").skip(1);
        assert!(named.all(|rest| rest.starts_with("verbs::")), "{file} names more of the router");
    }
}

#[test]
fn no_source_file_is_long() {
    let sources = ["crates", "benches"].into_iter().flat_map(product_sources);
    let lines = sources.map(|(file, text)| {
        let lines = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().lines().count();
        (file, lines)
    });
    let long: BTreeMap<_, _> = lines.filter(|(_, lines)| *lines > LINES).collect();
    let known: BTreeMap<_, _> = LONG.iter().copied().collect();
    let names: Vec<_> = known.keys().copied().collect();
    only_shrinks(&long.keys().cloned().collect(), &names, "files with more than 400 lines");
    for (file, lines) in &long {
        assert!(*lines <= known[file.as_str()], "{file} has {lines} lines, and was shorter");
    }
}

#[test]
fn front_names_an_http_status_in_few_places() {
    let named = product_sources("crates/front/src").into_iter().filter(|(file, text)| {
        code(text).contains("StatusCode") && !STATUS.iter().any(|place| file.starts_with(place))
    });
    only_shrinks(&named.map(|(file, _)| file).collect(), STATUS_TOO, "files that name an HTTP status");
}

#[test]
#[should_panic(expected = "take these out of the table of exceptions: [\"b\"]")]
fn an_exception_that_is_none_is_noticed() {
    only_shrinks(&BTreeSet::from(["a".to_owned()]), &["a", "b"], "files");
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
