//! How a client finds the server of this machine: the context file that a running server leaves.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The environment variable that names the context file.
pub const CONTEXT_VARIABLE: &str = "CLAUDEBUS_CONTEXT";

/// What a running server tells clients on the same machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LocalServer {
    /// Address of the native protocol, `quic://host:port`.
    pub url: String,
    /// Address of the HTTP listener.
    pub http: String,
    /// File with the certificate authority's certificate, in PEM.
    pub ca: PathBuf,
    /// Data directory.
    pub data: PathBuf,
    /// Process id.
    pub pid: u32,
}

/// The context file is there but not readable.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Reading it failed.
    #[error("cannot read the context file {}: {source}; check its permissions, or give the address and ca_file yourself", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not the JSON that a server writes.
    #[error("the context file {} is damaged: {source}; delete it and restart the server, which writes it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

impl LocalServer {
    /// Where the context file is: `$CLAUDEBUS_CONTEXT`, or `claudebus/context.json` in the
    /// platform's configuration folder. None if the platform has no such folder.
    #[must_use]
    pub fn path() -> Option<PathBuf> {
        match std::env::var_os(CONTEXT_VARIABLE) {
            Some(path) if !path.is_empty() => Some(PathBuf::from(path)),
            _ => Some(dirs::config_dir()?.join("claudebus").join("context.json")),
        }
    }

    /// Reads the context file. None if there is none.
    ///
    /// # Errors
    /// [`LocalError`] if it is there and cannot be read.
    pub fn find() -> Result<Option<Self>, LocalError> {
        Self::path().map_or(Ok(None), Self::read)
    }

    /// Reads the context file at `path`. None if it is not there.
    ///
    /// # Errors
    /// [`LocalError`] if it is there and cannot be read.
    pub fn read(path: PathBuf) -> Result<Option<Self>, LocalError> {
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(LocalError::Read { path, source }),
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| LocalError::Damaged { path, source })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_file_is_optional_but_not_its_form() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("context.json");
        assert_eq!(LocalServer::read(path.clone()).unwrap(), None);
        std::fs::write(&path, r#"{"url":"quic://localhost:4222","ca":"/d/ca.pem","pid":7,"x":1}"#)
            .unwrap();
        let found = LocalServer::read(path.clone()).unwrap().unwrap();
        assert_eq!((found.url.as_str(), found.pid), ("quic://localhost:4222", 7));
        std::fs::write(&path, "{").unwrap();
        let error = LocalServer::read(path).unwrap_err().to_string();
        assert!(error.contains("damaged") && error.contains("context.json"), "{error}");
    }
}
