//! Ids of agent sessions: one text each, and whoever changes one, or takes it elsewhere, has none.
//!
//! The subtle thing: libFuzzer writes what it saw compared into its next inputs, so with keys that live on it hands back
//! ids that were given out for earlier ones, which are no forgeries.

use arbitrary::{Arbitrary, Unstructured};
use mcpool_front::{AgentSessionId, SessionKeys, fuzzing};

const BACKEND: &str = "search";

#[derive(Arbitrary)]
struct Forgery {
    owner: u16,
    at: u8,
    byte: u8,
    cut: u8,
}

/// How to change a good id, then a text that may be one.
pub fn sealed(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(Forgery { owner, at, byte, cut }) = input.arbitrary() else { return };
    let keys = SessionKeys::default();
    let id = fuzzing::seal(&keys, owner, u64::from(at) * 1_000, BACKEND).expect("the system has randomness");
    let text = id.to_text();
    assert!(fuzzing::opens(&keys, id, BACKEND), "it is good where it belongs");
    for elsewhere in ["searc", "search2", ""] {
        assert!(!fuzzing::opens(&keys, id, elsewhere), "it is good under {elsewhere:?}");
    }
    assert_eq!(AgentSessionId::parse(&text), Some(id));
    assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "safe anywhere");
    assert!(!format!("{id:?}").contains(&text), "not in a log");

    let mut forged = text.clone().into_bytes();
    let at = usize::from(at) % forged.len();
    forged[at] = byte;
    refused(&keys, &String::from_utf8_lossy(&forged), &text);
    refused(&keys, &text[..usize::from(cut) % text.len()], &text);
    let rest = String::from_utf8_lossy(input.take_rest());
    refused(&keys, &format!("{text}{rest}"), &text);
    refused(&keys, &rest, &text);
}

fn refused(keys: &SessionKeys, forged: &str, text: &str) {
    if forged == text {
        return;
    }
    if let Some(other) = AgentSessionId::parse(forged) {
        assert!(!fuzzing::opens(keys, other, BACKEND), "{forged} is good, like {text}");
        assert_eq!(other.to_text(), forged, "one session has one text");
    }
}
