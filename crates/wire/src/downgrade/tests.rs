//! Lists of a newer server as agents of each revision read them.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::{
    envelope::Envelope,
    testing::{space, string, value},
};

/// A tool as a server of 2025-11-25 describes it, with nested objects that use the same words.
const TOOL_ITEM: &str = r#"{ "icons" : [{"src":"https://x/i.png","mimeType":"image/png"}], "name":"search","title":"Search", "description":"title, icons",
  "inputSchema":{"type":"object","title":"Args","properties":{"title":{"type":"string","title":"T"},"icons":{},"_meta":{},"annotations":{},"execution":{},"outputSchema":{}},"required":["title"]},
  "outputSchema":{"type":"object"}, "annotations":{"title":"Hint","readOnlyHint":true},"execution":{"taskSupport":"optional"} ,"x-vendor":{"title":1e400},"_meta":{"a/b":-0}
}"#;

const REVISIONS: [Revision; 4] =
    [Revision::V2024_11_05, Revision::V2025_03_26, Revision::V2025_06_18, Revision::V2025_11_25];

fn message(text: impl Into<Bytes>) -> Message {
    let bytes = text.into();
    let envelope = Envelope::parse(&bytes).unwrap();
    Message::new(bytes.clone(), &envelope)
}

fn answer(key: &str, items: &str) -> String {
    format!(
        r#"{{"result":{{"nextCursor":"title","{key}":[{items}],"_meta":{{"title":1}}}},"jsonrpc":"2.0","id":7}}"#
    )
}

/// The items of a list at a revision.
fn at(revision: Revision, method: &Method, key: &str, items: &str) -> String {
    let text = message(answer(key, items)).list_at(revision, method).text().unwrap().to_owned();
    let frame = answer(key, "\0");
    let (head, tail) = frame.split_once('\0').unwrap();
    text.strip_prefix(head).and_then(|rest| rest.strip_suffix(tail)).expect("only items change").to_owned()
}

