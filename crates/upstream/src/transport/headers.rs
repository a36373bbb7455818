//! The headers of a session's requests: built once, and again when the revision is agreed or the credential rotated.

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use mcpool_wire::{Forwarded, Revision};

use super::http::HttpClient;
use crate::credential::Presented;

pub(super) const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
const BOTH: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");
const UNCODED: HeaderValue = HeaderValue::from_static("identity");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("mcpool/", env!("CARGO_PKG_VERSION")));

/// The headers of one session.
pub(super) struct Headers {
    /// Agent headers.
    forwarded: Forwarded,
    session: Option<HeaderValue>,
    built: ArcSwap<Built>,
}

/// The headers as of one revision and one version of the credential.
pub(super) struct Built {
    pub(super) post: HeaderMap,
    pub(super) get: HeaderMap,
    revision: Option<Revision>,
    version: u64,
}

impl Headers {
    pub(super) fn new(
        http: &HttpClient,
        forwarded: Forwarded,
        session: Option<HeaderValue>,
        revision: Option<Revision>,
    ) -> Self {
        let built = build(http, &http.presented(), &forwarded, session.as_ref(), revision);
        Self { forwarded, session, built: ArcSwap::from_pointee(built) }
    }

    /// The same agent headers in a session with this id.
    pub(super) fn in_session(self, http: &HttpClient, session: Option<HeaderValue>) -> Self {
        Self::new(http, self.forwarded, session, None)
    }

    /// The headers of the next request.
    pub(super) fn next(&self, http: &HttpClient) -> Arc<Built> {
        let (built, presented) = (self.built.load_full(), http.presented());
        if built.version == presented.version {
            return built;
        }
        // A revision that is agreed at the same time must not be lost.
        self.built.rcu(|built| self.build(http, &presented, built.revision));
        self.built.load_full()
    }

    /// Sets the version header of later requests.
    pub(super) fn agree(&self, http: &HttpClient, revision: Revision) {
        self.built.store(Arc::new(self.build(http, &http.presented(), Some(revision))));
    }

    fn build(&self, http: &HttpClient, presented: &Presented, revision: Option<Revision>) -> Built {
        build(http, presented, &self.forwarded, self.session.as_ref(), revision)
    }
}

fn build(
    http: &HttpClient,
    presented: &Presented,
    forwarded: &[(HeaderName, HeaderValue)],
    session: Option<&HeaderValue>,
    revision: Option<Revision>,
) -> Built {
    // Room for the headers of one request: a full map grows in each copy.
    let mut common = HeaderMap::with_capacity(12 + forwarded.len() + presented.headers.len());
    common.insert(header::USER_AGENT, AGENT);
    for (name, value) in forwarded.iter().chain(&*presented.headers) {
        common.append(name, value.clone());
    }
    common.entry(header::ACCEPT_ENCODING).or_insert(UNCODED);
    if let Some(host) = &http.host {
        common.entry(header::HOST).or_insert_with(|| host.clone());
    }
    if let Some(id) = session {
        common.insert(SESSION_ID, id.clone());
    }
    if let Some(revision) = revision.filter(|revision| revision.has_version_header()) {
        common.insert(VERSION, HeaderValue::from_static(revision.as_str()));
    }
    let mut get = common.clone();
    get.insert(header::ACCEPT, EVENTS);
    get.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let mut post = common;
    post.insert(header::ACCEPT, BOTH);
    post.insert(header::CONTENT_TYPE, JSON);
    // A place that the client fills for each message.
    post.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
    Built { post, get, revision, version: presented.version }
}
