//! Profiles of servers that are known by their name and version.

use crate::kinds::Mode;

/// A server that is known: by patterns of the name and version it gives, where `*` stands for anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Pattern of `serverInfo.name`, in lower case: upper and lower case are the same.
    pub server: String,
    /// Pattern of `serverInfo.version`.
    pub version: String,
    /// Its mode.
    pub mode: Mode,
    /// Most sessions of one shared pool, where the server stands fewer than usual.
    pub shared_sessions: Option<usize>,
    /// Whether calls that may write run one at a time on a shared session.
    pub serialize_writes: Option<bool>,
}

impl Profile {
    /// Whether it is for servers of this name, which is given in lower case, and version.
    #[must_use]
    pub fn fits(&self, name: &str, version: &str) -> bool {
        matches(&self.server, name) && matches(&self.version, version)
    }
}

/// Whether a text fits a pattern in which `*` stands for anything, in time linear in both.
#[must_use]
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return text.ends_with(part);
        }
        // The first place is as good as any later one.
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    true
}
