//! Health checks of a session: by `ping` if the server answers it, else by the list that proved the session. A server
//! that answers neither is not probed, as its silence would mean nothing.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{Session, inflight::InFlight, pending::Outcome};
use crate::error::{Cause, SendError};

/// The kind of health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ProbeWith {
    Ping = 0,
    ToolsList = 1,
    PromptsList = 2,
    ResourcesList = 3,
    /// The server rejects pings and lists; even a rejection is a sign of life.
    RefusedPing = 4,
    /// No check: the server ignores every suitable request.
    Nothing = 5,
}

impl ProbeWith {
    /// The list supported by a server with these capabilities.
    pub(crate) fn list_of(has: impl Fn(&str) -> bool) -> Option<Self> {
        let lists =
            [("tools", Self::ToolsList), ("prompts", Self::PromptsList), ("resources", Self::ResourcesList)];
        lists.into_iter().find(|(capability, _)| has(capability)).map(|(_, list)| list)
    }

    pub(crate) fn method(self) -> &'static str {
        match self {
            Self::Ping | Self::RefusedPing | Self::Nothing => "ping",
            Self::ToolsList => "tools/list",
            Self::PromptsList => "prompts/list",
            Self::ResourcesList => "resources/list",
        }
    }

    fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Ping,
            1 => Self::ToolsList,
            2 => Self::PromptsList,
            3 => Self::ResourcesList,
            4 => Self::RefusedPing,
            _ => Self::Nothing,
        }
    }
}

impl Session {
    /// Sets the kind of health check.
    pub(crate) fn probe_with(&self, how: ProbeWith) {
        self.probe.store(how as u8, Ordering::Relaxed);
    }

    pub(crate) fn probes_with(&self) -> ProbeWith {
        ProbeWith::from_u8(self.probe.load(Ordering::Relaxed))
    }

    /// Checks if the server is alive. False if it did not answer in time, or does not know the session.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the check.
    pub(crate) async fn is_alive(self: &Arc<Self>, limit: Duration) -> bool {
        let how = self.probes_with();
        let answer = async {
            match how {
                ProbeWith::Nothing => true,
                ProbeWith::RefusedPing => shows_life(&self.request_quietly("ping", None).await),
                ProbeWith::Ping => shows_life(&self.request_own("ping", None).await),
                list => shows_life(&self.request_own(list.method(), Some("{}")).await),
            }
        };
        tokio::time::timeout(limit, answer).await.unwrap_or(false)
    }

    /// Sends a request of the gateway whose rejection does not affect the session.
    pub(super) async fn request_quietly(self: &Arc<Self>, method: &str, params: Option<&str>) -> Outcome {
        let ticket = self.pending.register_own()?;
        let exchange = self.outbound.send(own_request(ticket.id, method, params));
        InFlight::new(self.clone(), ticket, exchange, None).quietly().answer().await
    }
}

/// The JSON of a request of the gateway.
pub(super) fn own_request(id: u64, method: &str, params: Option<&str>) -> bytes::Bytes {
    let params = params.map(|params| format!(",\"params\":{params}")).unwrap_or_default();
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"{method}\"{params}}}").into()
}

fn shows_life(outcome: &Outcome) -> bool {
    outcome.as_ref().map_or_else(is_complete, |_| true)
}

/// True if the error came from a server that knows the session: a rejection, an empty body, or an unusable response.
pub(crate) fn is_complete(error: &SendError) -> bool {
    match &error.cause {
        Cause::Status(refusal) => !matches!(refusal.status, 502..=504),
        Cause::WrongTransport(_)
        | Cause::NotInitialized(_)
        | Cause::Pressure(_)
        | Cause::Credential(_)
        | Cause::TooLarge(_)
        | Cause::Protocol(_) => true,
        Cause::Broken(_) => error.is_unanswered(),
        Cause::Connect(_)
        | Cause::Tls(_)
        | Cause::Descriptors
        | Cause::Timeout(_)
        | Cause::SessionLost(_)
        | Cause::Gateway(_)
        | Cause::WrongVersion(_)
        | Cause::Closed(_) => false,
    }
}