#[test]
fn a_tool_loses_what_the_revision_does_not_know_and_nothing_else() {
    let schema_on =
        TOOL_ITEM.split_once("\"inputSchema\"").unwrap().1.split_once("\n  \"outputSchema\"").unwrap().0;
    let vendor = r#""x-vendor":{"title":1e400}"#;
    let notes = r#""annotations":{"title":"Hint","readOnlyHint":true}"#;
    for (revision, expected) in [
        (
            Revision::V2024_11_05,
            format!(
                r#"{{ "name":"search", "description":"title, icons",{}"inputSchema"{schema_on}{vendor}{}}}"#,
                "\n  ", "\n"
            ),
        ),
        (
            Revision::V2025_03_26,
            format!(
                r#"{{ "name":"search", "description":"title, icons",{}"inputSchema"{schema_on} {notes},{vendor}{}}}"#,
                "\n  ", "\n"
            ),
        ),
        (
            Revision::V2025_06_18,
            TOOL_ITEM
                .replacen(r#" "icons" : [{"src":"https://x/i.png","mimeType":"image/png"}],"#, "", 1)
                .replacen(r#","execution":{"taskSupport":"optional"}"#, "", 1),
        ),
        (Revision::V2025_11_25, TOOL_ITEM.to_owned()),
    ] {
        let got = at(revision, &Method::ToolsList, "tools", TOOL_ITEM);
        let squeeze = |text: &str| text.split_whitespace().collect::<String>();
        assert_eq!(squeeze(&got), squeeze(&expected), "{revision}");
        serde_json::from_str::<&RawValue>(&got).expect("still JSON");
    }
}

#[test]
fn prompts_resources_and_templates_lose_their_newer_fields() {
    let prompt = r#"{"name":"p","title":"P","arguments":[{"title":"A","name":"a","required":true},{"name":"b"}],"icons":[],"_meta":{}}"#;
    let resource = r#"{"uri":"u","name":"r","title":"R","annotations":{"audience":["user"]},"size":9007199254740993,"icons":[],"_meta":{}}"#;
    for (method, key, item, old, june) in [
        (
            Method::PromptsList,
            "prompts",
            prompt,
            r#"{"name":"p","arguments":[{"name":"a","required":true},{"name":"b"}]}"#,
            r#"{"name":"p","title":"P","arguments":[{"title":"A","name":"a","required":true},{"name":"b"}],"_meta":{}}"#,
        ),
        (
            Method::ResourcesList,
            "resources",
            resource,
            r#"{"uri":"u","name":"r","annotations":{"audience":["user"]},"size":9007199254740993}"#,
            r#"{"uri":"u","name":"r","title":"R","annotations":{"audience":["user"]},"size":9007199254740993,"_meta":{}}"#,
        ),
        (
            Method::ResourcesTemplatesList,
            "resourceTemplates",
            r#"{"uriTemplate":"u/{x}","name":"t","title":"T","icons":[]}"#,
            r#"{"uriTemplate":"u/{x}","name":"t"}"#,
            r#"{"uriTemplate":"u/{x}","name":"t","title":"T"}"#,
        ),
    ] {
        let twice = format!("{item},{item}");
        for (revision, expected) in [
            (Revision::V2024_11_05, old),
            (Revision::V2025_03_26, old),
            (Revision::V2025_06_18, june),
            (Revision::V2025_11_25, item),
        ] {
            assert_eq!(at(revision, &method, key, &twice), format!("{expected},{expected}"), "{revision}");
        }
    }
}

#[test]
fn odd_items_leave_as_json_and_what_is_no_list_as_it_came() {
    for (item, expected) in [
        (r#"{"title":1}"#, "{}"),
        (r#"{"title":1,"icons":2}"#, "{}"),
        (r#"{"title":1,"name":2,"title":3,"x":4}"#, r#"{"name":2,"x":4}"#),
        (r#"{"t\u0069tle":"a,b","name":"n"}"#, r#"{"name":"n"}"#),
        (r#"{"title":{"a":[1,2]} , "name":"n"}"#, r#"{ "name":"n"}"#),
        (r#"{"Title":1}"#, r#"{"Title":1}"#),
        ("7,null,[{\"title\":1}]", "7,null,[{\"title\":1}]"),
    ] {
        assert_eq!(at(Revision::V2024_11_05, &Method::ToolsList, "tools", item), expected);
    }
    for text in [
        r#"{"jsonrpc":"2.0","id":1,"result":{"tools":{"title":1}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{"prompts":[{"title":1}]}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":[{"title":1}]}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"","data":{"tools":[{"title":1}]}}}"#,
    ] {
        assert_eq!(message(text).list_at(Revision::V2024_11_05, &Method::ToolsList).text(), Some(text));
    }
    // A tool result may look like a list.
    let call = answer("tools", TOOL_ITEM);
    assert_eq!(message(call.clone()).list_at(Revision::V2024_11_05, &Method::ToolsCall).text(), Some(&*call));
}

#[test]
fn the_id_is_found_again_wherever_it_stands() {
    for text in [
        r#"{"id":7,"jsonrpc":"2.0","result":{"tools":[{"title":1,"name":"n"}]}}"#,
        r#"{"jsonrpc":"2.0","result":{"tools":[{"title":1,"name":"n"}]},"id":7}"#,
    ] {
        let older = message(text).list_at(Revision::V2024_11_05, &Method::ToolsList);
        let expected = text.replace("\"title\":1,", "").replace(":7", ":\"agents\"");
        assert_eq!(older.with_id(b"\"agents\""), expected.as_bytes());
    }
}

/// One item member: of the protocol or a vendor, with white space.
fn field() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        3 => prop::sample::select(TOOL.iter().map(|(name, _)| format!("\"{name}\"")).collect::<Vec<_>>()),
        2 => prop::sample::select(vec!["\"name\"".to_owned(), "\"inputSchema\"".to_owned()]),
        1 => string(),
    ];
    (key, space(), value(), space()).prop_map(|(key, a, value, b)| format!("{a}{key}{b}:{a}{value}{b}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cutting_is_what_removing_keys_from_a_tree_is(
        items in prop::collection::vec(prop::collection::vec(field(), 0..7), 0..4),
        revision in prop::sample::select(&REVISIONS[..]),
    ) {
        let items: Vec<String> = items.iter().map(|fields| format!("{{{}}}", fields.join(","))).collect();
        let text = answer("tools", &items.join(" , "));
        let older = message(text.clone()).list_at(revision, &Method::ToolsList);
        let Ok(mut expected) = serde_json::from_str::<Value>(&text) else { return Ok(()) };
        for item in expected["result"]["tools"].as_array_mut().unwrap() {
            item.as_object_mut().unwrap().retain(|key, _| knows(revision, TOOL, key));
        }
        prop_assert_eq!(serde_json::from_slice::<Value>(older.bytes()).unwrap(), expected);
        let again = older.list_at(revision, &Method::ToolsList);
        prop_assert_eq!(again.bytes(), older.bytes());
        if revision == Revision::V2025_11_25 {
            prop_assert_eq!(older.bytes(), text.as_bytes());
        }
    }

    #[test]
    fn any_bytes_that_are_a_message_survive(result in value(), revision in prop::sample::select(&REVISIONS[..])) {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"tools":[{{"name":{result}}}],"x":{result}}}}}"#);
        let older = message(text.clone()).list_at(revision, &Method::ToolsList);
        prop_assert_eq!(older.text(), Some(&*text));
    }
}
