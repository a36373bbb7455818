//! What a message is that is not kept: its bytes pass by in constant memory, and only what stands at the top level of
//! the object is looked at. The id may come first (Python) or last (TypeScript).

use serde_json::value::RawValue;

use crate::{IdValue, RpcId};

/// Longer keys and ids are none of ours.
const LONGEST: usize = 258;

/// Looks at the bytes of one message as they come.
#[derive(Debug, Default)]
pub struct Skim {
    depth: u32,
    in_string: bool,
    escaped: bool,
    after_colon: bool,
    key: Vec<u8>,
    /// The JSON text of the member's value, as far as it is a string or a number.
    value: Vec<u8>,
    id: Option<RpcId>,
    /// The number of ours the id stands for.
    number: Option<u64>,
    has_method: bool,
}

impl Skim {
    /// Looks at more of it.
    pub fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.in_string {
                self.inside_string(*byte);
            } else {
                self.between_strings(*byte);
            }
        }
    }

    /// The id at its top level, if there is one that can be echoed.
    #[must_use]
    pub fn id(&self) -> Option<&RpcId> {
        self.id.as_ref()
    }

    /// The request of ours it answers, if it is an answer to one.
    #[must_use]
    pub fn answers(&self) -> Option<u64> {
        self.number.filter(|_| !self.has_method)
    }

    /// Whether it is a request or a notification.
    #[must_use]
    pub fn has_method(&self) -> bool {
        self.has_method
    }

    fn inside_string(&mut self, byte: u8) {
        // A value keeps its quotes and escapes, because an id is echoed as it came.
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
                if self.depth == 1 && !self.after_colon {
                    self.key.clear();
                }
                self.keep_of_value(byte);
            }
            b'{' | b'[' => self.depth = self.depth.saturating_add(1),
            b'}' | b']' => {
                self.member_ends();
                self.depth = self.depth.saturating_sub(1);
            }
            b',' => self.member_ends(),
            b':' if self.depth == 1 => {
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
        if self.depth != 1 {
            return;
        }
        let text = if self.after_colon { &mut self.value } else { &mut self.key };
        // One more than may be, so that what is too long is seen to be.
        if text.len() <= LONGEST {
            text.push(byte);
        }
    }

    fn member_ends(&mut self) {
        if self.depth != 1 || !self.after_colon {
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
            let mut skim = Skim::default();
            message.as_bytes().chunks(size).for_each(|part| skim.feed(part));
            let got = skim.id().map(|id| std::str::from_utf8(id.raw()).unwrap());
            assert_eq!((got, skim.has_method()), (id, has_method), "{message}");
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
            (r#"{"id":7,"result":{}}"#, Some(7)),
            (r#"{"result":{"x":[1]},"id":"7"}"#, Some(7)),
            (r#"{"result":{},"id":7.0}"#, Some(7)),
            (r#"{"id":7,"method":"x"}"#, None),
            (r#"{"id":null,"error":{}}"#, None),
        ] {
            let mut skim = Skim::default();
            skim.feed(message.as_bytes());
            assert_eq!(skim.answers(), answers, "{message}");
        }
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
