//! Response bodies with their content coding removed.
//!
//! The gateway requests no coding (`Accept-Encoding: identity`), but some servers and proxies compress anyway. Bodies
//! are decoded piece by piece as they are read: events arrive without delay, a body that expands a thousandfold expands
//! only as far as it is read, and every limit counts decoded bytes.

use std::{io, pin::Pin};

use async_compression::tokio::bufread::{DeflateDecoder, GzipDecoder, ZlibDecoder};
use bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};
use http::{HeaderMap, header};

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio_util::io::{ReaderStream, StreamReader};

use super::connect::innermost;
use crate::error::{Cause, SendError};

/// Size of a decoded piece in bytes.
const PIECE: usize = 16 * 1024;
/// Maximum number of nested codings.
const MAX_CODINGS: usize = 3;

/// A body, read piece by piece.
pub(super) enum Body {
    Plain(Incoming),
    /// Coded, not read yet.
    Coded(Incoming, Vec<Coding>),
    Decoded(BoxStream<'static, io::Result<Bytes>>),
    /// Without a connection, in tests.
    #[cfg(feature = "seeded-bugs")]
    Wire(BoxStream<'static, io::Result<Bytes>>),
    /// An unsupported coding.
    Unknown(String),
}

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    /// With zlib wrapper as in the standard, or raw as some servers send it.
    Deflate,
}

impl Body {
    pub(super) fn new(body: Incoming, headers: &HeaderMap) -> Self {
        match codings(headers) {
            Ok(codings) if codings.is_empty() => Self::Plain(body),
            Ok(codings) => Self::Coded(body, codings),
            Err(unknown) => Self::Unknown(unknown),
        }
    }

    /// True without a coding.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// The next piece.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, SendError>> {
        loop {
            match self {
                Self::Plain(body) => return next_frame(body).await,
                #[cfg(feature = "seeded-bugs")]
                Self::Wire(pieces) => {
                    let broke = |error: io::Error| SendError::maybe_sent(Cause::Broken(error.to_string()));
                    return pieces.next().await.map(|piece| piece.map_err(broke));
                }
                Self::Decoded(pieces) => {
                    // Yields: a decoder always has more, and must not block the thread for all its input.
                    tokio::task::coop::consume_budget().await;
                    return match pieces.next().await? {
                        Ok(piece) => Some(Ok(piece)),
                        // Some servers omit the last bytes of the coding; missing data is noticed in the decoded body.
                        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
                        Err(error) => Some(Err(decoding_failed(error))),
                    };
                }
                Self::Coded(..) => {
                    let Self::Coded(body, codings) = std::mem::replace(self, Self::Decoded(empty())) else {
                        return None;
                    };
                    match decoded(body, codings).await {
                        Ok(pieces) => *self = Self::Decoded(pieces),
                        Err(error) => return Some(Err(error)),
                    }
                }
                Self::Unknown(name) => {
                    let why = format!(
                        "the answer is coded as {name:?}, which was not asked for (`Accept-Encoding: identity`) and \
                         is not understood: switch that compression off"
                    );
                    return Some(Err(SendError::maybe_sent(Cause::Protocol(why))));
                }
            }
        }
    }
}

fn empty() -> BoxStream<'static, io::Result<Bytes>> {
    futures::stream::empty().boxed()
}

/// The codings in the order of application.
fn codings(headers: &HeaderMap) -> Result<Vec<Coding>, String> {
    let mut codings = Vec::new();
    for value in headers.get_all(header::CONTENT_ENCODING) {
        let text = String::from_utf8_lossy(value.as_bytes());
        for name in text.split(',').map(|name| name.trim().to_ascii_lowercase()) {
            codings.push(match name.as_str() {
                "" | "identity" | "none" => continue,
                "gzip" | "x-gzip" => Coding::Gzip,
                "deflate" => Coding::Deflate,
                _ => return Err(name.chars().take(40).collect()),
            });
        }
    }
    if codings.len() > MAX_CODINGS {
        return Err("many codings one over the other".to_owned());
    }
    Ok(codings)
}

/// Decodes a body; the last applied coding is removed first.
async fn decoded(
    body: Incoming,
    codings: Vec<Coding>,
) -> Result<BoxStream<'static, io::Result<Bytes>>, SendError> {
    let frames = futures::stream::unfold(body, async |mut body| Some((next_frame(&mut body).await?, body)));
    let frames = frames.map(|piece| piece.map_err(io::Error::other)).boxed();
    let mut reader: Pin<Box<dyn AsyncBufRead + Send>> = Box::pin(StreamReader::new(frames));
    for coding in codings.into_iter().rev() {
        let decoder: Pin<Box<dyn AsyncRead + Send>> = match coding {
            Coding::Gzip => {
                let mut decoder = GzipDecoder::new(reader);
                decoder.multiple_members(true);
                Box::pin(decoder)
            }
            Coding::Deflate if is_zlib(reader.fill_buf().await.map_err(decoding_failed)?) => {
                Box::pin(ZlibDecoder::new(reader))
            }
            Coding::Deflate => Box::pin(DeflateDecoder::new(reader)),
        };
        reader = Box::pin(BufReader::with_capacity(PIECE, decoder));
    }
    Ok(ReaderStream::with_capacity(reader, PIECE).boxed())
}

/// True for a zlib header: method 8, a window of at most 32 KiB, and a multiple of 31.
fn is_zlib(bytes: &[u8]) -> bool {
    let Some(first) = bytes.first() else { return false };
    let is_method = first & 0x0f == 8 && first >> 4 <= 7;
    is_method && bytes.get(1).is_none_or(|second| (u16::from(*first) << 8 | u16::from(*second)) % 31 == 0)
}

/// The body's own error, or a decoding error.
fn decoding_failed(error: io::Error) -> SendError {
    let text = error.to_string();
    match error.into_inner().map(|inner| inner.downcast::<SendError>()) {
        Some(Ok(error)) => *error,
        _ => SendError::maybe_sent(Cause::Protocol(format!("the body is not coded as it says: {text}"))),
    }
}

/// The next data of a body, skipping trailers.
async fn next_frame(body: &mut Incoming) -> Option<Result<Bytes, SendError>> {
    loop {
        match body.frame().await? {
            Ok(frame) => match frame.into_data() {
                Ok(data) => return Some(Ok(data)),
                Err(_) => continue,
            },
            Err(error) => return Some(Err(SendError::maybe_sent(Cause::Broken(innermost(&error))))),
        }
    }
}
