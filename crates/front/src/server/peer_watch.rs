//! Peer watch: detects that a peer ended its sending side while its request is served, without losing bytes it sent
//! before.
//!
//! hyper drops a request at once when it sees the end, even an unread one, and cannot tell a peer that closed from one
//! that has nothing more to say. So the end is read here, one byte ahead. It only means that bytes should be written to
//! the peer: a peer that has gone refuses them.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::rt::{Read, ReadBuf, ReadBufCursor};

/// The byte read ahead, and whether the end was seen.
#[derive(Default)]
pub(crate) struct PeerWatch {
    /// The first byte of the next request.
    ahead: Option<u8>,
    has_ended: bool,
}

impl PeerWatch {
    /// Reads one byte ahead. Returns true once, when the end is seen.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) fn finds_end<T: Read + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> io::Result<bool> {
        if self.has_ended || self.ahead.is_some() {
            return Ok(false);
        }
        let mut byte = [0; 1];
        let mut buf = ReadBuf::new(&mut byte);
        match Pin::new(io).poll_read(cx, buf.unfilled()) {
            Poll::Ready(Ok(())) => {
                self.ahead = buf.filled().first().copied();
                self.has_ended = self.ahead.is_none();
                Ok(self.has_ended)
            }
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Ok(false),
        }
    }

    /// Returns the byte read ahead into `buf`. `false` if there is neither a byte nor an end.
    pub(crate) fn left(&mut self, buf: &mut ReadBufCursor<'_>) -> bool {
        match self.ahead.take() {
            Some(byte) => {
                buf.put_slice(&[byte]);
                true
            }
            None => self.has_ended,
        }
    }
}
