//! The locks and counters whose hand-overs are run in every order by the test `interleave`: the standard ones, or, in
//! that test's build, shuttle's, which give the word to another thread at every step.

#[cfg(not(feature = "interleave"))]
pub(crate) use std::collections::HashMap;

/// In the same order each time, because orders are told apart by what was chosen before.
#[cfg(feature = "interleave")]
pub(crate) type HashMap<K, V> =
    std::collections::HashMap<K, V, std::hash::BuildHasherDefault<std::hash::DefaultHasher>>;

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
