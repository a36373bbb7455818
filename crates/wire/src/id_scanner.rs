//! Scan of a message that is too large to store: reads its id and kind from the top level of the object, or of each
//! object of an array, in constant memory. The id may come first (Python) or last (TypeScript).

use serde_json::value::RawValue;

use crate::{IdValue, RpcId};

/// Maximum length of a key or id in bytes; longer ones are not the gateway's.
const LONGEST: usize = 258;
/// Maximum number of responses recorded from one array.
const MOST: usize = 1024;

/// Scans one message in chunks.
#[derive(Debug, Default)]
pub struct IdScanner {
    /// Nesting level of a message's members: 1, or 2 in an array; 0 before the first bracket.
    members: u32,
    depth: u32,
    in_string: bool,
    escaped: bool,
    after_colon: bool,
    key: Vec<u8>,
    /// The member's value as JSON text, if a string or a number.
    value: Vec<u8>,
    id: Option<RpcId>,
    /// The gateway's request id that `id` stands for.
    number: Option<u64>,
    has_method: bool,
    /// Responses of an array that have ended.
    answers: Vec<u64>,
    /// Whether an array's message has begun, and whether one that ended was a response.
    is_begun: bool,
    had_response: bool,
}

impl IdScanner {
    /// Scans the next chunk.
    pub fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.in_string {
                self.inside_string(*byte);
            } else {
                self.between_strings(*byte);
            }
        }
    }

    /// The id of the message if valid. An array has none.
    #[must_use]
    pub fn id(&self) -> Option<&RpcId> {
        self.id.as_ref().filter(|_| self.members == 1)
    }

    /// The gateway's requests that the message answers; of a long array the first 1024 and the last.
    #[must_use]
    pub fn answers(&self) -> Vec<u64> {
        let current = self.number.filter(|_| !self.has_method);
        self.answers.iter().copied().chain(current).collect()
    }

    /// True for a request or notification, and for an array that contains nothing else.
    #[must_use]
    pub fn has_method(&self) -> bool {
        self.has_method && !self.had_response
    }

    fn inside_string(&mut self, byte: u8) {
        // Values keep quotes and escapes, because an id is echoed as received.
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' => self.escaped = true,
            b'"' => {
                self.in_string = false;
                return self.keep_of_value(byte);
            }
            _ => {}
        }
        self.keep(byte);
    }

    fn between_strings(&mut self, byte: u8) {
        match byte {
            b'"' => {
                self.in_string = true;
                if self.is_at_members() && !self.after_colon {
                    self.key.clear();
                }
                self.keep_of_value(byte);
            }
            b'{' | b'[' => {
                if self.members == 0 {
                    self.members = if byte == b'[' { 2 } else { 1 };
                }
                self.depth = self.depth.saturating_add(1);
                if self.members == 2 && self.depth == 2 {
                    self.next_of_array();
                }
            }
            b'}' | b']' => {
                self.member_ends();
                self.depth = self.depth.saturating_sub(1);
            }
            b',' => self.member_ends(),
            b':' if self.is_at_members() => {
                self.after_colon = true;
                self.value.clear();
            }
            b' ' | b'\t' | b'\r' | b'\n' => {}
            _ => self.keep_of_value(byte),
        }
    }

    fn keep_of_value(&mut self, byte: u8) {
        if self.after_colon {
            self.keep(byte);
        }
    }

    fn keep(&mut self, byte: u8) {
        if !self.is_at_members() {
            return;
        }
        let text = if self.after_colon { &mut self.value } else { &mut self.key };
        // One byte more than allowed, so that RpcId::parse rejects what is too long.
        if text.len() <= LONGEST {
            text.push(byte);
        }
    }

    fn is_at_members(&self) -> bool {
        self.depth > 0 && self.depth == self.members
    }

    /// Starts the next message of an array and records the result of the previous one.
    fn next_of_array(&mut self) {
        let number = self.number.take().filter(|_| !self.has_method);
        self.answers.extend(number.filter(|_| self.answers.len() < MOST));
        self.had_response |= self.is_begun && !self.has_method;
        (self.is_begun, self.has_method) = (true, false);
    }

    fn member_ends(&mut self) {
        if !self.is_at_members() || !self.after_colon {
            return;
        }
        self.after_colon = false;
        match self.key.as_slice() {
            b"id" => {
                let raw = serde_json::from_slice::<&RawValue>(&self.value).ok();
                self.id = raw.and_then(|raw| RpcId::parse(raw).ok());
                self.number = raw.and_then(|raw| Some(IdValue::number_of(raw)?.0));
            }
            b"method" => self.has_method = true,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(message: &str, id: Option<&str>, has_method: bool) {
        for size in [1, 7, message.len()] {
            let mut scanner = IdScanner::default();
            message.as_bytes().chunks(size).for_each(|part| scanner.feed(part));
            let got = scanner.id().map(|id| std::str::from_utf8(id.raw()).unwrap());
            assert_eq!((got, scanner.has_method()), (id, has_method), "{message}");
        }
    }

    #[test]
    fn the_id_at_the_top_level_is_found_wherever_it_stands_and_kept_as_it_came() {
        check(r#"{"jsonrpc":"2.0","id":7,"result":{"id":8,"a":[{"id":9}]}}"#, Some("7"), false);
        check(r#"{"result":{"id":8,"t":"\"id\":3,}"},"jsonrpc":"2.0", "id" : 7 }"#, Some("7"), false);
        check(r#"{"id":"7","error":{"code":1,"message":"id"}}"#, Some("\"7\""), false);
        check(r#"{"method":"x","id":"a\"b\\"}"#, Some(r#""a\"b\\""#), true);
        check(r#"{"jsonrpc":"2.0","id":-3,"method":"x"}"#, Some("-3"), true);
    }

    #[test]
    fn an_answer_to_one_of_ours_is_found_however_its_number_is_written() {
        for (message, answers) in [
            (r#"{"id":7,"result":{}}"#, &[7][..]),
            (r#"{"result":{"x":[1]},"id":"7"}"#, &[7]),
            (r#"{"result":{},"id":7.0}"#, &[7]),
            (r#"{"id":7,"method":"x"}"#, &[]),
            (r#"{"id":null,"error":{}}"#, &[]),
        ] {
            let mut scanner = IdScanner::default();
            scanner.feed(message.as_bytes());
            assert_eq!(scanner.answers(), answers, "{message}");
        }
    }

    #[test]
    fn the_answers_of_an_array_are_found_and_nothing_that_lies_deeper() {
        for (message, answers, has_method) in [
            (r#"[{"id":7,"result":1}]"#, &[7][..], false),
            (r#"[ {"id":7,"result":{"id":1,"t":"],[{"}},{"result":[{"id":2}],"id":8} ]"#, &[7, 8], false),
            (r#"[{"method":"x","params":{"id":3}},{"id":7,"error":{}}]"#, &[7], false),
            (r#"[{"id":7,"error":{}},{"method":"x","id":5}]"#, &[7], false),
            (r#"[{"id":null,"error":{}},{"method":"x"}]"#, &[], false),
            (r#"[{"method":"x"},{"id":4,"method":"y"}]"#, &[], true),
            (r#"[[{"id":7,"result":1}]]"#, &[], false),
        ] {
            for size in [1, 7, message.len()] {
                let mut scanner = IdScanner::default();
                message.as_bytes().chunks(size).for_each(|part| scanner.feed(part));
                assert_eq!(
                    (scanner.answers(), scanner.has_method()),
                    (answers.to_vec(), has_method),
                    "{message}"
                );
                assert_eq!(scanner.id(), None, "{message}");
            }
        }
    }

    #[test]
    fn no_more_answers_are_kept_than_an_array_may_have() {
        let mut scanner = IdScanner::default();
        scanner.feed(b"[");
        (0..100_000).for_each(|id| scanner.feed(format!(r#"{{"id":{id},"result":0}},"#).as_bytes()));
        assert_eq!(scanner.answers().len(), MOST + 1);
        assert!(scanner.answers.capacity() <= 2 * MOST);
    }

    #[test]
    fn what_cannot_be_echoed_is_no_id() {
        check(r#"{"jsonrpc":"2.0","method":"x","params":{"id":7}}"#, None, true);
        check(r#"{"result":{"id":7}}"#, None, false);
        check(r#"{"identifier":7,"id":null}"#, None, false);
        check(r#"{"id":{"a":1}}"#, None, false);
        check(r#"no json, "id":7"#, None, false);
        check(r#"[{"id":7,"result":1}]"#, None, false);
        check(&format!(r#"{{"id":"{}","method":"x"}}"#, "y".repeat(1_000)), None, true);
    }
}
