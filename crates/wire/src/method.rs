//! Methods of the protocol, and the one table of their scope on a shared session.

/// A JSON-RPC method: a variant if known, else its name as received.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is the method its name spells")]
pub enum Method {
    Initialize,
    Ping,
    ToolsList,
    ToolsCall,
    PromptsList,
    PromptsGet,
    ResourcesList,
    ResourcesTemplatesList,
    ResourcesRead,
    ResourcesSubscribe,
    ResourcesUnsubscribe,
    CompletionComplete,
    LoggingSetLevel,
    TasksGet,
    TasksResult,
    TasksList,
    TasksCancel,
    ServerDiscover,
    SubscriptionsListen,
    SamplingCreateMessage,
    ElicitationCreate,
    RootsList,
    Initialized,
    Cancelled,
    Progress,
    LogMessage,
    ToolsListChanged,
    PromptsListChanged,
    ResourcesListChanged,
    ResourcesUpdated,
    RootsListChanged,
    ElicitationComplete,
    TasksStatus,
    Other(Box<str>),
}

/// Owner of a message when many agents share one upstream session (DESIGN.md 3.9, SEMANTICS.md 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One call: forwarded with rewritten ids, answered to its caller.
    PerCall,
    /// One agent: the gateway answers, merges or filters it, and never forwards it on a shared session.
    PerAgent,
    /// The upstream session: the gateway's own handshake and health checks, or merged state.
    PerSession,
}

const NAMES: &[(&str, Method)] = &[
    ("initialize", Method::Initialize),
    ("ping", Method::Ping),
    ("tools/list", Method::ToolsList),
    ("tools/call", Method::ToolsCall),
    ("prompts/list", Method::PromptsList),
    ("prompts/get", Method::PromptsGet),
    ("resources/list", Method::ResourcesList),
    ("resources/templates/list", Method::ResourcesTemplatesList),
    ("resources/read", Method::ResourcesRead),
    ("resources/subscribe", Method::ResourcesSubscribe),
    ("resources/unsubscribe", Method::ResourcesUnsubscribe),
    ("completion/complete", Method::CompletionComplete),
    ("logging/setLevel", Method::LoggingSetLevel),
    ("tasks/get", Method::TasksGet),
    ("tasks/result", Method::TasksResult),
    ("tasks/list", Method::TasksList),
    ("tasks/cancel", Method::TasksCancel),
    ("server/discover", Method::ServerDiscover),
    ("subscriptions/listen", Method::SubscriptionsListen),
    ("sampling/createMessage", Method::SamplingCreateMessage),
    ("elicitation/create", Method::ElicitationCreate),
    ("roots/list", Method::RootsList),
    ("notifications/initialized", Method::Initialized),
    ("notifications/cancelled", Method::Cancelled),
    ("notifications/progress", Method::Progress),
    ("notifications/message", Method::LogMessage),
    ("notifications/tools/list_changed", Method::ToolsListChanged),
    ("notifications/prompts/list_changed", Method::PromptsListChanged),
    ("notifications/resources/list_changed", Method::ResourcesListChanged),
    ("notifications/resources/updated", Method::ResourcesUpdated),
    ("notifications/roots/list_changed", Method::RootsListChanged),
    ("notifications/elicitation/complete", Method::ElicitationComplete),
    ("notifications/tasks/status", Method::TasksStatus),
];

impl Method {
    /// The method with this name.
    #[must_use]
    pub fn parse(name: &str) -> Self {
        // Fast path for the most frequent method; the rest is a short table.
        if name == "tools/call" {
            return Self::ToolsCall;
        }
        NAMES
            .iter()
            .find(|(n, _)| *n == name)
            .map_or_else(|| Self::Other(name.into()), |(_, method)| method.clone())
    }

    /// The name as sent on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Other(name) => name,
            known => NAMES.iter().find(|(_, m)| m == known).map_or("", |(n, _)| n),
        }
    }

    /// The metric label. Unknown methods are `other`, so the number of labels is bounded.
    #[must_use]
    pub fn label(&self) -> &'static str {
        NAMES.iter().find(|(_, m)| m == self).map_or("other", |(n, _)| n)
    }

    /// All labels that [`Method::label`] returns, so that metrics exist before their first event.
    pub fn labels() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(n, _)| *n).chain(std::iter::once("other"))
    }

    /// The owner of this message on a shared session.
    #[must_use]
    pub fn scope(&self) -> Scope {
        match self {
            Self::Initialize
            | Self::Initialized
            | Self::Ping
            | Self::ToolsListChanged
            | Self::PromptsListChanged
            | Self::ResourcesListChanged
            | Self::ResourcesUpdated => Scope::PerSession,
            Self::LoggingSetLevel
            | Self::ResourcesSubscribe
            | Self::ResourcesUnsubscribe
            | Self::RootsListChanged
            | Self::RootsList
            | Self::SamplingCreateMessage
            | Self::ElicitationCreate
            | Self::ElicitationComplete
            | Self::TasksList
            | Self::TasksStatus
            | Self::ServerDiscover
            | Self::SubscriptionsListen
            | Self::Other(_) => Scope::PerAgent,
            Self::ToolsList
            | Self::ToolsCall
            | Self::PromptsList
            | Self::PromptsGet
            | Self::ResourcesList
            | Self::ResourcesTemplatesList
            | Self::ResourcesRead
            | Self::CompletionComplete
            | Self::TasksGet
            | Self::TasksResult
            | Self::TasksCancel
            | Self::Cancelled
            | Self::Progress
            | Self::LogMessage => Scope::PerCall,
        }
    }

    /// True if the protocol itself makes repetition harmless (SEMANTICS.md 9.1). `tools/call` is excluded: it needs the
    /// tool's `readOnlyHint`.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        matches!(
            self,
            Self::Ping
                | Self::ToolsList
                | Self::PromptsList
                | Self::PromptsGet
                | Self::ResourcesList
                | Self::ResourcesTemplatesList
                | Self::ResourcesRead
                | Self::ResourcesSubscribe
                | Self::ResourcesUnsubscribe
                | Self::CompletionComplete
                | Self::LoggingSetLevel
                | Self::TasksGet
                | Self::TasksResult
                | Self::TasksList
                | Self::TasksCancel
                | Self::ServerDiscover
                | Self::SubscriptionsListen
        )
    }
}

#[cfg(test)]
mod tests;
