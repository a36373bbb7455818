//! The last requests as they came, for tests that look at bytes and headers.
//!
//! The subtle thing: nothing is kept unless the script asks for it, and then only so many.

use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::Bytes;
use http::{HeaderMap, Method, Request};

use super::lock;

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Its method.
    pub method: Method,
    /// Its path, with the query.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, once it was read.
    pub body: Bytes,
}

/// The requests kept so far.
#[derive(Debug, Default)]
pub struct Records(Mutex<VecDeque<Recorded>>);

impl Records {
    /// Keeps a request and its body; beyond `cap` the oldest goes.
    pub fn keep<B>(&self, cap: usize, request: &Request<B>, body: Bytes) {
        if cap == 0 {
            return;
        }
        let recorded = Recorded {
            method: request.method().clone(),
            path: request.uri().to_string(),
            headers: request.headers().clone(),
            body,
        };
        let mut all = lock(&self.0);
        all.truncate(cap.saturating_sub(1));
        all.push_front(recorded);
    }

    /// Takes what was kept, oldest first.
    pub fn take(&self) -> Vec<Recorded> {
        lock(&self.0).drain(..).rev().collect()
    }
}
