//! The stream of news (`subscriptions/listen`): one per session, kept open over its breaks and over changes of its
//! filter. A new stream is there before the old one is closed, so that nothing is missed in between; after a break
//! something may have been: lists are compared with what they were, and resources are said to have changed.
//!
//! A server need not offer it. Whatever refuses it says that it is not offered now: it is asked for again, after pauses
//! that grow.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, OptionFuture},
};
use mcpool_wire::{
    Envelope, Kind, Method,
    modern::{to_legacy_notification, to_modern_request},
};
use serde_json::json;

use super::{
    super::{
        Heard, Inbound,
        classify::Asked,
        get_stream::{HEADERS, MAX_PAUSE, MAX_PAUSE_REFUSED, PAUSE, STEADY, grown, jittered},
        http::{Content, Events},
        leaving::Left,
        sse_reader::{SseError, SseItem},
    },
    Session,
    generator::{self, Out},
    lists::Lists,
    subscription_filter::Snapshot,
};
use crate::{
    clock,
    error::{Cause, SendError},
};

const LISTEN: &str = "subscriptions/listen";
const ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";

/// What an attempt to open a stream came to.
enum Opening {
    Open {
        events: Box<Events>,
        version: u64,
        uris: BTreeSet<String>,
        early: Option<Bytes>,
    },
    /// The backend offers none for this filter.
    NotOffered {
        version: u64,
    },
    /// There is nothing to listen for.
    Nothing {
        version: u64,
    },
}

