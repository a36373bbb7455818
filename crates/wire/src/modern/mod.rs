//! The era without handshake (2026-07-28, PROTOCOL.md 4): what each request carries in its `_meta`, what each result
//! says of itself, and messages that are carried over from one era to the other.
//!
//! Only members are added or taken out, one level deep: every value that is not named here leaves byte for byte as it
//! came.

mod asking;
mod cuts;
mod envelope;
mod header;
pub(crate) mod members;
mod params;
mod request;
mod result;
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

/// Keys of `_meta` that this era gives a meaning.
pub mod key {
    /// Of a request: the revision it is written in.
    pub const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
    /// Of a request: who sends it.
    pub const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
    /// Of a request: what its sender can be asked.
    pub const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
    /// Of a request: the least severe log message its sender wants on its stream.
    pub const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
    /// Of a result: who answered.
    pub const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
    /// Of what comes on a subscription's stream: the id of the request that opened it.
    pub const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";
}

/// Error codes of this era.
pub mod code {
    /// A header and the body do not say the same, or a required header is missing. HTTP 400.
    pub const HEADER_MISMATCH: i32 = -32020;
    /// The request needs a capability that its sender did not declare. HTTP 400.
    pub const MISSING_CAPABILITY: i32 = -32021;
    /// The revision is none the server speaks. HTTP 400.
    pub const UNSUPPORTED_VERSION: i32 = -32022;
}
