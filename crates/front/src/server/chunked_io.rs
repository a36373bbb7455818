//! Chunked writes: large answers are written in chunks, so that they do not delay other connections.
//!
//! The kernel copies the bytes of one write in one go, and on many systems runs nothing else on that core meanwhile: 8
//! MiB take 2 ms. Between chunks it can, and every few chunks the other tasks of this thread get a turn.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use hyper::rt::{Read, ReadBufCursor, Write};

/// Most bytes of one write: about 15 us of copying.
const CHUNK: usize = 64 << 10;
/// Bytes after which other tasks get a turn.
const TURN: usize = 2 * CHUNK;

/// An IO wrapper that writes in chunks.
pub(crate) struct ChunkedIo<T> {
    io: T,
    /// Bytes written in full chunks since other tasks had a turn.
    written: usize,
}

impl<T> ChunkedIo<T> {
    pub(crate) fn new(io: T) -> Self {
        Self { io, written: 0 }
    }

    /// True if other tasks should run first. The writer is woken at once, so it continues behind them.
    fn gives_way(&mut self, cx: &Context<'_>) -> bool {
        let gives_way = self.written >= TURN;
        if gives_way {
            self.written = 0;
            cx.waker().wake_by_ref();
        }
        gives_way
    }

    /// Counts full chunks; a smaller write ends an answer and resets the count.
    fn count(&mut self, done: &Poll<io::Result<usize>>) {
        match done {
            Poll::Ready(Ok(CHUNK)) => self.written += CHUNK,
            Poll::Ready(_) | Poll::Pending => self.written = 0,
        }
    }
}

impl<T: Read + Unpin> Read for ChunkedIo<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl<T: Write + Unpin> Write for ChunkedIo<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.gives_way(cx) {
            return Poll::Pending;
        }
        let done = Pin::new(&mut this.io).poll_write(cx, &buf[..buf.len().min(CHUNK)]);
        this.count(&done);
        done
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let fitting = fitting(bufs);
        if let Some(first) = bufs.get(fitting)
            && bufs[..fitting].iter().all(|buf| buf.is_empty())
        {
            return self.poll_write(cx, first);
        }
        let this = self.get_mut();
        let done = Pin::new(&mut this.io).poll_write_vectored(cx, &bufs[..fitting]);
        this.count(&done);
        done
    }
}

/// The number of leading buffers that fit in one chunk together.
fn fitting(bufs: &[IoSlice<'_>]) -> usize {
    let mut total = 0;
    let fits = |buf: &&IoSlice<'_>| {
        total += buf.len();
        total < CHUNK
    };
    bufs.iter().take_while(fits).count()
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::{Wake, Waker},
    };

    use super::*;

    /// What was written, and in pieces of which sizes.
    #[derive(Default)]
    struct Socket {
        bytes: Vec<u8>,
        sizes: Vec<usize>,
    }

    impl Write for Socket {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.bytes.extend_from_slice(buf);
            self.sizes.push(buf.len());
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
            self.poll_write(cx, &all)
        }
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes the parts as hyper does, as one list that gets shorter; the socket, and how often others had a turn.
    fn written(parts: &[Vec<u8>]) -> (Socket, usize) {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        let mut io = ChunkedIo::new(Socket::default());
        let (mut at, mut turns) = (0, 0);
        let all: usize = parts.iter().map(Vec::len).sum();
        while at < all {
            let mut skip = at;
            let mut slices = Vec::new();
            for part in parts {
                slices.push(IoSlice::new(&part[skip.min(part.len())..]));
                skip = skip.saturating_sub(part.len());
            }
            match Pin::new(&mut io).poll_write_vectored(&mut cx, &slices) {
                Poll::Ready(Ok(count)) => {
                    assert!(count > 0, "nothing was written");
                    at += count;
                }
                Poll::Ready(Err(error)) => panic!("{error}"),
                Poll::Pending => turns += 1,
            }
            assert_eq!(woken.0.load(Ordering::Relaxed), turns, "who gives way is woken");
        }
        (io.io, turns)
    }

    fn part(len: usize, seed: usize) -> Vec<u8> {
        (0..len).map(|at| u8::try_from((at * 7 + at / 251 + seed) % 256).expect("a byte")).collect()
    }

    #[test]
    fn a_large_answer_comes_whole_in_pieces_with_turns_between() {
        let parts = [part(113, 1), part(1 << 20, 2), part(2, 3)];
        let (socket, turns) = written(&parts);
        assert_eq!(socket.bytes, parts.concat());
        assert!(socket.sizes.iter().all(|size| *size <= CHUNK), "{:?}", socket.sizes);
        assert_eq!(turns, (1 << 20) / TURN - 1);
    }

    #[test]
    fn small_answers_are_written_at_once_and_never_give_way() {
        for lens in [vec![0, 100], vec![120, 0, 3000, 2], vec![CHUNK / 2, CHUNK / 2 - 1]] {
            let parts: Vec<_> = lens.iter().map(|len| part(*len, 5)).collect();
            let (socket, turns) = written(&parts);
            assert_eq!((socket.sizes.len(), turns), (1, 0), "{lens:?}");
            assert_eq!(socket.bytes, parts.concat());
        }
    }

    #[test]
    fn whatever_the_sizes_all_bytes_come_in_order() {
        for lens in [vec![CHUNK, CHUNK], vec![CHUNK - 1, 1, CHUNK + 1], vec![1, 0, CHUNK * 5 + 3, 0, 7]] {
            let parts: Vec<_> = lens.iter().map(|len| part(*len, 9)).collect();
            assert_eq!(written(&parts).0.bytes, parts.concat(), "{lens:?}");
        }
    }
}
