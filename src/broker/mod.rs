//! placeholder until the broker lands
#[allow(dead_code, unused_imports)]
pub(crate) mod consumer;
