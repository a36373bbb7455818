//! `subscriptions/listen`: the requested filter, its acknowledgement, and the subscription id in notifications.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{key, members::Members};
use crate::{envelope::Envelope, method::Method};

/// The notifications requested for one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// `notifications/tools/list_changed`.
    pub tools: bool,
    /// `notifications/prompts/list_changed`.
    pub prompts: bool,
    /// `notifications/resources/list_changed`.
    pub resources: bool,
    /// `notifications/resources/updated` of these URIs.
    pub updates: Vec<String>,
}

/// Maximum length of a subscribed URI in bytes, as in other requests.
const LONGEST_URI: usize = 8 << 10;

impl Filter {
    /// Parses the filter of a request.
    ///
    /// # Errors
    /// One sentence for the agent.
    pub fn parse(message: &[u8]) -> Result<Self, &'static str> {
        let none = "params.notifications must be an object";
        let text = std::str::from_utf8(message).map_err(|_| none)?;
        let message = Members::read(text).ok_or(none)?;
        let params = message.get("params").and_then(Members::read).ok_or(none)?;
        let wanted: Map<String, Value> =
            params.get("notifications").and_then(|json| serde_json::from_str(json).ok()).ok_or(none)?;
        let is_on = |key: &str| match wanted.get(key) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(on)) => Ok(*on),
            Some(_) => Err("what is listened to is true or false"),
        };
        let updates = match wanted.get("resourceSubscriptions") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(uris)) => {
                let uri =
                    |uri: &Value| uri.as_str().filter(|uri| uri.len() <= LONGEST_URI).map(str::to_owned);
                uris.iter()
                    .map(uri)
                    .collect::<Option<Vec<_>>>()
                    .ok_or("resourceSubscriptions must be URIs")?
            }
            Some(_) => return Err("resourceSubscriptions must be an array"),
        };
        Ok(Self {
            tools: is_on("toolsListChanged")?,
            prompts: is_on("promptsListChanged")?,
            resources: is_on("resourcesListChanged")?,
            updates,
        })
    }

    /// The part of the filter that a server with these capabilities supports.
    #[must_use]
    pub fn honoured(self, capabilities: &Value) -> Self {
        let promises = |list: &str, what: &str| capabilities[list][what] == Value::Bool(true);
        let updates = if promises("resources", "subscribe") { self.updates } else { Vec::new() };
        Self {
            tools: self.tools && promises("tools", "listChanged"),
            prompts: self.prompts && promises("prompts", "listChanged"),
            resources: self.resources && promises("resources", "listChanged"),
            updates,
        }
    }

    /// True if the filter includes a notification.
    #[must_use]
    pub fn takes(&self, notification: &[u8]) -> bool {
        let Ok(envelope) = Envelope::parse(notification) else { return false };
        match envelope.method {
            Some(Method::ToolsListChanged) => self.tools,
            Some(Method::PromptsListChanged) => self.prompts,
            Some(Method::ResourcesListChanged) => self.resources,
            Some(Method::ResourcesUpdated) => {
                envelope.params.uri.is_some_and(|uri| self.updates.iter().any(|one| *one == uri))
            }
            _ => false,
        }
    }

    /// The acknowledgement, the stream's first message, under the request's id (JSON text).
    #[must_use]
    pub fn acknowledged(&self, id: &str) -> Bytes {
        let mut told = Map::new();
        let lists = [
            ("toolsListChanged", self.tools),
            ("promptsListChanged", self.prompts),
            ("resourcesListChanged", self.resources),
        ];
        for (key, _) in lists.into_iter().filter(|(_, on)| *on) {
            told.insert(key.to_owned(), true.into());
        }
        if !self.updates.is_empty() {
            told.insert("resourceSubscriptions".to_owned(), self.updates.clone().into());
        }
        let method = "notifications/subscriptions/acknowledged";
        let message = json!({ "jsonrpc": "2.0", "method": method, "params": { "notifications": told } });
        stamped(&Bytes::from(message.to_string()), id)
    }
}

