//! Tests of what a killed program goes on with: [`rules`] are the rules one by one.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod rules;
