//! Comparison of the lists of two sessions of one pool: if they differ, the server keeps state per session.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use mcpool_wire::Method;

use crate::{backend::Backend, catalog::item_names, clock, kinds::Evidence, pool::Pool, session::Session};

/// The compared lists and the capability each needs.
const LISTS: [(Method, &str); 3] =
    [(Method::ToolsList, "tools"), (Method::PromptsList, "prompts"), (Method::ResourcesList, "resources")];

/// Time limit of one list on both sessions. A slow server is no evidence.
const PATIENCE: Duration = Duration::from_secs(5);

/// Compares a new session with an older one of its pool, while agents share on probation.
pub(super) fn compare_later(backend: &Arc<Backend>, pool: &Arc<Pool>, session: &Arc<Session>) {
    let sibling = pool.sessions().into_iter().find(|other| other.epoch != session.epoch && other.is_live());
    let Some(sibling) = sibling.filter(|_| backend.policy.is_on_probation()) else { return };
    let (backend, pool, session) = (backend.clone(), pool.clone(), session.clone());
    let stop = backend.tasks.stopping();
    backend.tasks.clone().spawn("compare", async move {
        tokio::select! {
            () = compare(&backend, &pool, &session, &sibling) => {}
            () = stop.cancelled() => {}
        }
    });
}

async fn compare(backend: &Backend, pool: &Pool, new: &Arc<Session>, old: &Arc<Session>) {
    let Some(hello) = pool.catalog.hello() else { return };
    for (list, _) in LISTS.iter().filter(|(_, capability)| hello.has(capability)) {
        let since = clock::now();
        let both = futures::future::join(names(new, list), names(old, list));
        let Ok((Some(new_names), Some(old_names))) = tokio::time::timeout(PATIENCE, both).await else {
            continue;
        };
        // Both may have changed meanwhile, one after the other.
        if new_names == old_names || backend.policy.changed_since(pool.number, since) {
            continue;
        }
        let only = new_names.symmetric_difference(&old_names).next().map_or("", String::as_str);
        let why = format!(
            "{} of session {} and of session {} differ, by {only:?} at least",
            list.as_str(),
            new.epoch,
            old.epoch
        );
        return backend.policy.demote(Evidence::ListsDiffer, &why, clock::now());
    }
}

/// The names on the first page of a list; `None` without a valid response.
async fn names(session: &Arc<Session>, list: &Method) -> Option<BTreeSet<String>> {
    let answer = session.request_own(list.as_str(), Some("{}")).await.ok()?;
    item_names(list, answer.message.bytes())
}
