//! An event above the limit: its lines pass by in constant memory, and only its data is looked at, for the id of the call
//! it answers.

use mcpool_wire::IdScanner;
use memchr::memchr2;

/// Longest name of a field that is told from others.
const NAME: usize = 4;

/// What was seen of it so far.
#[derive(Debug, Default)]
pub(super) struct Skipped {
    pub(super) seen: IdScanner,
    at: At,
    /// What the line begins with.
    name: Vec<u8>,
}

/// Where in a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Name,
    /// Behind the colon, where one blank counts for nothing.
    Colon,
    Data,
    Other,
}

impl Skipped {
    /// Looks at more of it.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(first) = bytes.first() {
            match self.at {
                At::Name => {
                    self.name(*first);
                    bytes = &bytes[1..];
                }
                At::Colon => {
                    self.at = At::Data;
                    bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
                }
                At::Data | At::Other => {
                    let end = memchr2(b'\n', b'\r', bytes);
                    let line = &bytes[..end.unwrap_or(bytes.len())];
                    if self.at == At::Data {
                        self.seen.feed(line);
                    }
                    bytes = end.map_or(&[][..], |end| &bytes[end + 1..]);
                    if end.is_some() {
                        self.at = At::Name;
                    }
                }
            }
        }
    }

    fn name(&mut self, byte: u8) {
        self.at = match byte {
            b'\n' | b'\r' => At::Name,
            b':' if self.name == b"data" => At::Colon,
            b':' => At::Other,
            _ if self.name.len() < NAME => return self.name.push(byte),
            _ => At::Other,
        };
        self.name.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_is_looked_at_across_lines_and_pieces_and_nothing_else() {
        let event = concat!(
            "event: message\r\nid: {\"id\":1\n: comment {\"id\":2}\ndatabase: {\"id\":3}\n",
            "data: {\"jsonrpc\":\"2.0\",\ndata:\ndata:\"result\":{\"id\":4,\"t\":\"data: \\\"id\\\":5\"},\r",
            "data: \"id\":7}\n\n"
        );
        for size in [1, 3, event.len()] {
            let mut skipped = Skipped::default();
            event.as_bytes().chunks(size).for_each(|part| skipped.feed(part));
            assert_eq!((skipped.seen.answers(), skipped.seen.has_method()), (vec![7], false), "{size}");
        }
    }
}
