//! Cached facts of one pool's server: the result of `initialize`, the annotations of its tools, and lists whose changes
//! it announces. The only place that parses list items.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use http::{HeaderName, HeaderValue};
use mcpool_wire::{Answer, Method, Revision, ServerHello, modern::ToolParams};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::watch;

/// Longest time a list is served from the cache without an announced change: the announcement may be lost with a
/// stream.
const MAX_LIST_AGE: Duration = Duration::from_secs(30);

/// Most tools with known annotations; any further tool counts as not read-only.
const MAX_TOOLS: usize = 10_000;

/// One page of a list as agents get it.
#[derive(Clone, Debug)]
pub struct Page {
    /// The response, its cursor sealed.
    pub answer: Answer,
    /// The session with the next page, if any.
    pub epoch: Option<u64>,
}

/// The cached facts of one pool.
pub(crate) struct Catalog {
    hello: watch::Sender<Option<Arc<ServerHello>>>,
    inner: Mutex<Inner>,
    /// True if there is a task-only tool: read by every call, and most servers have none.
    has_task_only: AtomicBool,
    /// True if there is a tool whose calls repeat arguments in headers; as above.
    has_marked: AtomicBool,
}

#[derive(Default)]
struct Inner {
    read_only: HashSet<Box<str>>,
    /// Tools that run as tasks only.
    task_only: HashSet<Box<str>>,
    /// Tools whose calls repeat arguments in headers, with those arguments.
    marked: HashMap<Box<str>, ToolParams>,
    lists: HashMap<&'static str, Kept>,
    /// Time of the last change of each list: a response to an earlier request is not cached.
    changed: HashMap<&'static str, Instant>,
}

/// A cached list, as received and as read by each older revision.
struct Kept {
    page: Page,
    at: Instant,
    older: Vec<(Revision, Answer)>,
}

#[derive(Deserialize)]
struct ToolsAnswer<'a> {
    #[serde(borrow)]
    result: ToolsResult<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToolsResult<'a> {
    #[serde(borrow, default)]
    tools: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    next_cursor: Option<&'a RawValue>,
}

/// A tool of which only the name is readable.
#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    name: std::borrow::Cow<'a, str>,
}

#[derive(Deserialize)]
struct ToolItem<'a> {
    #[serde(borrow)]
    name: std::borrow::Cow<'a, str>,
    #[serde(default)]
    annotations: Option<Annotations>,
    #[serde(borrow, default)]
    execution: Option<Execution<'a>>,
    #[serde(borrow, default, rename = "inputSchema")]
    input_schema: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Execution<'a> {
    #[serde(borrow)]
    task_support: Option<std::borrow::Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Annotations {
    read_only_hint: Option<bool>,
    destructive_hint: Option<bool>,
}

impl Default for Catalog {
    fn default() -> Self {
        Self {
            hello: watch::Sender::new(None),
            inner: Mutex::default(),
            has_task_only: AtomicBool::new(false),
            has_marked: AtomicBool::new(false),
        }
    }
}

impl Catalog {
    /// The result of `initialize`, once received.
    pub(crate) fn hello(&self) -> Option<Arc<ServerHello>> {
        self.hello.borrow().clone()
    }

    /// Resolves after the first handshake.
    pub(crate) async fn wait_hello(&self) -> Option<Arc<ServerHello>> {
        let mut watch = self.hello.subscribe();
        watch.wait_for(Option::is_some).await.ok()?.clone()
    }

    pub(crate) fn learn_hello(&self, hello: Arc<ServerHello>) {
        self.hello.send_replace(Some(hello));
    }

