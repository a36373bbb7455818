//! The messages of one body, event or line. 2025-03-26 lets a backend send several as an array; no harm is done in
//! taking one of any other revision apart, too.

use bytes::Bytes;
use mcpool_wire::{DecodeError, Envelope, is_batch, is_response, split_batch_of, without_nulls};

/// Most messages in one array of a backend.
pub(crate) const MAX_PARTS: usize = 1024;

/// The messages in these bytes: themselves, unless they are an array.
///
/// # Errors
/// What is wrong with an array that cannot be taken apart.
pub(crate) fn parts(bytes: Bytes) -> Result<Vec<Bytes>, DecodeError> {
    if is_batch(&bytes) { split_batch_of(&bytes, MAX_PARTS) } else { Ok(vec![bytes]) }
}

/// The message without members that are null, where it can be read only so.
pub(crate) fn mended(message: Bytes) -> Bytes {
    if Envelope::parse(&message).is_ok() { message } else { without_nulls(&message).unwrap_or(message) }
}

/// Whether these bytes are, or hold, a response.
pub(crate) fn holds_response(bytes: &Bytes) -> bool {
    is_response(bytes) || is_batch(bytes) && response_in(bytes.clone(), &mut Vec::new()).is_some()
}

/// The response in these bytes; the other messages are added to `early`.
pub(crate) fn response_in(bytes: Bytes, early: &mut impl Extend<Bytes>) -> Option<Bytes> {
    let mut answer = None;
    for message in parts(bytes).unwrap_or_default() {
        if answer.is_none() && is_response(&message) {
            answer = Some(message);
        } else {
            early.extend([message]);
        }
    }
    answer
}
