//! What may be used up: memory, places, and shares of a principal or an address.

pub(crate) mod gauges;
pub(crate) mod memory;
pub(crate) mod per_peer;
pub(crate) mod per_principal;
pub(crate) mod places;
pub(crate) mod pressure;
pub(crate) mod refused;
