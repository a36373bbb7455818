//! The queue of an outbox: what is dropped or merged when it is full, and what is stored for a resume.

use std::{collections::VecDeque, task::Waker};

use bytes::Bytes;

use super::{Outbox, Presence, State};
use crate::{
    limits::memory::Purpose,
    stream::{drop_policy::DropPolicy, event::EventId, replay::LISTENING},
};

impl Outbox {
    /// Whether a message is queued without a reader. The stream of a call is read later or never; the session's own
    /// stream waits for as long as it may be resumed. A server request must be asked elsewhere.
    pub(super) fn waits_for_reader(&self, state: &mut State, policy: DropPolicy) -> bool {
        let Some(stream) = self.stream.as_ref().filter(|stream| stream.number == LISTENING) else {
            return true;
        };
        if state.left.is_some_and(|left| left.elapsed() < stream.replay.window()) {
            return policy != DropPolicy::Required;
        }
        state.left = None;
        self.clear(state);
        false
    }

    pub(super) fn is_full(&self, state: &State, times: usize) -> bool {
        state.queue.len() >= times * self.messages || state.bytes >= times * self.bytes
    }

    pub(super) fn merge(&self, state: &mut State, policy: DropPolicy, bytes: &Bytes) -> bool {
        let Some(twin) = state.queue.iter_mut().rev().find(|entry| entry.policy == policy) else {
            return false;
        };
        let old = std::mem::replace(&mut twin.bytes, bytes.clone());
        self.count(state, bytes.len(), old.len());
        true
    }

    /// Drops the oldest logs until there is room, or no log is left.
    pub(super) fn make_room(&self, state: &mut State) -> usize {
        let mut gone = 0;
        while self.is_full(state, 1) {
            let Some(at) = state.queue.iter().position(|entry| entry.policy == DropPolicy::Log) else {
                break;
            };
            let size = state.queue.remove(at).map_or(0, |entry| entry.bytes.len());
            self.count(state, 0, size);
            gone += 1;
        }
        gone
    }

    /// Ends the stream of an agent that does not read. The session's own stream can be opened again.
    pub(super) fn shed(&self, state: &mut State) -> Option<Waker> {
        self.clear(state);
        // The bytes already handed to the connection can be as much as one answer.
        if let Some(connection) = state.connection.take() {
            connection.cut();
        }
        if self.stream.as_ref().is_some_and(|stream| stream.number == LISTENING) {
            // The present reader ends.
            state.readers += 1;
            state.presence = Presence::Absent;
            state.left = None;
        } else {
            state.presence = Presence::Closed;
        }
        state.waker.take()
    }

    pub(super) fn clear(&self, state: &mut State) {
        let gone = state.bytes;
        self.count(state, 0, gone);
        state.queue = VecDeque::new();
    }

    /// Stores the queued messages for an agent that resumes.
    pub(super) fn retire(&self, state: &mut State) {
        while let Some(entry) = state.queue.pop_front() {
            self.count(state, 0, entry.bytes.len());
            self.number(state, &entry.bytes);
        }
        state.queue = VecDeque::new();
    }

    /// Numbers the next event and stores it.
    pub(super) fn number(&self, state: &mut State, bytes: &Bytes) -> Option<EventId> {
        let stream = self.stream.as_ref()?;
        state.seq += 1;
        let id = EventId { stream: stream.number, seq: state.seq };
        stream.replay.keep(id, bytes.clone());
        Some(id)
    }

    pub(super) fn count(&self, state: &mut State, more: usize, less: usize) {
        state.bytes = state.bytes + more - less;
        self.memory.charge(Purpose::Outbound, more);
        self.memory.release(Purpose::Outbound, less);
    }
}
