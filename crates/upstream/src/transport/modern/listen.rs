//! The stream of news (`subscriptions/listen`): one per session, kept open over its breaks and over changes of its
//! filter. A new stream is there before the old one is closed, so that nothing is missed in between; after a break
//! something may have been, and that is told as a change of everything.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

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
        http::{Content, Events},
        listening::{MAX_FAILURES, MAX_PAUSE, PAUSE, jittered, may_pass, not_offered},
        sse_reader::{SseError, SseItem},
    },
    Session,
    filter::Snapshot,
    flow::{self, Out},
};
use crate::error::{Cause, SendError};

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
    opening: Option<BoxFuture<'static, Result<Opening, SendError>>>,
    /// The filter that is in force, by its version; nothing while a stream is to be opened.
    served: Option<u64>,
    /// A stream broke since the last one that was opened.
    missed: bool,
    failures: u32,
    /// Openings since the backend last said something.
    quiet: u32,
}

enum Wake {
    Line(Option<Result<SseItem, SseError<SendError>>>),
    Opened(Result<Opening, SendError>),
    Changed,
}

/// Opens the first stream and hands over what comes of all of them.
pub(super) async fn listen(session: Arc<Session>) -> Result<Inbound, SendError> {
    let first = open(Arc::clone(&session), Duration::ZERO).await?;
    Ok(flow::told(|out| {
        let listening = Listening {
            session,
            line: None,
            opening: None,
            served: None,
            missed: false,
            failures: 0,
            quiet: 0,
        };
        listening.run(first, out)
    }))
}

/// One attempt, after a pause.
async fn open(session: Arc<Session>, pause: Duration) -> Result<Opening, SendError> {
    tokio::time::sleep(pause).await;
    let Snapshot { version, notifications } = session.filter.snapshot();
    let Some(notifications) = notifications else { return Ok(Opening::Nothing { version }) };
    let params = json!({ "notifications": notifications });
    let message = json!({ "jsonrpc": "2.0", "id": session.next_id(), "method": LISTEN, "params": params });
    let body = to_modern_request(&Bytes::from(message.to_string()), &session.stamp(None));
    let reply = session.post(&session.headers(LISTEN, None), body).await?;
    if !reply.is_success() {
        let status = reply.status();
        let (error, _) = reply.refusal(Asked::Listen).await;
        let is_off = not_offered(status, &error.cause);
        return if is_off { Ok(Opening::NotOffered { version }) } else { Err(error) };
    }
    if reply.content() != Content::Events {
        reply.drain().await;
        return Ok(Opening::NotOffered { version });
    }
    acknowledged(Box::new(reply.events(session.http.max_message)), version).await
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
    async fn run(mut self, first: Opening, out: Out<Heard>) {
        let mut changes = self.session.filter.changes();
        self.opened(first, &out).await;
        loop {
            self.plan();
            let wake = {
                let line = OptionFuture::from(self.line.as_mut().map(futures::StreamExt::next));
                let opening = OptionFuture::from(self.opening.as_mut());
                tokio::select! {
                    Some(item) = line => Wake::Line(item),
                    Some(outcome) = opening => Wake::Opened(outcome),
                    Ok(()) = changes.changed() => Wake::Changed,
                }
            };
            match wake {
                Wake::Changed => {}
                Wake::Line(item) => self.heard(item, &out).await,
                Wake::Opened(outcome) => {
                    self.opening = None;
                    if let Err(error) = self.settled(outcome, &out).await {
                        return out.fail(error).await;
                    }
                }
            }
        }
    }

    /// Opens a stream where the filter in force is not the one that is wanted.
    fn plan(&mut self) {
        if self.opening.is_some() || self.served == Some(self.session.filter.version()) {
            return;
        }
        // A change of the filter is no trouble.
        let tries = self.failures.max(if self.missed { self.quiet } else { 0 });
        let pause = match self.missed || self.failures > 0 {
            true => jittered((PAUSE * (1 << tries.min(6))).min(MAX_PAUSE)),
            false => Duration::ZERO,
        };
        self.opening = Some(open(Arc::clone(&self.session), pause).boxed());
    }

    async fn settled(
        &mut self,
        outcome: Result<Opening, SendError>,
        out: &Out<Heard>,
    ) -> Result<(), SendError> {
        match outcome {
            Ok(opening) => {
                self.failures = 0;
                self.opened(opening, out).await;
                Ok(())
            }
            Err(error) if may_pass(&error) && self.failures + 1 < MAX_FAILURES => {
                self.failures += 1;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn opened(&mut self, opening: Opening, out: &Out<Heard>) {
        let (version, uris) = match opening {
            Opening::NotOffered { version } => (version, BTreeSet::new()),
            Opening::Nothing { version } => {
                self.line = None;
                (version, BTreeSet::new())
            }
            Opening::Open { events, version, uris, early } => {
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
        if std::mem::take(&mut self.missed) && self.line.is_some() {
            self.quiet += 1;
            for change in self.session.filter.missed() {
                out.say(Heard::Message(Bytes::from(change))).await;
            }
        }
    }

    async fn heard(&mut self, item: Option<Result<SseItem, SseError<SendError>>>, out: &Out<Heard>) {
        match item {
            Some(Ok(SseItem::Event(event))) if event.name.is_none() && !event.data.is_empty() => {
                self.quiet = 0;
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
            News::Change(change) => out.say(Heard::Message(change)).await,
            News::Nothing => out.say(Heard::Alive).await,
            News::End => self.lost(),
        }
    }

    fn lost(&mut self) {
        self.line = None;
        self.served = None;
        self.missed = true;
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
