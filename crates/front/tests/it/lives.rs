//! Several lives of one gateway: what outlives each, and a wall clock that can be wrong.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use mcpool_front::{FrontConfig, FrontLimits, FrontTimes, SessionKeys, SessionsConfig, WallClock};

use crate::client::{Running, start_with};

/// What outlives a gateway here: its key, its clock, and the file of the deleted.
pub(crate) struct Lives {
    keys: SessionKeys,
    folder: PathBuf,
    /// How far the wall clock is off, in seconds.
    pub(crate) off: Arc<AtomicI64>,
    pub(crate) limits: FrontLimits,
    pub(crate) times: FrontTimes,
}

impl Lives {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mcpool-lives-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Self {
            keys: SessionKeys::default(),
            folder,
            off: Arc::default(),
            limits: FrontLimits::default(),
            times: FrontTimes::default(),
        }
    }

    pub(crate) async fn begin(&self) -> Running {
        let off = Arc::clone(&self.off);
        let clock = WallClock::new(move || {
            let off = off.load(Ordering::SeqCst);
            let by = Duration::from_secs(off.unsigned_abs());
            if off < 0 { SystemTime::now() - by } else { SystemTime::now() + by }
        });
        let deleted = Some(self.folder.join("deleted"));
        let sessions =
            SessionsConfig { keys: self.keys.clone(), deleted, clock, ..SessionsConfig::default() };
        let (limits, times) = (self.limits, self.times);
        start_with(FrontConfig { sessions, limits, times, ..FrontConfig::default() }).await
    }

    /// Another life at the same time, by the same clock, with a file of its own that says the same.
    pub(crate) async fn begin_beside(&self) -> Running {
        let copy = self.folder.join("copy");
        std::fs::create_dir_all(&copy).unwrap();
        std::fs::copy(self.folder.join("deleted"), copy.join("deleted")).unwrap();
        let (keys, off) = (self.keys.clone(), Arc::clone(&self.off));
        // Its folder is gone at once, and may be: what it says has been read by then.
        Self { keys, folder: copy, off, limits: self.limits, times: self.times }.begin().await
    }

    pub(crate) async fn again(&self, before: Running) -> Running {
        before.killed().await;
        self.begin().await
    }
}

impl Drop for Lives {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
