//! Reads the annotations of a session's tools, page by page. Until a tool is read, it counts as writing; if a tool
//! pattern decides on sharing, the session is not shared until then.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use mcpool_wire::{Answer, Method};

use super::{Session, handshake::Listed};
use crate::{
    catalog::{Catalog, item_names},
    config,
    error::SendError,
    quirks::Quirk,
};

/// Maximum number of pages.
const MAX_PAGES: usize = 200;

/// Time a new session waits for the pages after the first.
const PATIENCE: Duration = Duration::from_millis(250);

/// The same if a tool pattern decides on sharing.
const PATIENCE_PATTERNS: Duration = Duration::from_secs(2);

/// The reader of one session's tool list.
pub(crate) struct ToolReader {
    session: Arc<Session>,
    catalog: Arc<Catalog>,
    patterns: Vec<String>,
    /// The pending page.
    next: Option<Coming>,
    /// Followed cursors; a repeated one ends the reading.
    followed: HashSet<String>,
    fits: bool,
}

struct Coming {
    page: BoxFuture<'static, Result<Answer, SendError>>,
    is_first: bool,
}

impl ToolReader {
    pub(crate) fn new(
        session: Arc<Session>,
        catalog: Arc<Catalog>,
        patterns: &[String],
        listed: Listed,
    ) -> Self {
        let mut reader = Self {
            session,
            catalog,
            patterns: patterns.to_vec(),
            next: None,
            followed: HashSet::new(),
            fits: false,
        };
        match listed {
            // A server without tools matches no pattern.
            Listed::Nothing => {}
            Listed::Refused => reader.cannot_say(),
            Listed::Here(page) => reader.take(&page, true),
            Listed::Late(page) => reader.next = Some(Coming { page, is_first: true }),
        }
        reader
    }

    /// True if a tool matches a pattern, or the list is not known in time.
    pub(crate) async fn has_pinned_tool(&mut self) -> bool {
        let patience = match (&self.next, self.patterns.is_empty()) {
            // The handshake already waited for the first page.
            (Some(Coming { is_first: true, .. }) | None, true) => return false,
            (_, true) => PATIENCE,
            (_, false) => PATIENCE_PATTERNS,
        };
        if tokio::time::timeout(patience, self.run()).await.is_err() {
            self.cannot_say();
        }
        self.fits
    }

    /// Reads the remaining pages.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing; no page is requested twice.
    pub(crate) async fn run(&mut self) {
        while let Some(coming) = &mut self.next {
            let (page, is_first) = ((&mut coming.page).await, coming.is_first);
            self.next = None;
            match page {
                Ok(page) => self.take(&page, is_first),
                Err(error) => {
                    self.cannot_say();
                    if is_first {
                        self.session.note(Quirk::NoList, &error.to_string());
                    }
                }
            }
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.next.is_none()
    }

    /// With patterns, an unknown tool might match.
    fn cannot_say(&mut self) {
        self.fits |= !self.patterns.is_empty();
    }

    fn take(&mut self, page: &Answer, is_first: bool) {
        let cursor = self.catalog.learn_tools(page.message.bytes(), is_first);
        match has_tool_like(&self.patterns, page) {
            Some(fits) => self.fits |= fits,
            None => self.cannot_say(),
        }
        // Some servers send an empty cursor for none.
        let cursor = cursor.filter(|cursor| !cursor.is_empty() && self.followed.len() < MAX_PAGES);
        let Some(cursor) = cursor.filter(|cursor| self.followed.insert(cursor.clone())) else { return };
        let session = self.session.clone();
        let page = async move {
            let params = serde_json::json!({ "cursor": cursor }).to_string();
            session.request_own("tools/list", Some(&params)).await
        };
        self.next = Some(Coming { page: page.boxed(), is_first: false });
    }
}

/// `None` if the page is malformed.
fn has_tool_like(patterns: &[String], page: &Answer) -> Option<bool> {
    if patterns.is_empty() {
        return Some(false);
    }
    let names = item_names(&Method::ToolsList, page.message.bytes())?;
    Some(names.iter().any(|name| patterns.iter().any(|pattern| config::matches(pattern, name))))
}
