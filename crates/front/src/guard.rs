//! The guard: decides once for each request who sends it and whether it is served.
//!
//! It is asked after the checks of host, origin and peer and before the body is read. Everything behind it goes by the
//! identity it returned; nothing else looks at credentials. Probes and CORS preflights carry none and do not reach it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::request::Parts;
use mcpool_wire::Identity;

/// Decides about requests.
pub trait Guard: Send + Sync + 'static {
    /// Decides about one request. Called once per request, on the path of every call: it must not wait.
    fn check(&self, request: &GuardedRequest<'_>) -> Verdict;
}

/// A request as a guard sees it.
#[derive(Clone, Copy, Debug)]
pub struct GuardedRequest<'a> {
    /// The sender's address.
    pub peer: SocketAddr,
    /// Method, URL and headers.
    pub parts: &'a Parts,
    /// The backend named in the URL; `None` for the unnamed one and for paths of no backend.
    pub backend: Option<&'a str>,
}

/// The decision about one request.
#[derive(Debug)]
pub enum Verdict {
    /// It is served for this identity.
    Admitted(Arc<Identity>),
    /// It is answered with an error, and nothing of it is read.
    Refused(Box<Refusal>),
}

/// The reason and the answer of a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status; 403 if it is none.
    pub status: u16,
    /// One word for programs, such as `expired`.
    pub reason: &'static str,
    /// One sentence for people, without secrets.
    pub detail: String,
    /// The value of `WWW-Authenticate`.
    pub challenge: Option<String>,
    /// The time after which another try is of use.
    pub retry_after: Option<Duration>,
}

/// Admits every request, for the anonymous identity.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowAll;

impl Guard for AllowAll {
    fn check(&self, _: &GuardedRequest<'_>) -> Verdict {
        Verdict::Admitted(Identity::anonymous())
    }
}
