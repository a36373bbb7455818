//! The id of an agent session: opaque, unguessable, with a codec of its own.
//!
//! Layout: format version, key id, owner slot (which replica holds the session), 20 random bytes of the operating
//! system. Nothing outside this file looks inside.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::{TryRng as _, rngs::SysRng};

const FORMAT: u8 = 1;
const KEY: u8 = 0;
const LEN: usize = 24;
const TEXT_LEN: usize = 32;

/// The name of an agent session, known to its agent only.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AgentSessionId([u8; LEN]);

impl AgentSessionId {
    /// A fresh id for a session held by replica `owner`; `None` when the system has no randomness to give.
    #[must_use]
    pub fn mint(owner: u16) -> Option<Self> {
        let mut bytes = [0; LEN];
        let [high, low] = owner.to_be_bytes();
        bytes[..4].copy_from_slice(&[FORMAT, KEY, high, low]);
        SysRng.try_fill_bytes(&mut bytes[4..]).ok()?;
        Some(Self(bytes))
    }

    /// Reads an id as an agent sends it; `None` for anything this gateway did not mint in this format.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; LEN];
        let read =
            (text.len() == TEXT_LEN).then(|| URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok())??;
        (read == LEN && bytes[0] == FORMAT && bytes[1] == KEY).then_some(Self(bytes))
    }

    /// The text an agent gets: visible ASCII, safe in headers and queries.
    #[must_use]
    pub fn to_text(self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }
}

impl fmt::Debug for AgentSessionId {
    // Whoever knows the id owns the session: it does not belong in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AgentSessionId(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text_and_foreign_text_is_refused() {
        let id = AgentSessionId::mint(7).unwrap();
        assert_eq!(AgentSessionId::parse(&id.to_text()), Some(id));
        assert_eq!(id.to_text().len(), TEXT_LEN);
        assert_ne!(AgentSessionId::mint(7).unwrap(), id);
        for foreign in ["", "x", "00000000-0000-0000-0000-000000000000", &"A".repeat(32), &"!".repeat(32)] {
            assert_eq!(AgentSessionId::parse(foreign), None, "{foreign}");
        }
    }
}
