//! `subscriptions/listen`: a stream of changes, for as long as its connection lasts.
//!
//! Each stream has a link of its own, so that changes reach it as they reach an agent session. Its first message lists
//! the changes it will carry: those that were asked for and that the backend promised. Changes before that are queued,
//! so that none is lost between the subscription and the stream.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::StatusCode;
use mcpool_wire::{
    Backends, ClientHello, Hello, Link, LinkEvent, Method, Outlet, OutletFull, Revision, Target,
    modern::{Filter, listened, stamped},
    read_leniently,
};
use serde_json::json;

use super::{
    StatelessRequest,
    discover::greeting,
    listeners::{ListenerEntry, Listeners},
    own::own,
};
use crate::{
    http::response::Response,
    limits::refused::NoPlace,
    observe::{Cause, Transport},
    panics::catch_panic,
    session::{
        Front,
        agent::AgentCore,
        open::{self, OpenEnd},
    },
    stream::outbox::{Outbox, Presence},
};

/// Most changes queued before the first message of a stream.
const EARLY: usize = 256;
/// Most resources of one stream: as many as one agent may subscribe to.
const MOST_RESOURCES: usize = 1_000;
/// Subscriptions of one stream that are made at a time.
const AT_ONCE: usize = 16;

/// The receiver of changes of one stream.
pub(super) struct Listener {
    core: Arc<AgentCore>,
    /// The id of its request, as JSON text.
    id: String,
    state: Mutex<ListenerState>,
}

enum ListenerState {
    Early(Vec<Bytes>),
    Open(Filter),
}

/// The task of one stream, and what it holds.
struct ListenTask<L> {
    listener: Arc<Listener>,
    _link: Arc<L>,
    _entry: ListenerEntry,
}

pub(super) async fn serve<B: Backends>(
    front: &Arc<Front<B>>,
    listeners: &Arc<Listeners>,
    post: StatelessRequest<'_>,
    message: &[u8],
) -> Response {
    let request = &post.request;
    let wanted = match Filter::parse(message) {
        Ok(wanted) if wanted.updates.len() <= MOST_RESOURCES => wanted,
        Ok(_) => {
            let why = format!("one stream is about {MOST_RESOURCES} resources at most");
            return Response::refused(StatusCode::BAD_REQUEST, Some(&request.id), -32602, &why);
        }
        Err(why) => return Response::refused(StatusCode::BAD_REQUEST, Some(&request.id), -32602, why),
    };
    let no_place = |why| Response::no_place(Some(&request.id), &front.common.request_id().to_string(), why);
    let permit = match front.acquire_session(post.head.peer).await {
        Ok(permit) => permit,
        Err(why) => return no_place(why),
    };
    let StatelessRequest { head, ref target, .. } = post;
    let core = front.new_agent(head, target.clone(), Transport::Other, permit, None);
    let listener = Listener::new(&core, String::from_utf8_lossy(request.id.raw()).into_owned());
    let Some(entry) = listeners.enter(&listener, &front.common) else { return no_place(NoPlace::Full) };
    let end = OpenEnd::new(&core);
    let link = match link_of(front, &core, &listener, target).await {
        Ok(link) => link,
        Err(error) => {
            let body = end.refused(&core, request, &error);
            return Response::json(StatusCode::OK, Cause::Gateway, body);
        }
    };
    core.profile.tied(link.as_ref());
    let capabilities = greeting(link.as_ref()).get("capabilities").map(|raw| read_leniently(raw.get()));
    let capabilities = capabilities.unwrap_or_default();
    let mut filter = wanted.honoured(&capabilities);
    filter.updates = subscribed(&core, link.as_ref(), std::mem::take(&mut filter.updates)).await;
    let Some(reader) = listener.begin(filter) else { return no_place(NoPlace::Overloaded) };
    end.ok(&core, request);
    let task = ListenTask { listener, _link: link, _entry: entry };
    front.tasks.spawn(catch_panic(Arc::clone(&front.common), "stream", task.last()));
    Response::stream(reader, None, front.common.times().stream_ping)
}

