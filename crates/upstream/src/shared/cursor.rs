//! Cursors of lists, sealed for agents with the pool and the session they came from.
//!
//! A cursor is valid on the session that issued it, and may hold data that is not for others. Agents get it encrypted
//! and authenticated with a key of this process, bound to the backend, its generation and the kind of list. It is
//! unsealed for that session only.

use std::sync::LazyLock;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::{BufMut as _, Bytes, BytesMut};
use mcpool_wire::{Answer, BackendId, Envelope, Message, Method, Span};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Longest cursor of a backend that is sealed, bytes of JSON.
pub(crate) const MAX_INNER: usize = 8 * 1024;

/// Longest sealed cursor that is unsealed, bytes of text.
const MAX_SEALED: usize = (HEAD + MAX_INNER + NONCE_LEN + 16) * 4 / 3 + 4;

/// The pool and the session, eight bytes each.
const HEAD: usize = 16;

/// Random per process; without randomness no cursor is sealed or unsealed.
static KEY: LazyLock<Option<RandomizedNonceKey>> =
    LazyLock::new(|| RandomizedNonceKey::new(&AES_256_GCM, &rand::random::<[u8; 32]>()).ok());

/// The list a cursor belongs to: its kind, and the registration of its backend.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) list: &'a Method,
    pub(crate) backend: BackendId,
    pub(crate) generation: u64,
}

impl Place<'_> {
    /// The data authenticated with a cursor: fixed length after the name of the list.
    fn bound(&self) -> Aad<Vec<u8>> {
        let (backend, generation) = (self.backend.0.to_be_bytes(), self.generation.to_be_bytes());
        Aad::from([self.list.label().as_bytes(), &backend, &generation].concat())
    }
}

/// Values with which some servers say that there is no next page. They pass unchanged in both directions, because
/// agents know them.
const EMPTY: &str = "\"\"";

/// An unsealed cursor.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) pool: u64,
    pub(crate) epoch: u64,
    /// The backend's own cursor, as JSON.
    pub(crate) inner: Vec<u8>,
}

/// Error: the cursor of a page cannot be given to an agent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unsealable;

#[derive(Deserialize)]
struct Listed<'a> {
    #[serde(borrow)]
    result: Next<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Next<'a> {
    #[serde(borrow, default)]
    next_cursor: Option<&'a RawValue>,
}

impl Cursor {
    /// Seals it for an agent; `None` if it is too long.
    pub(crate) fn seal(&self, place: Place<'_>) -> Option<String> {
        if self.inner.len() > MAX_INNER {
            return None;
        }
        let mut sealed = Vec::with_capacity(HEAD + self.inner.len() + NONCE_LEN + 16);
        sealed.extend_from_slice(&self.pool.to_be_bytes());
        sealed.extend_from_slice(&self.epoch.to_be_bytes());
        sealed.extend_from_slice(&self.inner);
        let nonce = KEY.as_ref()?.seal_in_place_append_tag(place.bound(), &mut sealed).ok()?;
        sealed.extend_from_slice(nonce.as_ref());
        Some(BASE64_URL_SAFE_NO_PAD.encode(sealed))
    }

    /// Unseals a cursor of an agent; `None` unless this process sealed it for this list.
    pub(crate) fn open(text: &str, place: Place<'_>) -> Option<Self> {
        if text.len() > MAX_SEALED {
            return None;
        }
        let mut sealed = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        let nonce: [u8; NONCE_LEN] =
            sealed.split_off(sealed.len().checked_sub(NONCE_LEN)?).try_into().ok()?;
        let nonce = Nonce::assume_unique_for_key(nonce);
        let plain = KEY.as_ref()?.open_in_place(nonce, place.bound(), &mut sealed).ok()?;
        let (pool, rest) = plain.split_first_chunk()?;
        let (epoch, inner) = rest.split_first_chunk()?;
        Some(Self {
            pool: u64::from_be_bytes(*pool),
            epoch: u64::from_be_bytes(*epoch),
            inner: inner.to_vec(),
        })
    }
}

/// Seals the cursor of a page, if it has one.
pub(crate) fn seal_page(
    answer: &Answer,
    place: Place<'_>,
    pool: u64,
    epoch: u64,
) -> Result<Option<Answer>, Unsealable> {
    let bytes = answer.message.bytes();
    if memchr::memmem::find(bytes, b"nextCursor").is_none() {
        return Ok(None);
    }
    // An unreadable page passes unchanged; nothing in it can be unsealed here.
    let Ok(text) = std::str::from_utf8(bytes) else { return Ok(None) };
    let Some(raw) = serde_json::from_str::<Listed<'_>>(text).ok().and_then(|page| page.result.next_cursor)
    else {
        return Ok(None);
    };
    if raw.get() == EMPTY {
        return Ok(None);
    }
    let start = raw.get().as_ptr() as usize - text.as_ptr() as usize;
    let cursor = Cursor { pool, epoch, inner: raw.get().as_bytes().to_vec() };
    let sealed = format!("\"{}\"", cursor.seal(place).ok_or(Unsealable)?);
    let message = replaced(bytes, start..start + raw.get().len(), sealed.as_bytes()).ok_or(Unsealable)?;
    Ok(Some(Answer { message, ..answer.clone() }))
}

/// The unsealed cursor of a list request; `None` without one.
pub(crate) fn of_request(message: &Message, place: Place<'_>) -> Option<Option<Cursor>> {
    let envelope = Envelope::parse(message.bytes()).ok()?;
    let raw = envelope.params.cursor.filter(|raw| raw.get() != EMPTY)?;
    let text = serde_json::from_str::<String>(raw.get()).ok();
    Some(text.and_then(|text| Cursor::open(&text, place)))
}

