//! The rules over a plain input: paths and reasons without a file.

use std::{path::Path, sync::Arc};

use mcpool_upstream::{ModeChoice, Origin};

use super::{
    input::{BackendInput, BreakerInput, LocalInput, Number, Problem, RetryInput},
    rules::Rules,
};

fn problems(folder: Option<&Path>, name: &str, input: &BackendInput) -> Vec<Problem> {
    let profiles = Arc::from([]);
    let rules = Rules { reserved: &["api"], default_mode: ModeChoice::Auto, profiles: &profiles, folder };
    rules.check(name, input, Origin::Cli).err().unwrap_or_default()
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn every_problem_has_its_path_and_says_whether_it_quotes() {
    let input = BackendInput {
        url: some("ftp://h"),
        headers: [("Accept".to_owned(), "x".to_owned())].into(),
        tools: [("x_*".to_owned(), "shared".to_owned())].into(),
        forward_headers: vec!["x-tenant".to_owned(), "cookie".to_owned()],
        call_timeout: some("0s"),
        queue: Some(Number::Int(-1)),
        max_message: Some(Number::Text("1B".to_owned())),
        breaker: BreakerInput { hold: some("soon"), ..BreakerInput::default() },
        retry: RetryInput { base: some("2s"), cap: some("1s"), ..RetryInput::default() },
        ..BackendInput::default()
    };
    let found = problems(None, "api", &input);
    let found: Vec<_> =
        found.iter().map(|one| (one.path.as_str(), one.reason.as_str(), one.quotes)).collect();
    let expect = [
        ("", "\"api\" is reserved; it has a meaning of its own in URLs", true),
        ("url", "not an http:// or https:// URL: its scheme is \"ftp\"", true),
        ("headers.Accept", "the gateway sets this header itself", false),
        ("call_timeout", "0s is too short; the least is 1ms", true),
        ("queue", "-1 is negative", true),
        ("max_message", "1B is out of range; it must be 1KiB to 1GiB", true),
        (
            "breaker.hold",
            "\"soon\" is not a duration; write a whole number and one of ms, s, m, h, d, such as \"500ms\"",
            true,
        ),
        ("retry.cap", "shorter than base", false),
        ("tools.x_*", "\"shared\" is unknown; a tool can only be \"pinned\"", true),
        (
            "forward_headers[1]",
            "\"cookie\" is written by the gateway itself and never taken from an agent",
            true,
        ),
    ];
    assert_eq!(found, expect);
}

#[test]
fn programs_and_files_of_this_machine_are_for_its_file_alone() {
    let local = LocalInput { command: some("sh"), args: vec!["-c".to_owned()], ..LocalInput::default() };
    let input = BackendInput { local, ..BackendInput::default() };
    let found = problems(None, "a", &input);
    let paths: Vec<_> = found.iter().map(|one| (one.path.as_str(), one.reason.as_str())).collect();
    let reason = "only the configuration file can set it";
    assert_eq!(paths, [("command", reason), ("args", reason)]);
    assert_eq!(problems(Some(Path::new(".")), "a", &input), []);
    let local = LocalInput { ca_file: some("Cargo.toml"), ..LocalInput::default() };
    let input = BackendInput { url: some("https://h/"), local, ..BackendInput::default() };
    let found = problems(None, "a", &input);
    assert_eq!((found[0].path.as_str(), found.len()), ("tls.ca_file", 1));
}
