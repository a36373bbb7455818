//! A list as an older agent gets it: still JSON, exactly without what came later, and under the same id.

use bytes::Bytes;
use mcpool_wire::{Envelope, Kind, Message, Method, Revision};
use serde_json::Value;

use crate::text::is_json;

const REVISIONS: [Revision; 4] =
    [Revision::V2024_11_05, Revision::V2025_03_26, Revision::V2025_06_18, Revision::V2025_11_25];

/// Method, member of the result, members of its items with the index of their revision, and of the arguments in it.
type Known = (Method, &'static str, &'static [(&'static str, usize)], &'static [(&'static str, usize)]);

const NAMED: &[(&str, usize)] = &[("title", 2), ("_meta", 2), ("icons", 3)];

const LISTS: [Known; 4] = [
    (
        Method::ToolsList,
        "tools",
        &[
            ("annotations", 1),
            ("title", 2),
            ("outputSchema", 2),
            ("_meta", 2),
            ("icons", 3),
            ("execution", 3),
        ],
        &[],
    ),
    (Method::PromptsList, "prompts", NAMED, &[("title", 2)]),
    (Method::ResourcesList, "resources", NAMED, &[]),
    (Method::ResourcesTemplatesList, "resourceTemplates", NAMED, &[]),
];

/// A byte for revision and method, then the answer.
pub fn downgrade(data: &[u8]) {
    let Some((choice, answer)) = data.split_first() else { return };
    let revision = usize::from(choice % 4);
    let list = &LISTS[usize::from(choice / 4 % 4)];
    let bytes = Bytes::copy_from_slice(answer);
    let Ok(envelope) = Envelope::parse(&bytes) else { return };
    let message = Message::new(bytes.clone(), &envelope);
    let cut = message.list_at(REVISIONS[revision], &list.0);
    let text = std::str::from_utf8(cut.bytes()).expect("UTF-8");
    assert!(is_json(text), "{text}");
    let read = Envelope::parse(cut.bytes()).unwrap_or_else(|why| panic!("{why}: {text}"));
    assert_eq!((read.kind, read.id_value()), (envelope.kind, envelope.id_value()));
    assert_eq!(cut.list_at(REVISIONS[revision], &list.0).bytes(), cut.bytes(), "nothing is left to cut");
    assert_eq!(message.list_at(Revision::V2025_11_25, &list.0).bytes(), &bytes, "the newest knows all");
    assert_eq!(message.list_at(Revision::V2024_11_05, &Method::ToolsCall).bytes(), &bytes, "no list");
    if envelope.kind == Kind::Success {
        let own = cut.with_id(b"4711");
        let own = Envelope::parse(&own).expect("under its own id");
        assert_eq!(own.id_value(), Some(mcpool_wire::IdValue::Num(4711)));
    }
    let (Ok(mut before), Ok(after)) =
        (serde_json::from_slice::<Value>(&bytes), serde_json::from_str::<Value>(text))
    else {
        return;
    };
    without(&mut before, revision, list);
    assert_eq!(before, after, "{text}");
}

/// The same on a tree.
fn without(answer: &mut Value, revision: usize, (_, key, item, argument): &Known) {
    let Some(Value::Array(items)) = answer.get_mut("result").and_then(|result| result.get_mut(key)) else {
        return;
    };
    for object in items {
        strip(object, item, revision);
        if let Some(Value::Array(arguments)) = object.get_mut("arguments").filter(|_| !argument.is_empty()) {
            arguments.iter_mut().for_each(|one| strip(one, argument, revision));
        }
    }
}

fn strip(object: &mut Value, fields: &[(&str, usize)], revision: usize) {
    if let Value::Object(members) = object {
        members.retain(|key, _| fields.iter().all(|(name, since)| name != key || revision >= *since));
    }
}
