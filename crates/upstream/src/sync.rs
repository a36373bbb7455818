//! The locks and counters whose hand-overs are run in every order by the test `interleave`: the standard ones, or, in
//! that test's build, shuttle's, which give the word to another thread at every step.

#[cfg(not(feature = "interleave"))]
pub(crate) use std::collections::HashMap;

/// In the same order each time, because orders are told apart by what was chosen before.
#[cfg(feature = "interleave")]
pub(crate) type HashMap<K, V> =
    std::collections::HashMap<K, V, std::hash::BuildHasherDefault<std::hash::DefaultHasher>>;

/// A table by our own ids, which nobody else chooses. Its order is the same each time.
pub(crate) type ById<V> = std::collections::HashMap<u64, V, std::hash::BuildHasherDefault<IdHasher>>;

/// Spreads ids over the table.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl std::hash::Hasher for IdHasher {
    fn write_u64(&mut self, id: u64) {
        self.0 = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(self.0 ^ u64::from(*byte)));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(not(feature = "interleave"))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU8, AtomicUsize},
};

#[cfg(feature = "interleave")]
pub(crate) use shuttle::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU8, AtomicUsize},
};
