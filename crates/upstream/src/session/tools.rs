//! What the tools of a session say of themselves, read page by page. A help and no condition: until it is read, a tool
//! counts as one that writes, and where a tool decides on who may share, nobody does.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use mcpool_wire::{Answer, Method};

use super::{Session, ladder::Listed};
use crate::{
    catalog::{Catalog, item_names},
    error::SendError,
    mode,
    quirks::Quirk,
};

/// Most pages that are read.
const MAX_PAGES: usize = 200;

/// How long a new session waits for the pages after the first.
const PATIENCE: Duration = Duration::from_millis(250);

/// The same where a tool decides on who may share.
const PATIENCE_PATTERNS: Duration = Duration::from_secs(2);

/// The list of one session on its way.
pub(crate) struct ToolReader {
    session: Arc<Session>,
    catalog: Arc<Catalog>,
    patterns: Vec<String>,
    next: Next,
    /// Cursors that were followed: one that comes again leads nowhere.
    followed: HashSet<String>,
    fits: bool,
}

enum Next {
    /// The first page.
    Late(BoxFuture<'static, Result<Answer, SendError>>),
    Page(String),
    Over,
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
            next: Next::Over,
            followed: HashSet::new(),
            fits: false,
        };
        match listed {
            Listed::Nothing => {}
            // A server without tools has none that fits.
            Listed::Refused => reader.fits = !patterns.is_empty(),
            Listed::Here(page) => reader.take(&page, true),
            Listed::Late(page) => reader.next = Next::Late(page),
        }
        reader
    }

    /// Whether a tool fits one of the patterns. Where that cannot be found out in time, one does.
    pub(crate) async fn has_pinned_tool(&mut self) -> bool {
        let patience = match (&self.next, self.patterns.is_empty()) {
            // It was waited for.
            (Next::Late(_) | Next::Over, true) => return false,
            (_, true) => PATIENCE,
            (_, false) => PATIENCE_PATTERNS,
        };
        let is_read = tokio::time::timeout(patience, self.run()).await.is_ok();
        self.fits || !is_read && !self.patterns.is_empty()
    }

    /// Reads what is left.
    ///
    /// # Cancel safety
    /// What was read is kept, but for a page under way, which is asked for again.
    pub(crate) async fn run(&mut self) {
        loop {
            let page = match &mut self.next {
                Next::Over => return,
                Next::Late(page) => page.await,
                Next::Page(cursor) => {
                    let params = serde_json::json!({ "cursor": cursor }).to_string();
                    self.session.request_own("tools/list", Some(&params)).await
                }
            };
            let is_first = matches!(std::mem::replace(&mut self.next, Next::Over), Next::Late(_));
            match page {
                Ok(page) => self.take(&page, is_first),
                Err(error) if is_first => {
                    self.fits |= !self.patterns.is_empty();
                    self.session.note(Quirk::NoList, &error.to_string());
                }
                Err(_) => self.fits |= !self.patterns.is_empty(),
            }
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.next, Next::Over)
    }

    fn take(&mut self, page: &Answer, is_first: bool) {
        let cursor = self.catalog.learn_tools(page.message.bytes(), is_first);
        self.fits = self.fits || has_tool_like(&self.patterns, page);
        // An empty cursor is how some servers write that there is none.
        let cursor = cursor.filter(|cursor| !cursor.is_empty() && self.followed.len() < MAX_PAGES);
        self.next = match cursor {
            Some(cursor) if self.followed.insert(cursor.clone()) => Next::Page(cursor),
            _ => Next::Over,
        };
    }
}

fn has_tool_like(patterns: &[String], page: &Answer) -> bool {
    if patterns.is_empty() {
        return false;
    }
    let names = item_names(&Method::ToolsList, page.message.bytes()).unwrap_or_default();
    names.iter().any(|name| patterns.iter().any(|pattern| mode::matches(pattern, name)))
}
