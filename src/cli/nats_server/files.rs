//! Files that tell of a running server: its process id, and the ports that it has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::{Map, Value, json};

/// What the files are called by, whichever name the program was started by.
pub(super) const PROGRAM: &str = "nats-server";

/// Writes the process id, without a line's end, as nats-server.
pub(super) fn write_pid(path: &Path) -> io::Result<()> {
    fs::write(path, std::process::id().to_string())
}

/// The file with the addresses, as long as this value lives.
pub(super) struct PortsFile(PathBuf);

impl PortsFile {
    /// Writes it into `folder`, whole or not at all.
    pub(super) fn write(folder: &Path, listeners: &[Listener]) -> io::Result<Self> {
        let path = folder.join(format!("{PROGRAM}_{}.ports", std::process::id()));
        // Whoever looks for the ending finds it when it is whole.
        let draft = path.with_extension("ports.tmp");
        fs::write(&draft, ports(listeners))?;
        fs::rename(&draft, &path)?;
        Ok(Self(path))
    }
}

impl Drop for PortsFile {
    fn drop(&mut self) {
        // A file that is left behind names a process that is gone.
        let _ = fs::remove_file(&self.0);
    }
}

/// A listener of the server.
pub(super) struct Listener {
    /// Its name in the file.
    pub(super) name: &'static str,
    /// How URLs of it begin.
    pub(super) scheme: &'static str,
    pub(super) address: SocketAddr,
}

/// What it holds.
fn ports(listeners: &[Listener]) -> String {
    let ports: Map<String, Value> = listeners
        .iter()
        .map(|Listener { name, scheme, address }| {
            ((*name).to_owned(), json!([format!("{scheme}://{}", reachable(*address))]))
        })
        .collect();
    Value::Object(ports).to_string()
}

/// The address under which programs of this machine reach a listener of all interfaces.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ports_file_names_what_can_be_reached_and_goes_with_the_server() {
        let folder = tempfile::tempdir().unwrap();
        let nats = Listener { name: "nats", scheme: "nats", address: ([0, 0, 0, 0], 4222).into() };
        let address = ([127, 0, 0, 1], 8222).into();
        let http = Listener { name: "monitoring", scheme: "http", address };
        let file = PortsFile::write(folder.path(), &[nats, http]).unwrap();
        let name = format!("nats-server_{}.ports", std::process::id());
        let read = || fs::read_to_string(folder.path().join(&name));
        let value: serde_json::Value = serde_json::from_str(&read().unwrap()).unwrap();
        let expected =
            json!({"nats": ["nats://127.0.0.1:4222"], "monitoring": ["http://127.0.0.1:8222"]});
        assert_eq!(value, expected);
        drop(file);
        assert!(read().is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(ports(&[]), "{}");
    }
}
