//! The credential of a backend: the headers with which the gateway shows who it is.
//!
//! A transport asks for the headers of each request anew, so a credential that is rotated touches no session. Sessions
//! of different credentials are never shared: the key is part of the pool key and outlives every rotation.

use std::{fmt, sync::Arc};

use http::{HeaderName, HeaderValue};
use mcpool_wire::Identity;

use crate::config::{BackendSpec, Endpoint};

/// Answers the headers of each request to one backend.
pub trait Credential: fmt::Debug + Send + Sync + 'static {
    /// The key of the credential used for this caller: equal for callers who may share a session.
    fn key(&self, caller: &Arc<Identity>) -> CredentialKey;

    /// The headers of the next request. Called for each request: it must not wait.
    fn headers(&self, key: &CredentialKey) -> Presented;
}

/// Tells credentials apart; the same before and after a rotation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum CredentialKey {
    /// One for all callers.
    #[default]
    Common,
    /// The one of this caller.
    Of(Arc<Identity>),
}

/// The headers of a credential at one moment.
#[derive(Clone, Debug)]
pub struct Presented {
    /// Another number means other headers.
    pub version: u64,
    /// Names and values; the values are sensitive.
    pub headers: Arc<[(HeaderName, HeaderValue)]>,
}

/// The configured headers: one credential for all callers that never changes. Another configuration is another
/// generation of the backend.
#[derive(Debug)]
pub struct StaticHeaders(Arc<[(HeaderName, HeaderValue)]>);

impl StaticHeaders {
    /// The headers configured for a backend; none for a process.
    #[must_use]
    pub fn of(spec: &BackendSpec) -> Arc<dyn Credential> {
        match &spec.endpoint {
            Endpoint::Http(endpoint) => Self::holding(&endpoint.headers),
            Endpoint::Stdio(_) => Self::holding(&[]),
        }
    }

    /// These headers.
    #[must_use]
    pub fn holding(headers: &[(HeaderName, HeaderValue)]) -> Arc<dyn Credential> {
        Arc::new(Self(headers.into()))
    }
}

impl Credential for StaticHeaders {
    fn key(&self, _: &Arc<Identity>) -> CredentialKey {
        CredentialKey::Common
    }

    fn headers(&self, _: &CredentialKey) -> Presented {
        Presented { version: 0, headers: Arc::clone(&self.0) }
    }
}

#[cfg(test)]
mod tests;
