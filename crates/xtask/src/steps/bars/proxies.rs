//! Reverse proxies that give up what sends nothing for a minute.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::agent::{Agent, Wire, text_of};
use super::server::Server;
use super::together::side_by_side;
use super::{Outcome, clock};
use crate::harness::gateway::Gateway;
use crate::harness::http;
use crate::harness::paths;
use crate::harness::run::{Job, Service};
use crate::harness::setup;

/// Longer than the proxies wait.
const SILENT: Duration = Duration::from_secs(90);

/// H2: a silent call through each proxy.
pub(super) fn silent_call() -> Result<Outcome> {
    setup::proxies()?;
    let server = Server::start(|exchange| {
        exchange.wait(SILENT);
        exchange.text("done")
    })?;
    let gateway = Gateway::of_any_health("bars-h2", "", &[("b", server.at("mcp"))])?;
    let folder = paths::logs().join("bars-proxies");
    fs::create_dir_all(&folder)?;
    let mut running = Vec::new();
    for (name, start) in [("nginx", nginx as fn(&Path, u16, u16) -> Result<Service>), ("HAProxy", haproxy)] {
        let port = http::free_port()?;
        let service = start(&folder, port, gateway.port)?;
        let up = || matches!(http::get(port, "/livez"), Ok((200, _)));
        clock::until(&format!("{name} is up; {}", service.last_words()), Duration::from_secs(10), up)?;
        running.push((name, port, service));
    }
    let told = side_by_side(running, |_, (name, port, _service)| -> Result<(bool, String)> {
        let mut agent = Agent::open(Wire::Streamable, port, "b")?;
        Ok(match agent.call("work", &json!({})) {
            Ok((_, response)) if text_of(&response) == "done" => (true, format!("{name} answered")),
            Ok((status, response)) => (false, format!("{name}: {status} {response}")),
            Err(error) => (false, format!("{name}: {error:#}")),
        })
    })?;
    let told = told.into_iter().collect::<Result<Vec<_>>>()?;
    let texts: Vec<_> = told.iter().map(|(_, text)| text.as_str()).collect();
    Ok(Outcome::new(told.iter().all(|(ok, _)| *ok), texts.join(", ")))
}

fn nginx(folder: &Path, port: u16, gateway: u16) -> Result<Service> {
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {}/{name};", folder.display()))
        .concat();
    let text = format!(
        "daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;\n\
         events {{}}\n\
         http {{ access_log off; {temporary}\n\
         server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{gateway}; \
         proxy_http_version 1.1; proxy_buffering off; proxy_read_timeout 60s; proxy_send_timeout 60s; }} }} }}\n",
        folder = folder.display()
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, text)?;
    let (folder, file) = (folder.display().to_string(), file.display().to_string());
    Job::new("nginx").args(["-p", &folder, "-e", "stderr", "-c", &file]).service("bars-nginx")
}

fn haproxy(folder: &Path, port: u16, gateway: u16) -> Result<Service> {
    let text = format!(
        "defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
         frontend agents\n  bind 127.0.0.1:{port}\n  default_backend mcpool\n\
         backend mcpool\n  server gateway 127.0.0.1:{gateway}\n"
    );
    let file = folder.join("haproxy.cfg");
    fs::write(&file, text)?;
    Job::new("haproxy").args(["-db", "-f", &file.display().to_string()]).service("bars-haproxy")
}
