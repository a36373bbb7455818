//! `[limits]` and `[times]`: the settings of the agent listener.

use std::{ops::RangeInclusive, time::Duration};

use mcpool_front::{FrontLimits, FrontTimes};

use super::{
    check::Checker,
    memory,
    raw::{RawLimits, RawTimes},
};

/// The default limits; `buffered` depends on the memory.
pub(super) fn default_limits() -> FrontLimits {
    FrontLimits { buffered_bytes: memory::buffered(), ..FrontLimits::default() }
}

/// Range of `limits.buffered`: a few messages, up to any machine's memory.
const BUFFERED: RangeInclusive<usize> = 1 << 20..=1 << 40;

pub(super) fn limits(checker: &mut Checker<'_>, raw: &RawLimits) -> FrontLimits {
    let default = default_limits();
    checker.section("limits.");
    let mut count = |key, raw, default| checker.count(key, raw, default, 1..=10_000_000);
    let (connections, agent_sessions) = (
        count("connections", &raw.connections, default.connections),
        count("agent_sessions", &raw.agent_sessions, default.agent_sessions),
    );
    let (connections_per_peer, sessions_per_peer) = (
        count("connections_per_peer", &raw.connections_per_peer, default.connections_per_peer),
        count("sessions_per_peer", &raw.sessions_per_peer, default.sessions_per_peer),
    );
    let deleted_sessions = count("deleted_sessions", &raw.deleted_sessions, default.deleted_sessions);
    let calls_per_agent = count("calls_per_agent", &raw.calls_per_agent, default.calls_per_agent);
    let calls_per_principal =
        count("calls_per_principal", &raw.calls_per_principal, default.calls_per_principal);
    let outbound_messages = count("agent_messages", &raw.agent_messages, default.outbound_messages);
    let adopted_calls = count("adopted_calls", &raw.adopted_calls, default.adopted_calls);
    let replay_events =
        checker.count("replay_events", &raw.replay_events, default.replay_events, 0..=10_000_000);
    let buffered_bytes = checker.size_or_auto("buffered", &raw.buffered, default.buffered_bytes, BUFFERED);
    let mut size = |key, raw, default, least| checker.size(key, raw, default, least..=1 << 30);
    let limits = FrontLimits {
        connections,
        connections_per_peer,
        count_loopback: default.count_loopback,
        descriptors: default.descriptors,
        reserved_descriptors: default.reserved_descriptors,
        agent_sessions,
        sessions_per_peer,
        deleted_sessions,
        calls_per_agent,
        calls_per_principal,
        body_bytes: size("body", &raw.body, default.body_bytes, 1 << 10),
        body_rate: size("body_rate", &raw.body_rate, default.body_rate, 1),
        buffered_bytes,
        header_bytes: size("header", &raw.header, default.header_bytes, 8 << 10),
        outbound_messages,
        outbound_bytes: size("agent_buffer", &raw.agent_buffer, default.outbound_bytes, 1 << 10),
        replay_events,
        replay_bytes: size("replay_buffer", &raw.replay_buffer, default.replay_bytes, 1 << 10),
        replay_total_bytes: size("replay_total", &raw.replay_total, default.replay_total_bytes, 1 << 10),
        adopted_calls,
    };
    checker.section("");
    limits
}

pub(super) fn times(checker: &mut Checker<'_>, raw: &RawTimes) -> FrontTimes {
    let default = FrontTimes::default();
    checker.section("times.");
    let mut time = |key, raw, default| checker.duration(key, raw, default, Duration::from_millis(1));
    let times = FrontTimes {
        header: time("header", &raw.header, default.header),
        keep_alive: time("keep_alive", &raw.keep_alive, default.keep_alive),
        body_idle: time("body_idle", &raw.body_idle, default.body_idle),
        overload_wait: time("overload_wait", &raw.overload_wait, default.overload_wait),
        write_stall: time("write_stall", &raw.write_stall, default.write_stall),
        call: time("call", &raw.call, default.call),
        open: time("open", &raw.open, default.open),
        reconnect_grace: time("reconnect_grace", &raw.reconnect_grace, default.reconnect_grace),
        orphan: time("orphan", &raw.orphan, default.orphan),
        parked: time("parked", &raw.parked, default.parked),
        agent_idle: time("agent_idle", &raw.agent_idle, default.agent_idle),
        session_lifetime: time("session_lifetime", &raw.session_lifetime, default.session_lifetime),
        stream_ping: time("stream_ping", &raw.stream_ping, default.stream_ping),
        answer_as_stream: time("answer_as_stream", &raw.answer_as_stream, default.answer_as_stream),
        retry: time("retry", &raw.retry, default.retry),
        drain: default.drain,
    };
    checker.section("");
    times
}
