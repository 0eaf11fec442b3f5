#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod abandoned;
mod against_model;
mod copies;
mod doubt;
mod faults;
mod layout;
mod lone;
mod neighbours;
mod on_disk;
mod operations;
mod recovery;
mod verifying;
