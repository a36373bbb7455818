//! Every order in which threads are changed at most so many times where nothing forces it (iterative context
//! bounding): most mistakes need few such changes, and their orders can be counted where all orders cannot.

use shuttle::scheduler::{Schedule, Scheduler, Task, TaskId};

/// Depth-first over the choices; what can run must follow from the choices alone.
pub(crate) struct Bounded {
    changes: usize,
    most: usize,
    orders: usize,
    /// The choices of the order being run: which of how many. The first is to stay where one is, if possible.
    path: Vec<(usize, usize)>,
    at: usize,
    changed: usize,
}

impl Bounded {
    /// At most so many changes, and at most so many orders.
    pub(crate) fn new(changes: usize, most: usize) -> Self {
        Self { changes, most, orders: 0, path: Vec::new(), at: 0, changed: 0 }
    }

    /// Takes the next branch of the last choice that has one.
    fn advance(&mut self) -> bool {
        while let Some((chosen, of)) = self.path.pop() {
            if chosen + 1 < of {
                self.path.push((chosen + 1, of));
                return true;
            }
        }
        false
    }
}

impl Scheduler for Bounded {
    fn new_execution(&mut self) -> Option<Schedule> {
        if self.orders == self.most || (self.orders > 0 && !self.advance()) {
            return None;
        }
        self.orders += 1;
        (self.at, self.changed) = (0, 0);
        Some(Schedule::new(0))
    }

    fn next_task(
        &mut self,
        runnable: &[&Task],
        current: Option<TaskId>,
        is_yielding: bool,
    ) -> Option<TaskId> {
        let mut choices: Vec<TaskId> = runnable.iter().map(|task| task.id()).collect();
        let stays = choices.iter().position(|id| Some(*id) == current).filter(|_| !is_yielding);
        if let Some(here) = stays {
            choices.swap(0, here);
            if self.changed == self.changes {
                choices.truncate(1);
            }
        }
        if self.at == self.path.len() {
            self.path.push((0, choices.len()));
        }
        let (chosen, of) = *self.path.get(self.at)?;
        assert_eq!(of, choices.len(), "what can run does not follow from the choices");
        self.at += 1;
        self.changed += usize::from(stays.is_some() && chosen > 0);
        choices.get(chosen).copied()
    }

    fn next_u64(&mut self) -> u64 {
        0
    }
}
