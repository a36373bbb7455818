//! The stateless era (2026-07-28): agents without handshake and session; every POST carries all there is to know of its
//! sender.
//!
//! Reading order: `validate` (what a request must carry), `links` (the links that callers share), `discover`, `call`
//! with its `call_output` (what it says to its caller) and `detached` (its later owner), `parked` (calls that wait for
//! their callers), `listen` (change streams). The subtle thing: there is no session to return to, so a connection that
//! ends cancels its call. If only the agent's side has ended, the gateway writes: an agent that waits for its answer
//! reads on, one that has gone refuses.

mod call;
mod call_output;
mod detached;
mod discover;
mod links;
mod listen;
mod listeners;
mod own;
mod parked;
mod validate;

use std::sync::Arc;

use http::StatusCode;
use mcpool_wire::{AgentKey, Backends, Link, Method, RpcId, Target, modern::ModernRequest};

use crate::{
    http::response::Response,
    limits::memory::Charge,
    message::{Body, Incoming, Request},
    session::{Front, RequestHead, Sessionless, agent::AgentCore},
    stream::connection::ConnectionState,
};

pub(crate) use call_output::CallOutput;
use links::{NoLink, SharedLinks};
use listeners::Listeners;
use parked::Parked;
pub(crate) use validate::is_modern;

/// The state of agents without a session. Owned beside the front, which only knows that it takes places of agent
/// sessions.
pub(crate) struct Stateless<L> {
    /// The links that callers share.
    pub(crate) links: SharedLinks<L>,
    /// Open streams of `subscriptions/listen`.
    pub(crate) listeners: Arc<Listeners>,
    /// Calls that wait for their callers.
    pub(crate) parked: Arc<Parked>,
}

impl<L> Default for Stateless<L> {
    fn default() -> Self {
        Self { links: SharedLinks::default(), listeners: Arc::default(), parked: Arc::default() }
    }
}

impl<L: Link> Sessionless for Stateless<L> {
    fn give_way(&self) -> bool {
        self.links.give_way()
    }

    fn cores(&self) -> Vec<Arc<AgentCore>> {
        let mut all = self.links.cores();
        all.extend(self.listeners.cores());
        all
    }
}

/// The way a request is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Discover,
    Listen,
    /// A call of the backend. `is_kept`: its result says how long it may be cached.
    Call {
        is_kept: bool,
    },
}

/// One validated request.
struct StatelessRequest<'a> {
    head: &'a RequestHead<'a>,
    target: Target,
    request: Request,
    modern: ModernRequest,
    /// The connection it came over.
    connection: &'a ConnectionState,
}

/// Serves a POST of this era.
pub(crate) async fn message<B: Backends>(
    front: &Arc<Front<B>>,
    stateless: &Arc<Stateless<B::Link>>,
    head: &RequestHead<'_>,
    incoming: Incoming,
    connection: &ConnectionState,
) -> Response {
    let Incoming { body, message, charge, .. } = incoming;
    let request = match body {
        Body::Request(request) => request,
        Body::BadId(why) => return Response::refused(StatusCode::BAD_REQUEST, None, -32600, why),
        // Neither has a meaning here: calls are cancelled by their connections, and servers ask callers nothing outside
        // of answers.
        Body::Notification(..) => return ignored(front, "notification"),
        Body::Response(_) => return ignored(front, "agent_response"),
    };
    let modern = match validate::check(head.headers, &request, message.bytes()) {
        Ok(modern) => modern,
        Err(unfit) => return unfit.to_response(&request.id),
    };
    let Some(service) = Service::of(&request.method) else { return no_method(&request.id, &request.method) };
    let target = match front.backends.target(head.backend, head.identity) {
        Ok(target) => target,
        Err(why) => return front.unknown_backend(head, Some(&request.id), &why),
    };
    let post = StatelessRequest { head, target, request, modern, connection };
    match service {
        // Boxed, so that the futures of calls do not grow by what these need.
        Service::Listen => Box::pin(listen::serve(front, &stateless.listeners, post, message.bytes())).await,
        Service::Discover => Box::pin(discovered(front, stateless, post)).await,
        Service::Call { is_kept } => called(front, stateless, post, is_kept, (message, charge)).await,
    }
}

