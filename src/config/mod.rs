//! Configuration: what a file, the environment and flags say, as each layer's own options.
//!
//! A setting of the server is one row of [`SETTINGS`], from which its flag, its
//! environment variable, its key in the file and `claudebus config show` all follow. The sections
//! beside `server` are plain serde types in [`sections`]; the parts they describe read them from
//! there. Nothing here opens a socket or starts anything.

mod decode;
mod error;
mod expand;
mod file;
mod located;
pub mod nats_conf;
mod nearest;
mod resolve;
pub mod sections;
mod settings;
mod streams;
mod table;
#[cfg(test)]
mod tests;
pub mod text;
pub mod tls;
pub mod users;

pub use error::ConfigError;
pub use file::{ConfigFile, DEFAULT_FILE_NAME, Environment, Unset, default_path};
pub use located::{Kind, Node};
pub use nearest::nearest;
pub use resolve::{GIVEN_ON_COMMAND_LINE, Origin, Resolved, Shown};
pub use settings::{Durability, ServerSettings};
pub use streams::{DEFAULT_STREAMS, StreamPlan, default_streams};
pub use table::{SETTINGS, Setting};
