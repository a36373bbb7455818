//! Text in `Mcp-Name` and `Mcp-Param-*` headers, in base64 if a header cannot carry it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderValue;

const OPEN: &str = "=?base64?";
const CLOSE: &str = "?=";

/// Encodes text as a header value: plain if possible, else in base64.
#[must_use]
pub fn encode_header(text: &str) -> HeaderValue {
    let is_plain = text.bytes().all(|byte| matches!(byte, 0x20..=0x7e))
        && text.trim_matches(' ').len() == text.len()
        && !(text.starts_with(OPEN) && text.ends_with(CLOSE));
    let plain = if is_plain { HeaderValue::from_str(text).ok() } else { None };
    plain.unwrap_or_else(|| {
        let coded = format!("{OPEN}{}{CLOSE}", STANDARD.encode(text));
        // Base64 is visible ASCII, so this cannot fail.
        HeaderValue::from_str(&coded).unwrap_or_else(|_| HeaderValue::from_static(""))
    })
}

/// Decodes a header value. `None` if it is not visible ASCII, or not canonical base64 of UTF-8.
#[must_use]
pub fn decode_header(value: &HeaderValue) -> Option<String> {
    let text = value.to_str().ok()?;
    match text.strip_prefix(OPEN).and_then(|text| text.strip_suffix(CLOSE)) {
        None => Some(text.to_owned()),
        Some(coded) => String::from_utf8(STANDARD.decode(coded).ok()?).ok(),
    }
}
