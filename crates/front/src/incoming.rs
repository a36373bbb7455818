//! One message of an agent, decoded once and owned: what is left of the envelope when the borrow ends.

use std::sync::Arc;

use bytes::Bytes;
use mcpool_wire::{DecodeError, Envelope, IdValue, Kind, Message, Method, RpcId};
use serde_json::value::RawValue;

pub(crate) struct Incoming {
    pub(crate) body: Body,
    pub(crate) message: Message,
    /// Carries the marks of the era without sessions.
    pub(crate) is_modern: bool,
}

/// What the message is, with what the front decides on.
pub(crate) enum Body {
    Request(Request),
    Notification(Method, Option<IdValue>),
    Response(Option<IdValue>),
    /// Well-formed, but its id cannot be echoed.
    BadId(&'static str),
}

/// A request that wants an answer.
#[derive(Clone)]
pub(crate) struct Request {
    pub(crate) id: RpcId,
    pub(crate) method: Method,
    pub(crate) name: Option<Arc<str>>,
    pub(crate) is_plain_list: bool,
}

impl Incoming {
    pub(crate) fn parse(bytes: Bytes) -> Result<Self, DecodeError> {
        let envelope = Envelope::parse(&bytes)?;
        let message = Message::new(bytes.clone(), &envelope);
        let is_modern = envelope.params.is_modern || envelope.method == Some(Method::ServerDiscover);
        Ok(Self { body: Body::of(envelope), message, is_modern })
    }

    /// Whether this is the call with this id (`initialize` cannot be cancelled).
    pub(crate) fn is_request(&self, id: &IdValue) -> bool {
        matches!(&self.body, Body::Request(request)
            if request.id.value() == id && request.method != Method::Initialize)
    }

    /// The id to echo, where there is one.
    pub(crate) fn id(&self) -> Option<&RpcId> {
        match &self.body {
            Body::Request(request) => Some(&request.id),
            Body::Notification(..) | Body::Response(_) | Body::BadId(_) => None,
        }
    }
}

impl Body {
    fn of(envelope: Envelope<'_>) -> Self {
        match envelope.kind {
            Kind::Success | Kind::Failure => Self::Response(envelope.id_value()),
            Kind::Notification => {
                let target = envelope.params.request_id.and_then(|raw: &RawValue| IdValue::parse(raw).ok());
                Self::Notification(envelope.method.unwrap_or_else(|| Method::parse("")), target)
            }
            Kind::Request => match envelope.id() {
                Some(Ok(id)) => Self::Request(Request::of(id, envelope)),
                Some(Err(why)) => Self::BadId(why),
                None => Self::BadId("a request needs an id"),
            },
        }
    }
}

impl Request {
    fn of(id: RpcId, envelope: Envelope<'_>) -> Self {
        let is_plain_list = !envelope.params.has_cursor
            && matches!(
                envelope.method,
                Some(
                    Method::ToolsList
                        | Method::PromptsList
                        | Method::ResourcesList
                        | Method::ResourcesTemplatesList
                )
            );
        let method = envelope.method.unwrap_or_else(|| Method::parse(""));
        let name = match &method {
            Method::ToolsCall | Method::PromptsGet => envelope.params.name,
            _ => envelope.params.uri,
        };
        Self { id, method, name: name.map(Arc::from), is_plain_list }
    }
}
