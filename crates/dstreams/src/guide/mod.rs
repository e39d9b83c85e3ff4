//! The guide: how to write, run and test a program, chapter by chapter.
//!
//! Each chapter explains one part, with a complete program that runs, and says what that part costs and what it does
//! not promise. Read the first two in order; the others stand alone.
//!
//! | chapter | what it answers |
//! |---|---|
//! | [Batches and time](batches_and_time) | When does a record take effect, and under which time? |
//! | [Records](records) | Which types travel in a stream, and which columns do they have? |
//! | [Windows](windows) | How do I aggregate the last minutes? |
//! | [Joins](joins) | How do I bring the records of two streams together, or of a stream and a table? |
//! | [Records that come late](slack) | How do I compute by the time at which something happened? |
//! | [Event time and corrections](event_time) | How do I aggregate by event time, and what if they come late? |
//! | [Old data, then live](replay) | How do I run a program over last week's files, with the intervals of a live feed? |
//! | [State](state) | How does a program remember something about each key, and how do I query it? |
//! | [Restarts and exactly-once](restarts) | What survives a crash, and what takes effect twice? |
//! | [Sources and sinks of one's own](sources_and_sinks) | How do I connect another system? |
//! | [Clusters](cluster) | How does the same program run on many machines? |
//! | [Testing a program](testing) | How do I test it without waiting for the clock? |
//! | [Limits](limits) | What is there no support for? |

#[doc = include_str!("batches_and_time.md")]
pub mod batches_and_time {}

#[doc = include_str!("records.md")]
pub mod records {}

#[doc = include_str!("windows.md")]
pub mod windows {}

#[doc = include_str!("joins.md")]
pub mod joins {}
#[doc = include_str!("slack.md")]
pub mod slack {}
#[doc = include_str!("event_time.md")]
pub mod event_time {}

#[doc = include_str!("replay.md")]
pub mod replay {}

#[doc = include_str!("state.md")]
pub mod state {}

#[doc = include_str!("restarts.md")]
pub mod restarts {}

#[doc = include_str!("sources_and_sinks.md")]
pub mod sources_and_sinks {}

#[doc = include_str!("cluster.md")]
pub mod cluster {}

#[doc = include_str!("testing.md")]
pub mod testing {}

#[doc = include_str!("limits.md")]
pub mod limits {}