async fn link_of<B: Backends>(
    front: &Front<B>,
    core: &Arc<AgentCore>,
    listener: &Arc<Listener>,
    target: &Target,
) -> Result<Arc<B::Link>, mcpool_wire::CallError> {
    let client = ClientHello { revision: Revision::V2026_07_28, ..ClientHello::neutral() };
    let outlet: Arc<dyn Outlet> = Arc::<Listener>::clone(listener);
    let hello = Hello { caller: Arc::clone(&core.caller), target: target.clone(), client, outlet };
    open::bounded(front.backends.open(hello), &front.common).await
}

/// Subscribes to these resources. Returns those the backend accepted, in their order.
async fn subscribed<L: Link>(core: &AgentCore, link: &L, uris: Vec<String>) -> Vec<String> {
    let asked = uris.into_iter().map(|uri| {
        let params = json!({ "uri": uri });
        let answer = own(core, Method::ResourcesSubscribe, &params, Some(&uri)).map(|call| link.call(call));
        async move {
            match answer?.await {
                Ok(answer) if !answer.is_rpc_error => Some(uri),
                Ok(_) | Err(_) => None,
            }
        }
    });
    stream::iter(asked).buffered(AT_ONCE).filter_map(std::future::ready).collect().await
}

impl Listener {
    fn new(core: &Arc<AgentCore>, id: String) -> Arc<Self> {
        Arc::new(Self { core: Arc::clone(core), id, state: Mutex::new(ListenerState::Early(Vec::new())) })
    }

    pub(super) fn core(&self) -> Arc<AgentCore> {
        Arc::clone(&self.core)
    }

    /// Sends the first message, then the queued changes. `None` if the stream has ended already.
    fn begin(&self, filter: Filter) -> Option<crate::stream::outbox::Reader> {
        let reader = self.core.outbox.attach()?;
        let mut state = self.lock();
        self.core.send_answer(filter.acknowledged(&self.id));
        if let ListenerState::Early(early) =
            std::mem::replace(&mut *state, ListenerState::Open(filter.clone()))
        {
            for notification in early {
                // Counted where the message is dropped.
                let _ = self.tell(&filter, notification);
            }
        }
        Some(reader)
    }

    fn hear(&self, notification: Bytes) -> Result<(), OutletFull> {
        // Locked while it is delivered: queued changes come before later ones.
        match &mut *self.lock() {
            ListenerState::Early(early) if early.len() < EARLY => {
                early.push(notification);
                Ok(())
            }
            ListenerState::Early(_) => {
                self.core.common.dropped("notification");
                Err(OutletFull)
            }
            ListenerState::Open(filter) => self.tell(filter, notification),
        }
    }

    fn tell(&self, filter: &Filter, notification: Bytes) -> Result<(), OutletFull> {
        if !filter.takes(&notification) {
            return Ok(());
        }
        let event = LinkEvent::Notification(stamped(&notification, &self.id));
        self.core.deliver(&self.core.outbox, event)
    }

    /// Ends the stream with the answer to its request.
    pub(super) fn end(&self) {
        self.core.send_answer(listened(&self.id));
        self.core.outbox.close();
    }

    pub(super) fn outbox(&self) -> Arc<Outbox> {
        Arc::clone(&self.core.outbox)
    }

    fn lock(&self) -> MutexGuard<'_, ListenerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outlet for Listener {
    fn push(&self, event: LinkEvent) -> Result<(), OutletFull> {
        match event {
            LinkEvent::Notification(bytes) => self.hear(bytes),
            LinkEvent::Progress(_)
            | LinkEvent::Withdrawn { .. }
            | LinkEvent::Paused(_)
            | LinkEvent::Owned(_) => Ok(()),
            LinkEvent::Ended(_) => {
                self.end();
                Ok(())
            }
            LinkEvent::Request { .. } => Err(OutletFull),
        }
    }
}

impl<L: Link> ListenTask<L> {
    /// Runs until the reader is gone or the front ends.
    async fn last(self) {
        let core = &self.listener.core;
        let left = poll_fn(|cx| match core.outbox.poll_presence(cx) {
            Presence::Attached(_) => Poll::Pending,
            Presence::Absent | Presence::Closed => Poll::Ready(()),
        });
        tokio::select! {
            () = left => {}
            () = core.common.kill.cancelled() => {}
        }
    }
}
