//! Named background tasks with an owner: what runs, at shutdown what did not finish, and what panicked: a panic ends
//! its own task and nothing else.

use std::{
    any::Any,
    collections::BTreeMap,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::FutureExt as _;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::observe::{Event, Reporter};

/// The tasks of one owner. Cloning gives another handle to the same set.
#[derive(Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    running: Arc<Mutex<BTreeMap<&'static str, usize>>>,
    reporter: Option<Reporter>,
}

/// Runs a future to its end or to its panic, of which it gives back what was said. What the future held is dropped
/// either way, so it must be given back by drop or repaired by the caller.
pub(crate) async fn caught<T>(task: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(task).catch_unwind().await.map_err(|payload| said(payload.as_ref()))
}

fn said(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

impl Tasks {
    /// Tasks whose panics are told to this reporter.
    #[must_use]
    pub fn reporting(reporter: Reporter) -> Self {
        Self { reporter: Some(reporter), ..Self::default() }
    }

    /// Runs a task until it ends. It must end soon after [`Tasks::stopping`] resolves.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let running = Running::enter(self.running.clone(), name);
        let reporter = self.reporter.clone();
        self.tracker.spawn(async move {
            let _running = running;
            let Err(why) = caught(task).await else { return };
            match reporter {
                Some(reporter) => reporter.on(Event::Panicked { task: name, why: &why }),
                None => tracing::error!(target: "mcpool::panic", task = name, why, "a task panicked"),
            }
        });
    }

    /// The signal that tells the tasks to end.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// How many tasks of each name run.
    #[must_use]
    pub fn running(&self) -> BTreeMap<&'static str, usize> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells the tasks to end and waits for them; names what still runs at the deadline.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the tasks ending by themselves.
    pub async fn shutdown(&self, deadline: Duration) -> BTreeMap<&'static str, usize> {
        self.stop.cancel();
        self.tracker.close();
        let _ = tokio::time::timeout(deadline, self.tracker.wait()).await;
        self.running()
    }
}

/// Counts a task for as long as it lives, also when it panics.
struct Running {
    names: Arc<Mutex<BTreeMap<&'static str, usize>>>,
    name: &'static str,
}

impl Running {
    fn enter(names: Arc<Mutex<BTreeMap<&'static str, usize>>>, name: &'static str) -> Self {
        *names.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
        Self { names, name }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = running.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                running.remove(self.name);
            }
        }
    }
}
