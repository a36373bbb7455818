//! Work on large messages, done so that the calls which share its thread do not wait for it.

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::block_in_place,
};

/// Below this handing the other tasks over costs more than it saves them: 256 KiB are read in about 50 us, and another
/// thread is awake as soon.
const LARGE: usize = 256 << 10;

/// Runs work that looks at each of `bytes`. From 256 KiB on the tasks that wait for this thread are handed to another
/// first; on a runtime of one thread there is none, and they wait.
pub(crate) fn offload<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let can_hand_over = |handle: Handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread;
    if bytes < LARGE || !Handle::try_current().is_ok_and(can_hand_over) {
        return work();
    }
    block_in_place(work)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc,
        time::{Duration, Instant},
    };

    use super::{LARGE, offload};

    /// Whether a task of the only worker goes on while another works on so many bytes.
    fn others_go_on(bytes: usize) -> bool {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
        let (tell, told) = mpsc::channel();
        let seen = runtime.spawn(async move {
            tokio::spawn(async move { tell.send(()) });
            offload(bytes, || told.recv_timeout(Duration::from_millis(500)).is_ok())
        });
        runtime.block_on(seen).expect("no panic")
    }

    #[test]
    fn the_other_tasks_of_a_thread_go_on_beside_a_large_message_only() {
        assert!(others_go_on(LARGE));
        assert!(!others_go_on(LARGE - 1));
    }

    #[test]
    fn without_other_threads_or_a_runtime_it_is_simply_done() {
        assert_eq!(offload(LARGE, || 1), 1);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let begun = Instant::now();
        assert_eq!(runtime.block_on(async { offload(LARGE, || 2) }), 2);
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}
