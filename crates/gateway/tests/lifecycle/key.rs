//! The session key file of a running gateway.

use std::{fs, time::Duration};

use mcpool_testkit::{Script, Server};

use crate::{
    process::{PATIENCE, Process},
    reload::backend,
};

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waits = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waits).await.unwrap_or_else(|_| panic!("{what} did not come true"));
}

#[tokio::test]
async fn a_key_that_is_removed_comes_back_and_one_that_is_replaced_is_told() {
    let server = Server::start(Script::default()).await.expect("a backend");
    let table = backend("a", &server.url_http(), "");
    let process = Process::start("key", &format!("[sessions]\nstate_dir = \"state\"\n\n{table}")).await;
    process.agent("a").await;
    let file = process.folder.join("state/session.key");
    let key = fs::read_to_string(&file).expect("the key");
    fs::remove_file(&file).expect("removed");
    until("the key is back", async || fs::read_to_string(&file).is_ok_and(|text| text == key)).await;
    let log = process.log();
    assert!(log.contains("the session key was removed or replaced while the gateway runs"), "{log}");

    let other = format!("{}=\n", "A".repeat(43));
    fs::write(&file, &other).expect("replaced");
    let told = async || process.json("/readyz").await["state_dir"]["reason"].is_string();
    until("it is told", told).await;
    let page = process.json("/readyz").await;
    let why = page["state_dir"]["reason"].as_str().unwrap_or_default();
    assert!(why.contains("it takes effect at the next start") && page["status"] == "ok", "{page}");
    assert!(process.log().contains("the session key was replaced"));
    assert_eq!(fs::read_to_string(&file).expect("the key"), other, "an operator's file is left alone");
}
