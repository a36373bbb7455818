//! Messages of agents: decoded once and owned, independent of the borrowed envelope.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use mcpool_wire::{
    Caller, DecodeError, Envelope, IdValue, Kind, Message, Method, RpcId, is_batch, split_batch,
};
use serde_json::value::RawValue;

use crate::limits::memory::Charge;

pub(crate) struct Incoming {
    pub(crate) body: Body,
    pub(crate) message: Message,
    /// Whether it is marked as stateless (2026-07-28).
    pub(crate) is_modern: bool,
    /// The charge of its bytes.
    pub(crate) charge: Charge,
}

/// The content of one POST.
pub(crate) enum Parcel {
    One(Incoming),
    /// A batch (2025-03-26): each message, or why it is none.
    Many(Vec<Result<Incoming, DecodeError>>),
}

/// The message as the front needs it.
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
    pub(crate) wants_task: bool,
    /// The limit it exceeds, for which it is refused.
    pub(crate) beyond: Option<&'static str>,
    /// The caller with the headers of this request; `None`: those its session was opened with.
    pub(crate) caller: Option<Arc<Caller>>,
}

impl Parcel {
    pub(crate) fn parse(bytes: Bytes, mut charge: Charge) -> Result<Self, DecodeError> {
        if !is_batch(&bytes) {
            return Incoming::parse(bytes, charge).map(Self::One);
        }
        let one = |bytes: Bytes| {
            let charge = charge.split(bytes.len());
            Incoming::parse(bytes, charge)
        };
        let messages: Vec<_> = split_batch(&bytes)?.into_iter().map(one).collect();
        let greets = |one: &Result<Incoming, DecodeError>| one.as_ref().is_ok_and(Incoming::is_greeting);
        if messages.iter().any(greets) {
            return Err(DecodeError::of_batch("initialize must be sent alone, not in a batch"));
        }
        Ok(Self::Many(messages))
    }

    /// Sets the caller of its requests.
    pub(crate) fn sent_by(&mut self, caller: &Arc<Caller>) {
        match self {
            Self::One(message) => message.body.sent_by(caller),
            Self::Many(messages) => {
                messages.iter_mut().flatten().for_each(|message| message.body.sent_by(caller));
            }
        }
    }

    /// The id to echo, if there is one.
    pub(crate) fn id(&self) -> Option<&RpcId> {
        match self {
            Self::One(message) => message.id(),
            Self::Many(_) => None,
        }
    }
}

/// The error for the second of two messages with one id.
pub(crate) const REPEATED: &str = "this id stands in the batch twice";

/// Ids seen in one batch: the second request with one id is refused, whether or not the first still runs.
#[derive(Default)]
pub(crate) struct Seen(HashSet<IdValue>);

impl Seen {
    /// Whether this is a request whose id was seen before.
    pub(crate) fn is_repeated(&mut self, message: &Incoming) -> bool {
        message.id().is_some_and(|id| !self.0.insert(id.value().clone()))
    }
}

impl Incoming {
    pub(crate) fn parse(bytes: Bytes, charge: Charge) -> Result<Self, DecodeError> {
        let envelope = Envelope::parse_strict(&bytes)?;
        let message = Message::new(bytes.clone(), &envelope);
        let is_modern = envelope.params.is_modern || envelope.method == Some(Method::ServerDiscover);
        Ok(Self { body: Body::of(envelope), message, is_modern, charge })
    }

    /// Whether this is the call with this id (`initialize` cannot be cancelled).
    pub(crate) fn is_request(&self, id: &IdValue) -> bool {
        matches!(&self.body, Body::Request(request)
            if request.id.value() == id && request.method != Method::Initialize)
    }

    fn is_greeting(&self) -> bool {
        matches!(&self.body, Body::Request(request) if request.method == Method::Initialize)
    }

    /// The id to echo, if there is one.
    pub(crate) fn id(&self) -> Option<&RpcId> {
        match &self.body {
            Body::Request(request) => Some(&request.id),
            Body::Notification(..) | Body::Response(_) | Body::BadId(_) => None,
        }
    }
}

impl Body {
    /// Sets the caller, if it is a request.
    pub(crate) fn sent_by(&mut self, caller: &Arc<Caller>) {
        if let Self::Request(request) = self {
            request.caller = Some(Arc::clone(caller));
        }
    }

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
        let beyond = envelope.beyond_limits();
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
        let wants_task = envelope.params.has_task;
        let method = envelope.method.unwrap_or_else(|| Method::parse(""));
        let name = match &method {
            Method::ToolsCall | Method::PromptsGet => envelope.params.name,
            _ => envelope.params.uri,
        };
        Self { id, method, name: name.map(Arc::from), is_plain_list, wants_task, beyond, caller: None }
    }
}
