//! Which arguments of which tools are said in headers, as the lists that pass through here say it.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use mcpool_wire::modern::{ToolParams, read_tools};
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::{Session, request::ask_own};
use crate::error::SendError;

/// Tools whose headers are remembered. A call of one beyond it has none, and the backend says so.
const MAX_TOOLS: usize = 10_000;

/// Pages of `tools/list` that are read because a header was missed.
const MAX_PAGES: usize = 20;

pub(super) struct Tools {
    known: Mutex<Known>,
    /// One reading at a time: whoever waits for it finds what it read.
    turn: Semaphore,
}

#[derive(Default)]
struct Known {
    /// Grows with everything that is learned.
    version: u64,
    /// Tools without marks are not kept.
    params: HashMap<String, ToolParams>,
}

impl Default for Tools {
    fn default() -> Self {
        Self { known: Mutex::default(), turn: Semaphore::new(1) }
    }
}

impl Tools {
    /// The headers of a call, and what was known when they were made.
    pub(super) fn headers(&self, tool: &str, call: &[u8]) -> (Vec<(HeaderName, HeaderValue)>, u64) {
        let (params, version) = {
            let known = self.lock();
            (known.params.get(tool).cloned(), known.version)
        };
        (params.map(|params| params.headers(call)).unwrap_or_default(), version)
    }

    /// Takes note of a page of `tools/list`; gives it back without the tools that must not be offered.
    pub(super) fn learn(&self, page: Bytes, is_first: bool) -> Bytes {
        let Some(read) = read_tools(&page) else { return page };
        for (tool, why) in &read.refused {
            tracing::warn!(tool, why, "a tool with x-mcp-header where it means nothing is not offered");
        }
        let is_whole = is_first && next_cursor(&page).is_none();
        let mut known = self.lock();
        known.version += 1;
        if is_whole {
            known.params.clear();
        }
        for (tool, params) in read.tools {
            if params.is_empty() {
                known.params.remove(&tool);
            } else if known.params.len() < MAX_TOOLS || known.params.contains_key(&tool) {
                known.params.insert(tool, params);
            } else {
                tracing::warn!(tool, limit = MAX_TOOLS, "the headers of this tool are not remembered");
            }
        }
        read.message
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// Reads the list of tools anew, unless that happened since `version`.
    pub(super) async fn reread_tools(&self, version: u64) -> Result<(), SendError> {
        let Ok(_turn) = self.tools.turn.acquire().await else { return Ok(()) };
        if self.tools.lock().version != version {
            return Ok(());
        }
        let mut cursor = None;
        for page in 0..MAX_PAGES {
            let params =
                cursor.map_or_else(|| "{}".to_owned(), |at| serde_json::json!({ "cursor": at }).to_string());
            let answer = ask_own(self, "tools/list", &params).await?;
            cursor = next_cursor(&answer);
            self.tools.learn(answer, page == 0);
            if cursor.is_none() {
                break;
            }
        }
        Ok(())
    }
}

fn next_cursor(page: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Page {
        result: Next,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Next {
        next_cursor: Option<String>,
    }
    serde_json::from_slice::<Page>(page).ok()?.result.next_cursor
}
