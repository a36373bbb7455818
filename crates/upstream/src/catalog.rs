//! What is known about one pool's servers without asking them: the handshake's answer, which tools are read-only,
//! and lists the server promised to announce changes of. The only place that parses list items.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::{Duration, Instant},
};

use bytes::Bytes;
use mcpool_wire::{Answer, Envelope, LinkEvent, Method, Outlet, ServerHello};
use serde::Deserialize;
use tokio::sync::watch;

/// Longest time a list is served from here although no change was announced: the announcement may be lost with a
/// stream.
const MAX_LIST_AGE: Duration = Duration::from_secs(30);

/// Tools whose annotations are remembered; beyond it a tool counts as not read-only.
const MAX_TOOLS: usize = 10_000;

/// The knowledge about one pool.
pub(crate) struct Catalog {
    hello: watch::Sender<Option<Arc<ServerHello>>>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    read_only: HashSet<Box<str>>,
    lists: HashMap<&'static str, (Answer, Instant)>,
    /// When each list last changed: an answer to an earlier question is not kept.
    changed: HashMap<&'static str, Instant>,
    agents: HashMap<u64, Weak<dyn Outlet>>,
    next_agent: u64,
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
    tools: Vec<ToolItem<'a>>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct ToolItem<'a> {
    #[serde(borrow)]
    name: std::borrow::Cow<'a, str>,
    #[serde(default)]
    annotations: Option<Annotations>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Annotations {
    read_only_hint: Option<bool>,
    destructive_hint: Option<bool>,
}

impl Default for Catalog {
    fn default() -> Self {
        Self { hello: watch::Sender::new(None), inner: Mutex::default() }
    }
}

impl Catalog {
    /// What the backend answered to `initialize`, once it did.
    pub(crate) fn hello(&self) -> Option<Arc<ServerHello>> {
        self.hello.borrow().clone()
    }

    /// Resolves when the backend's first handshake is through.
    pub(crate) async fn wait_hello(&self) -> Option<Arc<ServerHello>> {
        let mut watch = self.hello.subscribe();
        watch.wait_for(Option::is_some).await.ok()?.clone()
    }

    pub(crate) fn learn_hello(&self, hello: Arc<ServerHello>) {
        self.hello.send_replace(Some(hello));
    }

    /// Learns the annotations of one page of `tools/list`; gives back the cursor of the next page.
    pub(crate) fn learn_tools(&self, response: &[u8], first_page: bool) -> Option<String> {
        let page = serde_json::from_slice::<ToolsAnswer<'_>>(response).ok()?.result;
        let mut inner = self.lock();
        if first_page {
            inner.read_only.clear();
        }
        for tool in page.tools {
            let notes = tool.annotations.unwrap_or_default();
            let safe = notes.read_only_hint == Some(true) && notes.destructive_hint != Some(true);
            if !safe {
                inner.read_only.remove(tool.name.as_ref());
            } else if inner.read_only.len() < MAX_TOOLS {
                inner.read_only.insert(tool.name.into());
            }
        }
        page.next_cursor
    }

    /// Whether running this twice is known to change nothing (SEMANTICS.md 9.1).
    pub(crate) fn is_safe(&self, method: &Method, name: Option<&str>) -> bool {
        match method {
            Method::ToolsCall => name.is_some_and(|name| self.lock().read_only.contains(name)),
            other => other.is_safe(),
        }
    }

    /// A list that is known to be current.
    pub(crate) fn list(&self, method: &Method, now: Instant) -> Option<Answer> {
        let inner = self.lock();
        let (answer, at) = inner.lists.get(method.label())?;
        (now.saturating_duration_since(*at) < MAX_LIST_AGE).then(|| answer.clone())
    }

    /// Keeps the answer to a list request made at `asked`, where the server promised to announce changes.
    pub(crate) fn keep_list(&self, method: &Method, answer: &Answer, asked: Instant, now: Instant) {
        let announced = capability_of(method)
            .zip(self.hello())
            .is_some_and(|(capability, hello)| hello.announces_changes(capability));
        if answer.is_rpc_error || !self.is_current(method, asked) {
            return;
        }
        if announced {
            self.lock().lists.insert(method.label(), (answer.clone(), now));
        }
        if *method == Method::ToolsList {
            self.learn_tools(answer.message.bytes(), false);
        }
    }

    fn is_current(&self, method: &Method, asked: Instant) -> bool {
        self.lock().changed.get(method.label()).is_none_or(|changed| asked > *changed)
    }

    /// A list changed: what is kept of it is no longer true.
    pub(crate) fn invalidate(&self, changed: &Method, now: Instant) {
        let stale: &[Method] = match changed {
            Method::ToolsListChanged => &[Method::ToolsList],
            Method::PromptsListChanged => &[Method::PromptsList],
            Method::ResourcesListChanged => &[Method::ResourcesList, Method::ResourcesTemplatesList],
            _ => &[],
        };
        let mut inner = self.lock();
        for method in stale {
            inner.lists.remove(method.label());
            inner.changed.insert(method.label(), now);
        }
        if *changed == Method::ToolsListChanged {
            // A tool may have ceased to be read-only: until the next list none counts as safe.
            inner.read_only.clear();
        }
    }

    /// Nothing kept is true any more: the sessions it was learnt from are gone.
    pub(crate) fn forget_lists(&self) {
        self.lock().lists.clear();
    }

    /// Notes an agent; gives back its number.
    pub(crate) fn add_agent(&self, outlet: &Arc<dyn Outlet>) -> u64 {
        let mut inner = self.lock();
        inner.next_agent += 1;
        let number = inner.next_agent;
        inner.agents.insert(number, Arc::downgrade(outlet));
        number
    }

    pub(crate) fn remove_agent(&self, number: u64) {
        self.lock().agents.remove(&number);
    }

    /// How many agents use this pool.
    pub(crate) fn agents(&self) -> usize {
        self.lock().agents.len()
    }

    /// Tells every agent of the pool; gives back how many could not take it.
    pub(crate) fn tell_agents(&self, message: &Bytes) -> usize {
        let outlets: Vec<_> = self.lock().agents.values().filter_map(Weak::upgrade).collect();
        outlets.iter().filter(|o| o.push(LinkEvent::Notification(message.clone())).is_err()).count()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The names (of resources: URIs) in one page of a list; nothing if it is an error or no list.
pub(crate) fn item_names(list: &Method, response: &[u8]) -> Option<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Listed {
        result: Page,
    }
    #[derive(Deserialize)]
    struct Page {
        #[serde(alias = "tools", alias = "prompts", alias = "resources")]
        items: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        #[serde(default)]
        name: String,
        uri: Option<String>,
    }
    let items = serde_json::from_slice::<Listed>(response).ok()?.result.items;
    let by_uri = *list == Method::ResourcesList;
    let name = |item: Item| item.uri.filter(|_| by_uri).unwrap_or(item.name);
    Some(items.into_iter().map(name).collect())
}

fn capability_of(method: &Method) -> Option<&'static str> {
    match method {
        Method::ToolsList => Some("tools"),
        Method::PromptsList => Some("prompts"),
        Method::ResourcesList | Method::ResourcesTemplatesList => Some("resources"),
        _ => None,
    }
}

/// Whether a response is an error, for the ladder's barrier.
pub(crate) fn error_text(response: &[u8]) -> Option<(i64, String)> {
    #[derive(Deserialize)]
    struct Failed {
        error: Fault,
    }
    #[derive(Deserialize)]
    struct Fault {
        code: i64,
        #[serde(default)]
        message: String,
    }
    Envelope::parse(response).ok()?;
    serde_json::from_slice::<Failed>(response).ok().map(|f| (f.error.code, f.error.message))
}
