//! What the benchmarks are made of: a load generator, the programs mcpool is compared with, and the report.
//!
//! Reading order: [`load`] (who calls, how it is measured), [`proxy`] (the bare pass-through and the id splice),
//! [`process`] (each program is its own process, so that its CPU and memory can be read), [`suite`] (what is
//! measured, in which order) and [`report`]; [`soak`] runs the gateway for long under faults. The subtle thing: everything shares the machine's cores, so a ratio
//! between programs is meaningful only within one run. [`inproc`] is for the micro-benchmarks beside it.

mod admin;
pub mod inproc;
pub mod load;
pub mod machine;
pub mod process;
pub mod proxy;
pub mod report;
pub mod soak;
pub mod suite;
