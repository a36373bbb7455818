//! Valid ids, equal ids, and matching of responses to requests.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::testing::string;

fn parse(text: &str) -> Result<RpcId, &'static str> {
    RpcId::parse(&serde_json::from_str::<Box<RawValue>>(text).unwrap())
}

#[test]
fn integers_within_64_bits_and_strings_are_ids() {
    for (text, value) in [
        ("0", IdValue::Num(0)),
        ("-0", IdValue::Num(0)),
        ("-1", IdValue::Num(-1)),
        ("9223372036854775807", IdValue::Num(i64::MAX)),
        ("-9223372036854775808", IdValue::Num(i64::MIN)),
        ("\"\"", IdValue::Str("".into())),
        ("\"1\"", IdValue::Str("1".into())),
        ("\"\\u0061\\n\"", IdValue::Str("a\n".into())),
        ("\"_GET_stream\"", IdValue::Str("_GET_stream".into())),
    ] {
        let id = parse(text).unwrap();
        assert_eq!(id.value(), &value, "{text}");
        assert_eq!(id.raw(), text.as_bytes(), "kept as it came");
    }
}

#[test]
fn everything_else_is_refused_with_the_reason() {
    let kind = "the id must be a string or an integer";
    let integer = "a numeric id must be an integer within 64 bits";
    for (text, reason) in [
        ("null", kind),
        ("true", kind),
        ("false", kind),
        ("[1]", kind),
        ("{\"a\":1}", kind),
        ("1.5", integer),
        ("1.0", integer),
        ("1e3", integer),
        ("1e400", integer),
        ("9223372036854775808", integer),
        ("-9223372036854775809", integer),
        ("\"\\ud800\"", "the id is not a valid string"),
    ] {
        assert_eq!(parse(text).unwrap_err(), reason, "{text}");
    }
}

#[test]
fn strings_up_to_256_bytes_are_ids() {
    let of = |bytes: usize| format!("\"{}\"", "x".repeat(bytes));
    assert!(parse(&of(256)).is_ok());
    assert_eq!(parse(&of(257)).unwrap_err(), "the id is longer than 256 bytes");
    assert!(parse(&"1".repeat(300)).is_err());
}

#[test]
fn a_number_and_its_string_are_two_ids() {
    let (number, text) = (parse("1").unwrap(), parse("\"1\"").unwrap());
    assert_ne!(number, text);
    assert_eq!(HashSet::from([number, text]).len(), 2);
}

#[test]
fn spelling_does_not_make_another_id() {
    let (plain, escaped) = (parse("\"a\"").unwrap(), parse("\"\\u0061\"").unwrap());
    assert_eq!(plain, escaped);
    assert_eq!(HashSet::from([plain, escaped]).len(), 1);
}

#[test]
fn an_answer_is_found_when_a_server_made_a_string_of_our_number() {
    let lenient = |text: &str| parse(text).unwrap().value().as_number_lenient();
    assert_eq!(lenient("7"), Some((7, false)));
    assert_eq!(lenient("\"7\""), Some((7, true)));
    for other in
        ["\"+7\"", "\"07\"", "\"7.0\"", "\" 7\"", "\"-0\"", "\"\"", "\"seven\"", "\"9223372036854775808\""]
    {
        assert_eq!(lenient(other), None, "{other}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_integer_survives(n in any::<i64>()) {
        let (id, text) = (RpcId::number(n), n.to_string());
        prop_assert_eq!(&parse(&text).unwrap(), &id);
        prop_assert_eq!(id.raw(), text.as_bytes());
        prop_assert_eq!(IdValue::Str(text.into()).as_number_lenient(), Some((n, true)));
    }

    #[test]
    fn every_string_means_what_a_json_parser_says(text in string()) {
        let plain: String = serde_json::from_str(&text).unwrap();
        let id = parse(&text).unwrap();
        prop_assert_eq!(id.value(), &IdValue::Str(plain.as_str().into()));
        prop_assert_eq!(id.raw(), text.as_bytes());
    }
}
