//! An event is the same bytes however it is cut.

use super::*;
use crate::stream::event::one_line;

const WHOLE: &[u8] = b"id: 4294967295-18446744073709551615\nevent: message\ndata: {}\n\n";

fn chunk(bytes: Bytes) -> BodyChunk {
    // The longest there is.
    BodyChunk::event(&Event { id: Some(EventId { stream: u32::MAX, seq: u64::MAX }), bytes })
}

#[test]
fn an_event_reads_the_same_in_steps_of_any_size() {
    for step in 1..=WHOLE.len() {
        let mut chunk = chunk(Bytes::from_static(b"{}"));
        let mut out = Vec::new();
        while chunk.has_remaining() {
            let take = step.min(chunk.chunk().len());
            out.extend_from_slice(&chunk.chunk()[..take]);
            chunk.advance(take);
            assert_eq!(chunk.remaining() + out.len(), WHOLE.len());
        }
        assert_eq!(out, WHOLE, "{step}");
    }
}

#[test]
fn an_event_may_be_advanced_across_its_parts() {
    for skipped in 0..=WHOLE.len() {
        let mut chunk = chunk(Bytes::from_static(b"{}"));
        chunk.advance(skipped);
        let mut slices = [std::io::IoSlice::new(b""); 4];
        let filled = chunk.chunks_vectored(&mut slices);
        let rest: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
        assert_eq!(rest, &WHOLE[skipped..], "{skipped}");
    }
}

#[test]
fn a_large_payload_is_not_copied() {
    let payload = Bytes::from(vec![b'x'; 1 << 20]);
    let chunk = chunk(one_line(payload.clone()));
    assert_eq!(chunk.body.as_ptr(), payload.as_ptr());
}

#[test]
fn the_endpoint_is_relative_and_carries_its_id() {
    assert_eq!(endpoint_event("abc"), "event: endpoint\nid: abc\ndata: ?session_id=abc\n\n");
}

#[test]
fn an_event_that_cannot_be_resumed_has_no_id() {
    let chunk = BodyChunk::event(&Event { id: None, bytes: Bytes::from_static(b"{}") });
    assert_eq!(chunk.parts().concat(), b"event: message\ndata: {}\n\n");
}

#[test]
fn a_priming_event_says_where_and_when_to_come_back() {
    let id = EventId { stream: 3, seq: 0 };
    assert_eq!(priming_event(id, Duration::from_millis(2500)), "id: 3-0\nretry: 2500\ndata: \n\n");
}

#[tokio::test]
async fn an_array_is_written_piece_by_piece_with_its_length_known() {
    use http_body_util::BodyExt as _;
    let gauges = std::sync::Arc::default();
    let connection = std::sync::Arc::new(crate::stream::connection::ConnectionState::new(
        crate::limits::memory::tests::boundless(&gauges),
    ));
    for (texts, whole) in [(vec!["{}"], "[{}]"), (vec!["{}", "1", "2"], "[{},1,2]")] {
        let body = AgentBody::array(texts.into_iter().map(Bytes::from).collect(), connection.owing());
        assert_eq!(body.size_hint().exact(), Some(whole.len() as u64));
        assert_eq!(body.collect().await.unwrap().to_bytes(), whole);
    }
}
