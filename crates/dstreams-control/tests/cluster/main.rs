//! Tests of the cluster machine: [`rules`] are its rules one by one, as written-out schedules.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod rules;
