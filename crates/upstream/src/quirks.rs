//! What a server does not offer, or does in a way of its own, while it serves all the same: each is said once per
//! backend, and costs a feature, never the server.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

/// One deviation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Quirk {
    /// The stream of a session is refused, or its headers do not come.
    NoStream = 1,
    /// `notifications/initialized` is refused.
    InitializedRefused = 2,
    /// `ping` has no answer.
    NoPing = 4,
    /// The list that proves a new session has no answer.
    NoList = 8,
    /// Something that is no JSON-RPC came where only messages belong.
    NoMessage = 16,
}

/// The deviations of one backend that were said.
pub(crate) struct Quirks {
    backend: Arc<str>,
    said: AtomicU32,
}

impl Quirks {
    pub(crate) fn new(backend: Arc<str>) -> Self {
        Self { backend, said: AtomicU32::new(0) }
    }

    /// Says it, the first time.
    pub(crate) fn note(&self, quirk: Quirk, why: &str) {
        let (bit, backend) = (quirk as u32, self.backend.as_ref());
        if self.said.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            tracing::warn!(target: "mcpool::backend", backend, why, "{}", quirk.sentence());
        }
    }

    /// What was said so far, a sentence each.
    pub(crate) fn sentences(&self) -> Vec<&'static str> {
        let said = self.said.load(Ordering::Relaxed);
        Quirk::ALL.into_iter().filter(|quirk| said & *quirk as u32 != 0).map(Quirk::sentence).collect()
    }
}

impl Quirk {
    const ALL: [Self; 5] =
        [Self::NoStream, Self::InitializedRefused, Self::NoPing, Self::NoList, Self::NoMessage];

    fn sentence(self) -> &'static str {
        match self {
            Self::NoStream => {
                "the server offers no stream of its own now: changes of lists, and what it asks outside of calls, \
                 are not heard; it is asked again with growing pauses"
            }
            Self::InitializedRefused => {
                "the server refuses notifications/initialized; its session is used all the same"
            }
            Self::NoPing => "the server does not answer ping; whether it lives is asked in another way",
            Self::NoList => {
                "the server does not answer the list a new session is proven with; its session is used all the same, \
                 and what its tools say of themselves is not known"
            }
            Self::NoMessage => {
                "the server says JSON that is no JSON-RPC message beside its messages, as a log on standard output \
                 would be; it is passed over"
            }
        }
    }
}
