//! Users as a server is told of them.

use super::nkey::PublicKey;
use super::password::Password;
use crate::access::Grant;

/// Somebody who is let in.
#[derive(Clone, Debug, PartialEq)]
pub struct User {
    /// Names the user; unique. With keys it is for people alone.
    pub name: String,
    /// How it is known.
    pub credential: Credential,
    /// What it may do.
    pub grant: Grant,
}

/// How a user is known.
#[derive(Clone, Debug, PartialEq)]
pub enum Credential {
    /// By its name and a password.
    Password(Password),
    /// By a key, whose owner signs what the server asks it to.
    Key(PublicKey),
    /// By the name in its certificate, where the server maps those to users.
    Certificate,
}
