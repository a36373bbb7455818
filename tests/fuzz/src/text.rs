//! JSON as text, read without the code under test: members in their order with duplicates, depth, and no values.

use std::fmt;

use serde_json::value::RawValue;

/// The members of an object, in their order, none merged; `None` if it is no object with readable keys.
pub(crate) fn members(object: &str) -> Option<Vec<(String, &RawValue)>> {
    serde_json::from_str::<Members<'_>>(object).ok().map(|members| members.0)
}

/// The values of a member, by its exact name.
pub(crate) fn all<'a>(members: &[(String, &'a RawValue)], name: &str) -> Vec<&'a str> {
    members.iter().filter(|(key, _)| key == name).map(|(_, value)| value.get()).collect()
}

/// Whether this is one JSON value, whatever its numbers and escapes mean.
pub(crate) fn is_json(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok()
}

/// Levels of arrays and objects, and values; of what serde_json can read only (128 levels).
pub(crate) fn shape(text: &str) -> Option<(usize, usize)> {
    serde_json::from_str::<serde_json::Value>(text).ok()?;
    serde_json::from_str::<Shape>(text).ok().map(|Shape { depth, values }| (depth, values))
}

struct Members<'a>(Vec<(String, &'a RawValue)>);

struct Shape {
    depth: usize,
    values: usize,
}

mod reading {
    //! The visitors, which say nothing of their own.

    use serde::{
        Deserialize, Deserializer,
        de::{MapAccess, SeqAccess, Visitor},
    };
    use serde_json::value::RawValue;

    use super::{Members, Shape, fmt};

    impl<'de> Deserialize<'de> for Members<'de> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct V;
            impl<'de> Visitor<'de> for V {
                type Value = Members<'de>;
                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("an object")
                }
                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                    let mut members = Vec::new();
                    while let Some(member) = map.next_entry::<String, &'de RawValue>()? {
                        members.push(member);
                    }
                    Ok(Members(members))
                }
            }
            deserializer.deserialize_map(V)
        }
    }

    impl<'de> Deserialize<'de> for Shape {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct V;
            macro_rules! leaf {
                ($($name:ident($type:ty)),*) => { $(
                    fn $name<E>(self, _: $type) -> Result<Shape, E> { Ok(Shape { depth: 0, values: 1 }) }
                )* };
            }
            impl<'de> Visitor<'de> for V {
                type Value = Shape;
                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("a value")
                }
                leaf!(visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64), visit_str(&str));
                fn visit_unit<E>(self) -> Result<Shape, E> {
                    Ok(Shape { depth: 0, values: 1 })
                }
                fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
                    let mut whole = Shape { depth: 0, values: 1 };
                    while let Some(part) = seq.next_element()? {
                        whole.take(&part);
                    }
                    whole.depth += 1;
                    Ok(whole)
                }
                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
                    let mut whole = Shape { depth: 0, values: 1 };
                    while let Some((_, part)) = map.next_entry::<String, Shape>()? {
                        whole.take(&part);
                    }
                    whole.depth += 1;
                    Ok(whole)
                }
            }
            deserializer.deserialize_any(V)
        }
    }

    impl Shape {
        fn take(&mut self, part: &Self) {
            self.depth = self.depth.max(part.depth);
            self.values += part.values;
        }
    }
}
