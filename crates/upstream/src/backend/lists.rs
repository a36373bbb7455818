//! Lists on shared sessions: cached if the server announces changes, requested once for all agents that ask at the same
//! time, with cursors that lead back to the session they came from.

use mcpool_wire::{Answer, Call, CallError, Era, ErrorKind, Message, Method, Reply};

use crate::{
    backend::lock,
    catalog::Page,
    clock,
    kinds::Mode,
    pool::{ANY_SESSION, Binding, PoolKey},
    shared::{ListFlight, cursor, ran_out_of_time},
};

/// The kind of a list request.
pub enum ListCall {
    /// The first page, equal for all agents of the pool.
    First,
    /// A later page, which only the session with this epoch has, if any.
    Next(Message, Option<u64>),
}

impl Binding {
    /// True if a call requests a list of the pool. The list of a session of one agent's own may be for that agent only.
    #[must_use]
    pub fn shares_list(&self, call: &Call) -> bool {
        // Modern clients get the modern response unchanged.
        self.mode() != Mode::Pinned
            && call.era == Era::Legacy
            && matches!(
                call.method,
                Method::ToolsList
                    | Method::PromptsList
                    | Method::ResourcesList
                    | Method::ResourcesTemplatesList
            )
    }

    /// Classifies a list request of [`Binding::shares_list`].
    ///
    /// # Errors
    /// An error if its cursor is expired or was never valid.
    pub fn list_call(&self, call: &Call) -> Result<ListCall, CallError> {
        let Some(cursor) = cursor::of_request(&call.message, self.place_of(&call.method)) else {
            return Ok(ListCall::First);
        };
        let known = cursor.filter(|cursor| cursor.pool == self.pool.number && self.keeps_to(cursor.epoch));
        let message = known.and_then(|c| Some((cursor::unwrapped(&call.message, &c.inner)?, c.epoch)));
        let next =
            |(message, epoch)| ListCall::Next(message, Some(epoch).filter(|epoch| *epoch != ANY_SESSION));
        message.map(next).ok_or_else(unknown_cursor)
    }

    fn place_of<'a>(&self, list: &'a Method) -> cursor::Place<'a> {
        let PoolKey { backend, generation, .. } = self.pool.key;
        cursor::Place { list, backend, generation }
    }

    /// The cached list as this agent reads it, if current.
    #[must_use]
    pub fn cached_list(&self, call: &Call) -> Option<Answer> {
        // Without a listening session a change could be missed.
        if self.pool.live() == 0 {
            return None;
        }
        let page = self.pool.catalog.list(&call.method, *lock(&self.revision), clock::now())?;
        self.can_follow(&page).then_some(page.answer)
    }

    /// True if the agent can request the next page.
    #[must_use]
    pub fn can_follow(&self, page: &Page) -> bool {
        page.epoch.is_none_or(|epoch| self.keeps_to(epoch))
    }

    /// The request for a first page in progress, or this new one; and whether it is the new one.
    pub fn join_list(&self, call: &Call, begin: impl FnOnce() -> Reply<Page>) -> (ListFlight, bool) {
        self.pool.shared.flights().join(&call.method, begin)
    }

    /// True if a request the agent joined failed by the time limit of another agent, so that it should join again.
    #[must_use]
    pub fn should_rejoin(error: &CallError) -> bool {
        ran_out_of_time(error)
    }

    /// The response of session `epoch` to a list request as agents get it. A first page is cached if the session would
    /// announce a change.
    ///
    /// # Errors
    /// If the cursor is too long for agents.
    pub fn page(&self, call: &Call, answer: Answer, epoch: u64) -> Result<Page, CallError> {
        let listens = call.is_plain_list && self.pool.listens(epoch);
        // An agent with another session per call may use the cursor on any.
        let epoch = if self.mode() == Mode::Exclusive { ANY_SESSION } else { epoch };
        let page = match cursor::seal_page(&answer, self.place_of(&call.method), self.pool.number, epoch) {
            Ok(Some(answer)) => Page { answer, epoch: Some(epoch) },
            Ok(None) => Page { answer, epoch: None },
            Err(cursor::Unsealable) => {
                let message = format!("the cursor of the page is longer than {} bytes", cursor::MAX_INNER);
                return Err(CallError::not_sent(ErrorKind::TooLarge, message));
            }
        };
        if listens {
            self.pool.catalog.keep_list(&call.method, &page, call.trace.started, clock::now());
        }
        Ok(page)
    }
}

/// The error for an invalid cursor.
#[must_use]
pub fn unknown_cursor() -> CallError {
    CallError::not_sent(ErrorKind::InvalidParams, "unknown cursor, start over")
}
