//! The era without handshake (2026-07-28, PROTOCOL.md 4): the metadata of requests and results in `_meta`, and the
//! conversion of messages between the eras.
//!
//! Conversions add or remove members one level deep. All other values keep their bytes.

mod asking;
mod envelope;
mod header;
pub(crate) mod members;
mod params;
mod request;
mod result;
mod span_cutter;
mod subscription;
#[cfg(test)]
mod tests;

pub use asking::{answers, essence, input_required, question};
pub use header::{decode_header, encode_header};
pub use params::{ToolParams, ToolsPage, read_tools};
pub use request::{Carried, Defect, ModernRequest, Stamp, to_modern_request};
pub use result::{
    Finish, InputRequest, LegacyResult, error_code, input_responses, to_legacy_notification,
    to_legacy_result, to_modern_result,
};
pub use subscription::{Filter, listened, stamped};

/// Keys of `_meta` defined by this era.
pub mod key {
    /// Request: its protocol revision.
    pub const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
    /// Request: the sender's `clientInfo`.
    pub const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
    /// Request: the sender's capabilities.
    pub const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
    /// Request: minimum severity of log messages on its stream.
    pub const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
    /// Result: the server's `serverInfo`.
    pub const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
    /// Notification on a subscription stream: the id of the request that opened it.
    pub const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";
}

/// Error codes of this era.
pub mod code {
    /// A required header is missing or contradicts the body. HTTP 400.
    pub const HEADER_MISMATCH: i32 = -32020;
    /// The sender did not declare a capability that the request needs. HTTP 400.
    pub const MISSING_CAPABILITY: i32 = -32021;
    /// The server does not support the revision. HTTP 400.
    pub const UNSUPPORTED_VERSION: i32 = -32022;
}
