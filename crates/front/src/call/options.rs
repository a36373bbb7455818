//! How a call is made, and what its result is turned into.

use std::sync::Arc;

use bytes::Bytes;
use mcpool_wire::{
    Era, Forwarded, Outlet,
    modern::{Finish, to_modern_result},
};

/// How a call is made, and what its answer is turned into.
pub(crate) struct CallOptions {
    pub(super) scope: IdScope,
    pub(super) outlet: Option<Arc<dyn Outlet>>,
    pub(super) era: Era,
    pub(super) headers: Forwarded,
    pub(super) adapter: Option<ResultAdapter>,
}

/// Whose the id of a call is.
pub(super) enum IdScope {
    /// An agent session's: it is unique there, and cancels the call.
    Session,
    /// One of many callers that share a link.
    SharedLink,
}

/// An answer of a backend with handshake is carried over to the era without.
pub(crate) struct ResultAdapter {
    /// The server's name and version as JSON text.
    pub(crate) server_info: Arc<str>,
    /// For how long the result is good, where it is one that may be kept.
    pub(crate) ttl_ms: Option<u64>,
    /// Whether its caller can be sent to a URL, and asks again.
    pub(crate) opens_urls: bool,
}

impl CallOptions {
    pub(super) fn of_session(outlet: Option<Arc<dyn Outlet>>) -> Self {
        let headers = Forwarded::default();
        Self { scope: IdScope::Session, outlet, era: Era::Legacy, headers, adapter: None }
    }

    /// Of a guest, to a backend of its own era: nothing is changed on either way.
    pub(crate) fn modern(outlet: Arc<dyn Outlet>, headers: Forwarded) -> Self {
        Self { scope: IdScope::SharedLink, outlet: Some(outlet), era: Era::Modern, headers, adapter: None }
    }

    /// Of a guest, to a backend of the other era.
    pub(crate) fn carried(outlet: Arc<dyn Outlet>, adapter: ResultAdapter) -> Self {
        let headers = Forwarded::default();
        Self {
            scope: IdScope::SharedLink,
            outlet: Some(outlet),
            era: Era::Legacy,
            headers,
            adapter: Some(adapter),
        }
    }
}

impl ResultAdapter {
    pub(super) fn over(&self, body: &Bytes) -> Bytes {
        let Self { server_info, ttl_ms, opens_urls } = self;
        let finish = Finish { server_info, ttl_ms: *ttl_ms, opens_urls: *opens_urls };
        to_modern_result(body, &finish)
    }
}
