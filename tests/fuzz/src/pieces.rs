//! An input cut into pieces, as the writes of a peer arrive.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use arbitrary::Arbitrary;
use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};

/// The sizes of pieces, taken in turn; zero stands for 256.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) struct Sizes([u8; 4]);

impl Sizes {
    /// One piece per byte, whatever the input says: every boundary there is.
    pub(crate) const SINGLE: Self = Self([1; 4]);

    pub(crate) fn cut(self, bytes: &Bytes) -> VecDeque<Bytes> {
        let mut rest = bytes.clone();
        let mut sizes = self.0.iter().map(|size| if *size == 0 { 256 } else { usize::from(*size) }).cycle();
        let mut pieces = VecDeque::new();
        while !rest.is_empty() {
            let size = sizes.next().unwrap_or(1).min(rest.len());
            pieces.push_back(rest.split_to(size));
        }
        pieces
    }
}

/// Gives one piece per read, and then the end.
pub(crate) struct Pieces(pub(crate) VecDeque<Bytes>);

impl AsyncRead for Pieces {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(mut piece) = this.0.pop_front() {
            into.put_slice(&piece.split_to(piece.len().min(into.remaining())));
            if !piece.is_empty() {
                this.0.push_front(piece);
            }
        }
        Poll::Ready(Ok(()))
    }
}
