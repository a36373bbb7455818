//! Drop policies: what may be dropped or merged when an agent does not keep up (SEMANTICS.md 10).

use std::hash::{DefaultHasher, Hash, Hasher};

use mcpool_wire::{Envelope, Method};

/// The treatment of a message when the queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DropPolicy {
    /// A log line: dropped first.
    Log,
    /// Progress of this token: only the latest matters.
    Progress(u64),
    /// A change notice: one waiting notice is as good as several.
    Change(u64),
    /// Any other notification: queued up to the hard limit.
    Note,
    /// A message that must arrive.
    Required,
}

impl DropPolicy {
    /// The policy of a notification: decided by its method, and for an update by its resource.
    pub(crate) fn of_notification(bytes: &[u8]) -> Self {
        let Ok(envelope) = Envelope::parse(bytes) else { return Self::Note };
        match &envelope.method {
            Some(Method::LogMessage) => Self::Log,
            Some(
                method @ (Method::ToolsListChanged
                | Method::PromptsListChanged
                | Method::ResourcesListChanged
                | Method::ResourcesUpdated),
            ) => Self::Change(hash(&(method, envelope.params.uri.as_deref()))),
            _ => Self::Note,
        }
    }

    /// The policy of a progress notification.
    pub(crate) fn of_progress(bytes: &[u8]) -> Self {
        let envelope = Envelope::parse(bytes);
        let token = envelope.as_ref().ok().and_then(|envelope| envelope.params.progress_token);
        Self::Progress(hash(&token.map(|token| token.get())))
    }

    /// Whether a queued message of this policy is replaced by a later one.
    pub(crate) fn is_merged(self) -> bool {
        matches!(self, Self::Progress(_) | Self::Change(_))
    }

    /// The metric label of a dropped message.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Progress(_) => "progress",
            Self::Change(_) | Self::Note => "notification",
            Self::Required => "server_request",
        }
    }
}

fn hash(key: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(method: &str, params: &str) -> DropPolicy {
        let text = format!(r#"{{"jsonrpc":"2.0","method":"notifications/{method}","params":{params}}}"#);
        DropPolicy::of_notification(text.as_bytes())
    }

    #[test]
    fn the_method_decides_and_an_update_is_of_its_resource() {
        assert_eq!(note("message", r#"{"level":"info","data":1}"#), DropPolicy::Log);
        assert_eq!(note("elicitation/complete", "{}"), DropPolicy::Note);
        assert_eq!(note("tools/list_changed", "{}"), note("tools/list_changed", r#"{"_meta":{}}"#));
        assert_ne!(note("tools/list_changed", "{}"), note("prompts/list_changed", "{}"));
        let updated = |uri: &str| note("resources/updated", &format!(r#"{{"uri":"{uri}"}}"#));
        assert_eq!(updated("a:1"), updated("a:1"));
        assert_ne!(updated("a:1"), updated("a:2"));
        assert_eq!(DropPolicy::of_notification(b"no message"), DropPolicy::Note);
    }

    #[test]
    fn progress_is_told_apart_by_its_token() {
        let progress = |token: &str| {
            let text = format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":1}}}}"#
            );
            DropPolicy::of_progress(text.as_bytes())
        };
        assert_eq!(progress("1"), progress("1"));
        assert_ne!(progress("1"), progress("\"1\""));
    }
}
