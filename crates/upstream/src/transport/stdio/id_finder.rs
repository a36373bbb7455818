//! Which request a message answers that is too large to be kept: its bytes pass by, and only what stands at the top
//! level of the object is looked at. The id may come first (Python) or last (TypeScript).

/// Longer keys and values are none of ours.
const LONGEST: usize = 24;

/// Looks at the bytes of one message as they come, in constant memory.
#[derive(Default)]
pub(super) struct IdFinder {
    depth: u32,
    in_string: bool,
    escaped: bool,
    after_colon: bool,
    key: Vec<u8>,
    value: Vec<u8>,
    id: Option<u64>,
    has_method: bool,
}

impl IdFinder {
    /// Looks at more of it.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.in_string {
                self.inside_string(*byte);
            } else {
                self.between_strings(*byte);
            }
        }
    }

    /// The request it answers, if it is an answer with an id of ours.
    pub(super) fn answers(&self) -> Option<u64> {
        self.id.filter(|_| !self.has_method)
    }

    /// Whether it is a request or a notification of the server.
    pub(super) fn has_method(&self) -> bool {
        self.has_method
    }

    fn inside_string(&mut self, byte: u8) {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' => self.escaped = true,
            b'"' => self.in_string = false,
            _ => self.keep(byte),
        }
    }

    fn between_strings(&mut self, byte: u8) {
        match byte {
            b'"' => {
                self.in_string = true;
                if self.depth == 1 && !self.after_colon {
                    self.key.clear();
                }
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
            _ if self.after_colon => self.keep(byte),
            _ => {}
        }
    }

    fn keep(&mut self, byte: u8) {
        if self.depth != 1 {
            return;
        }
        let text = if self.after_colon { &mut self.value } else { &mut self.key };
        if text.len() < LONGEST {
            text.push(byte);
        }
    }

    fn member_ends(&mut self) {
        if self.depth != 1 || !self.after_colon {
            return;
        }
        self.after_colon = false;
        match self.key.as_slice() {
            b"id" => self.id = std::str::from_utf8(&self.value).ok().and_then(|id| id.parse().ok()),
            b"method" => self.has_method = true,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(message: &str, answers: Option<u64>, has_method: bool) {
        for size in [1, 7, message.len()] {
            let mut finder = IdFinder::default();
            message.as_bytes().chunks(size).for_each(|part| finder.feed(part));
            assert_eq!((finder.answers(), finder.has_method()), (answers, has_method), "{message}");
        }
    }

    #[test]
    fn the_id_at_the_top_level_is_found_wherever_it_stands() {
        check(r#"{"jsonrpc":"2.0","id":7,"result":{"id":8,"a":[{"id":9}]}}"#, Some(7), false);
        check(r#"{"result":{"id":8,"t":"\"id\":3,}"},"jsonrpc":"2.0", "id" : 7 }"#, Some(7), false);
        check(r#"{"id":"7","error":{"code":1,"message":"id"}}"#, Some(7), false);
    }

    #[test]
    fn what_is_no_answer_to_us_has_no_such_id() {
        check(r#"{"jsonrpc":"2.0","method":"x","params":{"id":7}}"#, None, true);
        check(r#"{"jsonrpc":"2.0","id":7,"method":"x"}"#, None, true);
        check(r#"{"result":{"id":7}}"#, None, false);
        check(r#"{"identifier":7,"id":null}"#, None, false);
        check(r#"no json, "id":7"#, None, false);
        check(r#"[{"id":7,"result":1}]"#, None, false);
    }
}
