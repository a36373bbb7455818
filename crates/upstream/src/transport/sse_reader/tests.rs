//! Framing against every way a body can be cut, and against the standard's own examples.

use std::convert::Infallible;

use futures::{StreamExt, stream};
use proptest::prelude::*;

use super::*;

const CAP: usize = 1 << 20;

/// Everything here is in memory, so nothing ever has to be waited for.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().unwrap()
}

fn read_with(
    cap: usize,
    chunks: impl IntoIterator<Item = Bytes>,
) -> Vec<Result<SseItem, SseError<Infallible>>> {
    let chunks: Vec<_> = chunks.into_iter().map(Ok).collect();
    block_on(SseReader::new(stream::iter(chunks), cap).collect())
}

/// All items but the signs of life, which depend on the chunks by design.
fn read(chunks: impl IntoIterator<Item = Bytes>) -> Vec<SseItem> {
    read_with(CAP, chunks).into_iter().map(Result::unwrap).filter(|item| *item != SseItem::Alive).collect()
}

fn one(text: &[u8]) -> Vec<SseItem> {
    read([Bytes::copy_from_slice(text)])
}

fn event(name: Option<&str>, data: &str, id: Option<&str>) -> SseItem {
    SseItem::Event(SseEvent {
        name: name.map(str::to_owned),
        data: Bytes::copy_from_slice(data.as_bytes()),
        id: id.map(str::to_owned),
    })
}

fn message(data: &str) -> SseItem {
    event(None, data, None)
}

#[test]
fn framings_are_read_as_the_standard_says() {
    let retry = |ms| SseItem::Retry(Duration::from_millis(ms));
    let table: &[(&[u8], Vec<SseItem>)] = &[
        (b"data: a\n\n", vec![message("a")]),
        (b"data: a\r\n\r\n", vec![message("a")]),
        (b"data: a\r\r", vec![message("a")]),
        (b"data: a\r\n\n", vec![message("a")]),
        (b"data: a\n\r\ndata: b\n\r", vec![message("a"), message("b")]),
        (b"data:a\n\n", vec![message("a")]),
        (b"data:  a\n\n", vec![message(" a")]),
        (b"data: a\ndata: b\ndata\n\n", vec![message("a\nb\n")]),
        (b"data: a\r\ndata: b\r\n\r\n", vec![message("a\nb")]),
        (b"\xef\xbb\xbfdata: a\n\n", vec![message("a")]),
        (b"\xef\xbb\xbf\ndata: a\n\n", vec![message("a")]),
        (b"data: a\n\n\xef\xbb\xbfdata: b\n\ndata: c\n\n", vec![message("a"), message("c")]),
        (b"event: endpoint\ndata: /m?s=1\n\n", vec![event(Some("endpoint"), "/m?s=1", None)]),
        (b"event: message\ndata: a\n\n", vec![message("a")]),
        (b"event: a\nevent: b\ndata: c\n\n", vec![event(Some("b"), "c", None)]),
        (b"id: 1\ndata: a\n\n", vec![event(None, "a", Some("1"))]),
        (b"id: 1\nid: 2\ndata: a\n\n", vec![event(None, "a", Some("2"))]),
        (b"id: 1\nid: \0\ndata: a\n\n", vec![event(None, "a", Some("1"))]),
        (b"id: 1\n\n", vec![event(None, "", Some("1"))]),
        (b"id: 1\ndata:\n\n", vec![event(None, "", Some("1"))]),
        (b"id: 1\nretry: 500\ndata:\n\n", vec![retry(500), event(None, "", Some("1"))]),
        (b"retry: 1500\n\n", vec![retry(1500)]),
        (b"retry: 99999999999999999999999\n\n", vec![retry(60_000)]),
        (b"retry: 1e3\nretry:\nretry: -1\n\n", vec![]),
        (b": ping\n\n", vec![]),
        (b"event: a\n\n", vec![]),
        (b"foo: bar\nfoobar2000: x\n:c\ndata: a\n\n", vec![message("a")]),
        (b"data: caf\xc3\xa9\n\n", vec![message("café")]),
        (b"data: a\xffb\n\ndata: c\n\n", vec![message("a\u{fffd}b"), message("c")]),
        (b"data: not ended\n", vec![]),
        (b"\n\n\n\r\r\r\r\ndata: a\n\n\n", vec![message("a")]),
    ];
    for (text, expected) in table {
        assert_eq!(one(text), *expected, "{:?}", String::from_utf8_lossy(text));
    }
}