async fn discovered<B: Backends>(
    front: &Arc<Front<B>>,
    stateless: &Arc<Stateless<B::Link>>,
    post: StatelessRequest<'_>,
) -> Response {
    if prefers_handshake(front, &post) {
        return use_handshake(&post.request.id);
    }
    match front.shared_link(stateless, post.head, &post.target, &post.modern.client).await {
        // The first caller of a backend shows what the server is.
        Ok(_) if prefers_handshake(front, &post) => use_handshake(&post.request.id),
        Ok(shared) => discover::respond(&shared, &post.request),
        Err(reason) => no_link(front, &reason, &post),
    }
}

fn prefers_handshake<B: Backends>(front: &Front<B>, post: &StatelessRequest<'_>) -> bool {
    let carried = front.carried(&post.target, post.head.headers);
    let caller = post.head.caller(AgentKey(0), &carried);
    front.backends.prefers_handshake(&post.target, &caller, &post.modern.client)
}

/// Answers like a server that does not know this era, upon which all SDKs begin with a handshake. Its calls would be
/// served, but each in a session of its own.
fn use_handshake(id: &RpcId) -> Response {
    let message = "this server keeps things in the session of each agent: begin with initialize, or say which agent it is \
                   by Mcpool-Affinity";
    Response::refused(StatusCode::NOT_FOUND, Some(id), -32601, message)
}

async fn called<B: Backends>(
    front: &Arc<Front<B>>,
    stateless: &Arc<Stateless<B::Link>>,
    post: StatelessRequest<'_>,
    is_kept: bool,
    message: (mcpool_wire::Message, Charge),
) -> Response {
    match front.shared_link(stateless, post.head, &post.target, &post.modern.client).await {
        Ok(shared) => call::serve(&shared, post, is_kept, message).await,
        Err(reason) => no_link(front, &reason, &post),
    }
}

fn no_link<B: Backends>(front: &Front<B>, reason: &NoLink, post: &StatelessRequest<'_>) -> Response {
    let (id, method) = (&post.request.id, &post.request.method);
    match reason {
        NoLink::NoPlace(why) => Response::no_place(Some(id), &front.common.request_id().to_string(), *why),
        NoLink::Unopened(error) => front.unopened(error, id, method, &post.target),
    }
}

fn ignored<B: Backends>(front: &Front<B>, kind: &'static str) -> Response {
    front.common.dropped(kind);
    Response::accepted()
}

/// Answers a method that is unknown or not part of this era.
fn no_method(id: &RpcId, method: &Method) -> Response {
    let shown: String = method.as_str().chars().filter(|c| !c.is_control()).take(80).collect();
    let message = format!("there is no method {shown:?} in revision 2026-07-28");
    Response::refused(StatusCode::NOT_FOUND, Some(id), -32601, &message)
}

impl Service {
    fn of(method: &Method) -> Option<Self> {
        match method {
            Method::ServerDiscover => Some(Self::Discover),
            Method::SubscriptionsListen => Some(Self::Listen),
            Method::ToolsCall | Method::PromptsGet | Method::CompletionComplete => {
                Some(Self::Call { is_kept: false })
            }
            Method::ToolsList
            | Method::PromptsList
            | Method::ResourcesList
            | Method::ResourcesTemplatesList
            | Method::ResourcesRead => Some(Self::Call { is_kept: true }),
            // Of the revisions with a handshake, or of servers alone.
            Method::Initialize
            | Method::Ping
            | Method::ResourcesSubscribe
            | Method::ResourcesUnsubscribe
            | Method::LoggingSetLevel
            | Method::TasksGet
            | Method::TasksResult
            | Method::TasksList
            | Method::TasksCancel
            | Method::SamplingCreateMessage
            | Method::ElicitationCreate
            | Method::RootsList
            | Method::Initialized
            | Method::Cancelled
            | Method::Progress
            | Method::LogMessage
            | Method::ToolsListChanged
            | Method::PromptsListChanged
            | Method::ResourcesListChanged
            | Method::ResourcesUpdated
            | Method::RootsListChanged
            | Method::ElicitationComplete
            | Method::TasksStatus
            | Method::Other(_) => None,
        }
    }
}
