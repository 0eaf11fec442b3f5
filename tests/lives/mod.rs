//! A broker that dies and is started again, the applications that go on working with it, and the
//! judge of what it holds afterwards.
//!
//! What it dies of, and what is left of its disk then, is the [`Machine`]'s part, one for each test
//! that uses this.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod book;
pub mod deliveries;
pub mod kills;
pub mod oracle;
pub mod payload;
pub mod rounds;
pub mod scenario;
pub mod table;
pub mod verify;
pub mod work;

pub use rounds::{Machine, Moment, Outcome, Plan, Run};
