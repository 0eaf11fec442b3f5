//! Files that tell where a running server is found: the ready file, for whoever started it, and the
//! context file, for clients of the same machine.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use claudebus_storage::RealDisk;
use serde::{Deserialize, Serialize};

use crate::client::{CONTEXT_VARIABLE, LocalServer};

/// The ready file: written once the server can be connected to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Address of the QUIC listener, with the port it really has.
    pub quic: Option<SocketAddr>,
    /// Address of the listener for NATS clients.
    pub nats: Option<SocketAddr>,
    /// Address of the listener for NATS clients over WebSocket alone.
    pub websocket: Option<SocketAddr>,
    /// Address of the HTTP listener.
    pub http: Option<SocketAddr>,
    /// Process id.
    pub pid: u32,
    /// Data directory; none if the log is in memory.
    pub data: Option<PathBuf>,
    /// File with the certificate that clients trust.
    pub ca: Option<PathBuf>,
    /// SHA-256 of the server's certificate, for clients that trust it alone.
    pub fingerprint: Option<String>,
    /// When acknowledgements leave.
    pub durability: String,
}

/// A file that others look for cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {what} {}: {source}", path.display())]
pub struct ReadyError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl Ready {
    /// What clients of this machine look for; nothing if they could not connect.
    fn for_clients(&self) -> Option<LocalServer> {
        Some(LocalServer {
            url: format!("quic://{}", reachable(self.quic?)),
            http: self
                .http
                .map(|address| format!("http://{}", reachable(address)))
                .unwrap_or_default(),
            ca: self.ca.clone()?,
            data: self.data.clone()?,
            pid: self.pid,
        })
    }
}

/// Under which address a client of this machine reaches a listener.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// The ready file, as long as this value lives.
#[derive(Debug)]
pub(super) struct ReadyFile {
    path: PathBuf,
    ready: Ready,
}

impl ReadyFile {
    /// Writes it, whole or not at all.
    pub(super) fn write(path: &Path, ready: &Ready) -> Result<Self, ReadyError> {
        write_json("the ready file", path, ready)?;
        Ok(Self { path: path.to_path_buf(), ready: ready.clone() })
    }
}

impl Drop for ReadyFile {
    /// Removes it, unless it tells of another server meanwhile.
    fn drop(&mut self) {
        let found = fs::read(&self.path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        if found.as_ref() == Some(&self.ready) {
            // A file that is left behind tells of a process that is gone.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The context file, as long as this value lives.
#[derive(Debug)]
pub(super) struct ContextFile {
    path: PathBuf,
    pid: u32,
}

impl ContextFile {
    /// Writes it. Nothing is written for a server that no client could find by it, nor while another
    /// server runs that clients find by it. That it cannot be written (a full disk, a home directory
    /// that is read-only) is no reason not to serve.
    pub(super) fn write(path: &Path, ready: &Ready) -> Option<Self> {
        let local = ready.for_clients()?;
        // What cannot be read is of no use to clients either.
        if let Ok(Some(other)) = LocalServer::read(path.to_path_buf())
            && other.data != local.data
            && RealDisk::is_in_use(&other.data)
        {
            tracing::warn!(
                context = %path.display(),
                "clients of this machine go on finding the server on {} (process {}); tell those \
                 of this one --server {} --ca {}, or give it a context file of its own with \
                 {CONTEXT_VARIABLE}",
                other.url, other.pid, local.url, local.ca.display(),
            );
            return None;
        }
        if let Err(error) = write_json("the context file", path, &local) {
            tracing::warn!(
                "{error}; tell clients of this machine --server {} --ca {}, or name a file that can \
                 be written with {CONTEXT_VARIABLE}",
                local.url,
                local.ca.display(),
            );
            return None;
        }
        Some(Self { path: path.to_path_buf(), pid: ready.pid })
    }
}

impl Drop for ContextFile {
    /// Removes it, unless another server has written its own there meanwhile.
    fn drop(&mut self) {
        let ours = LocalServer::read(self.path.clone())
            .is_ok_and(|found| found.is_some_and(|found| found.pid == self.pid));
        if ours {
            // A file that is left behind misleads only until the next connect.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn write_json<T: Serialize>(what: &'static str, path: &Path, value: &T) -> Result<(), ReadyError> {
    let write = || {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let mut text = serde_json::to_vec_pretty(value)?;
        text.push(b'\n');
        let draft = path.with_extension(format!("{}.tmp", std::process::id()));
        let moved = fs::write(&draft, text).and_then(|()| fs::rename(&draft, path));
        if moved.is_err() {
            // A draft is of no use to anybody; what went wrong is told already.
            let _ = fs::remove_file(&draft);
        }
        moved
    };
    write().map_err(|source| ReadyError { what, path: path.to_path_buf(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready() -> Ready {
        Ready {
            quic: Some(([0, 0, 0, 0], 4222).into()),
            nats: None,
            websocket: None,
            http: None,
            pid: 7,
            data: Some("/d".into()),
            ca: Some("/d/tls/ca.pem".into()),
            fingerprint: None,
            durability: "sync".into(),
        }
    }

    #[test]
    fn the_ready_file_is_whole() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("a").join("ready.json");
        let file = ReadyFile::write(&path, &ready()).expect("written");
        let read: Ready = serde_json::from_slice(&fs::read(&path).expect("there")).expect("JSON");
        assert_eq!(read, ready());
        let files = || fs::read_dir(path.parent().expect("a folder")).expect("listed").count();
        assert_eq!(files(), 1);
        drop(file);
        assert_eq!(files(), 0);
    }

    #[test]
    fn a_server_leaves_the_ready_file_of_another() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("ready.json");
        let first = ReadyFile::write(&path, &ready()).expect("written");
        let other = Ready { pid: 8, ..ready() };
        let second = ReadyFile::write(&path, &other).expect("written");
        drop(first);
        assert!(path.exists(), "it tells of the other server");
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn a_second_server_leaves_the_context_of_the_first() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("context.json");
        let mut first = ready();
        first.data = Some(dir.path().join("first"));
        let used = RealDisk::open(dir.path().join("first")).expect("locked");
        let kept = ContextFile::write(&path, &first).expect("written");
        let mut second = ready();
        second.pid = 8;
        assert!(ContextFile::write(&path, &second).is_none());
        let found = || LocalServer::read(path.clone()).expect("read").expect("there").pid;
        assert_eq!(found(), 7);
        // The first was killed: its file misleads, and the next server's takes its place.
        drop(used);
        let second = ContextFile::write(&path, &second);
        assert_eq!((second.is_some(), found()), (true, 8));
        drop(kept);
    }

    #[test]
    fn the_context_file_goes_with_its_server() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("context.json");
        let file = ContextFile::write(&path, &ready()).expect("written");
        let found = LocalServer::read(path.clone()).expect("read").expect("there");
        assert_eq!(found.url, "quic://127.0.0.1:4222");
        let mut other = ready();
        other.pid = 8;
        let second = ContextFile::write(&path, &other).expect("written");
        drop(file);
        assert!(path.exists(), "it belongs to the other server");
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn a_context_file_that_cannot_be_written_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        // A directory of that name, and not an empty one, cannot be written over.
        let path = dir.path().join("context.json");
        fs::create_dir_all(path.join("full")).expect("created");
        assert!(ContextFile::write(&path, &ready()).is_none());
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
    }
}
