//! Epochs of a circuit: which sessions are known to be broken, in bounded memory.

use std::collections::VecDeque;

/// The epochs known to be broken.
#[derive(Debug, Default)]
pub(super) struct Epochs {
    /// Older epochs are ignored.
    oldest: u64,
    pub(super) highest: u64,
    /// The last broken epochs in order of report. A second report after [`REMEMBERED_EPOCHS`] others counts again,
    /// which is harmless: reports of one break arrive together.
    pub(super) broken: VecDeque<u64>,
}

impl Epochs {
    /// Records a broken epoch. False if it is known or too old.
    pub(super) fn break_new(&mut self, epoch: u64) -> bool {
        if !self.is_news(epoch) {
            return false;
        }
        if self.broken.len() == REMEMBERED_EPOCHS {
            self.broken.pop_front();
        }
        self.broken.push_back(epoch);
        self.highest = self.highest.max(epoch);
        true
    }

    pub(super) fn is_news(&self, epoch: u64) -> bool {
        epoch >= self.oldest && !self.is_broken(epoch)
    }

    pub(super) fn is_broken(&self, epoch: u64) -> bool {
        self.broken.contains(&epoch)
    }

    pub(super) fn forget_older_than(&mut self, epoch: u64) {
        self.oldest = self.oldest.max(epoch);
    }
}

pub(super) const REMEMBERED_EPOCHS: usize = 256;
