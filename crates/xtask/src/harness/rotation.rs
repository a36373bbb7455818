//! Which part of a table the gate runs: another one from commit to commit, the same one for the same commit.
//!
//! The subtle thing: it is the commit that turns the wheel, not the clock, so that a failure is found again by running
//! the same commit once more, and over some commits everything was run.

use std::process::Command;

use crate::harness::paths;

/// A table that is run in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turn {
    /// How many parts there are.
    pub(crate) parts: usize,
    /// Which one is run, below `parts`.
    pub(crate) part: usize,
}

impl Turn {
    /// The part of the commit that is checked out; the first one outside a repository.
    pub(crate) fn of_commit(parts: usize) -> Self {
        Self::of(&commit().unwrap_or_default(), parts)
    }

    fn of(commit: &str, parts: usize) -> Self {
        // The last digits of a commit's name are as good as random.
        let tail = commit.get(commit.len().saturating_sub(8)..).unwrap_or_default();
        let number = usize::from_str_radix(tail, 16).unwrap_or(0);
        Self { parts, part: number % parts }
    }

    /// Whether the row at this place is in the part.
    pub(crate) fn has(self, place: usize) -> bool {
        place % self.parts == self.part
    }
}

/// The name of the commit that is checked out.
fn commit() -> Option<String> {
    let asked = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(paths::root()).output().ok()?;
    asked.status.success().then(|| String::from_utf8_lossy(&asked.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::Turn;

    #[test]
    fn each_row_is_in_one_part_and_commits_take_turns() {
        let turns: Vec<_> = (0..3).map(|n| Turn::of(&format!("abcdef0123456789000000{n}"), 3)).collect();
        for place in 0..30 {
            assert_eq!(turns.iter().filter(|turn| turn.has(place)).count(), 1, "row {place}: {turns:?}");
        }
        assert_eq!(Turn::of("", 2), Turn { parts: 2, part: 0 }, "without a repository");
        assert_eq!(Turn::of("no commit", 2), Turn { parts: 2, part: 0 });
    }
}
