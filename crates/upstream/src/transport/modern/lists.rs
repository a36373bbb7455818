//! What the lists of a backend were when it was last heard of, so that a break of the stream of news is told as a change
//! only where there was one.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use mcpool_wire::Envelope;
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{Session, request::ask_own};

/// Pause before a list that changed is read again.
const PAUSE: Duration = Duration::from_secs(5);
/// How long reading all lists may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most pages of one list.
const MAX_PAGES: usize = 100;

pub(super) struct Lists {
    session: Arc<Session>,
    known: Vec<Known>,
    reading: Option<BoxFuture<'static, Vec<Option<u64>>>>,
    /// A break came before what is being read now, or before what is to be read next.
    missed: bool,
    missed_again: bool,
}

/// One list.
struct Known {
    capability: &'static str,
    notification: &'static str,
    /// What it was; nothing if it changed since, or cannot be read.
    print: Option<u64>,
}

impl Lists {
    pub(super) fn of(session: Arc<Session>) -> Self {
        let known = session.filter.lists();
        let known = known.map(|(capability, notification)| Known { capability, notification, print: None });
        Self { known: known.collect(), session, reading: None, missed: false, missed_again: false }
    }

    /// A stream was opened, perhaps after a break.
    pub(super) fn compare(&mut self, missed: bool) {
        if self.known.is_empty() || !missed && self.known.iter().all(|list| list.print.is_some()) {
            return;
        }
        match self.reading {
            Some(_) => self.missed_again |= missed,
            None => {
                self.missed = missed;
                self.read(Duration::ZERO);
            }
        }
    }

    /// The backend said that one changed.
    pub(super) fn changed(&mut self, notification: &[u8]) {
        let method = Envelope::parse(notification).ok().and_then(|envelope| envelope.method);
        let Some(method) = method else { return };
        for list in self.known.iter_mut().filter(|list| list.notification == method.as_str()) {
            list.print = None;
        }
        if self.reading.is_none() {
            self.read(PAUSE);
        }
    }

    /// Resolves when lists were read after a break: the notifications of those that changed. Never, while none is read.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(super) async fn compared(&mut self) -> Vec<String> {
        loop {
            let Some(reading) = &mut self.reading else { std::future::pending().await };
            let prints = reading.await;
            self.reading = None;
            let missed = std::mem::take(&mut self.missed);
            let mut changed = Vec::new();
            for (list, print) in self.known.iter_mut().zip(prints) {
                if missed && (print.is_none() || print != list.print) {
                    changed.push(json!({ "jsonrpc": "2.0", "method": list.notification }).to_string());
                }
                list.print = print;
            }
            if std::mem::take(&mut self.missed_again) {
                self.missed = true;
                self.read(Duration::ZERO);
            }
            if !changed.is_empty() {
                return changed;
            }
        }
    }

    fn read(&mut self, pause: Duration) {
        let session = Arc::clone(&self.session);
        let lists: Vec<&'static str> = self.known.iter().map(|list| list.capability).collect();
        let reading = async move {
            tokio::time::sleep(pause).await;
            let until = tokio::time::Instant::now() + PATIENCE;
            let mut prints = Vec::new();
            for list in lists {
                prints.push(tokio::time::timeout_at(until, print(&session, list)).await.ok().flatten());
            }
            prints
        };
        self.reading = Some(reading.boxed());
    }
}

/// A print of one list, whatever the order of its items; nothing if it cannot be read.
async fn print(session: &Session, list: &str) -> Option<u64> {
    let (mut followed, mut items, mut params) = (HashSet::new(), Vec::new(), "{}".to_owned());
    for _ in 0..MAX_PAGES {
        let answer = ask_own(session, &format!("{list}/list"), &params).await.ok()?;
        let cursor = read_page(&answer, list, &mut items)?;
        match cursor.filter(|cursor| !cursor.is_empty()) {
            Some(cursor) if followed.insert(cursor.clone()) => {
                params = json!({ "cursor": cursor }).to_string();
            }
            _ => break,
        }
    }
    items.sort_unstable();
    let mut hasher = DefaultHasher::new();
    items.hash(&mut hasher);
    Some(hasher.finish())
}

/// Adds the prints of the items of one page; gives back the cursor of the next.
fn read_page(answer: &[u8], list: &str, items: &mut Vec<u64>) -> Option<Option<String>> {
    #[derive(Deserialize)]
    struct Listed<'a> {
        #[serde(borrow)]
        result: std::collections::HashMap<String, &'a RawValue>,
    }
    let page = serde_json::from_slice::<Listed<'_>>(answer).ok()?.result;
    let of_page = serde_json::from_str::<Vec<&RawValue>>(page.get(list)?.get()).ok()?;
    items.extend(of_page.into_iter().map(|item| {
        let mut hasher = DefaultHasher::new();
        item.get().hash(&mut hasher);
        hasher.finish()
    }));
    Some(page.get("nextCursor").and_then(|cursor| serde_json::from_str(cursor.get()).ok()))
}
