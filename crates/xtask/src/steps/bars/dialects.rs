//! Servers with the oddities of real ones: an agent is ready as soon through the gateway as directly.
//!
//! The subtle thing: the same raw client goes both ways, and does no more than a client must: the handshake and one list
//! of tools, with redirects followed and cookies kept, an answer being read only as far as its message goes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::agent::{Answer, BOTH, Connection, hello, initialized, request};
use super::together::side_by_side;
use super::{Outcome, clock};
use crate::steps::field::{Servers, backend, dialects};

/// The dialects of each row, by how their names begin. C14 and C16 are servers that are never ready, directly either.
const ROWS: [(&str, &[&str]); 15] = [
    ("C1", &["get-refused", "get-redirected-to", "get-answered", "get-headers", "get-connection", "get-cut"]),
    ("C2", &["initialized-answered", "posts-answered"]),
    ("C3", &["ping-"]),
    ("C4", &["coded-"]),
    ("C5", &["sticky-cookie"]),
    ("C6", &["endpoint-after"]),
    ("C7", &["get-redirected-3", "get-redirected-by", "post-redirected-3"]),
    ("C8", &["get-ends-at-once", "polled-call"]),
    ("C9", &["cursor-"]),
    ("C10", &["banner-of", "log-lines"]),
    ("C11", &["busy-first"]),
    ("C12", &["initialize-result"]),
    ("C13", &["post-to-the-stream-"]),
    ("C15", &["small-ids", "json-spelled", "id-as", "signs-of-life", "refuses-the-version-header"]),
    ("C17", &["one-place"]),
];
/// What a server may cost more through the gateway.
const MORE: Duration = Duration::from_secs(1);
/// How long a client tries.
const PATIENCE: Duration = Duration::from_secs(8);
/// Dialects behind one gateway, so that two cores are not what is measured.
const LOT: usize = 12;

/// C: every dialect of the rows, in the first of its modes.
pub(super) fn ready_as_soon() -> Result<Outcome> {
    let mut chosen = dialects()?;
    let row_of = |name: &str| {
        let begins = |(_, begins): &&(&str, &[&str])| begins.iter().any(|begin| name.starts_with(begin));
        ROWS.iter().find(begins).map(|(row, _)| *row)
    };
    chosen.retain(|dialect| row_of(&dialect.name).is_some());
    let mut results = Vec::new();
    for (number, lot) in chosen.chunks(LOT).enumerate() {
        let servers = Servers::start(&format!("bars-{number}"), lot)?;
        let places = lot.iter().map(|dialect| match &*dialect.transport {
            "stdio" => Place::Program(servers.command(dialect, "direct")),
            "sse" => Place::Stream(servers.url(dialect, "direct")),
            _ => Place::Url(servers.url(dialect, "direct")),
        });
        let direct = side_by_side(places.collect(), |_, place| place.ready_after())?;
        let gateway = servers.gateway(lot)?;
        let places = lot.iter().map(|one| Place::Url(gateway.url(&backend(one, &one.modes[0]), "mcp")));
        let through = side_by_side(places.collect(), |_, place| place.ready_after())?;
        drop(gateway);
        results.extend(
            lot.iter().zip(direct).zip(through).map(|((one, direct), through)| (one, direct, through)),
        );
    }
    let (mut measured, mut not_direct, mut faults) = (0, Vec::new(), Vec::new());
    let mut slowest = (Duration::ZERO, String::from("none"));
    for (dialect, direct, through) in &results {
        let name = format!("{} {}", row_of(&dialect.name).unwrap_or_default(), dialect.name);
        let Ok(direct) = direct else {
            not_direct.push(name);
            continue;
        };
        measured += 1;
        match through {
            Err(error) => faults.push(format!("{name}: {error:#}")),
            Ok(through) => {
                let excess = through.saturating_sub(*direct);
                if excess > MORE {
                    faults.push(format!("{name}: {} ms more", excess.as_millis()));
                }
                if excess > slowest.0 {
                    slowest = (excess, name);
                }
            }
        }
    }
    let first = if faults.is_empty() { String::new() } else { format!("; too slow: {}", faults.join("; ")) };
    let skipped = not_direct.first().map(|name| format!(" ({} not directly, {name} ..)", not_direct.len()));
    let figure = format!(
        "{measured} dialects{}, the slowest {} ms more than directly ({}){first}",
        skipped.unwrap_or_default(),
        slowest.0.as_millis(),
        slowest.1
    );
    Ok(Outcome::new(faults.is_empty() && measured >= 60, figure))
}

/// Where a client goes.
enum Place {
    Url(String),
    /// The URL of an HTTP+SSE stream.
    Stream(String),
    Program(Vec<String>),
}

impl Place {
    /// How long until the tools are listed.
    fn ready_after(&self) -> Result<Duration> {
        match self {
            Self::Url(url) => over_http(url, false),
            Self::Stream(url) => over_http(url, true),
            Self::Program(command) => over_stdio(command),
        }
    }
}

