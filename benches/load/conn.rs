//! One raw HTTP/1.1 connection of an agent: write a request, read a head, read a body in pieces.
//!
//! Only what the measured servers send is understood (lengths, chunks, until close); anything else is an error, not
//! a guess. The subtle thing: a chunked body is read to its last CRLF, or the connection could not be used again.

use std::{io, net::SocketAddr};

use bytes::{Buf, BytesMut};
use memchr::{memchr, memmem};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Longest head accepted.
const MAX_HEAD: usize = 16 * 1024;
/// Room made for each read.
const READ: usize = 16 * 1024;

/// A connection with what was read and not used yet.
#[derive(Debug)]
pub struct Conn {
    stream: TcpStream,
    buffer: BytesMut,
}

/// What an agent needs of a response's head.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// The status code.
    pub status: u16,
    /// How the body ends.
    pub framing: Framing,
    /// Whether the body is an event stream.
    pub is_event_stream: bool,
    /// `Mcp-Session-Id`.
    pub session: Option<String>,
}

/// How a body ends, and how far it was read.
#[derive(Debug, PartialEq, Eq)]
pub enum Framing {
    /// This many bytes are still to come.
    Length(usize),
    /// Chunked, before the size line of a chunk.
    ChunkSize,
    /// Chunked, this many bytes of the chunk to come.
    ChunkData(usize),
    /// Chunked, at the line end after a chunk.
    ChunkEnd,
    /// Chunked, after the last chunk.
    Trailer,
    /// Until the server closes.
    UntilClose,
    /// Read.
    Done,
}

impl Conn {
    /// Connects, without delay for small writes.
    ///
    /// # Errors
    /// What the socket says.
    pub async fn connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: BytesMut::new() })
    }

    /// Writes a whole request.
    ///
    /// # Errors
    /// What the socket says.
    pub async fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request).await
    }

    /// Reads the head of a response.
    ///
    /// # Errors
    /// What the socket says, or what is wrong with the head.
    pub async fn head(&mut self) -> io::Result<Head> {
        loop {
            if let Some(end) = memmem::find(&self.buffer, b"\r\n\r\n") {
                let head = parse_head(&self.buffer[..end])?;
                self.buffer.advance(end + 4);
                return Ok(head);
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(invalid("the response head does not end"));
            }
            self.fill().await?;
        }
    }

    /// Moves what is there of the body to `out`, waiting for something if nothing is; `false` at its end.
    ///
    /// # Errors
    /// What the socket says, or what is wrong with the framing.
    pub async fn body(&mut self, framing: &mut Framing, out: &mut BytesMut) -> io::Result<bool> {
        let before = out.len();
        loop {
            match framing {
                Framing::Done | Framing::Length(0) => {
                    *framing = Framing::Done;
                    return Ok(out.len() > before);
                }
                Framing::Length(left) if !self.buffer.is_empty() => *left -= self.take(*left, out),
                Framing::ChunkData(0) => *framing = Framing::ChunkEnd,
                Framing::ChunkData(left) if !self.buffer.is_empty() => *left -= self.take(*left, out),
                Framing::UntilClose if !self.buffer.is_empty() => {
                    self.take(usize::MAX, out);
                }
                Framing::ChunkEnd if self.buffer.len() >= 2 => {
                    self.buffer.advance(2);
                    *framing = Framing::ChunkSize;
                }
                Framing::ChunkSize | Framing::Trailer if memchr(b'\n', &self.buffer).is_some() => {
                    self.chunk_line(framing)?;
                }
                _ if out.len() > before => return Ok(true),
                Framing::UntilClose => {
                    if self.stream.read_buf(&mut self.buffer).await? == 0 {
                        *framing = Framing::Done;
                    }
                }
                Framing::Length(_)
                | Framing::ChunkSize
                | Framing::ChunkData(_)
                | Framing::ChunkEnd
                | Framing::Trailer => self.fill().await?,
            }
        }
    }

    fn chunk_line(&mut self, framing: &mut Framing) -> io::Result<()> {
        let end = memchr(b'\n', &self.buffer).ok_or_else(|| invalid("no line"))?;
        let line = self.buffer.split_to(end + 1);
        let line = std::str::from_utf8(&line).map_err(|_| invalid("a chunk line is not text"))?.trim_end();
        if *framing == Framing::Trailer {
            if line.is_empty() {
                *framing = Framing::Done;
            }
            return Ok(());
        }
        let digits = line.split(';').next().unwrap_or_default().trim();
        *framing = match usize::from_str_radix(digits, 16) {
            Ok(0) => Framing::Trailer,
            Ok(size) => Framing::ChunkData(size),
            Err(_) => return Err(invalid("a chunk has no size")),
        };
        Ok(())
    }

    fn take(&mut self, most: usize, out: &mut BytesMut) -> usize {
        let count = most.min(self.buffer.len());
        out.extend_from_slice(&self.buffer[..count]);
        self.buffer.advance(count);
        count
    }

    async fn fill(&mut self) -> io::Result<()> {
        self.buffer.reserve(READ);
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

fn parse_head(head: &[u8]) -> io::Result<Head> {
    let head = std::str::from_utf8(head).map_err(|_| invalid("the response head is not text"))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| invalid("no status line"))?;
    let empty = matches!(status, 204 | 304);
    let mut parsed = Head {
        status,
        framing: if empty { Framing::Done } else { Framing::UntilClose },
        is_event_stream: false,
        session: None,
    };
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            let length = value.parse().map_err(|_| invalid("a bad content-length"))?;
            parsed.framing = Framing::Length(length);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            parsed.framing = Framing::ChunkSize;
        } else if name.eq_ignore_ascii_case("content-type") {
            parsed.is_event_stream = value.starts_with("text/event-stream");
        } else if name.eq_ignore_ascii_case("mcp-session-id") {
            parsed.session = Some(value.to_owned());
        }
    }
    Ok(parsed)
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
