//! Lines of a program are the same whatever the chunks, and what is too large costs no memory.

use std::collections::VecDeque;

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use futures::FutureExt as _;
use mcpool_upstream::fuzzing::{Line, lines};
use mcpool_wire::{Envelope, Kind};

use crate::{
    pieces::{Pieces, Sizes},
    text::is_json,
};

#[derive(Arbitrary)]
struct Head {
    sizes: Sizes,
    limit: u16,
}

/// Sizes of chunks, a limit, then standard output.
pub fn stdio(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(Head { sizes, limit }) = input.arbitrary() else { return };
    let limit = usize::from(limit).max(1);
    let output = Bytes::copy_from_slice(input.take_rest());
    let whole = read(VecDeque::from([output.clone()]), limit);
    assert_eq!(read(sizes.cut(&output), limit), whole);
    assert_eq!(read(Sizes::SINGLE.cut(&output), limit), whole);
    let mut said = whole.iter();
    // What came after the last line break is not a line.
    let complete = output.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    for line in output[..complete].split_inclusive(|byte| *byte == b'\n') {
        let text = line.trim_ascii();
        if line.len() > limit {
            match said.next() {
                Some(Line::TooLarge { answers, has_method }) => found(text, answers, *has_method),
                other => panic!("a line of {} bytes is {other:?}", line.len()),
            }
        } else if !text.is_empty() {
            judged(text, said.next());
        }
    }
    assert_eq!(said.next(), None);
}

fn read(chunks: VecDeque<Bytes>, limit: usize) -> Vec<Line> {
    let read = lines(Pieces(chunks), limit).now_or_never().expect("nothing is waited for");
    let (lines, held) = read.expect("nothing fails");
    assert!(held <= limit + (256 << 10), "{held} bytes are held under a limit of {limit}");
    lines
}

fn judged(text: &[u8], line: Option<&Line>) {
    let is_message = matches!(text.first(), Some(b'{' | b'['))
        && std::str::from_utf8(text).is_ok_and(|text| text.len() > 64 << 10 || is_json(text));
    match line {
        Some(Line::Message(message)) => assert!(is_message && message == text),
        Some(Line::Noise(shown)) => assert!(!is_message && !shown.contains(['\n', '\r', '\x1b'])),
        other => panic!("{other:?}"),
    }
}

/// What passed by unread is taken for the answer that another reading finds, or for none.
fn found(text: &[u8], answers: &[u64], has_method: bool) {
    let Ok(envelope) = Envelope::parse(text) else { return };
    // Keys may be spelt with escapes; that is not looked for in what is thrown away.
    let spelt_out = !text.contains(&b'\\');
    if spelt_out {
        assert_eq!(has_method, envelope.method.is_some());
    }
    let is_answer = matches!(envelope.kind, Kind::Success | Kind::Failure);
    // Exactly as the gateway writes its ids, or as a string of that.
    let raw = envelope.id_span().map_or(&b""[..], |span| &text[span]);
    let plain = raw.strip_prefix(b"\"").and_then(|raw| raw.strip_suffix(b"\"")).unwrap_or(raw);
    let number = std::str::from_utf8(plain).ok().and_then(|text| text.parse::<u64>().ok());
    let id = number.filter(|number| is_answer && number.to_string().as_bytes() == plain);
    if spelt_out || !answers.is_empty() {
        assert_eq!(answers, id.as_slice(), "{}", String::from_utf8_lossy(text));
    }
}
