//! A batch is cut into exactly the values of its array, each a view of the same bytes.

use bytes::Bytes;
use mcpool_wire::{DecodeKind, Envelope, MAX_BATCH, is_batch, split_batch};
use serde_json::value::RawValue;

/// One body that may be a batch.
pub fn batch(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let values = std::str::from_utf8(data).ok().and_then(|text| {
        let values: Vec<&RawValue> = serde_json::from_str(text).ok()?;
        Some(values.into_iter().map(RawValue::get).collect::<Vec<_>>())
    });
    match (split_batch(&bytes), values) {
        (Ok(parts), Some(values)) => {
            assert!(is_batch(&bytes));
            assert!((1..=MAX_BATCH).contains(&parts.len()));
            assert_eq!(parts.len(), values.len());
            for (part, value) in parts.iter().zip(values) {
                assert_eq!(part, value.as_bytes());
                let range = bytes.as_ptr_range();
                assert!(range.contains(&part.as_ptr()), "a view, no copy");
                let batch_inside = Envelope::parse(part).is_err_and(|why| why.kind == DecodeKind::Batch);
                assert!(!batch_inside);
            }
        }
        (Ok(_), None) => panic!("no array was cut"),
        (Err(why), Some(values)) => {
            let nested = values.iter().any(|value| value.starts_with('['));
            assert!(values.is_empty() || values.len() > MAX_BATCH || nested, "{why}");
            assert_eq!(why.kind, DecodeKind::Batch);
        }
        (Err(why), None) => assert!(why.offset <= data.len()),
    }
    if Envelope::parse(&bytes).is_ok() {
        assert!(!is_batch(&bytes), "what is a message is no batch");
    }
}