/// The list request with the backend's own cursor.
pub(crate) fn unwrapped(message: &Message, inner: &[u8]) -> Option<Message> {
    let span = Envelope::parse(message.bytes()).ok()?.cursor_span()?;
    replaced(message.bytes(), span, inner)
}

fn replaced(bytes: &Bytes, span: Span, with: &[u8]) -> Option<Message> {
    let mut out = BytesMut::with_capacity(bytes.len() + with.len());
    out.put_slice(bytes.get(..span.start)?);
    out.put_slice(with);
    out.put_slice(bytes.get(span.end..)?);
    let out = out.freeze();
    let envelope = Envelope::parse(&out).ok()?;
    Some(Message::new(out.clone(), &envelope))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(list: &Method) -> Place<'_> {
        Place { list, backend: BackendId(1), generation: 2 }
    }

    fn cursor(inner: &str) -> Cursor {
        Cursor { pool: 3, epoch: 7, inner: inner.as_bytes().to_vec() }
    }

    fn message(text: &str) -> Message {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        let envelope = Envelope::parse(&bytes).expect("a message");
        Message::new(bytes.clone(), &envelope)
    }

    fn answer(text: &str) -> Answer {
        Answer { message: message(text), is_rpc_error: false, is_tool_error: false }
    }

    #[test]
    fn a_cursor_comes_back_as_it_went_and_only_for_its_list() {
        let sealed = cursor("\"page 2\"").seal(of(&Method::ToolsList)).expect("sealed");
        assert!(!sealed.contains("page"));
        assert_eq!(Cursor::open(&sealed, of(&Method::ToolsList)), Some(cursor("\"page 2\"")));
        assert_eq!(Cursor::open(&sealed, of(&Method::PromptsList)), None);
    }

    #[test]
    fn a_cursor_of_another_backend_or_of_one_that_was_replaced_is_none() {
        let here = of(&Method::ToolsList);
        let sealed = cursor("\"page 2\"").seal(here).expect("sealed");
        assert_eq!(Cursor::open(&sealed, Place { backend: BackendId(2), ..here }), None);
        assert_eq!(Cursor::open(&sealed, Place { generation: 3, ..here }), None);
        assert!(Cursor::open(&sealed, here).is_some());
    }

    #[test]
    fn a_forged_cursor_is_none() {
        let sealed = cursor("\"2\"").seal(of(&Method::ToolsList)).expect("sealed");
        for at in 0..sealed.len() - 1 {
            let mut forged = sealed.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).expect("ASCII");
            assert_eq!(Cursor::open(&forged, of(&Method::ToolsList)), None, "changed at {at}");
        }
        for foreign in ["", "2", "page-2", "AAAA", &"A".repeat(MAX_SEALED + 1)] {
            assert_eq!(Cursor::open(foreign, of(&Method::ToolsList)), None);
        }
    }

    #[test]
    fn a_cursor_that_is_too_long_does_not_leave() {
        let long = format!("\"{}\"", "x".repeat(MAX_INNER));
        assert_eq!(cursor(&long).seal(of(&Method::ToolsList)), None);
        let page = answer(&format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{{\"nextCursor\":{long}}}}}"));
        assert!(seal_page(&page, of(&Method::ToolsList), 1, 1).is_err());
        let longest = format!("\"{}\"", "x".repeat(MAX_INNER - 2));
        let sealed = cursor(&longest).seal(of(&Method::ToolsList)).expect("the longest fits");
        assert!(Cursor::open(&sealed, of(&Method::ToolsList)).is_some());
    }

    #[test]
    fn only_the_cursor_of_a_page_changes() {
        let page = answer(
            r#"{"result":{"tools":[{"name":"a","n":1e400}],"nextCursor":"p\u0032" , "x":0.10},"jsonrpc":"2.0","id":9}"#,
        );
        let sealed = seal_page(&page, of(&Method::ToolsList), 3, 7).expect("sealable").expect("has one");
        let text = std::str::from_utf8(sealed.message.bytes()).expect("UTF-8").to_owned();
        let (head, tail) =
            (r#"{"result":{"tools":[{"name":"a","n":1e400}],"nextCursor":""#, r#"" , "x":0.10},"#);
        assert!(text.starts_with(head) && text.contains(tail), "{text}");
        let own = String::from_utf8(sealed.with_id(b"\"mine\"").to_vec()).expect("UTF-8");
        assert!(own.ends_with(r#""id":"mine"}"#), "{own}");

        let value: serde_json::Value = serde_json::from_str(&text.replace("1e400", "1")).expect("JSON");
        let back = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{"cursor":{}}}}}"#,
            value["result"]["nextCursor"]
        );
        let back = message(&back);
        let opened = of_request(&back, of(&Method::ToolsList)).flatten().expect("ours");
        assert_eq!(opened, cursor(r#""p\u0032""#));
        let unwrapped = unwrapped(&back, &opened.inner).expect("spliced");
        let expected = br#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":"p\u0032"}}"#;
        assert_eq!(&unwrapped.bytes()[..], expected);
    }

    #[test]
    fn an_empty_cursor_passes_both_ways() {
        let page = answer(r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[],"nextCursor":""}}"#);
        assert!(matches!(seal_page(&page, of(&Method::ToolsList), 1, 1), Ok(None)));
        let next = message(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":""}}"#);
        assert!(of_request(&next, of(&Method::ToolsList)).is_none());
    }

    #[test]
    fn a_page_without_cursor_passes() {
        for text in [
            r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[]}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"nextCursor"}],"nextCursor":null}}"#,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"nextCursor"}}"#,
        ] {
            assert!(seal_page(&answer(text), of(&Method::ToolsList), 1, 1).expect("sealable").is_none());
        }
        assert!(
            of_request(&message(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#), of(&Method::ToolsList))
                .is_none()
        );
    }
}