#[test]
fn every_split_gives_the_same_events() {
    let sample =
        "\u{feff}: hi\r\n\r\nevent: endpoint\ndata: /m\n\nid: 7\rretry: 10\rdata: {\"é\":\"日本\"}\r\r\
                  data: x\r\ndata: y\r\n\r\n\n\ndata: z\n\n"
            .as_bytes();
    let whole = one(sample);
    assert_eq!(whole.len(), 5);
    for a in 0..=sample.len() {
        for b in a..=sample.len() {
            let parts = [&sample[..a], &sample[a..b], &sample[b..]].map(Bytes::copy_from_slice);
            assert_eq!(read(parts), whole, "split at {a} and {b}");
        }
    }
}

#[test]
fn an_event_closed_by_lone_crs_is_not_held_back() {
    let body =
        stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"data: a\r\r"))]).chain(stream::pending());
    let mut reader = SseReader::new(body, CAP);
    assert_eq!(reader.next().now_or_never().flatten(), Some(Ok(message("a"))));
    assert_eq!(reader.next().now_or_never(), None);
}

#[test]
fn comments_and_parts_of_events_are_signs_of_life() {
    let chunks = ["data: a", "bc", ": x\n\n", ": ping\n\n", "\n"].map(Bytes::from);
    let items: Vec<_> = read_with(CAP, chunks).into_iter().map(Result::unwrap).collect();
    let alive = SseItem::Alive;
    assert_eq!(items, [alive.clone(), alive.clone(), message("abc: x"), alive.clone(), alive]);
}

#[test]
fn an_event_above_the_cap_is_skipped_and_the_next_one_read() {
    let big = format!("data: {}\n\ndata: ok\n\n", "x".repeat(100));
    for size in [1, 7, 50, 60, 1000] {
        let chunks = big.as_bytes().chunks(size).map(Bytes::copy_from_slice);
        let items: Vec<_> =
            read_with(64, chunks).into_iter().filter(|item| *item != Ok(SseItem::Alive)).collect();
        let too_large = SseError::TooLarge { cap: 64, answers: Vec::new(), is_answer: true };
        assert_eq!(items, [Err(too_large), Ok(message("ok"))], "chunks of {size}");
    }
    let exact = Bytes::from(format!("data: {}\n\n", "x".repeat(56)));
    assert_eq!(exact.len(), 64);
    assert_eq!(read_with(64, [exact]), [Ok(message(&"x".repeat(56)))]);
}