struct Listening {
    session: Arc<Session>,
    line: Option<Box<Events>>,
    /// The attempt under way, and the version of the filter it is for.
    opening: Option<(u64, BoxFuture<'static, Result<Opening, SendError>>)>,
    /// The filter that is in force, by its version; nothing while a stream is to be opened.
    served: Option<u64>,
    /// A stream broke since the last one that was opened.
    missed: bool,
    /// When the current stream, or the last one, was opened.
    opened: Option<Instant>,
    /// Streams in a row that ended soon.
    short_lived: u32,
    /// Refusals in a row.
    failures: u32,
    lists: Lists,
}

enum Wake {
    Line(Option<Result<SseItem, SseError<SendError>>>),
    Opened(u64, Result<Opening, SendError>),
    Compared(Vec<String>),
    Changed,
}

/// Hands over what comes of all streams; the first one opens itself when it is read.
pub(super) fn listen(session: Arc<Session>) -> Inbound {
    generator::told(|out| {
        let listening = Listening {
            lists: Lists::of(Arc::clone(&session)),
            session,
            line: None,
            opening: None,
            served: None,
            missed: false,
            opened: None,
            short_lived: 0,
            failures: 0,
        };
        listening.run(out)
    })
}

/// One attempt, after a pause.
async fn open(session: Arc<Session>, pause: Duration) -> Result<Opening, SendError> {
    tokio::time::sleep(pause).await;
    let late = || SendError::refused(Cause::Timeout("the acknowledgement of the stream of news"));
    tokio::time::timeout(HEADERS, ask(session)).await.unwrap_or_else(|_| Err(late()))
}

async fn ask(session: Arc<Session>) -> Result<Opening, SendError> {
    let Snapshot { version, notifications } = session.filter.snapshot();
    let Some(notifications) = notifications else { return Ok(Opening::Nothing { version }) };
    let params = json!({ "notifications": notifications });
    let message = json!({ "jsonrpc": "2.0", "id": session.next_id(), "method": LISTEN, "params": params });
    let body = to_modern_request(&Bytes::from(message.to_string()), &session.stamp(None));
    let reply = session.post(&session.headers(LISTEN, None), body, &Left::default()).await?;
    if !reply.is_success() {
        let status = reply.status();
        let (error, _) = reply.refusal(Asked::Listen).await;
        let is_off = is_unknown(status, &error);
        return if is_off { Ok(Opening::NotOffered { version }) } else { Err(error) };
    }
    if reply.content() != Content::Events {
        reply.drain().await;
        return Ok(Opening::NotOffered { version });
    }
    acknowledged(Box::new(reply.events(session.http.max_message)), version).await
}

/// Whether a refusal says that there is no such thing, rather than not now.
fn is_unknown(status: u16, error: &SendError) -> bool {
    let code = error.refusal().and_then(|refusal| refusal.code);
    matches!(status, 405 | 501) || code == Some(-32601)
}

/// Waits for the first word of a stream.
async fn acknowledged(mut events: Box<Events>, version: u64) -> Result<Opening, SendError> {
    loop {
        let data = match events.next().await {
            Some(Ok(SseItem::Event(event))) if event.name.is_none() && !event.data.is_empty() => event.data,
            Some(Ok(SseItem::Event(_) | SseItem::Alive | SseItem::Retry(_))) => continue,
            Some(Err(SseError::TooLarge { cap, .. })) => {
                return Err(SendError::refused(Cause::TooLarge(cap)));
            }
            Some(Err(SseError::Body(error))) => return Err(error),
            None => {
                let ended = "the stream of news ended before it was acknowledged".to_owned();
                return Err(SendError::refused(Cause::Broken(ended)));
            }
        };
        let Ok(envelope) = Envelope::parse(&data) else { continue };
        return Ok(match envelope.kind {
            Kind::Success | Kind::Failure => Opening::NotOffered { version },
            _ if envelope.method == Some(Method::Other(ACKNOWLEDGED.into())) => {
                let uris = agreed(&data);
                Opening::Open { events, version, uris, early: None }
            }
            // It has to begin otherwise, but it is open.
            _ => Opening::Open { events, version, uris: BTreeSet::new(), early: Some(data) },
        });
    }
}

/// The resources a stream was opened with.
fn agreed(acknowledgement: &[u8]) -> BTreeSet<String> {
    let message: serde_json::Value = serde_json::from_slice(acknowledgement).unwrap_or_default();
    let uris = message.pointer("/params/notifications/resourceSubscriptions");
    uris.and_then(|uris| serde_json::from_value(uris.clone()).ok()).unwrap_or_default()
}

impl Listening {
    async fn run(mut self, out: Out<Heard>) {
        let mut changes = self.session.filter.changes();
        loop {
            self.plan();
            let wake = {
                let line = OptionFuture::from(self.line.as_mut().map(futures::StreamExt::next));
                let opening = OptionFuture::from(
                    self.opening.as_mut().map(async |(version, opening)| (*version, opening.await)),
                );
                tokio::select! {
                    Some(item) = line => Wake::Line(item),
                    Some((version, outcome)) = opening => Wake::Opened(version, outcome),
                    changed = self.lists.compared() => Wake::Compared(changed),
                    Ok(()) = changes.changed() => Wake::Changed,
                }
            };
            match wake {
                Wake::Changed => {}
                Wake::Line(item) => self.heard(item, &out).await,
                Wake::Compared(changed) => say_all(changed, &out).await,
                Wake::Opened(version, outcome) => {
                    self.opening = None;
                    if let Err(error) = self.settled(version, outcome, &out).await {
                        return out.fail(error).await;
                    }
                }
            }
        }
    }

    /// Opens a stream where the filter in force is not the one that is wanted.
    fn plan(&mut self) {
        let version = self.session.filter.version();
        if self.opening.is_some() || self.served == Some(version) {
            return;
        }
        let pause = match (self.failures, self.missed) {
            // A change of the filter is no trouble.
            (0, false) => Duration::ZERO,
            (0, true) => jittered(grown(PAUSE, self.short_lived.saturating_sub(1), MAX_PAUSE)),
            (failures, _) => jittered(grown(PAUSE, failures - 1, MAX_PAUSE_REFUSED)),
        };
        self.opening = Some((version, open(Arc::clone(&self.session), pause).boxed()));
    }

    async fn settled(
        &mut self,
        version: u64,
        outcome: Result<Opening, SendError>,
        out: &Out<Heard>,
    ) -> Result<(), SendError> {
        let error = match outcome {
            Ok(opening) => {
                self.failures = 0;
                self.opened(opening, out).await;
                self.session.settle();
                return Ok(());
            }
            Err(error) => error,
        };
        let is_decisive = match &error.cause {
            Cause::Connect(_) | Cause::Tls(_) | Cause::Closed(_) => true,
            Cause::WrongVersion(_) | Cause::SessionLost(_) => self.opened.is_some(),
            _ => false,
        };
        if is_decisive {
            return Err(error);
        }
        self.failures = self.failures.saturating_add(1);
        if !may_pass(&error.cause) {
            // Who wants to subscribe need not wait for it.
            self.session.filter.settle(version, BTreeSet::new());
        }
        self.session.settle();
        out.say(Heard::NoStream(error.to_string())).await;
        Ok(())
    }

