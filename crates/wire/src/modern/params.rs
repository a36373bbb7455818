//! Tool arguments that a request repeats in headers (`Mcp-Param-*`), as marked by `x-mcp-header` in the tool's schema.
//!
//! A mark is valid only on a string, integer or boolean reached through `properties` alone. A tool with an invalid
//! mark, or two of one name, must not be offered: its headers would be undefined.

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::{
    header::{decode_header, encode_header},
    members::Members,
};

const MARK: &str = "x-mcp-header";
const PREFIX: &str = "mcp-param-";

/// Keywords that hold one schema, a list of schemas, and schemas by name. All other keywords hold data.
const ONE: [&str; 11] = [
    "items",
    "contains",
    "unevaluatedItems",
    "additionalProperties",
    "propertyNames",
    "unevaluatedProperties",
    "not",
    "if",
    "then",
    "else",
    "contentSchema",
];
const MANY: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
const NAMED: [&str; 4] = ["patternProperties", "dependentSchemas", "$defs", "definitions"];

/// The arguments of one tool that are repeated in headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolParams(Vec<Param>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Param {
    header: HeaderName,
    /// Property names, from `arguments` down.
    path: Vec<String>,
    is_number: bool,
}

/// One page of `tools/list` with its marks.
#[derive(Clone, Debug)]
pub struct ToolsPage {
    /// The page without tools that must not be offered; unchanged if there are none.
    pub message: Bytes,
    /// The tools that may be called, with their header arguments.
    pub tools: Vec<(String, ToolParams)>,
    /// The tools left out, with reasons.
    pub refused: Vec<(String, String)>,
}

impl ToolParams {
    /// Reads the marks of an `inputSchema` (JSON text).
    ///
    /// # Errors
    /// One sentence if the tool must not be offered.
    pub fn read(schema: &str) -> Result<Self, String> {
        if !schema.contains(MARK) {
            return Ok(Self::default());
        }
        let mut found = Self::default();
        if let Ok(schema) = serde_json::from_str(schema) {
            walk(&schema, Some(&mut Vec::new()), &mut found)?;
        }
        Ok(found)
    }

    /// True if no argument is repeated in a header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The headers of a call. Absent and null arguments, arrays and objects have none.
    #[must_use]
    pub fn headers(&self, call: &[u8]) -> Vec<(HeaderName, HeaderValue)> {
        let of = |text: &str| {
            let message = Members::read(text)?;
            let params = Members::read(message.get("params")?)?;
            let arguments = params.get("arguments")?;
            let one = |param: &Param| Some((param.header.clone(), value_at(arguments, &param.path)?));
            Some(self.0.iter().filter_map(one).collect())
        };
        if self.is_empty() {
            return Vec::new();
        }
        std::str::from_utf8(call).ok().and_then(of).unwrap_or_default()
    }

    /// Compares a call's headers with its arguments: all must match, with none missing or extra, numbers by value. An
    /// argument given twice fails, because parsers differ in which one they read.
    ///
    /// # Errors
    /// One sentence that names the header.
    pub fn check(&self, call: &[u8], sent: &[(HeaderName, HeaderValue)]) -> Result<(), String> {
        let meant = self.headers(call);
        let value = |all: &[(HeaderName, HeaderValue)], name: &HeaderName| {
            all.iter().find(|(one, _)| one == name).map(|(_, value)| value.clone())
        };
        for Param { header, is_number, path } in &self.0 {
            if is_doubled(call, path) {
                return Err(format!("the argument of the header {header} stands in the arguments twice"));
            }
            let same = match (value(&meant, header), value(sent, header)) {
                (None, None) => true,
                (Some(meant), Some(sent)) => means_the_same(&meant, &sent, *is_number),
                (None, Some(_)) | (Some(_), None) => false,
            };
            if !same {
                return Err(format!("the header {header} is not what the arguments say"));
            }
        }
        Ok(())
    }
}

fn means_the_same(one: &HeaderValue, other: &HeaderValue, is_number: bool) -> bool {
    let (Some(one), Some(other)) = (decode_header(one), decode_header(other)) else { return false };
    let number = |text: &str| text.parse::<f64>().ok();
    one == other || is_number && number(&one).is_some_and(|one| Some(one) == number(&other))
}

