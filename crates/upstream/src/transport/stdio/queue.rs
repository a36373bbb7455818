//! The way into a process: messages are written whole and in order, one after another.
//!
//! The subtle thing: whoever sends can go away at any moment, and the process can. A message whose sender is gone
//! before its first byte was written is not written; one that was begun is finished, because half a line would spoil
//! the next. And whoever waits is told which of both it was.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::{mpsc, oneshot},
};

use crate::error::{Cause, SendError, SendPhase};

/// Messages that wait for a process to read; whoever sends more waits.
pub(super) const LENGTH: usize = 64;

/// A message on its way.
pub(super) struct Outgoing {
    message: Bytes,
    fate: Fate,
}

/// Tells the sender what became of its message, also by being dropped.
struct Fate {
    tell: Option<oneshot::Sender<Result<(), SendError>>>,
    begun: bool,
}

/// Resolves when the message is written.
///
/// # Cancel safety
/// Dropped before its first byte was written, the message is not sent.
pub(super) async fn send(queue: mpsc::Sender<Outgoing>, message: Bytes) -> Result<(), SendError> {
    let over = || SendError::not_sent(Cause::Closed("the process has ended"));
    let place = queue.reserve().await.map_err(|_| over())?;
    let (tell, told) = oneshot::channel();
    place.send(Outgoing { message: one_line(message), fate: Fate { tell: Some(tell), begun: false } });
    told.await.unwrap_or_else(|_| Err(over()))
}

/// Writes what is sent until nobody can send any more, or nobody reads.
pub(super) async fn write(
    mut to: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<Outgoing>,
) -> io::Result<()> {
    while let Some(Outgoing { message, mut fate }) = queue.recv().await {
        if fate.is_indifferent() {
            continue;
        }
        let mut line = message.chain(&b"\n"[..]);
        while line.has_remaining() {
            if to.write_buf(&mut line).await? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            fate.begun = true;
        }
        to.flush().await?;
        fate.written();
    }
    Ok(())
}

/// Line breaks are white space between the parts of a message (inside a string JSON has no raw ones), and here the
/// end of it.
fn one_line(message: Bytes) -> Bytes {
    if memchr::memchr2(b'\n', b'\r', &message).is_none() {
        return message;
    }
    let mut line = BytesMut::from(message);
    line.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    line.freeze()
}

impl Fate {
    fn is_indifferent(&self) -> bool {
        self.tell.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    fn written(mut self) {
        if let Some(tell) = self.tell.take() {
            // Gone meanwhile: then it does not matter.
            let _ = tell.send(Ok(()));
        }
    }
}

impl Drop for Fate {
    fn drop(&mut self) {
        let Some(tell) = self.tell.take() else { return };
        let (phase, cause) = if self.begun {
            (SendPhase::MaybeSent, Cause::Broken("the process ended while it was written to".to_owned()))
        } else {
            (SendPhase::NotSent, Cause::Closed("the process has ended"))
        };
        let _ = tell.send(Err(SendError { phase, cause }));
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, duplex};

    use super::*;

    #[tokio::test]
    async fn messages_are_one_line_each_in_order() {
        let (ours, theirs) = duplex(16);
        let (queue, inbox) = mpsc::channel(LENGTH);
        let writing = tokio::spawn(write(ours, inbox));
        let sends = ["{\"a\":\r\n1}", "{\"b\":\"x\\ny\"}"].map(|m| send(queue.clone(), m.into()));
        let reading = async {
            let mut lines = BufReader::new(theirs).lines();
            [lines.next_line().await.unwrap().unwrap(), lines.next_line().await.unwrap().unwrap()]
        };
        let (sent, read) = tokio::join!(futures::future::join_all(sends), reading);
        assert!(sent.iter().all(Result::is_ok), "{sent:?}");
        assert_eq!(read, ["{\"a\":  1}", "{\"b\":\"x\\ny\"}"]);
        drop(queue);
        writing.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_waits_behind_a_reader_that_stopped_is_not_sent_and_what_was_begun_may_be() {
        let (ours, mut theirs) = duplex(4);
        let (queue, inbox) = mpsc::channel(LENGTH);
        let writing = tokio::spawn(write(ours, inbox));
        let begun = tokio::spawn(send(queue.clone(), "{\"begun\":1}".into()));
        theirs.read_exact(&mut [0; 4]).await.unwrap();
        let mut waiting = Box::pin(send(queue.clone(), "{\"waiting\":1}".into()));
        assert!(futures::poll!(&mut waiting).is_pending());
        writing.abort();
        assert_eq!(begun.await.unwrap().unwrap_err().phase, SendPhase::MaybeSent);
        assert_eq!(waiting.await.unwrap_err().phase, SendPhase::NotSent);
    }

    #[tokio::test]
    async fn a_message_whose_sender_left_before_its_first_byte_is_not_written() {
        let (ours, mut theirs) = duplex(4);
        let (queue, inbox) = mpsc::channel(LENGTH);
        let writing = tokio::spawn(write(ours, inbox));
        let first = tokio::spawn(send(queue.clone(), "{\"first\":1}".into()));
        theirs.read_exact(&mut [0; 2]).await.unwrap();
        let mut left = Box::pin(send(queue.clone(), "{\"left\":1}".into()));
        assert!(futures::poll!(&mut left).is_pending());
        drop(left);
        drop(queue);
        let mut rest = String::new();
        theirs.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "first\":1}\n");
        first.await.unwrap().unwrap();
        writing.await.unwrap().unwrap();
    }
}
