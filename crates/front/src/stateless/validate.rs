//! Validation of stateless requests: what a request must carry, and that its headers agree with its body (PROTOCOL.md
//! 4).
//!
//! Done before anything else: a request refused here reaches no backend and leaves nothing behind.

use http::{HeaderMap, StatusCode};
use mcpool_wire::{
    Era, Method, Revision, RpcId, error_response,
    modern::{Defect, ModernRequest, code, decode_header},
};
use serde_json::json;

use super::call_output::LogLevel;
use crate::{
    http::{
        headers::{Accept, VERSION, text},
        response::Response,
    },
    message::{Incoming, Request},
    observe::Cause,
};

/// The reason a request is refused, with its status and code.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// The client does not accept both kinds of answers. 406.
    Accept,
    /// A required member is missing or wrong. 400, -32602.
    Envelope(String),
    /// A header is missing or contradicts the body. 400, -32020.
    Mismatch(String),
    /// The revision is not supported. 400, -32022.
    Version(String),
}

/// Whether a POST is of this era. One of the two marks is enough, so that a client that sets only one learns what is
/// missing.
pub(crate) fn is_modern(headers: &HeaderMap, incoming: &Incoming) -> bool {
    incoming.is_modern || Era::of_header(text(headers, &VERSION)) == Era::Modern
}

/// Validates a request, and returns what it says of its sender.
pub(super) fn check(headers: &HeaderMap, request: &Request, message: &[u8]) -> Result<ModernRequest, Unfit> {
    let accept = Accept::of(headers);
    if !accept.json || !accept.events {
        return Err(Unfit::Accept);
    }
    let modern = match ModernRequest::parse(message) {
        Ok(modern) => modern,
        Err(Defect::Envelope(why)) => return Err(Unfit::Envelope(why)),
        Err(Defect::Version(version)) => {
            same(headers, "mcp-protocol-version", &version)?;
            return Err(Unfit::Version(version));
        }
    };
    same(headers, "mcp-protocol-version", Revision::V2026_07_28.as_str())?;
    same(headers, "mcp-method", request.method.as_str())?;
    check_name(headers, request)?;
    match modern.log_level.as_deref() {
        Some(level) if LogLevel::parse(level).is_none() => {
            Err(Unfit::Envelope(format!("{level:?} is no level of log messages")))
        }
        _ => Ok(modern),
    }
}

fn same(headers: &HeaderMap, name: &str, body: &str) -> Result<(), Unfit> {
    match text(headers, name) {
        Some(header) if header == body => Ok(()),
        Some(_) => Err(Unfit::Mismatch(format!("the header {name} is not what the body says"))),
        None => Err(Unfit::Mismatch(format!("the header {name} is missing"))),
    }
}

/// Checks that `Mcp-Name` agrees with the name in the body, for methods that have one.
fn check_name(headers: &HeaderMap, request: &Request) -> Result<(), Unfit> {
    let is_named = matches!(request.method, Method::ToolsCall | Method::PromptsGet | Method::ResourcesRead);
    if !is_named {
        return Ok(());
    }
    match (headers.get("mcp-name"), request.name.as_deref()) {
        // The backend reports the missing name.
        (None, None) => Ok(()),
        (None, Some(_)) => Err(Unfit::Mismatch("the header mcp-name is missing".to_owned())),
        (Some(header), Some(name)) if decode_header(header).as_deref() == Some(name) => Ok(()),
        (Some(_), _) => Err(Unfit::Mismatch("the header mcp-name is not what the body names".to_owned())),
    }
}

impl Unfit {
    pub(super) fn to_response(&self, id: &RpcId) -> Response {
        let bad = |code, why: &str| Response::refused(StatusCode::BAD_REQUEST, Some(id), code, why);
        match self {
            Self::Accept => {
                let message = "Accept must allow application/json and text/event-stream";
                Response::refused(StatusCode::NOT_ACCEPTABLE, Some(id), -32600, message)
            }
            Self::Envelope(why) => bad(-32602, why),
            Self::Mismatch(why) => bad(code::HEADER_MISMATCH, why),
            Self::Version(requested) => {
                let supported = Revision::V2026_07_28.as_str();
                let message =
                    format!("unsupported protocol version (supported without handshake: {supported})");
                let data = json!({ "supported": [supported], "requested": requested });
                let body = error_response(Some(id), code::UNSUPPORTED_VERSION, &message, Some(&data));
                Response::json(StatusCode::BAD_REQUEST, Cause::Agent, body)
            }
        }
    }
}
