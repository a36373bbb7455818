//! The body of a POST: limited in size, in pauses, in rate, and in memory.
//!
//! Near the memory limit a body beyond its first bytes waits, and if that does not help it is read without being
//! stored: its id, found in passing, is enough to refuse the call in a way its client survives (PROTOCOL.md 0.2).

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use hyper::body::Incoming as Payload;
use mcpool_wire::IdScanner;
use tokio::time::Instant;

use crate::{
    http::response::Response,
    limits::memory::{Charge, MemoryAccount},
    shared::Common,
};

/// A body of at most this size is always read: it may be the answer or the cancellation that ends a call.
const SMALL: usize = 16 << 10;
/// Longest time to read and discard the rest of a body that is too large.
const DISCARD: Duration = Duration::from_secs(2);

/// A body as it was read.
pub(crate) enum Received {
    /// The whole body, charged while it is held.
    Whole(Bytes, Charge),
    /// Not stored: only what the scanner saw.
    Unkept(IdScanner),
}

struct Reading<'c> {
    common: &'c Common,
    payload: Payload,
    first: Bytes,
    rest: BytesMut,
    charge: Charge,
    /// Bytes so far, stored or not.
    read: usize,
    begun: Instant,
    scanner: Option<IdScanner>,
}

enum Next {
    Data(Bytes),
    End,
    /// Memory became short.
    Short,
}

/// Reads the body of a POST. With `expects` (`Expect: 100-continue`) a body that is too large is refused before it is
/// sent.
///
/// # Errors
/// The response, when it is too large or does not come.
pub(crate) async fn receive(common: &Common, payload: Payload, expects: bool) -> Result<Received, Response> {
    let mut reading = Reading {
        common,
        first: Bytes::new(),
        rest: BytesMut::new(),
        charge: Charge::nothing(&common.memory),
        read: 0,
        begun: Instant::now(),
        scanner: None,
        payload,
    };
    if reading.payload.size_hint().lower() > common.limits().body_bytes as u64 {
        let limit = common.limits().body_bytes;
        return Err(if expects { too_large(limit) } else { reading.too_large().await });
    }
    loop {
        reading.hold_back().await;
        match reading.next().await? {
            Next::Data(data) if reading.read + data.len() > common.limits().body_bytes => {
                return Err(reading.too_large().await);
            }
            Next::Data(data) => reading.add(data),
            Next::Short => {}
            Next::End => return Ok(reading.end()),
        }
    }
}

impl Reading<'_> {
    fn memory(&self) -> &Arc<MemoryAccount> {
        &self.common.memory
    }

    /// Whether this body must wait when memory is short.
    fn is_large(&self) -> bool {
        self.read > SMALL || self.payload.size_hint().lower() > SMALL as u64
    }

    /// Waits while memory is short; if that does not help, stops storing the body.
    async fn hold_back(&mut self) {
        let is_complete = self.payload.is_end_stream();
        if is_complete || self.scanner.is_some() || self.memory().is_calm() || !self.is_large() {
            return;
        }
        let began = Instant::now();
        self.memory().shed("body_held");
        if !self.memory().calm_within(self.common.times().overload_wait).await {
            let mut scanner = IdScanner::default();
            scanner.feed(&std::mem::take(&mut self.first));
            scanner.feed(&std::mem::take(&mut self.rest));
            self.scanner = Some(scanner);
            self.charge = Charge::nothing(self.memory());
        }
        // The gateway's own wait does not count against the client's rate.
        self.begun += began.elapsed();
    }

    async fn next(&mut self) -> Result<Next, Response> {
        // Most bodies arrive with their head: then nothing is waited for.
        if let Some(frame) = self.payload.frame().now_or_never() {
            return Self::read(frame).ok_or_else(broken);
        }
        let limit = self.patience();
        let may_stand_back = self.scanner.is_none() && self.is_large();
        let memory = Arc::clone(self.memory());
        let frame = tokio::select! {
            biased;
            frame = tokio::time::timeout(limit, self.payload.frame()) => frame,
            () = memory.left_calm(), if may_stand_back => return Ok(Next::Short),
        };
        let Ok(frame) = frame else {
            let message = "the body did not arrive";
            return Err(Response::too_slow(message));
        };
        Self::read(frame).ok_or_else(broken)
    }

    /// `None` if the body is broken.
    fn read(frame: Option<Result<Frame<Bytes>, hyper::Error>>) -> Option<Next> {
        match frame {
            Some(Ok(frame)) => Some(Next::Data(frame.into_data().unwrap_or_default())),
            None => Some(Next::End),
            Some(Err(_)) => None,
        }
    }

    /// Longest wait for more bytes: the body may pause for a while, but not trickle for ever.
    fn patience(&self) -> Duration {
        let idle = self.common.times().body_idle;
        let rate = self.common.limits().body_rate.max(1);
        let earned = Duration::from_millis((self.read as u64).saturating_mul(1_000) / rate as u64);
        (idle + earned).saturating_sub(self.begun.elapsed()).min(idle)
    }

    fn add(&mut self, data: Bytes) {
        self.read += data.len();
        if let Some(scanner) = &mut self.scanner {
            return scanner.feed(&data);
        }
        self.charge.add(data.len());
        // Nearly every message is one frame: it is used without a copy.
        if self.first.is_empty() && self.rest.is_empty() {
            self.first = data;
        } else {
            self.rest.extend_from_slice(&std::mem::take(&mut self.first));
            self.rest.extend_from_slice(&data);
        }
    }

    fn end(self) -> Received {
        match self.scanner {
            Some(scanner) => Received::Unkept(scanner),
            None if self.rest.is_empty() => Received::Whole(self.first, self.charge),
            None => Received::Whole(self.rest.freeze(), self.charge),
        }
    }

    /// Answers 413 after reading a little more: a peer that is cut off while it writes may never see the answer.
    async fn too_large(self) -> Response {
        let limit = self.common.limits().body_bytes;
        let mut payload = self.payload;
        drop((self.first, self.rest, self.charge));
        let discard = async {
            let mut left = limit.saturating_mul(2);
            while let Some(Ok(frame)) = payload.frame().await {
                let read = frame.data_ref().map_or(0, Bytes::len);
                let Some(less) = left.checked_sub(read) else { break };
                left = less;
            }
        };
        let _ = tokio::time::timeout(DISCARD, discard).await;
        too_large(limit)
    }
}

fn broken() -> Response {
    let message = "the body ended before it was complete, or its chunks are malformed";
    Response::bad_request(None, -32700, message)
}

fn too_large(limit: usize) -> Response {
    let message = format!("the body is larger than {limit} bytes");
    Response::too_large(&message)
}
