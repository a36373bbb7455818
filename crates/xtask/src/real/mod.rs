//! Real clients and servers, and the cells in which they meet.

pub(crate) mod backends;
pub(crate) mod cell;
pub(crate) mod cells;
pub(crate) mod driver;
