//! Whether this process has descriptors to spare. What it lacks itself is nobody else's fault: no connection is opened
//! with the last of them, who wants one waits a little, and what fails for that reason says so.

use std::{
    fs::File,
    io,
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicUsize, Ordering},
};

/// The number from which on descriptors are kept for others. The system gives out the lowest that is free.
static RESERVE: AtomicUsize = AtomicUsize::new(usize::MAX);

/// The system's codes for "too many open files": in this process, and in all.
const SHORTAGES: [i32; 2] = [24, 23];

/// Says how many descriptors this process may have. Gives back how many of them are kept for its operator.
pub fn limit(most: usize) -> usize {
    let reserved = (most / 8).clamp(8, 128).min(most / 2);
    RESERVE.store(most - reserved, Ordering::Relaxed);
    reserved
}

/// Whether there is none for another connection.
pub(crate) fn are_short() -> bool {
    match File::open("/dev/null") {
        Ok(file) => {
            let reserve = RESERVE.load(Ordering::Relaxed);
            usize::try_from(file.as_raw_fd()).is_ok_and(|number| number >= reserve)
        }
        Err(error) => is_shortage(&error),
    }
}

/// Whether an operation failed because there is none.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| SHORTAGES.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_kept_and_who_would_take_of_it_is_told() {
        assert!(!are_short());
        // Every test is a process of its own.
        assert_eq!(limit(1024), 128);
        assert!(!are_short());
        assert_eq!((limit(16), limit(64), limit(1 << 20)), (8, 8, 128));
        RESERVE.store(3, Ordering::Relaxed);
        assert!(are_short(), "0, 1 and 2 are taken");
        RESERVE.store(usize::MAX, Ordering::Relaxed);
    }

    #[test]
    fn a_shortage_is_told_from_other_errors() {
        for (code, is) in [(24, true), (23, true), (2, false), (111, false)] {
            assert_eq!(is_shortage(&io::Error::from_raw_os_error(code)), is, "{code}");
        }
    }
}