    /// Learns the annotations of one page of `tools/list`; returns the cursor of the next page.
    pub(crate) fn learn_tools(&self, response: &[u8], first_page: bool) -> Option<String> {
        let mut inner = self.lock();
        if first_page {
            inner.read_only.clear();
            inner.task_only.clear();
            inner.marked.clear();
        }
        let page = serde_json::from_slice::<ToolsAnswer<'_>>(response).ok()?.result;
        for tool in page.tools {
            // Item by item: an unreadable one does not affect the others, and counts as not read-only.
            let Ok(tool) = serde_json::from_str::<ToolItem<'_>>(tool.get()) else {
                if let Ok(Named { name }) = serde_json::from_str(tool.get()) {
                    inner.read_only.remove(name.as_ref());
                }
                continue;
            };
            // A tool with invalid marks is not called by clients that read them.
            let marks = tool.input_schema.and_then(|schema| ToolParams::read(schema.get()).ok());
            match marks.filter(|marks| !marks.is_empty()) {
                None => drop(inner.marked.remove(tool.name.as_ref())),
                Some(marks) if inner.marked.len() < MAX_TOOLS => {
                    inner.marked.insert(tool.name.as_ref().into(), marks);
                }
                Some(_) => {}
            }
            if tool.execution.and_then(|e| e.task_support).as_deref() != Some("required") {
                inner.task_only.remove(tool.name.as_ref());
            } else if inner.task_only.len() < MAX_TOOLS {
                inner.task_only.insert(tool.name.as_ref().into());
            }
            let notes = tool.annotations.unwrap_or_default();
            let safe = notes.read_only_hint == Some(true) && notes.destructive_hint != Some(true);
            if !safe {
                inner.read_only.remove(tool.name.as_ref());
            } else if inner.read_only.len() < MAX_TOOLS {
                inner.read_only.insert(tool.name.into());
            }
        }
        self.has_task_only.store(!inner.task_only.is_empty(), Ordering::Relaxed);
        self.has_marked.store(!inner.marked.is_empty(), Ordering::Relaxed);
        page.next_cursor.and_then(|cursor| serde_json::from_str(cursor.get()).ok())
    }

    /// True if this tool runs as a task only.
    pub(crate) fn is_task_only(&self, tool: &str) -> bool {
        self.has_task_only.load(Ordering::Relaxed) && self.lock().task_only.contains(tool)
    }

    /// Checks that the headers of a call agree with its arguments, if the tool is known.
    pub(crate) fn check_params(
        &self,
        tool: &str,
        message: &[u8],
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<(), String> {
        if !self.has_marked.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.lock().marked.get(tool).map_or(Ok(()), |marks| marks.check(message, headers))
    }

    /// True if the server announces changes of this list.
    pub(crate) fn announces(&self, changed: &Method) -> bool {
        let list = lists_of(changed).first();
        list.and_then(capability_of).zip(self.hello()).is_some_and(|(c, hello)| hello.announces_changes(c))
    }

    /// True if the call is known to be safe to repeat (SEMANTICS.md 9.1).
    pub(crate) fn is_safe(&self, method: &Method, name: Option<&str>) -> bool {
        if mutant!(UnsafeRepeated) {
            return true;
        }
        match method {
            Method::ToolsCall => name.is_some_and(|name| self.lock().read_only.contains(name)),
            other => other.is_safe(),
        }
    }

    /// The cached list as an agent of this revision reads it, if current.
    pub(crate) fn list(&self, method: &Method, revision: Revision, now: Instant) -> Option<Page> {
        let (page, at) = {
            let inner = self.lock();
            let kept = inner.lists.get(method.label())?;
            if now.saturating_duration_since(kept.at) >= MAX_LIST_AGE {
                return None;
            }
            if let Some((_, older)) = kept.older.iter().find(|(known, _)| *known == revision) {
                return Some(Page { answer: older.clone(), epoch: kept.page.epoch });
            }
            (kept.page.clone(), kept.at)
        };
        if !self.is_newer_than(revision) {
            return Some(page);
        }
        let older = at_revision(page.answer, method, revision);
        let mut inner = self.lock();
        if let Some(kept) = inner.lists.get_mut(method.label()).filter(|kept| kept.at == at)
            && kept.older.iter().all(|(known, _)| *known != revision)
        {
            kept.older.push((revision, older.clone()));
        }
        Some(Page { answer: older, epoch: page.epoch })
    }

    /// A response as an agent of this revision reads it: without fields the revision lacks.
    pub(crate) fn for_agent(&self, method: &Method, revision: Revision, answer: Answer) -> Answer {
        if self.is_newer_than(revision) { at_revision(answer, method, revision) } else { answer }
    }

    fn is_newer_than(&self, revision: Revision) -> bool {
        self.hello().is_some_and(|hello| hello.revision > revision)
    }

    /// Caches the response to a list request made at `asked`, if the server announces changes.
    pub(crate) fn keep_list(&self, method: &Method, page: &Page, asked: Instant, now: Instant) {
        let announced = capability_of(method)
            .zip(self.hello())
            .is_some_and(|(capability, hello)| hello.announces_changes(capability));
        if page.answer.is_rpc_error || !self.is_current(method, asked) {
            return;
        }
        if announced {
            let kept = Kept { page: page.clone(), at: now, older: Vec::new() };
            self.lock().lists.insert(method.label(), kept);
        }
        if *method == Method::ToolsList {
            self.learn_tools(page.answer.message.bytes(), false);
        }
    }

    fn is_current(&self, method: &Method, asked: Instant) -> bool {
        self.lock().changed.get(method.label()).is_none_or(|changed| asked > *changed)
    }

    /// Drops a changed list from the cache.
    pub(crate) fn invalidate(&self, changed: &Method, now: Instant) {
        if mutant!(StaleList) {
            return;
        }
        let mut inner = self.lock();
        for method in lists_of(changed) {
            inner.lists.remove(method.label());
            inner.changed.insert(method.label(), now);
        }
        if *changed == Method::ToolsListChanged {
            // A tool may no longer be read-only: until the next list none counts as safe.
            inner.read_only.clear();
        }
    }

    /// Drops everything: the sessions it was learnt from are gone.
    pub(crate) fn forget_lists(&self) {
        self.lock().lists.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The names (of resources: URIs) on one page of a list; `None` for an error.
pub(crate) fn item_names(list: &Method, response: &[u8]) -> Option<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Listed<'a> {
        #[serde(borrow)]
        result: BTreeMap<String, &'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Item {
        #[serde(default)]
        name: String,
        uri: Option<String>,
    }
    let key = match list {
        Method::PromptsList => "prompts",
        Method::ResourcesList => "resources",
        Method::ResourcesTemplatesList => "resourceTemplates",
        _ => "tools",
    };
    let result = serde_json::from_slice::<Listed<'_>>(response).ok()?.result;
    let items: Vec<&RawValue> = serde_json::from_str(result.get(key)?.get()).ok()?;
    let by_uri = *list == Method::ResourcesList;
    let name = |item: Item| item.uri.filter(|_| by_uri).unwrap_or(item.name);
    // An unreadable item has no name an agent could use.
    let read = |item: &RawValue| serde_json::from_str::<Item>(item.get()).ok();
    Some(items.into_iter().filter_map(read).map(name).collect())
}

/// The lists whose change a notification announces.
pub(crate) fn lists_of(changed: &Method) -> &'static [Method] {
    match changed {
        Method::ToolsListChanged => &[Method::ToolsList],
        Method::PromptsListChanged => &[Method::PromptsList],
        Method::ResourcesListChanged => &[Method::ResourcesList, Method::ResourcesTemplatesList],
        _ => &[],
    }
}

fn at_revision(answer: Answer, method: &Method, revision: Revision) -> Answer {
    Answer { message: answer.message.list_at(revision, method), ..answer }
}

fn capability_of(method: &Method) -> Option<&'static str> {
    match method {
        Method::ToolsList => Some("tools"),
        Method::PromptsList => Some("prompts"),
        Method::ResourcesList | Method::ResourcesTemplatesList => Some("resources"),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
