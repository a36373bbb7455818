//! Ids of agent sessions: one text each, and no other text is that session.

use arbitrary::{Arbitrary, Unstructured};
use mcpool_front::AgentSessionId;

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
    let id = AgentSessionId::mint(owner).expect("the system has randomness");
    let text = id.to_text();
    assert_eq!(AgentSessionId::parse(&text), Some(id));
    assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "safe anywhere");
    assert!(!format!("{id:?}").contains(&text), "not in a log");

    let mut forged = text.clone().into_bytes();
    let at = usize::from(at) % forged.len();
    forged[at] = byte;
    refused(&String::from_utf8_lossy(&forged), &text, id);
    refused(&text[..usize::from(cut) % text.len()], &text, id);
    let rest = String::from_utf8_lossy(input.take_rest());
    refused(&format!("{text}{rest}"), &text, id);
    refused(&rest, &text, id);
}

fn refused(forged: &str, text: &str, id: AgentSessionId) {
    if forged == text {
        return;
    }
    if let Some(other) = AgentSessionId::parse(forged) {
        assert!(other != id, "{forged} is {text}");
        assert_eq!(other.to_text(), forged, "one session has one text");
    }
}