/// Adds the subscription id (JSON text) to a notification.
#[must_use]
pub fn stamped(notification: &Bytes, id: &str) -> Bytes {
    let change = |text: &str| {
        let mut whole = Members::read(text)?;
        let mut params = whole.get("params").and_then(Members::read).unwrap_or_default();
        let mut meta = params.get("_meta").and_then(Members::read).unwrap_or_default();
        meta.set(key::SUBSCRIPTION_ID, id);
        let meta = meta.to_string();
        params.set("_meta", meta);
        let params = params.to_string();
        whole.set("params", params);
        Some(Bytes::from(whole.to_string()))
    };
    std::str::from_utf8(notification).ok().and_then(change).unwrap_or_else(|| notification.clone())
}

/// The final result of a stream that the server ends, under the request's id (JSON text).
#[must_use]
pub fn listened(id: &str) -> Bytes {
    let key = key::SUBSCRIPTION_ID;
    Bytes::from(format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{\"resultType\":\"complete\",\"_meta\":{{\"{key}\":{id}}}}}}}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(notifications: &Value) -> Result<Filter, &'static str> {
        let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen",
                              "params": { "notifications": notifications } });
        Filter::parse(message.to_string().as_bytes())
    }

    #[test]
    fn what_is_asked_for_is_read_or_refused() {
        let all = json!({ "toolsListChanged": true, "promptsListChanged": false,
                          "resourceSubscriptions": ["a:1"], "taskIds": ["t"] });
        let filter = Filter { tools: true, updates: vec!["a:1".to_owned()], ..Filter::default() };
        assert_eq!(wanted(&all), Ok(filter));
        for bad in [json!(1), json!({ "toolsListChanged": 1 }), json!({ "resourceSubscriptions": [1] })] {
            assert!(wanted(&bad).is_err(), "{bad}");
        }
        let none = br#"{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{}}"#;
        assert!(Filter::parse(none).is_err());
    }

    #[test]
    fn only_what_is_promised_is_told_and_only_what_is_asked_for_is_taken() {
        let all = json!({ "toolsListChanged": true, "resourcesListChanged": true,
                          "resourceSubscriptions": ["a:1"] });
        let capabilities = json!({ "tools": { "listChanged": true }, "resources": { "subscribe": true } });
        let filter = wanted(&all).expect("a filter").honoured(&capabilities);
        let told: Value = serde_json::from_slice(&filter.acknowledged("\"x\"")).expect("JSON");
        assert_eq!(
            told["params"],
            json!({ "notifications": { "toolsListChanged": true, "resourceSubscriptions": ["a:1"] },
                    "_meta": { key::SUBSCRIPTION_ID: "x" } })
        );
        for (method, uri, taken) in [
            ("tools/list_changed", "", true),
            ("prompts/list_changed", "", false),
            ("resources/list_changed", "", false),
            ("resources/updated", "a:1", true),
            ("resources/updated", "a:2", false),
            ("message", "", false),
        ] {
            let note = json!({ "jsonrpc": "2.0", "method": format!("notifications/{method}"),
                               "params": { "uri": uri } });
            assert_eq!(filter.takes(note.to_string().as_bytes()), taken, "{note}");
        }
    }

    #[test]
    fn the_mark_is_the_id_as_it_came_and_nothing_else_changes() {
        let note = Bytes::from_static(
            br#"{"jsonrpc":"2.0","method":"notifications/x","params":{"n":1.0e2,"_meta":{"a":1}}}"#,
        );
        for id in ["1", "\"\\u0061\""] {
            let marked = stamped(&note, id);
            let text = std::str::from_utf8(&marked).expect("text");
            let mark = format!(r#""params":{{"n":1.0e2,"_meta":{{"a":1,"{}":{id}}}}}"#, key::SUBSCRIPTION_ID);
            assert!(text.contains(&mark), "{text}");
            let end: Value = serde_json::from_slice(&listened(id)).expect("JSON");
            assert_eq!(end["id"], end["result"]["_meta"][key::SUBSCRIPTION_ID]);
        }
    }
}
