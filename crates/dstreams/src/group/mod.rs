//! Group: numbers the keys of rows, the heart of every aggregate, join and state.
//!
//! **In**: key columns, batch by batch. **Out**: a number for each row, the same for equal keys, counted from zero in the
//! order in which keys appear; in the end the keys by number. **Promise**: the numbers depend on the rows alone, not
//! on hashes or capacities. **On failure**: an error if there are more than 4,294,967,294 keys.
//!
//! A key is an integer of 64 or 128 bits where its columns fit one ([`packed`]), or a text ([`texts`]); one [`index`]
//! leads from both to numbers. Other keys are left to DataFusion.

mod index;
mod packed;
mod table;
#[cfg(test)]
mod tests;
mod texts;

pub use table::KeyTable;
