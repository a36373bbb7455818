//! An agent that writes what it is told and reads everything.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf},
    sync::mpsc,
    task::JoinHandle,
    time::{Duration, sleep},
};

use super::{
    connect,
    reply::{self, Ending},
};

/// Bytes of answers that are looked at.
const KEPT: usize = 1 << 20;
/// Time for the server to do what it can; nobody else wants the time, so it costs none.
const MOMENT: Duration = Duration::from_millis(10);

/// One connection, its answers read by a task.
pub(super) struct Client {
    sent: Vec<u8>,
    /// What was written first, if it was one complete request.
    is_request: bool,
    heard: Arc<Mutex<Heard>>,
    reader: JoinHandle<()>,
    _writer: WriteHalf<DuplexStream>,
}

#[derive(Default)]
struct Heard {
    bytes: Vec<u8>,
    has_ended: bool,
}

/// Sessions that inputs can name.
pub(super) struct Sessions {
    http: String,
    sse: String,
    _stream: Option<Client>,
}

impl Sessions {
    /// Opens those that are named.
    pub(super) async fn open(data: &[u8], to: &mpsc::Sender<DuplexStream>) -> Self {
        let mut sessions = Self { http: String::new(), sse: String::new(), _stream: None };
        let names = |name: &[u8]| data.windows(2).any(|two| two == name);
        if names(b"$S") {
            let client = Client::write(to, &[INITIALIZE], &sessions).await;
            sessions.http = client.after("mcp-session-id: ");
        }
        if names(b"$E") {
            let client = Client::write(to, &[OPEN_STREAM], &sessions).await;
            sessions.sse = client.after("session_id=");
            sessions._stream = Some(client);
        }
        sessions
    }
}

const INITIALIZE: &[u8] = b"POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
    content-length: $L\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"initialize\",\"params\":\
    {\"protocolVersion\":\"2025-11-25\",\"capabilities\":{\"roots\":{}},\"clientInfo\":{\"name\":\"f\",\"version\":\"1\"}}}";

const OPEN_STREAM: &[u8] = b"GET /sse HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n";

impl Client {
    /// Opens a connection and writes, with a moment behind each write.
    pub(super) async fn write(
        to: &mpsc::Sender<DuplexStream>,
        writes: &[&[u8]],
        sessions: &Sessions,
    ) -> Self {
        let (reading, mut writer) = tokio::io::split(connect(to).await);
        let heard = Arc::<Mutex<Heard>>::default();
        let reader = tokio::spawn(read(reading, Arc::clone(&heard)));
        let (mut sent, mut is_request) = (Vec::new(), false);
        for write in writes {
            let bytes = filled_in(write, sessions);
            is_request = is_request || (sent.is_empty() && reply::is_request(&bytes));
            // The server may have closed the connection.
            if writer.write_all(&bytes).await.is_err() {
                break;
            }
            sent.extend_from_slice(&bytes);
            sleep(MOMENT).await;
        }
        Self { sent, is_request, heard, reader, _writer: writer }
    }

    /// Holds the answers against what was sent.
    pub(super) fn judge(&self) {
        let heard = self.heard.lock().expect("not poisoned");
        let sent = String::from_utf8_lossy(&self.sent);
        // The answer to a HEAD has the head of another; nothing behind it can be told apart.
        if sent.contains("HEAD ") || heard.bytes.len() >= KEPT {
            return;
        }
        let (replies, ending) = reply::all(&heard.bytes);
        let told = || format!("{sent:?}\nis answered by {:?}", String::from_utf8_lossy(&heard.bytes));
        for reply in &replies {
            reply.judge(&self.sent).unwrap_or_else(|why| panic!("{why}: {}", told()));
        }
        match ending {
            Ending::Clean => assert!(heard.has_ended, "a silent connection stays open: {}", told()),
            Ending::InStream => {}
            Ending::Torn => panic!("an answer is torn: {}", told()),
        }
        assert!(!self.is_request || !replies.is_empty(), "a request without answer: {}", told());
    }

    /// What stands behind these words, up to the end of the line.
    fn after(&self, words: &str) -> String {
        let heard = self.heard.lock().expect("not poisoned");
        let text = String::from_utf8_lossy(&heard.bytes);
        let (_, rest) = text.split_once(words).unwrap_or_else(|| panic!("no {words:?} in {text}"));
        rest.split(['\r', '\n']).next().unwrap_or_default().to_owned()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Both halves have to go for the connection to end.
        self.reader.abort();
    }
}

async fn read(mut from: ReadHalf<DuplexStream>, heard: Arc<Mutex<Heard>>) {
    let mut buffer = vec![0; 8 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let bytes = &mut heard.lock().expect("not poisoned").bytes;
        if bytes.len() < KEPT {
            bytes.extend_from_slice(&buffer[..read]);
        }
    }
    heard.lock().expect("not poisoned").has_ended = true;
}

fn filled_in(write: &[u8], sessions: &Sessions) -> Vec<u8> {
    let mut out = Vec::with_capacity(write.len() + 64);
    let mut length_at = None;
    let mut rest = write;
    while let Some((byte, behind)) = rest.split_first() {
        let name = behind.first().filter(|_| *byte == b'$');
        match name {
            Some(b'S') => out.extend_from_slice(sessions.http.as_bytes()),
            Some(b'E') => out.extend_from_slice(sessions.sse.as_bytes()),
            Some(b'L') if length_at.is_none() => length_at = Some(out.len()),
            _ => {
                out.push(*byte);
                rest = behind;
                continue;
            }
        }
        rest = &behind[1..];
    }
    if let Some(at) = length_at {
        let body = out.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |end| out.len() - end - 4);
        out.splice(at..at, body.to_string().into_bytes());
    }
    out
}
