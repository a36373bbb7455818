//! Lists on a session agents share: kept where the server announces changes, asked for once by those who ask at the
//! same time, and with cursors that lead back to the session they came from.

use mcpool_wire::{Answer, Call, CallError, Era, ErrorKind, Message, Method, Reply};

use crate::{
    backend::lock,
    catalog::Page,
    clock,
    kinds::Mode,
    pool::{ANY_SESSION, Binding, PoolKey},
    shared::{ListFlight, cursor, ran_out_of_time},
};

/// What a list request becomes.
pub enum ListCall {
    /// The first page, the same for all agents of the pool.
    First,
    /// A page only the session with this epoch has, where there is one.
    Next(Message, Option<u64>),
}

impl Binding {
    /// Whether a call asks for a list that is the pool's, not the agent's own. A session of an agent's own may list
    /// what only that agent sees.
    #[must_use]
    pub fn shares_list(&self, call: &Call) -> bool {
        // What is read in the modern era is that era's answer, as it came.
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

    /// What to do with a list request of [`Binding::shares_list`].
    ///
    /// # Errors
    /// A refusal where its cursor leads nowhere any more, or never did.
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

    /// A list that is known to be current, as this agent reads it.
    #[must_use]
    pub fn cached_list(&self, call: &Call) -> Option<Answer> {
        // While no session listens, a change would not be heard of.
        if self.pool.live() == 0 {
            return None;
        }
        let page = self.pool.catalog.list(&call.method, *lock(&self.revision), clock::now())?;
        self.can_follow(&page).then_some(page.answer)
    }

    /// Whether the agent can ask for the page after this one.
    #[must_use]
    pub fn can_follow(&self, page: &Page) -> bool {
        page.epoch.is_none_or(|epoch| self.keeps_to(epoch))
    }

    /// The request for a first page that is under way, or this one; and whether it is this one.
    pub fn join_list(&self, call: &Call, begin: impl FnOnce() -> Reply<Page>) -> (ListFlight, bool) {
        self.pool.shared.flights().join(&call.method, begin)
    }

    /// Whether a request the agent only joined failed by the time of another agent, so that it should join again.
    #[must_use]
    pub fn should_rejoin(error: &CallError) -> bool {
        ran_out_of_time(error)
    }

    /// The answer of the session `epoch` to a list request, as agents get it. A first page is remembered, if
    /// the session would hear of a change.
    ///
    /// # Errors
    /// Where the page's cursor is longer than agents can be given.
    pub fn page(&self, call: &Call, answer: Answer, epoch: u64) -> Result<Page, CallError> {
        let listens = call.is_plain_list && self.pool.listens(epoch);
        // Who has another session for each call follows a cursor wherever it leads.
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

/// The refusal of a cursor that leads nowhere.
#[must_use]
pub fn unknown_cursor() -> CallError {
    CallError::not_sent(ErrorKind::InvalidParams, "unknown cursor, start over")
}
