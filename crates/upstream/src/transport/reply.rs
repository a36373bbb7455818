//! A backend's HTTP response: status, headers, and a body read under a limit.

use std::{sync::Arc, time::Duration};

use bytes::{Buf as _, Bytes, BytesMut};
use futures::{FutureExt as _, StreamExt, stream::BoxStream};
use http::{HeaderName, HeaderValue, header, response};
use url::Url;

use super::{
    classify::{Asked, Refused, classify},
    coding::Body,
    dates,
    leaving::Left,
    notes::{Notes, Oddity},
    sse_reader::SseReader,
};
use crate::error::{Cause, Refusal, SendError, SendPhase};

/// Maximum bytes and time spent on a discarded body, so that its connection is reusable.
const DRAIN_BYTES: usize = 64 * 1024;
pub(super) const DRAIN_TIME: Duration = Duration::from_secs(2);
/// Maximum wait for the end of a body that matters only for its connection.
const UNWANTED_TIME: Duration = Duration::from_millis(250);

/// Some servers send it before JSON, where it has no meaning.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A response with an unread body.
pub(super) struct Reply {
    pub(super) head: response::Parts,
    pub(super) body: Body,
    /// The final URL after redirects.
    pub(super) url: Arc<Url>,
    pub(super) notes: Arc<Notes>,
    /// The reason a redirect was not followed.
    pub(super) unfollowed: Option<Unfollowed>,
    /// Reports each piece of the body: a slow response is a sign of life.
    pub(super) left: Left,
}

/// A redirect that was not followed, for the operator.
pub(super) struct Unfollowed(pub(super) String);

impl Unfollowed {
    /// The meaning for the message. With 307 and 308 the message was not processed here; other redirects may follow its
    /// processing.
    pub(super) fn explain(self, error: SendError) -> SendError {
        let Cause::Status(mut refusal) = error.cause else { return error };
        let phase = if matches!(refusal.status, 307 | 308) { SendPhase::Refused } else { error.phase };
        refusal.message = self.0;
        SendError { phase, cause: Cause::Status(refusal) }
    }
}

/// The kind of a body, by its `Content-Type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Json,
    Events,
    Other,
}

/// The events of a body.
pub(super) type Events = SseReader<BoxStream<'static, Result<Bytes, SendError>>>;

/// True for `application/json` and variants: `application/json-rpc`, `application/vnd.mcp+json`.
fn is_json(essence: &str) -> bool {
    let essence = essence.to_ascii_lowercase();
    essence.starts_with("application/json")
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

impl Reply {
    pub(super) fn is_success(&self) -> bool {
        self.head.status.is_success()
    }

    pub(super) fn status(&self) -> u16 {
        self.head.status.as_u16()
    }

    pub(super) fn header(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.head.headers.get(name)
    }

    pub(super) fn content(&self) -> Content {
        let value = self.header(&header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let essence = value.split(';').next().unwrap_or_default().trim();
        if is_json(essence) {
            Content::Json
        } else if essence.eq_ignore_ascii_case("text/event-stream") {
            Content::Events
        } else {
            Content::Other
        }
    }

    /// A rejection of this response with our own message.
    pub(super) fn refused(&self, message: String) -> Refusal {
        Refusal { status: self.status(), message, code: None, retry_after: self.retry_after() }
    }

    /// The whole body without byte order mark. A body of one piece is not copied.
    pub(super) async fn body(mut self, cap: usize) -> Result<Bytes, SendError> {
        if self.announced().is_some_and(|length| length > cap as u64) {
            return Err(SendError::maybe_sent(Cause::TooLarge(cap)));
        }
        let mut whole = self.read(cap).await?;
        if whole.starts_with(BYTE_ORDER_MARK) {
            whole.advance(BYTE_ORDER_MARK.len());
            self.notes.say(
                Oddity::ByteOrderMark,
                format_args!("the backend writes a byte order mark before its JSON, which is passed over"),
            );
        }
        Ok(whole)
    }

    async fn read(&mut self, cap: usize) -> Result<Bytes, SendError> {
        let Some(first) = self.chunk().await? else { return Ok(Bytes::new()) };
        let Some(second) = self.chunk().await? else { return Ok(first) };
        let mut whole = BytesMut::with_capacity(first.len() + second.len());
        whole.extend_from_slice(&first);
        whole.extend_from_slice(&second);
        while whole.len() <= cap {
            let Some(chunk) = self.chunk().await? else { return Ok(whole.freeze()) };
            whole.extend_from_slice(&chunk);
        }
        Err(SendError::maybe_sent(Cause::TooLarge(cap)))
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, SendError> {
        let chunk = self.body.next().await.transpose()?;
        if chunk.is_some() {
            self.left.bytes_arrived();
        }
        Ok(chunk)
    }

    /// The size of the body, if announced.
    fn announced(&self) -> Option<u64> {
        let length = self.header(&header::CONTENT_LENGTH).filter(|_| self.body.is_plain())?;
        length.to_str().ok()?.parse().ok()
    }

    pub(super) fn events(self, cap: usize) -> Events {
        let chunks = futures::stream::unfold(self.body, async |mut body| Some((body.next().await?, body)));
        SseReader::new(chunks.boxed(), cap)
    }

    /// Discards a body so that its connection is reusable, bounded in size and time.
    pub(super) async fn drain(mut self) {
        let mut left = DRAIN_BYTES;
        let rest = async {
            while left > 0 {
                let Ok(Some(chunk)) = self.chunk().await else { break };
                left = left.saturating_sub(chunk.len());
            }
        };
        let mut rest = std::pin::pin!(rest);
        // Most bodies are there with their head.
        if rest.as_mut().now_or_never().is_none() {
            let _ = tokio::time::timeout(UNWANTED_TIME, rest).await;
        }
    }

    /// The meaning of a rejection, and its body.
    pub(super) async fn refusal(mut self, asked: Asked) -> (SendError, Bytes) {
        let (status, retry_after, unfollowed) = (self.status(), self.retry_after(), self.unfollowed.take());
        let body = self.beginning().await;
        let error = classify(asked, &Refused { status, body: &body, retry_after });
        let error = match unfollowed {
            Some(unfollowed) => unfollowed.explain(error),
            None => error,
        };
        (error, body)
    }

    /// The start of a body, as far as it arrives in time.
    pub(super) async fn beginning(mut self) -> Bytes {
        let mut read = BytesMut::new();
        let all = async {
            while read.len() < DRAIN_BYTES {
                let Ok(Some(chunk)) = self.chunk().await else { break };
                read.extend_from_slice(&chunk);
            }
        };
        // A partial body is enough for a message.
        let _ = tokio::time::timeout(DRAIN_TIME, all).await;
        let mut read = read.freeze();
        if read.starts_with(BYTE_ORDER_MARK) {
            read.advance(BYTE_ORDER_MARK.len());
        }
        read
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        dates::retry_after(&self.head.headers)
    }
}
