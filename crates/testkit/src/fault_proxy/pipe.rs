//! One direction of one connection: what was read waits, bounded, until its time has come.
//!
//! The subtle thing: a delay must not be a throttle. Each piece has its own time to come out, and reading goes on
//! meanwhile.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::link::{Finish, write_both};
use super::{Flow, Shared, Shot, Way, Weather};

/// Most bytes read at once.
const PIECE: usize = 16 * 1024;
/// Bytes that may wait; then nothing more is read.
const WAITING: usize = 1 << 20;
/// A throttled pipe writes this often per second, or byte by byte.
const STEPS: u64 = 20;

pub(super) struct Pipe<'a> {
    shared: &'a Shared,
    way: Way,
    from: ReadHalf<'a>,
    to: WriteHalf<'a>,
    twin: Option<WriteHalf<'a>>,
    weather: watch::Receiver<Weather>,
    buffer: BytesMut,
    /// What was read, with the time it may come out.
    queue: VecDeque<(Instant, Bytes)>,
    queued: usize,
    /// When the throttle lets the next byte pass.
    free_at: Instant,
    /// The sender has ended.
    ended: bool,
    /// Bytes of it are lost, so nothing of it may be heard again.
    lost: bool,
}

enum Event {
    Weather,
    Read(usize),
    Due,
    /// All of it was forwarded.
    Over,
}

impl<'a> Pipe<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        way: Way,
        from: ReadHalf<'a>,
        to: WriteHalf<'a>,
        twin: Option<WriteHalf<'a>>,
    ) -> Self {
        Self {
            shared,
            way,
            from,
            to,
            twin,
            weather: shared.weather.subscribe(),
            buffer: BytesMut::new(),
            queue: VecDeque::new(),
            queued: 0,
            free_at: Instant::now(),
            ended: false,
            lost: false,
        }
    }

    /// Forwards until both the sender and what it sent have ended.
    pub(super) async fn run(mut self) -> Result<(), Finish> {
        loop {
            match self.next().await? {
                Event::Weather => {}
                Event::Read(0) => self.ended = true,
                Event::Read(bytes) => self.take(bytes),
                Event::Due => self.forward().await?,
                Event::Over if self.lost => return Err(Finish::Held),
                Event::Over => return Ok(self.to.shutdown().await?),
            }
        }
    }

    async fn next(&mut self) -> Result<Event, Finish> {
        let weather = self.weather.borrow_and_update().clone();
        let held = weather.flow == Flow::Held;
        let due = self.queue.front().map(|(due, _)| (*due).max(self.free_at));
        if self.ended && due.is_none() && !held {
            return Ok(Event::Over);
        }
        self.buffer.reserve(PIECE);
        let room = !self.ended && self.queued < WAITING;
        tokio::select! {
            // Its sender outlives every pipe.
            _ = self.weather.changed() => Ok(Event::Weather),
            read = self.from.read_buf(&mut self.buffer), if room && !held => Ok(Event::Read(read?)),
            () = sleep_until(due.unwrap_or_else(far)), if due.is_some() && !held => Ok(Event::Due),
        }
    }

    fn take(&mut self, bytes: usize) {
        let piece = self.buffer.split().freeze();
        let weather = self.weather.borrow().clone();
        if self.lost || weather.flow == Flow::Swallowed {
            self.lost = true;
            self.shared.counts.swallowed.fetch_add(bytes as u64, Relaxed);
            return;
        }
        self.queued += bytes;
        self.queue.push_back((Instant::now() + weather.delay, piece));
    }

    /// Writes the piece whose time has come, or as much of it as the throttle lets pass.
    async fn forward(&mut self) -> Result<(), Finish> {
        let Some((due, mut piece)) = self.queue.pop_front() else { return Ok(()) };
        let rate = self.weather.borrow().bytes_per_second;
        if let Some(rate) = rate.map(|rate| rate.max(1)) {
            let step = usize::try_from((rate / STEPS).max(1)).unwrap_or(PIECE).min(piece.len());
            let rest = piece.split_off(step);
            if !rest.is_empty() {
                self.queue.push_front((due, rest));
            }
            self.free_at =
                Instant::now() + Duration::from_secs(1) * u32::try_from(step).unwrap_or(1) / whole(rate);
        }
        self.queued -= piece.len();
        self.pass(piece).await
    }

    async fn pass(&mut self, mut piece: Bytes) -> Result<(), Finish> {
        while !piece.is_empty() {
            let Some((before, shot)) = self.shared.strikes.meet(self.way, piece.len()) else {
                return self.write(&piece).await;
            };
            self.shared.counts.struck.fetch_add(1, Relaxed);
            let head = piece.split_to(before);
            self.write(&head).await?;
            match shot {
                Shot::Cut(end) => return Err(Finish::Ended(end)),
                Shot::Hold => return Err(Finish::Held),
                Shot::Double(bytes) => {
                    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(piece.len());
                    self.shared.counts.doubled.fetch_add(bytes as u64, Relaxed);
                    let twice = piece.slice(..bytes);
                    self.write(&twice).await?;
                }
            }
        }
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Finish> {
        write_both(&mut self.to, &mut self.twin, bytes).await?;
        self.shared.counts.forwarded(self.way).fetch_add(bytes.len() as u64, Relaxed);
        Ok(())
    }
}

fn whole(rate: u64) -> u32 {
    u32::try_from(rate).unwrap_or(u32::MAX)
}

/// A time that is never waited for.
fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}
