//! Limits: memory, places for sessions and calls, and shares per principal and per address.

pub(crate) mod gauges;
pub(crate) mod memory;
pub(crate) mod per_peer;
pub(crate) mod per_principal;
pub(crate) mod places;
pub(crate) mod pressure;
pub(crate) mod refused;
