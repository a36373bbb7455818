//! What every step stands on: paths, processes with an end, the gateway under test, and the report.

pub(crate) mod gateway;
pub(crate) mod http;
pub(crate) mod paths;
pub(crate) mod report;
pub(crate) mod rotation;
pub(crate) mod run;
pub(crate) mod setup;