    async fn opened(&mut self, opening: Opening, out: &Out<Heard>) {
        let (version, uris) = match opening {
            Opening::NotOffered { version } => (version, BTreeSet::new()),
            Opening::Nothing { version } => {
                self.line = None;
                (version, BTreeSet::new())
            }
            Opening::Open { events, version, uris, early } => {
                self.opened = Some(clock::now());
                let old = self.line.replace(events);
                if let Some(old) = old {
                    drain(old, out).await;
                }
                if let Some(early) = early {
                    self.tell(early, out).await;
                }
                (version, uris)
            }
        };
        self.served = Some(version);
        self.session.filter.settle(version, uris);
        if self.line.is_some() {
            let missed = std::mem::take(&mut self.missed);
            self.lists.compare(missed);
            if missed {
                // Lists are compared, resources cannot be: only reading one tells whether it changed, and that may cost its
                // server much. An agent that reads once too often loses a moment; an agent without the notification keeps
                // old content. So each subscriber gets one `updated` after a break, however short: the length of the break
                // says nothing of what was not delivered before it. A server that ends streams all the time is bounded by the pauses.
                say_all(self.session.filter.missed(), out).await;
            }
        }
    }

    async fn heard(&mut self, item: Option<Result<SseItem, SseError<SendError>>>, out: &Out<Heard>) {
        match item {
            Some(Ok(SseItem::Event(event))) if event.name.is_none() && !event.data.is_empty() => {
                self.tell(event.data, out).await;
            }
            Some(Ok(SseItem::Event(_) | SseItem::Alive)) => out.say(Heard::Alive).await,
            Some(Ok(SseItem::Retry(_))) => {}
            Some(Err(SseError::TooLarge { cap, .. })) => {
                tracing::warn!(cap, "a message of the backend above the limit was dropped");
            }
            Some(Err(SseError::Body(_))) | None => self.lost(),
        }
    }

    /// Passes on what belongs here, as the other era says it. An answer ends the stream.
    async fn tell(&mut self, message: Bytes, out: &Out<Heard>) {
        match news(&message) {
            News::Change(change) => {
                self.lists.changed(&change);
                out.say(Heard::Message(change)).await;
            }
            News::Nothing => out.say(Heard::Alive).await,
            News::End => self.lost(),
        }
    }

    fn lost(&mut self) {
        self.line = None;
        self.served = None;
        self.missed = true;
        let is_steady = self.opened.is_some_and(|at| clock::now().saturating_duration_since(at) >= STEADY);
        self.short_lived = if is_steady { 0 } else { self.short_lived.saturating_add(1) };
    }
}

/// Whether an attempt may succeed in a moment.
fn may_pass(cause: &Cause) -> bool {
    matches!(cause, Cause::Broken(_) | Cause::Timeout(_) | Cause::Gateway(_) | Cause::Pressure(_))
}

async fn say_all(changes: Vec<String>, out: &Out<Heard>) {
    for change in changes {
        out.say(Heard::Message(Bytes::from(change))).await;
    }
}

/// What an old stream had said already when it was replaced.
async fn drain(mut old: Box<Events>, out: &Out<Heard>) {
    while let Some(Some(Ok(item))) = old.next().now_or_never() {
        if let SseItem::Event(event) = item
            && let News::Change(change) = news(&event.data)
        {
            out.say(Heard::Message(change)).await;
        }
    }
}

enum News {
    Change(Bytes),
    Nothing,
    End,
}

fn news(message: &Bytes) -> News {
    let Ok(envelope) = Envelope::parse(message) else { return News::Nothing };
    match (envelope.kind, &envelope.method) {
        (Kind::Success | Kind::Failure, _) => News::End,
        (
            Kind::Notification,
            Some(
                Method::ToolsListChanged
                | Method::PromptsListChanged
                | Method::ResourcesListChanged
                | Method::ResourcesUpdated,
            ),
        ) => News::Change(to_legacy_notification(message)),
        (Kind::Notification | Kind::Request, _) => News::Nothing,
    }
}
