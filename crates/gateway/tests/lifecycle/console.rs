//! Console commands against a running gateway, both the real binary.

use std::process::{Command, Output};

use mcpool_testkit::{Fault, FaultKind, Script, Server, Stage};
use serde_json::json;

use crate::process::Process;

/// Runs `mcpool` against the admin listener of this gateway.
pub(crate) async fn ask(process: &Process, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcpool"));
    command.args(args).current_dir(&process.folder).env_remove("MCPOOL_CONFIG");
    command.env("MCPOOL_ADMIN_URL", process.admin_url());
    let asked = tokio::task::spawn_blocking(move || command.output()).await.expect("it ends");
    let Output { status, stdout, stderr } = asked.expect("it starts");
    (status.code(), [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat())
}

fn table(name: &str, url: &str) -> String {
    format!("[backends.{name}]\nurl = \"{url}\"\nmode = \"shared\"\n")
}

#[tokio::test]
async fn resume_of_a_dead_backend_says_so_and_fails() {
    let server = Server::start(Script::default()).await.expect("a backend");
    let process = Process::start("resume", &table("a", &server.url_http())).await;
    process.agent("a").await;
    assert_eq!(ask(&process, &["pause", "a"]).await.0, Some(0));
    drop(server);
    let (code, said) = ask(&process, &["resume", "a", "--wait", "1s"]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("a takes calls again, but has no session (down: "), "{said}");
}

#[tokio::test]
async fn calls_that_wait_in_a_pause_are_counted_across_changes_of_the_configuration() {
    let server = Server::start(Script::default()).await.expect("a backend");
    let with = |more: &str| format!("{}{more}\n", table("a", &server.url_http()));
    let process = Process::start("waiting", &with("")).await;
    let (one, other) = (process.agent("a").await, process.agent("a").await);
    assert_eq!(ask(&process, &["pause", "a"]).await.0, Some(0));
    let agents = [&one, &other].into_iter().cycle().take(20);
    let calls =
        futures::future::join_all(agents.map(|agent| agent.call_tool("echo", json!({ "nonce": "n" }))));
    let operator = async {
        for (generation, more) in [(1, ""), (2, "max_age = \"1h\""), (3, "max_age = \"2h\"")] {
            process.configure(&with(more));
            process.until_generation(generation).await;
            process.until_metric("mcpool_waiting_calls{backend=\"a\"}", 20.0).await;
            let calls = &process.json("/api/v1/backends/a").await["calls"];
            assert!(calls["waiting"] == 20 && calls["oldest_wait_seconds"].is_number(), "{calls}");
            assert_eq!(process.json("/readyz").await["backends"]["a"]["waiting_calls"], 20);
            let (_, said) = ask(&process, &["status"]).await;
            assert!(said.contains("(20 waiting, 0 running)"), "{said}");
        }
        let (_, said) = ask(&process, &["resume", "a"]).await;
        assert!(said.starts_with("a serves again"), "{said}");
    };
    let (calls, ()) = futures::future::join(calls, operator).await;
    assert!(calls.iter().all(Result::is_ok), "{calls:?}");
    process.until_metric("mcpool_waiting_calls{backend=\"a\"}", 0.0).await;
}

#[tokio::test]
async fn the_doctor_asks_the_gateway_for_a_backend_that_no_file_names() {
    let server = Server::start(Script::default()).await.expect("a backend");
    let process = Process::start("doctor", &table("only-here", &server.url_http())).await;
    process.agent("only-here").await;
    // Runs in a folder without a configuration.
    let (code, said) = ask(&process, &["doctor", "only-here"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&server.url_http()) && said.contains("ready after"), "{said}");
    let (code, said) = ask(&process, &["doctor", "nowhere"]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no backend is named \"nowhere\"; there are: only-here"), "{said}");
}

#[tokio::test]
async fn what_a_server_says_cannot_drive_the_terminal() {
    let evil = "evil\u{1b}[2J\u{9b}31m\u{202e}name".to_owned();
    let server =
        Server::start(Script { server_name: evil.clone(), ..Script::default() }).await.expect("a backend");
    let process = Process::start("escapes", &table("a", &server.url_http())).await;
    process.agent("a").await;
    let active = |said: &str| said.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}');
    for args in [&["doctor", "a"][..], &["rehearse", &server.url_http(), "--rounds", "1"], &["status", "a"]] {
        let (_, said) = ask(&process, args).await;
        assert!(!active(&said), "{args:?}: {said:?}");
    }
    server.set_fault(Fault::always(Stage::Initialize, FaultKind::Status(500, evil)));
    let (code, said) = ask(&process, &["doctor", "a"]).await;
    assert!(code == Some(1) && said.contains("\\u001b[2J") && !active(&said), "{said:?}");
}
