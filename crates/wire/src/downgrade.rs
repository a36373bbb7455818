//! Down-conversion of lists for older revisions (PROTOCOL.md 5, 10.1), driven by tables of newer fields.
//!
//! The pool negotiates the backend's newest revision. An agent of an older one gets list items without newer fields.
//! Only members of the items themselves are removed: a schema keeps its property named `title`. The members are cut out
//! of the bytes; the rest stays unchanged and in order.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{
    envelope::{Span, span_of},
    era::Revision,
    method::Method,
    rewrite::Message,
};

/// A member and the revision that introduced it. Unlisted members are never removed.
type Field = (&'static str, Revision);

/// The result layout of a list method.
struct List {
    /// The result member that holds the list.
    key: &'static str,
    item: &'static [Field],
    /// An item member that is itself a list of protocol objects.
    inner: Option<(&'static str, &'static [Field])>,
}

const TOOL: &[Field] = &[
    ("annotations", Revision::V2025_03_26),
    ("title", Revision::V2025_06_18),
    ("outputSchema", Revision::V2025_06_18),
    ("_meta", Revision::V2025_06_18),
    ("icons", Revision::V2025_11_25),
    ("execution", Revision::V2025_11_25),
];

/// Newer fields of prompts, resources and templates.
const NAMED: &[Field] =
    &[("title", Revision::V2025_06_18), ("_meta", Revision::V2025_06_18), ("icons", Revision::V2025_11_25)];

const ARGUMENT: &[Field] = &[("title", Revision::V2025_06_18)];

pub(crate) const SERVER_INFO: &[Field] = &[
    ("title", Revision::V2025_06_18),
    ("icons", Revision::V2025_11_25),
    ("websiteUrl", Revision::V2025_11_25),
    ("description", Revision::V2025_11_25),
];

pub(crate) const SERVER_CAPABILITIES: &[Field] =
    &[("completions", Revision::V2025_03_26), ("tasks", Revision::V2025_11_25)];

/// True if this revision has the member.
pub(crate) fn knows(revision: Revision, fields: &[Field], key: &str) -> bool {
    fields.iter().all(|(name, since)| *name != key || revision >= *since)
}

impl Method {
    fn list(&self) -> Option<List> {
        let (key, item) = match self {
            Self::ToolsList => ("tools", TOOL),
            Self::PromptsList => ("prompts", NAMED),
            Self::ResourcesList => ("resources", NAMED),
            Self::ResourcesTemplatesList => ("resourceTemplates", NAMED),
            _ => return None,
        };
        let inner = (*self == Self::PromptsList).then_some(("arguments", ARGUMENT));
        Some(List { key, item, inner })
    }
}

impl Message {
    /// The response to a list request without fields newer than `revision`. Other responses and malformed lists stay
    /// unchanged.
    #[must_use]
    pub fn list_at(&self, revision: Revision, method: &Method) -> Self {
        let cuts = method.list().and_then(|list| cuts(self.text()?, &list, revision)).unwrap_or_default();
        if cuts.is_empty() { self.clone() } else { self.without(&cuts) }
    }
}

fn cuts(text: &str, list: &List, revision: Revision) -> Option<Vec<Span>> {
    let items: Vec<&RawValue> = serde_json::from_str(member(member(text, "result")?, list.key)?).ok()?;
    let mut cuts = Vec::new();
    for item in items {
        cut_item(text, item.get(), list, revision, &mut cuts);
    }
    Some(cuts)
}

fn cut_item(text: &str, item: &str, list: &List, revision: Revision, cuts: &mut Vec<Span>) {
    cut(text, item, revision, list.item, cuts, |key, value, cuts| {
        let Some((_, fields)) = list.inner.filter(|(name, _)| *name == key) else { return };
        for part in serde_json::from_str::<Vec<&RawValue>>(value).unwrap_or_default() {
            cut(text, part.get(), revision, fields, cuts, |_, _, _| {});
        }
    });
}

/// Cuts the newer members out of one object, each with its comma.
fn cut(
    text: &str,
    object: &str,
    revision: Revision,
    fields: &[Field],
    cuts: &mut Vec<Span>,
    keep: impl Fn(&str, &str, &mut Vec<Span>),
) {
    let Ok(Members(members)) = serde_json::from_str(object) else { return };
    let first = span_of(text, object).start + 1;
    let (mut end, mut kept) = (first, false);
    for (key, value) in members {
        let span = span_of(text, value.get());
        if knows(revision, fields, &key) {
            if !kept && end > first {
                // All members before this one are cut, so the next comma goes too; no key lies between.
                let comma = text.get(end..).and_then(|rest| rest.find(',')).map_or(0, |at| at + 1);
                cuts.push(end..end + comma);
            }
            kept = true;
            keep(&key, value.get(), cuts);
        } else {
            cuts.push(end..span.end);
        }
        end = span.end;
    }
}

/// A member by name; the last of duplicates, as agents' parsers read it.
fn member<'a>(object: &'a str, name: &str) -> Option<&'a str> {
    let Members(members) = serde_json::from_str(object).ok()?;
    members.into_iter().rfind(|(key, _)| key == name).map(|(_, value)| value.get())
}

/// An object's members in order, with duplicates.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                #[derive(Deserialize)]
                struct Key<'a>(#[serde(borrow)] Cow<'a, str>);
                let mut members = Vec::new();
                while let Some((Key(key), value)) = map.next_entry()? {
                    members.push((key, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(V)
    }
}

#[cfg(test)]
mod tests;
