//! One binary, many modules.