/// Searches a schema and its subschemas for marks. `path` is `None` below any keyword other than `properties`.
fn walk(place: &Value, path: Option<&mut Vec<String>>, found: &mut ToolParams) -> Result<(), String> {
    let Some(schema) = place.as_object() else { return Ok(()) };
    if let Some(mark) = schema.get(MARK) {
        let path = path.as_deref().filter(|path| !path.is_empty());
        found.add(mark, schema, path.ok_or("a mark is not reached through properties alone")?)?;
    }
    let mut path = path;
    for (keyword, below) in schema {
        let keyword = keyword.as_str();
        match below {
            Value::Object(named) if keyword == "properties" => {
                for (name, below) in named {
                    match path.as_deref_mut() {
                        Some(path) => {
                            path.push(name.clone());
                            walk(below, Some(path), found)?;
                            path.pop();
                        }
                        None => walk(below, None, found)?,
                    }
                }
            }
            below if ONE.contains(&keyword) => walk(below, None, found)?,
            Value::Array(many) if MANY.contains(&keyword) => {
                many.iter().try_for_each(|below| walk(below, None, found))?;
            }
            Value::Object(named) if NAMED.contains(&keyword) => {
                named.values().try_for_each(|below| walk(below, None, found))?;
            }
            _ => {}
        }
    }
    Ok(())
}

impl ToolParams {
    fn add(&mut self, mark: &Value, schema: &Map<String, Value>, path: &[String]) -> Result<(), String> {
        let at = path.join(".");
        let kind = schema.get("type").and_then(Value::as_str);
        if !matches!(kind, Some("string" | "integer" | "boolean")) {
            return Err(format!("{at:?} is marked and no string, integer or boolean"));
        }
        let name = mark.as_str().filter(|name| !name.is_empty());
        // HeaderName accepts tokens only and folds case.
        let header = name.and_then(|name| HeaderName::from_bytes(format!("{PREFIX}{name}").as_bytes()).ok());
        let header = header.ok_or_else(|| format!("the mark of {at:?} is no name of a header"))?;
        if self.0.iter().any(|param| param.header == header) {
            return Err(format!("two arguments are marked {:?}", name.unwrap_or_default()));
        }
        self.0.push(Param { header, path: path.to_vec(), is_number: kind == Some("integer") });
        Ok(())
    }
}

/// True if a key on the path to a marked argument occurs twice in its object.
fn is_doubled(call: &[u8], path: &[String]) -> bool {
    let names: Vec<&str> =
        ["params", "arguments"].into_iter().chain(path.iter().map(String::as_str)).collect();
    std::str::from_utf8(call).is_ok_and(|call| has_double(call, &names))
}

fn has_double(object: &str, names: &[&str]) -> bool {
    let (Some(members), Some((name, below))) = (Members::read(object), names.split_first()) else {
        return false;
    };
    let mut found = members.iter().filter(|(key, _)| key == name).map(|(_, value)| value);
    match (found.next(), found.next()) {
        (_, Some(_)) => true,
        (Some(value), None) => has_double(value, below),
        (None, None) => false,
    }
}

fn value_at(arguments: &str, path: &[String]) -> Option<HeaderValue> {
    let (first, rest) = path.split_first()?;
    let arguments = Members::read(arguments)?;
    let value = arguments.get(first)?;
    if !rest.is_empty() {
        return value_at(value, rest);
    }
    let is_whole = value.trim_start_matches('-').bytes().all(|byte| byte.is_ascii_digit());
    match serde_json::from_str(value).ok()? {
        Value::String(text) => Some(encode_header(&text)),
        Value::Bool(flag) => Some(HeaderValue::from_static(if flag { "true" } else { "false" })),
        // Integers keep their digits: they may exceed 64 bits.
        Value::Number(_) if is_whole => HeaderValue::from_str(value).ok(),
        Value::Number(number) => HeaderValue::from_str(&number.as_f64()?.to_string()).ok(),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Parses a response to `tools/list`; `None` if it is not one.
#[must_use]
pub fn read_tools(message: &Bytes) -> Option<ToolsPage> {
    let mut whole = Members::read(std::str::from_utf8(message).ok()?)?;
    let mut result = Members::read(whole.get("result")?)?;
    let items: Vec<&serde_json::value::RawValue> = serde_json::from_str(result.get("tools")?).ok()?;
    let (mut tools, mut refused, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    for item in items {
        let Some(tool) = Members::read(item.get()) else { continue };
        let name = tool.text("name").unwrap_or_default();
        match ToolParams::read(tool.get("inputSchema").unwrap_or_default()) {
            Ok(params) => {
                kept.push(item.get());
                tools.push((name, params));
            }
            Err(why) => refused.push((name, why)),
        }
    }
    let message = match refused.is_empty() {
        true => message.clone(),
        false => {
            let kept = format!("[{}]", kept.join(","));
            result.set("tools", kept);
            let result = result.to_string();
            whole.set("result", result);
            Bytes::from(whole.to_string())
        }
    };
    Some(ToolsPage { message, tools, refused })
}
