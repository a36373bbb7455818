//! Named background tasks with an owner: what runs, and at shutdown, what did not finish.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The tasks of one owner. Cloning gives another handle to the same set.
#[derive(Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    running: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

impl Tasks {
    /// Runs a task until it ends. It must end soon after [`Tasks::stopping`] resolves.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let running = Running::enter(self.running.clone(), name);
        self.tracker.spawn(async move {
            let _running = running;
            task.await;
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
        self.running.lock().map(|running| running.clone()).unwrap_or_default()
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
        if let Ok(mut running) = names.lock() {
            *running.entry(name).or_default() += 1;
        }
        Self { names, name }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(mut running) = self.names.lock()
            && let Some(count) = running.get_mut(self.name)
        {
            *count -= 1;
            if *count == 0 {
                running.remove(self.name);
            }
        }
    }
}
