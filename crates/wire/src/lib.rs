//! The MCP message model, without IO.
//!
//! `wire` holds the envelope over borrowed bytes, ids, methods, revisions, the handshake, splicing of ids into
//! messages, and the seam ([`Backends`] / [`Link`]) between the front and the backends. It reads no clock and needs no
//! async runtime; instants and futures occur only as types.

mod amend;
mod call;
mod downgrade;
mod envelope;
mod era;
mod error;
mod handshake;
mod id;
mod id_scanner;
mod identity;
mod lenient;
mod link;
mod method;
pub mod modern;
mod rewrite;
mod slot;
#[cfg(test)]
mod testing;

pub use amend::{readdressed, without_nulls, without_verdict};
pub use call::{AgentKey, Answer, Attempt, BackendId, Call, CallTrace, Caller, Forwarded, Phase, RequestId};
pub use envelope::{
    DecodeError, DecodeKind, Envelope, Kind, MAX_BATCH, Params, ResultView, Span, is_batch, is_response,
    split_batch, split_batch_of,
};
pub use era::{Era, Revision};
pub use error::{CallError, ErrorKind, Executed};
pub use handshake::{CapabilityClass, ClientHello, ServerHello};
pub use id::{IdValue, RpcId};
pub use id_scanner::IdScanner;
pub use identity::{Identity, IdentityKind};
pub use lenient::{raw_members, read_leniently};
pub use link::{Backends, Hello, Link, LinkEvent, Outlet, OutletFull, Reply, ServerEntry, Target};
pub use method::{Method, Scope};
pub use rewrite::{Message, error_response, result_response};
pub use slot::Slot;
