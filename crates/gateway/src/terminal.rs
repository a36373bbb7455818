//! Terminal output with control characters escaped, one line at a time.
//!
//! Servers choose their names, error texts and log lines. An escape sequence in one could move the cursor, change
//! colours or hide text. Control characters and bidirectional marks are therefore written as `\u001b`, which JSON reads
//! back as the same character.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, Write},
};

/// Escapes control characters and bidirectional marks, except line feeds and tabs.
#[must_use]
pub fn escaped(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_active) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_active(c) {
            // Writing to a string cannot fail; all these characters are below U+10000.
            let _ = write!(shown, "\\u{:04x}", u32::from(c));
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// Writes one or several lines, escaped.
///
/// # Errors
/// One sentence if the output is closed.
pub fn line(out: &mut dyn Write, text: &str) -> Result<(), String> {
    let written: io::Result<()> = writeln!(out, "{}", escaped(text)).and_then(|()| out.flush());
    written.map_err(|why| why.to_string())
}

/// True if a terminal would interpret this character instead of showing it.
fn is_active(c: char) -> bool {
    let turns_direction = matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    (c.is_control() && c != '\n' && c != '\t') || turns_direction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_act_on_is_written_out() {
        for (text, shown) in [
            ("plain, \u{e9} and \u{4e2d}\n\tindented", "plain, \u{e9} and \u{4e2d}\n\tindented"),
            ("\u{1b}[2Jgone", "\\u001b[2Jgone"),
            ("\u{9b}31m\u{7}\r\u{7f}", "\\u009b31m\\u0007\\u000d\\u007f"),
            ("abc\u{202e}gpj.exe", "abc\\u202egpj.exe"),
        ] {
            assert_eq!(escaped(text), shown);
        }
    }

    #[test]
    fn an_escaped_json_text_says_the_same() {
        let value = serde_json::json!({ "server": "a\u{9b}b\u{2066}c" });
        let read: serde_json::Value = serde_json::from_str(&escaped(&value.to_string())).unwrap();
        assert_eq!(read, value);
    }
}
