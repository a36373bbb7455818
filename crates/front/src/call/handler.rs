//! Calls owned by their handlers. If a connection dies, its calls become detached calls.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use mcpool_wire::ErrorKind;

use crate::{
    call::{
        CallResult, InFlightCall,
        detached::{DetachedCalls, Reservation},
        response_stream::CallStream,
    },
    stream::outbox::Outbox,
};

/// A call owned by its handler. If the handler is dropped because its connection died, the call is detached.
pub(crate) struct HandlerCall {
    running: Option<InFlightCall>,
    stream: Option<Arc<CallStream>>,
}

impl HandlerCall {
    pub(crate) fn new(running: InFlightCall, stream: Option<Arc<CallStream>>) -> Self {
        Self { running: Some(running), stream }
    }

    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<CallResult> {
        match &mut self.running {
            Some(running) => running.poll_end(cx),
            None => Poll::Pending,
        }
    }

    /// Ends the call here with this answer.
    pub(crate) fn give_up(&mut self, kind: ErrorKind, message: &'static str) -> Poll<CallResult> {
        self.running.as_mut().map_or(Poll::Pending, |running| Poll::Ready(running.give_up(kind, message)))
    }

    /// Detaches the call, with `sink` as its stream. `false`, and the call stays, if there is no room.
    pub(crate) fn hand_over(&mut self, sink: Option<&Arc<Outbox>>) -> bool {
        // A call that has ended stays and costs nothing: every call ends here.
        let Some(running) = self.running.take_if(|running| running.registration.is_some()) else {
            return false;
        };
        match hand_over(vec![running], sink) {
            Ok(()) => true,
            Err(mut back) => {
                self.running = back.pop();
                false
            }
        }
    }
}

impl Drop for HandlerCall {
    fn drop(&mut self) {
        if self.hand_over(None)
            && let Some(stream) = &self.stream
        {
            stream.abandon();
        }
    }
}

/// Detaches calls of one agent, or gives them back if there is no room.
pub(crate) fn hand_over(
    calls: Vec<InFlightCall>,
    sink: Option<&Arc<Outbox>>,
) -> Result<(), Vec<InFlightCall>> {
    let Some(common) =
        calls.iter().find_map(|call| Some(Arc::clone(&call.registration.as_ref()?.core.common)))
    else {
        return Err(calls);
    };
    let Some(place) = Reservation::take(&common) else { return Err(calls) };
    if let ([call], Some(sink)) = (calls.as_slice(), sink)
        && let Some(registration) = &call.registration
    {
        let _ = registration.flag.stream.set(Arc::downgrade(sink));
    }
    let calls = DetachedCalls::new(calls, sink.cloned(), common.times().orphan);
    let breaker = calls.breaker();
    place.give(calls, breaker);
    Ok(())
}
