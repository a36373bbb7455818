//! What the tools of a session say of themselves, read page by page. A help and no condition: until it is read, a tool
//! counts as one that writes, and where a tool decides on who may share, nobody does.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use mcpool_wire::{Answer, Method};

use super::{Session, handshake::Listed};
use crate::{
    catalog::{Catalog, item_names},
    error::SendError,
    pool::sharing,
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
    /// The page that is to come.
    next: Option<Coming>,
    /// Cursors that were followed: one that comes again leads nowhere.
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
            // A server without tools has none that fits.
            Listed::Nothing => {}
            Listed::Refused => reader.cannot_say(),
            Listed::Here(page) => reader.take(&page, true),
            Listed::Late(page) => reader.next = Some(Coming { page, is_first: true }),
        }
        reader
    }

    /// Whether a tool fits one of the patterns. Where that cannot be found out in time, one does.
    pub(crate) async fn has_pinned_tool(&mut self) -> bool {
        let patience = match (&self.next, self.patterns.is_empty()) {
            // The first page was waited for.
            (Some(Coming { is_first: true, .. }) | None, true) => return false,
            (_, true) => PATIENCE,
            (_, false) => PATIENCE_PATTERNS,
        };
        if tokio::time::timeout(patience, self.run()).await.is_err() {
            self.cannot_say();
        }
        self.fits
    }

    /// Reads what is left.
    ///
    /// # Cancel safety
    /// Nothing is lost, and nothing is asked for twice.
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

    /// Where a tool decides on who may share, one that is not known may be it.
    fn cannot_say(&mut self) {
        self.fits |= !self.patterns.is_empty();
    }

    fn take(&mut self, page: &Answer, is_first: bool) {
        let cursor = self.catalog.learn_tools(page.message.bytes(), is_first);
        match has_tool_like(&self.patterns, page) {
            Some(fits) => self.fits |= fits,
            None => self.cannot_say(),
        }
        // An empty cursor is how some servers write that there is none.
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

/// Nothing if the page cannot be read.
fn has_tool_like(patterns: &[String], page: &Answer) -> Option<bool> {
    if patterns.is_empty() {
        return Some(false);
    }
    let names = item_names(&Method::ToolsList, page.message.bytes())?;
    Some(names.iter().any(|name| patterns.iter().any(|pattern| sharing::matches(pattern, name))))
}