#[test]
fn of_an_event_above_the_cap_is_known_which_call_it_answers() {
    let filler = "x".repeat(100);
    for (data, answers, is_answer) in [
        (format!(r#"{{"jsonrpc":"2.0","id":7,"result":"{filler}"}}"#), vec![7], true),
        (format!(r#"{{"result":"{filler}","id":"8"}}"#), vec![8], true),
        (format!(r#"{{"method":"notifications/x","params":"{filler}"}}"#), Vec::new(), false),
        (format!(r#"[{{"id":9,"result":"{filler}"}},{{"id":10,"result":1}}]"#), vec![9, 10], true),
    ] {
        let text = format!("event: message\ndata: {data}\n\n");
        for size in [1, 7, 50, 1000] {
            let chunks = text.as_bytes().chunks(size).map(Bytes::copy_from_slice);
            let items: Vec<_> =
                read_with(64, chunks).into_iter().filter(|item| *item != Ok(SseItem::Alive)).collect();
            let answers = answers.clone();
            assert_eq!(items, [Err(SseError::TooLarge { cap: 64, answers, is_answer })], "{text} by {size}");
        }
    }
}

#[tokio::test]
async fn others_have_their_turn_while_a_body_has_more() {
    let comments = Bytes::from(": x\n\n".repeat(100_000));
    let reader = SseReader::new(stream::iter([Ok::<_, Infallible>(comments)]), CAP);
    let mut turns = 0;
    let others = async {
        loop {
            turns += 1;
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        read = reader.count() => assert_eq!(read, 100_000),
        () = others => {}
    }
    assert!(turns > 100, "{turns}");
}

#[test]
fn the_body_error_comes_out() {
    let body = stream::iter([Ok(Bytes::from_static(b"data: a\n\ndata")), Err("cut")]);
    let items: Vec<_> = block_on(SseReader::new(body, CAP).collect());
    assert_eq!(items, [Ok(message("a")), Err(SseError::Body("cut"))]);
}

#[test]
fn a_large_event_is_scanned_once_and_its_data_not_copied() {
    let scanned = |size: usize, chunk: usize| {
        let text = Bytes::from(format!("event: message\ndata: {}\n\n", "x".repeat(size)));
        let length = text.len();
        let chunks: Vec<_> = (0..length)
            .step_by(chunk)
            .map(|at| Ok::<_, Infallible>(text.slice(at..(at + chunk).min(length))))
            .collect();
        let mut reader = SseReader::new(stream::iter(chunks), 16 << 20);
        let items: Vec<_> = block_on(reader.by_ref().collect());
        let data = items.into_iter().find_map(|item| match item.unwrap() {
            SseItem::Event(event) => Some(event.data),
            SseItem::Alive | SseItem::Retry(_) => None,
        });
        assert_eq!(data.unwrap().len(), size);
        (reader.cutter.scanned, length)
    };
    for (size, chunk) in [(8 << 20, 16 << 10), (1 << 20, 16 << 10), (1 << 20, 1)] {
        let (scanned, length) = scanned(size, chunk);
        assert_eq!(scanned, length, "each byte once, in chunks of {chunk}");
    }
    let whole = Bytes::from("data: one piece\n\n");
    let SseItem::Event(event) = &read([whole.clone()])[0] else { panic!("no event") };
    assert_eq!(event.data.as_ptr(), whole[6..].as_ptr());
}

#[test]
fn many_lines_in_one_event_take_linear_time() {
    // Quadratic work on this (what the parser alone does) is 10^12 bytes moved: it would not end.
    let text = "data: 0123456789\n".repeat(1 << 18) + "\n";
    let items = read_with(16 << 20, [Bytes::from(text)]);
    let Ok(SseItem::Event(event)) = &items[0] else { panic!("no event") };
    assert_eq!(event.data.len(), 11 * (1 << 18) - 1);
}

proptest! {
    #[test]
    fn chunking_never_matters(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                &b"data"[..], b":", b" ", b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"id", b"event", b"retry",
                b"12", b"\0", b"\xef\xbb\xbf", b"\xc3\xa9", b"\xff", b"\xe6\x97", b"x", b"data: y\n\n",
            ]),
            0..60,
        ),
        sizes in prop::collection::vec(1..9_usize, 1..20),
        cap in prop::sample::select(vec![8_usize, 24, 1 << 20]),
    ) {
        let text = pieces.concat();
        let mut rest = &text[..];
        let mut chunks = Vec::new();
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (chunk, after) = rest.split_at((*size).min(rest.len()));
            chunks.push(Bytes::copy_from_slice(chunk));
            rest = after;
        }
        let without_alive = |items: Vec<Result<SseItem, SseError<Infallible>>>| {
            items.into_iter().filter(|item| *item != Ok(SseItem::Alive)).collect::<Vec<_>>()
        };
        let parts = without_alive(read_with(cap, chunks));
        let whole = without_alive(read_with(cap, [Bytes::from(text)]));
        prop_assert_eq!(parts, whole);
    }
}
