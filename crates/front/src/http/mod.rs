//! Reading requests and writing responses.

pub(crate) mod headers;
pub(crate) mod request_body;
pub(crate) mod response;
pub(crate) mod response_body;