/// The same over HTTP, trying again as clients do.
fn over_http(url: &str, sse: bool) -> Result<Duration> {
    let began = Instant::now();
    loop {
        match attempt(url, sse, began + PATIENCE) {
            Ok(()) => return Ok(began.elapsed()),
            Err(error) if began.elapsed() > PATIENCE || clock::left().is_err() => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn attempt(url: &str, sse: bool, until: Instant) -> Result<()> {
    let mut client = Client::at(url, until)?;
    let mut stream = if sse { Some(client.listen()?) } else { None };
    let opened = client.ask(&hello(&json!({})).to_string(), "\"protocolVersion\"", stream.as_mut())?;
    client.session = opened.header("mcp-session-id").map(str::to_owned);
    client.post(&initialized().to_string())?;
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {} });
    client.ask(&list.to_string(), "\"tools\"", stream.as_mut())?;
    Ok(())
}

/// A client that does what it must.
struct Client {
    port: u16,
    path: String,
    until: Instant,
    cookies: Vec<String>,
    session: Option<String>,
}

impl Client {
    fn at(url: &str, until: Instant) -> Result<Self> {
        let (port, path) = place(url).context("a URL of this machine")?;
        Ok(Self { port, path, until, cookies: Vec::new(), session: None })
    }

    /// Sends a request where it is redirected to, and reads the head of the answer.
    fn send(&mut self, method: &str, body: &str) -> Result<(Connection, Answer)> {
        for _ in 0..5 {
            let cookies = self.cookies.join("; ");
            let mut headers = vec![BOTH, ("accept-encoding", "identity"), ("cookie", cookies.as_str())];
            headers.retain(|(_, value)| !value.is_empty());
            headers.extend(self.session.iter().map(|session| ("mcp-session-id", session.as_str())));
            let mut connection = Connection::open(self.port)?.until(self.until);
            connection.send(&request(method, &self.path, &headers, body))?;
            let answer = connection.head()?;
            self.keep(&answer);
            let Some(to) = answer.header("location").filter(|_| (300..400).contains(&answer.status)) else {
                return Ok((connection, answer));
            };
            self.path = place(to).map_or_else(|| to.to_owned(), |(_, path)| path);
        }
        bail!("redirected five times")
    }

    fn keep(&mut self, answer: &Answer) {
        for cookie in answer.headers("set-cookie") {
            let pair = cookie.split(';').next().unwrap_or_default().to_owned();
            let name = pair.split('=').next().unwrap_or_default().to_owned() + "=";
            self.cookies.retain(|own| !own.starts_with(&name));
            self.cookies.push(pair);
        }
    }

    /// Posts a message and reads no more than the head of what comes.
    fn post(&mut self, body: &str) -> Result<(Connection, Answer)> {
        let (connection, answer) = self.send("POST", body)?;
        if answer.status >= 300 {
            bail!("refused with {}", answer.status);
        }
        Ok((connection, answer))
    }

    /// Posts a request and reads until its answer is there; a coded one until it ends.
    fn ask(&mut self, body: &str, part: &str, stream: Option<&mut Stream>) -> Result<Answer> {
        let (connection, answer) = self.post(body)?;
        match stream {
            Some(stream) => stream.until(part)?,
            None => {
                let mut stream = Stream { connection, head: answer, text: String::new() };
                stream.until(part)?;
                return Ok(stream.head);
            }
        }
        Ok(answer)
    }

    /// Opens the stream of an HTTP+SSE session, and posts to its endpoint from now on.
    fn listen(&mut self) -> Result<Stream> {
        let (connection, head) = self.send("GET", "")?;
        if head.status != 200 {
            bail!("the stream was refused with {}", head.status);
        }
        let mut stream = Stream { connection, head, text: String::new() };
        stream.until("session_id=")?;
        while !stream.text.trim_end_matches(' ').ends_with(['\n', '\r']) {
            stream.more()?;
        }
        let text = stream.text.replace('\r', "\n");
        let line = text.lines().find(|line| line.starts_with("data:") && line.contains("session_id="));
        let to = line.and_then(|line| line.strip_prefix("data:")).context("an endpoint")?.trim().to_owned();
        self.path = place(&to).map_or(to, |(_, path)| path);
        Ok(stream)
    }
}

/// An answer that is read as far as it is needed.
struct Stream {
    connection: Connection,
    head: Answer,
    text: String,
}

impl Stream {
    /// Whether there was more.
    fn more(&mut self) -> Result<bool> {
        let piece = self.connection.piece(&self.head)?;
        self.head.body.extend(&piece);
        self.text.push_str(&String::from_utf8_lossy(&piece));
        Ok(!piece.is_empty())
    }

    fn until(&mut self, part: &str) -> Result<()> {
        while !self.text.contains(part) {
            if !self.more()? {
                // What is coded is not read, but it was all there.
                if self.head.header("content-encoding").is_some() {
                    return Ok(());
                }
                bail!("the answer ended without {part}: {}", self.text);
            }
        }
        Ok(())
    }
}

/// Port and path of a URL.
fn place(url: &str) -> Option<(u16, String)> {
    let (host, path) = url.strip_prefix("http://")?.split_once('/')?;
    Some((host.rsplit_once(':')?.1.parse().ok()?, format!("/{path}")))
}

/// A program that is ended with what uses it.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn over_stdio(command: &[String]) -> Result<Duration> {
    let began = Instant::now();
    let (program, args) = command.split_first().context("a program")?;
    let mut own = Command::new(program);
    own.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = Program(own.spawn()?);
    let mut input = child.0.stdin.take().context("its input")?;
    let mut output = BufReader::new(child.0.stdout.take().context("its output")?);
    let (sender, parts) = std::sync::mpsc::channel();
    // A program that says nothing is ended below, which ends this thread.
    std::thread::spawn(move || {
        let mut line = Vec::new();
        while output.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
            line.clear();
        }
    });
    let until = |part: &str| -> Result<()> {
        while !parts.recv_timeout(PATIENCE.min(clock::left()?))?.contains(part) {}
        Ok(())
    };
    writeln!(input, "{}", hello(&json!({})))?;
    until("\"protocolVersion\"")?;
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {} });
    writeln!(input, "{}\n{list}", initialized())?;
    until("\"tools\"")?;
    Ok(began.elapsed())
}
