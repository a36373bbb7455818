//! Random JSON text for property tests: with white space, escapes, odd numbers and keys that look like the gateway's.
//!
//! Text rather than values, because the tests compare bytes.

use proptest::prelude::*;

/// JSON white space.
pub(crate) fn space() -> impl Strategy<Value = String> {
    "[ \t\r\n]{0,2}"
}

/// A JSON string.
pub(crate) fn string() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        8 => "[ !#-\\[\\]-~]".prop_map(String::from),
        1 => "[а-я🦀é]".prop_map(String::from),
        1 => prop::sample::select(vec![r#"\""#, r"\\", r"\/", r"\n", r"\u0069", r"\uD83D\uDE00"]).prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

/// A JSON number, also beyond any machine type.
pub(crate) fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        prop::sample::select(vec![
            "0",
            "-0",
            "1.50",
            "1e400",
            "9007199254740993",
            "123456789012345678901234567890",
            "-1E-7"
        ])
        .prop_map(String::from),
    ]
}

/// Any JSON value.
pub(crate) fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        string(),
        number(),
        prop::sample::select(vec!["null", "true", "false", "{}", "[]"]).prop_map(String::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        let item = (space(), inner.clone(), space()).prop_map(|(a, v, b)| format!("{a}{v}{b}")).boxed();
        prop_oneof![
            prop::collection::vec(item.clone(), 0..5).prop_map(|items| format!("[{}]", items.join(","))),
            // Duplicate keys are likely here, and allowed inside arguments.
            prop::collection::vec((key(), item), 0..5).prop_map(|pairs| {
                let pairs: Vec<String> = pairs.into_iter().map(|(k, v)| format!("{k}:{v}")).collect();
                format!("{{{}}}", pairs.join(","))
            }),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        string(),
        prop::sample::select(vec!["id", "method", "params", "_meta", "progressToken", "name", "isError"])
            .prop_map(|key| format!("\"{key}\"")),
    ]
}
