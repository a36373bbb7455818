//! Known mistakes, to be switched on one at a time, so that the tests can show that they would notice.
//!
//! Without the feature `seeded-bugs`, which no build of the gateway has, `mutant!` is the word `false` and nothing
//! else of this file exists.

#[cfg(feature = "seeded-bugs")]
macro_rules! mutant {
    ($bug:ident) => {
        $crate::mutants::is_planted($crate::mutants::Bug::$bug)
    };
}

#[cfg(not(feature = "seeded-bugs"))]
macro_rules! mutant {
    ($bug:ident) => {
        false
    };
}

#[cfg(feature = "seeded-bugs")]
pub(crate) use self::planted::is_planted;
#[cfg(feature = "seeded-bugs")]
pub use self::planted::{Bug, Planted};

#[cfg(feature = "seeded-bugs")]
mod planted {
    use std::cell::Cell;

    thread_local! {
        // Of the thread, so that tests side by side do not plant bugs in each other.
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// One mistake somebody could make.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Bug {
        /// An answer goes to another call that waits on the session.
        AnswerToAnother,
        /// An answer whose id came back as a string is taken for unknown.
        StringIdRefused,
        /// Progress goes to another call that waits on the session.
        ProgressToAnother,
        /// The permit of a cancelled call does not come back with the late answer.
        SlotKeptByCancelled,
        /// A permit is given back twice.
        SlotReturnedTwice,
        /// The id of a cancelled call is given to the next one, which gets the late answer.
        IdUsedAgain,
        /// Every call counts as safe to repeat.
        UnsafeRepeated,
        /// Who waits for an answer is not told that the session is lost.
        WaitersForgotten,
        /// A permit that is free again wakes nobody.
        FreedSlotWakesNobody,
        /// An agent that unsubscribes takes the subscriptions of the others along.
        UnsubscribeForAll,
        /// A session stays its last borrower's.
        LoanNeverEnds,
        /// A list stays known although it changed.
        StaleList,
        /// A log line of no call goes to everybody.
        LogForEverybody,
        /// The log level an agent asked for is not looked at.
        LevelIgnored,
        /// A permit is free before the loan of its session has ended.
        LoanEndsAfterSlot,
        /// Slots are counted by a look and a later note.
        SlotsCountedInTwoSteps,
        /// Who gives back the last permit looks first whether the session drains.
        StandingReadTooEarly,
        /// An agent that has nothing in flight any more still may not have the last permits.
        IdleAgentForgotten,
        /// A waiter that leaves keeps the turn it did not use.
        TurnNotPassedOn,
        /// The book is emptied first and closed afterwards.
        ClosedInTwoSteps,
        /// A 404 is a lost session, whatever its body.
        StatusBeforeAnswer,
        /// An error that speaks of a session is a lost one.
        WordsBelieved,
        /// Every status but a success says that nothing ran.
        RefusedWithoutProof,
        /// A call survives any number of lost sessions.
        SecondSession,
        /// A 503 refuses its call before it ran.
        RefusedBy503,
    }

    /// A bug on this thread, for as long as this lives.
    #[derive(Debug)]
    pub struct Planted(());

    impl Bug {
        /// Switches it on for this thread, in place of any other.
        #[must_use]
        pub fn plant(self) -> Planted {
            PLANTED.set(Some(self));
            Planted(())
        }
    }

    impl Drop for Planted {
        fn drop(&mut self) {
            PLANTED.set(None);
        }
    }

    pub(crate) fn is_planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}
