//! Call options: how a call is made, and how its result is adapted.

use std::sync::Arc;

use bytes::Bytes;
use mcpool_wire::{
    Era, Forwarded, Outlet,
    modern::{Finish, to_modern_result},
};

/// Call options: how a call is made, and how its result is adapted.
pub(crate) struct CallOptions {
    pub(super) scope: IdScope,
    pub(super) outlet: Option<Arc<dyn Outlet>>,
    pub(super) era: Era,
    pub(super) headers: Forwarded,
    pub(super) adapter: Option<ResultAdapter>,
}

/// The scope in which the id of a call is unique.
pub(super) enum IdScope {
    /// An agent session: the id is unique there, and cancels the call.
    Session,
    /// A shared link: ids of different callers may be equal.
    SharedLink,
}

/// Adapts a result of a backend with handshake to the stateless era.
pub(crate) struct ResultAdapter {
    /// The server's name and version as JSON text.
    pub(crate) server_info: Arc<str>,
    /// Milliseconds for which the result may be cached. `None` if it must not be.
    pub(crate) ttl_ms: Option<u64>,
    /// Whether the caller can open a URL and repeat its request.
    pub(crate) opens_urls: bool,
}

impl CallOptions {
    pub(super) fn of_session(outlet: Option<Arc<dyn Outlet>>) -> Self {
        let headers = Forwarded::default();
        Self { scope: IdScope::Session, outlet, era: Era::Legacy, headers, adapter: None }
    }

    /// Options of a stateless call to a stateless backend: nothing is adapted.
    pub(crate) fn modern(outlet: Arc<dyn Outlet>, headers: Forwarded) -> Self {
        Self { scope: IdScope::SharedLink, outlet: Some(outlet), era: Era::Modern, headers, adapter: None }
    }

    /// Options of a stateless call to a backend with handshake.
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
