//! Cursors: what was sealed comes back for its list alone, anything else opens nothing, and of a page only the cursor
//! changes.

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use mcpool_upstream::fuzzing::{open, seal, seal_page, unwrapped};
use mcpool_wire::{Answer, Envelope, Message, Method};

/// Longest cursor of a backend that is sealed, bytes of JSON.
const MAX_INNER: usize = 8 * 1024;

const LISTS: [Method; 4] =
    [Method::ToolsList, Method::PromptsList, Method::ResourcesList, Method::ResourcesTemplatesList];

#[derive(Arbitrary)]
struct Head {
    is_page: bool,
    list: u8,
    pool: u64,
    epoch: u64,
    at: u16,
    byte: u8,
}

/// A cursor and how to forge it, or a page; then its text.
pub fn cursor(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(head) = input.arbitrary::<Head>() else { return };
    let rest = input.take_rest();
    if head.is_page { page(&head, rest) } else { codec(&head, rest) }
}

fn codec(head: &Head, inner: &[u8]) {
    let (list, other) = two_lists(head);
    if let Ok(text) = std::str::from_utf8(inner) {
        assert_eq!(open(text, list), None, "nobody else can seal");
    }
    let Some(sealed) = seal(head.pool, head.epoch, inner, list) else {
        assert!(inner.len() > MAX_INNER);
        return;
    };
    assert!(inner.len() <= MAX_INNER);
    assert_eq!(open(&sealed, list), Some((head.pool, head.epoch, inner.to_vec())));
    assert_eq!(open(&sealed, other), None, "of another list");
    let mut forged = sealed.clone().into_bytes();
    let at = usize::from(head.at) % forged.len();
    // Byte by byte: what libFuzzer sees compared whole it writes into its next inputs, and there it is no forgery.
    let is_same = std::mem::replace(&mut forged[at], head.byte) == head.byte;
    let forged = String::from_utf8_lossy(&forged);
    assert!(is_same || open(&forged, list).is_none(), "forged at {at}");
    assert_eq!(open(&sealed[..at], list), None, "cut short");
    assert_eq!(open(&format!("{sealed}{}", char::from(head.byte)), list), None, "longer");
}

fn page(head: &Head, text: &[u8]) {
    let (list, other) = two_lists(head);
    let bytes = Bytes::copy_from_slice(text);
    let Ok(envelope) = Envelope::parse(&bytes) else { return };
    let message = Message::new(bytes.clone(), &envelope);
    let answer = Answer { message, is_rpc_error: false, is_tool_error: false };
    let Ok(Some(sealed)) = seal_page(&answer, list, head.pool, head.epoch) else { return };
    let text = std::str::from_utf8(sealed.message.bytes()).expect("UTF-8");
    let read = Envelope::parse(text.as_bytes()).expect("still a message");
    assert_eq!((read.kind, read.id_value()), (envelope.kind, envelope.id_value()));

    // The cursor as any agent's parser finds it, brought back in its next request.
    let Ok(tree) = serde_json::from_str::<serde_json::Value>(text) else { return };
    let cursor = tree["result"]["nextCursor"].as_str().expect("a string, as the protocol says");
    let request =
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{"cursor":"{cursor}"}}}}"#);
    let (pool, epoch, inner) = open(cursor, list).expect("what was sealed is opened");
    assert_eq!((pool, epoch), (head.pool, head.epoch));
    assert_eq!(open(cursor, other), None);
    let quoted = format!("\"{cursor}\"");
    let restored = text.replacen(&quoted, std::str::from_utf8(&inner).expect("JSON"), 1);
    assert_eq!(restored.as_bytes(), &bytes[..], "only the cursor changed");
    let request = Bytes::from(request);
    let envelope = Envelope::parse(&request).expect("a message");
    let asked = unwrapped(&Message::new(request.clone(), &envelope), &inner).expect("has a cursor");
    let asked = std::str::from_utf8(asked.bytes()).expect("UTF-8");
    assert_eq!(
        asked,
        std::str::from_utf8(&request).expect("UTF-8").replacen(
            &quoted,
            std::str::from_utf8(&inner).expect("JSON"),
            1
        )
    );
}

fn two_lists(head: &Head) -> (&'static Method, &'static Method) {
    let at = usize::from(head.list % 4);
    (&LISTS[at], &LISTS[(at + 1) % 4])
}
