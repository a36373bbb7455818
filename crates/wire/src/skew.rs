//! What older revisions do not know, as data, and how it is taken out of lists (PROTOCOL.md 5, 10.1).
//!
//! The pool speaks the newest revision a backend has; an agent of an older one gets list items without the fields
//! that came later. Only members of the items themselves go: a schema with a property called `title` keeps it.
//! Members are cut out of the bytes, everything else leaves as it came, in its order.

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

/// A member, and the revision that brought it. What no revision names is never taken for new.
type Field = (&'static str, Revision);

/// A list method's items.
struct List {
    /// The member of the result that is the list.
    key: &'static str,
    item: &'static [Field],
    /// A member of an item that is a list of objects of the protocol.
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

/// Prompts, resources and templates grew alike.
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

/// Whether this revision knows the member.
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
    /// The answer to a list request as an agent of this revision can read it. Anything else, and a list without
    /// newer fields, stays as it is, also where it is no list by any revision: that is the backend's to mend.
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

/// Cuts the members of one object that are too new, each with the comma that it leaves over.
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
                // All before it are gone, so its comma goes too: the first one after them, as no key holds it.
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

/// A member by name; of duplicates the last one, as the agent's parser takes it.
fn member<'a>(object: &'a str, name: &str) -> Option<&'a str> {
    let Members(members) = serde_json::from_str(object).ok()?;
    members.into_iter().rfind(|(key, _)| key == name).map(|(_, value)| value.get())
}

/// The members of an object in their order, duplicates included.
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
