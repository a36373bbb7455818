//! Output of `doctor` for working servers, and for each kind of failure.

use mcpool_demo::{Fault, FaultKind, Script, Server, Stage};

use super::*;
use crate::config::Config;

async fn examined(url: &str, more: &str) -> (bool, String) {
    let text = format!("[backends.a]\nurl = \"{url}\"\nhandshake_timeout = \"2s\"\n{more}");
    let config = Config::parse("file.toml", &text, std::path::Path::new(""), &|_| None).unwrap();
    let mut out = Vec::new();
    let ready = examine(config.backends[0].clone(), &mut out).await.unwrap();
    (ready, String::from_utf8(out).unwrap())
}

#[tokio::test]
async fn a_server_that_works_is_shown_rung_by_rung_with_its_mode() {
    let server = Server::start(Script::default()).await.unwrap();
    for (url, spoken) in [(server.url_http(), "Streamable HTTP"), (server.url_sse(), "HTTP+SSE")] {
        let (ready, said) = examined(&url, "").await;
        assert!(ready, "{said}");
        assert!(said.contains("\n  listen "), "beside the others: {said}");
        let rungs = ["\n  initialize ", "\n  initialized ", "\n  ping ", "\n  list "];
        let at: Vec<_> =
            rungs.iter().map(|step| said.find(step).unwrap_or_else(|| panic!("{step}: {said}"))).collect();
        assert!(at.is_sorted(), "{said}");
        assert!(said.contains(&format!("over {spoken}")), "{said}");
        assert!(said.contains("agents      shared on probation, because nothing was seen"), "{said}");
        assert!(said.contains("those that can be asked things: pinned, because"), "{said}");
        assert!(said.contains("marked readOnlyHint"), "{said}");
    }
    let (_, said) = examined(&server.url_http(), "state = \"none\"").await;
    assert!(said.contains("agents      shared, because the configuration says"), "{said}");
    assert_eq!(server.stats().sessions_open, 0, "the doctor leaves nothing behind");
}

#[tokio::test]
async fn what_is_wrong_is_named_with_the_rung_and_what_to_do() {
    let server = Server::start(Script::default()).await.unwrap();
    let status = |code, text: &str| FaultKind::Status(code, text.to_owned());
    for (fault, step, remedy) in [
        (Fault::always(Stage::Initialize, status(401, "no token")), "initialize", "Authorization"),
        (Fault::always(Stage::Initialize, status(502, "bad gateway")), "initialize", "behind that proxy"),
        (Fault::always(Stage::Initialize, FaultKind::Hang), "handshake", "handshake_timeout"),
    ] {
        server.set_fault(fault);
        let (ready, said) = examined(&server.url_http(), "transport = \"http\"").await;
        let broke = said.lines().find(|line| line.contains("FAILED")).unwrap_or_default();
        assert!(!ready && broke.trim_start().starts_with(step), "{said}");
        assert!(said.contains("not ready\n  what to do: ") && said.contains(remedy), "{said}");
    }
    let url = server.url_http();
    drop(server);
    let (ready, said) = examined(&url, "").await;
    assert!(!ready && said.contains("\n  connect ") && said.contains("start the server"), "{said}");
}

#[tokio::test]
async fn a_path_that_speaks_no_mcp_is_told_from_a_server_that_is_down() {
    let server = Server::start(Script::default()).await.unwrap();
    let url = server.url_http().replace("/mcp", "/elsewhere");
    let (ready, said) = examined(&url, "").await;
    assert!(!ready && said.contains("no MCP is spoken at this path"), "{said}");
}

#[tokio::test]
async fn what_a_server_need_not_offer_is_named_with_what_its_absence_costs() {
    for (stage, cost) in [
        (Stage::Ping, "does not answer ping; whether it lives is asked in another way"),
        (Stage::Listen, "changes of lists, and what it asks outside of calls, are not heard"),
        (Stage::Initialized, "refuses notifications/initialized; its session is used all the same"),
    ] {
        let server = Server::start(Script::default()).await.unwrap();
        server.set_fault(Fault::always(stage, FaultKind::Status(500, "not here".to_owned())));
        let (ready, said) = examined(&server.url_http(), "transport = \"http\"").await;
        let named = said.lines().find(|line| line.starts_with("  optional ")).unwrap_or_default();
        assert!(ready && named.contains(cost), "{stage:?}: {said}");
    }
}
