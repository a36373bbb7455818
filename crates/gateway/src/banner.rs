//! Output of commands for people; the only writer to standard output.
//!
//! Callers may ignore the result: a closed output (`mcpool | head`) is no reason to stop serving.

use std::{
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use mcpool_upstream::Origin;
use serde_json::json;

use crate::config::{Config, reached_at};

/// Prints how to reach the serving gateway.
///
/// # Errors
/// If the output is closed.
pub fn ready(out: &mut dyn Write, config: &Config, agents: SocketAddr, admin: SocketAddr) -> io::Result<()> {
    let (agents, admin) = (base(agents), base(admin));
    writeln!(out, "mcpool {} serves agents on {agents} and operators on {admin}", env!("CARGO_PKG_VERSION"))?;
    match &config.file {
        Some(file) => writeln!(out, "configuration: {}", file.display())?,
        None => writeln!(out, "configuration: defaults and the command line")?,
    }
    if config.backends.iter().any(|backend| backend.spec.origin == Origin::Demo) {
        writeln!(
            out,
            "no backend is configured, so the bundled demo server stands in; name yours with\n  \
             mcpool --backend NAME=URL, or in {}",
            crate::config::DEFAULT_FILE
        )?;
    }
    let mut servers = serde_json::Map::new();
    for backend in &config.backends {
        let name = &backend.spec.name;
        writeln!(out, "\n{name}  ->  {}", reached_at(&backend.spec.endpoint))?;
        writeln!(out, "  Streamable HTTP  {agents}/{name}/mcp")?;
        writeln!(out, "  HTTP+SSE         {agents}/{name}/sse")?;
        servers.insert(name.to_string(), json!({ "url": format!("{agents}/{name}/mcp") }));
    }
    if let Some(name) = unnamed(config) {
        writeln!(out, "\nAlso as {agents}/mcp and {agents}/sse: {name}.")?;
    }
    writeln!(out, "\nPaste into your client's configuration:\n{:#}", json!({ "mcpServers": servers }))?;
    if let Some(backend) = config.backends.first() {
        writeln!(out, "\nTry it:\n{}", curl(&format!("{agents}/{}/mcp", backend.spec.name)))?;
    }
    writeln!(out, "\nHow it is doing: {admin}/readyz and {admin}/metrics")?;
    out.flush()
}

/// Prints that a configuration is valid, or all of it.
///
/// # Errors
/// If the output is closed.
pub fn checked(out: &mut dyn Write, config: &Config, whole: bool) -> io::Result<()> {
    let from = config.file.as_ref().map_or("defaults and the command line".into(), |f| f.to_string_lossy());
    if !whole {
        writeln!(out, "OK: {} ({from})", mcpool_router::count(config.backends.len(), "backend"))?;
        return out.flush();
    }
    writeln!(out, "# in force, from {from}; secrets are masked")?;
    for (variable, set) in &config.variables {
        let set = if *set { "set" } else { "not set, the default is used" };
        writeln!(out, "# environment variable {variable}: {set}")?;
    }
    let text = toml::to_string(&config.shown()).map_err(io::Error::other)?;
    write!(out, "{text}")?;
    out.flush()
}

/// The last line: what did not finish in time.
#[must_use]
pub fn last_line(unfinished: &[String]) -> String {
    if unfinished.is_empty() {
        "mcpool: stopped; everything finished".to_owned()
    } else {
        format!("mcpool: stopped; not finished in time: {}", unfinished.join(", "))
    }
}

/// The backend that needs no name in URLs.
fn unnamed(config: &Config) -> Option<&str> {
    match (&config.default_backend, config.backends.as_slice()) {
        (Some(name), _) => Some(name),
        (None, [only]) => Some(&only.spec.name),
        (None, _) => None,
    }
}

/// A curl command that opens an agent session.
fn curl(url: &str) -> String {
    let initialize = json!({
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": { "name": "curl", "version": "1" },
        },
    });
    format!(
        "curl -sS -i {url} -H 'Content-Type: application/json' \\\n  \
         -H 'Accept: application/json, text/event-stream' \\\n  -d '{initialize}'"
    )
}

/// A URL that works from this machine, with loopback for an unspecified address.
fn base(addr: SocketAddr) -> String {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, addr.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(config: &Config) -> String {
        let mut out = Vec::new();
        ready(&mut out, config, "0.0.0.0:8800".parse().unwrap(), "[::]:8801".parse().unwrap()).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn config(text: &str) -> Config {
        Config::parse("file.toml", text, std::path::Path::new(""), &|_| None).unwrap()
    }

    #[test]
    fn every_backend_has_its_urls_and_the_snippet_is_json() {
        let text =
            shown(&config("[backends.a]\nurl='http://h/sse/'\n[backends.b]\nurl='http://h/mcp?key=secret'"));
        for url in ["http://127.0.0.1:8800/a/mcp", "http://127.0.0.1:8800/b/sse", "http://[::1]:8801/readyz"]
        {
            assert!(text.contains(url), "{url}: {text}");
        }
        assert!(!text.contains("secret") && !text.contains("Also as") && !text.contains("demo"), "{text}");
        let snippet = text.split("configuration:\n").nth(1).and_then(|t| t.split("\n\nTry").next()).unwrap();
        let snippet: serde_json::Value = serde_json::from_str(snippet).unwrap();
        assert_eq!(snippet["mcpServers"]["b"]["url"], "http://127.0.0.1:8800/b/mcp");
    }

    #[test]
    fn the_demo_says_that_it_is_one() {
        let mut config = config("");
        config.serve_demo("http://127.0.0.1:1/mcp".parse().unwrap());
        let text = shown(&config);
        assert!(text.contains("no backend is configured, so the bundled demo server stands in"), "{text}");
        assert!(
            text.contains("Also as http://127.0.0.1:8800/mcp and http://127.0.0.1:8800/sse: demo."),
            "{text}"
        );
    }

    #[test]
    fn the_farewell_is_one_line() {
        assert_eq!(last_line(&[]), "mcpool: stopped; everything finished");
        let left = ["2 calls".to_owned(), "1 driver of a".to_owned()];
        assert_eq!(last_line(&left), "mcpool: stopped; not finished in time: 2 calls, 1 driver of a");
    }
}
