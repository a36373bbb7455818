//! Agent session ids: opaque, unguessable, with a codec of their own.
//!
//! Layout: format version, key id, owner slot (which replica holds the session), then the sealed body with its nonce
//! and tag. This file knows where the parts lie; only [`crate::session_id::seal`] can read the body.

pub(crate) mod age;
pub(crate) mod revoked;
pub(crate) mod revoked_file;
pub(crate) mod seal;

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use mcpool_wire::Slot;

const FORMAT: u8 = 2;
/// Format, key id, owner: readable, and authenticated with the rest.
pub(crate) const HEAD: usize = 4;
pub(crate) const NONCE: usize = 12;
pub(crate) const BODY: usize = 16;
pub(crate) const TAG: usize = 16;
const LEN: usize = HEAD + NONCE + BODY + TAG;
/// No remainder: every bit of the text is a bit of the id.
const TEXT_LEN: usize = LEN / 3 * 4;

/// The id of an agent session, known to its agent only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentSessionId([u8; LEN]);

impl AgentSessionId {
    /// The readable part of an id of this key and this replica.
    pub(crate) fn head(key: u8, owner: Slot) -> [u8; HEAD] {
        let [high, low] = owner.number().to_be_bytes();
        [FORMAT, key, high, low]
    }

    /// Composes an id; `sealed` is the body and its tag.
    pub(crate) fn of_parts(head: [u8; HEAD], nonce: &[u8; NONCE], sealed: &[u8]) -> Option<Self> {
        let mut bytes = [0; LEN];
        bytes[..HEAD].copy_from_slice(&head);
        bytes[HEAD..HEAD + NONCE].copy_from_slice(nonce);
        let rest = bytes.get_mut(HEAD + NONCE..).filter(|rest| rest.len() == sealed.len())?;
        rest.copy_from_slice(sealed);
        Some(Self(bytes))
    }

    /// Parses an id; `None` for anything not of this format. A forged id passes: only the keys can tell.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; LEN];
        let read =
            (text.len() == TEXT_LEN).then(|| URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok())??;
        (read == LEN && bytes[0] == FORMAT).then_some(Self(bytes))
    }

    /// The text an agent gets: visible ASCII, safe in headers and queries.
    #[must_use]
    pub fn to_text(self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// The replica that issued it. Not encrypted, so that another replica can tell whose it is; only trustworthy once
    /// the keys have opened the id.
    #[must_use]
    pub fn owner(self) -> Slot {
        Slot::read(u16::from_be_bytes([self.0[2], self.0[3]]))
    }

    pub(crate) fn key(self) -> u8 {
        self.0[1]
    }

    /// Head, nonce, and the sealed body with its tag.
    pub(crate) fn parts(&self) -> ([u8; HEAD], [u8; NONCE], [u8; BODY + TAG]) {
        let (mut head, mut nonce, mut sealed) = ([0; HEAD], [0; NONCE], [0; BODY + TAG]);
        head.copy_from_slice(&self.0[..HEAD]);
        nonce.copy_from_slice(&self.0[HEAD..HEAD + NONCE]);
        sealed.copy_from_slice(&self.0[HEAD + NONCE..]);
        (head, nonce, sealed)
    }
}

impl fmt::Debug for AgentSessionId {
    // The id is a secret that opens its session: it does not belong in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AgentSessionId(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text_and_foreign_text_is_refused() {
        let id =
            AgentSessionId::of_parts(AgentSessionId::head(3, Slot::read(7)), &[1; NONCE], &[2; BODY + TAG])
                .unwrap();
        assert_eq!(AgentSessionId::parse(&id.to_text()), Some(id));
        assert_eq!((id.to_text().len(), id.key(), id.owner()), (TEXT_LEN, 3, Slot::read(7)));
        let (head, nonce, sealed) = id.parts();
        assert_eq!(AgentSessionId::of_parts(head, &nonce, &sealed), Some(id));
        for foreign in ["", "x", "00000000-0000-0000-0000-000000000000", &"A".repeat(64), &"!".repeat(64)] {
            assert_eq!(AgentSessionId::parse(foreign), None, "{foreign}");
        }
    }
}
