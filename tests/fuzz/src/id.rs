//! Ids: two are equal exactly when they mean the same, integers and strings never meet, and the bytes come back.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash as _, Hasher as _},
};

use mcpool_wire::{Envelope, IdValue, RpcId, result_response};
use serde_json::{Value, value::RawValue};

/// Two ids, one per line.
pub fn id(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.splitn(2, '\n').map(read);
    let (first, second) = (lines.next().flatten(), lines.next().flatten());
    let (Some((a, a_means)), Some((b, b_means))) = (first, second) else { return };
    assert_eq!(a == b, a_means == b_means, "{a:?} {b:?}");
    if a == b {
        assert_eq!(hash(&a), hash(&b));
    }
}

/// What an id means: an integer, or a string.
#[derive(Debug, PartialEq)]
enum Meaning {
    Integer(i128),
    Text(String),
}

fn read(text: &str) -> Option<(RpcId, Meaning)> {
    let raw: &RawValue = serde_json::from_str(text).ok()?;
    let text = raw.get();
    let meaning = match serde_json::from_str::<Value>(text) {
        Ok(Value::String(string)) => Some(Meaning::Text(string)),
        // As text: serde_json reads what 64 bits do not hold as a fraction.
        Ok(Value::Number(_)) => text.parse().ok().map(Meaning::Integer),
        _ => None,
    };
    let Ok(id) = RpcId::parse(raw) else {
        let fits = match &meaning {
            None => false,
            Some(Meaning::Text(_)) => text.len() <= 258,
            Some(Meaning::Integer(number)) => i64::try_from(*number).is_ok() && text.len() <= 258,
        };
        assert!(!fits, "{text} is an id");
        return None;
    };
    let meaning = meaning.unwrap_or_else(|| panic!("{text} is no id"));
    match (id.value(), &meaning) {
        (IdValue::Num(number), Meaning::Integer(wanted)) => assert_eq!(i128::from(*number), *wanted),
        (IdValue::Str(string), Meaning::Text(wanted)) => assert_eq!(**string, **wanted),
        (other, _) => panic!("{text} was read as {other:?}"),
    }
    comes_back(&id, text);
    mangled(&id);
    Some((id, meaning))
}

fn comes_back(id: &RpcId, text: &str) {
    assert_eq!(id.raw(), text.as_bytes());
    let answer = result_response(id, b"{}");
    let envelope = Envelope::parse(&answer).expect("an answer");
    assert_eq!(envelope.id().expect("has an id").expect("a good one"), *id);
    assert_eq!(envelope.id_value().as_ref(), Some(id.value()));
    assert_eq!(&answer[envelope.id_span().expect("has an id")], text.as_bytes());
}

/// Only the exact text of an integer is taken for one.
fn mangled(id: &RpcId) {
    match (id.value().as_number_lenient(), id.value()) {
        (Some((number, true)), IdValue::Str(text)) => {
            assert_eq!(number.to_string(), **text);
            assert_ne!(RpcId::number(number), *id);
        }
        (Some((number, false)), value) => assert_eq!(RpcId::number(number).value(), value),
        (None, IdValue::Str(text)) => {
            assert!(text.parse::<i64>().is_err() || text.starts_with(['+', '0']) || text.starts_with("-0"));
        }
        (other, value) => panic!("{value:?} as a number is {other:?}"),
    }
}

fn hash(id: &RpcId) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}
