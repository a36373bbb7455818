//! Finds out that a peer ended its sending side while its request is served, without losing what it sent before that.
//!
//! hyper could do this, but it drops a request at once when it sees the end, also one that nobody has looked at yet,
//! and cannot tell a peer that closed from one that only has nothing more to say. So the end is read here, one byte
//! ahead, and means no more than that the peer is to be written to: one that has gone refuses what is written.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::rt::{Read, ReadBuf, ReadBufCursor};

/// What was read ahead.
#[derive(Default)]
pub(crate) struct PeerWatch {
    /// The first byte of the next request.
    ahead: Option<u8>,
    has_ended: bool,
}

impl PeerWatch {
    /// Reads ahead. True once: when the end is there.
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

    /// Gives back what was read ahead; false if that was nothing.
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
