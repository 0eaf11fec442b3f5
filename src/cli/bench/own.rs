//! A server of this program that a measurement starts for itself, so that it can be restarted,
//! killed, and looked at from outside.
//!
//! Its data lies in a folder of its own, which is removed in the end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::usage::Usage;
use crate::cli::args::Global;
use crate::cli::connect::connect;
use crate::cli::exit::{Exit, Failure};
use crate::client::{CONTEXT_VARIABLE, Client};
use crate::server::Ready;

/// Longest wait for a server to be ready: many times what recovery may take.
const START: Duration = Duration::from_secs(120);
/// Over which time it is looked whether a server is idle.
const IDLE_LOOK: Duration = Duration::from_millis(500);
/// The part of one processor that an idle server may use.
const IDLE_PART: f64 = 0.03;
/// The longest wait for it.
const IDLE_MOST: Duration = Duration::from_secs(60);
/// How often the ready file is looked for; the precision of what is measured from a start.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// How often it is looked whether a server that is measured still runs.
const WATCH_EVERY: Duration = Duration::from_millis(100);

/// A server, killed when dropped.
pub(super) struct OwnServer {
    /// Its process; looked at by whoever measures.
    child: Mutex<Option<Child>>,
    folder: PathBuf,
    arguments: Vec<String>,
    global: Global,
    nats: Option<SocketAddr>,
    /// When the process was last started.
    pub(super) started: Instant,
}

impl OwnServer {
    /// Starts a server with an empty data directory below `place`, and waits until it is ready.
    pub(super) async fn start(
        global: &Global,
        place: Option<&Path>,
        arguments: &[&str],
    ) -> Result<Self, Failure> {
        let place = place.map_or_else(std::env::temp_dir, Path::to_path_buf);
        let name = format!("claudebus-bench-{}-{:08x}", std::process::id(), rand::random::<u32>());
        let folder = place.join(name);
        std::fs::create_dir_all(&folder).map_err(|error| {
            let folder = folder.display();
            Failure::new(Exit::Failed, format_args!("cannot make the folder {folder}: {error}"))
                .hint("name another one with --dir")
        })?;
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let (global, started) = (global.clone(), Instant::now());
        let child = Mutex::new(None);
        let mut server = Self { child, folder, arguments, global, nats: None, started };
        server.restart().await?;
        Ok(server)
    }

    /// Starts it again on the data it has.
    pub(super) async fn restart(&mut self) -> Result<(), Failure> {
        self.kill();
        let ready = self.folder.join("ready.json");
        // It is not there before the first start.
        let _ = std::fs::remove_file(&ready);
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("server.log"))?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["serve", "--quic", "127.0.0.1:0", "--nats", "off", "--http", "off"])
            .args(["--log", "warn", "--data"])
            .arg(self.folder.join("data"))
            .arg("--ready-file")
            .arg(&ready)
            .args(&self.arguments)
            // Clients of this machine must not take it for their server.
            .env(CONTEXT_VARIABLE, self.folder.join("context.json"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.started = Instant::now();
        self.child = Mutex::new(Some(command.spawn()?));
        self.wait_ready(&ready).await
    }

    async fn wait_ready(&mut self, ready: &Path) -> Result<(), Failure> {
        loop {
            if let Ok(text) = std::fs::read(ready)
                && let Ok(ready) = serde_json::from_slice::<Ready>(&text)
            {
                self.global.server = ready.quic.map(|address| format!("quic://{address}"));
                self.global.ca = ready.ca;
                self.nats = ready.nats;
                (self.global.fingerprint, self.global.token) = (None, None);
                return Ok(());
            }
            if self.has_ended()? || self.started.elapsed() > START {
                return Err(self.failure("the server did not start"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Whether its process is over without having been killed here.
    fn has_ended(&self) -> std::io::Result<bool> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(child.as_mut().map(Child::try_wait).transpose()?.flatten().is_some())
    }

    /// What happened, and what the server said.
    fn failure(&self, what: &str) -> Failure {
        let log = std::fs::read_to_string(self.folder.join("server.log")).unwrap_or_default();
        Failure::new(Exit::Failed, format_args!("{what}: {}", log.trim_end()))
    }

    /// Does something with the server, and fails if the server ends meanwhile: its clients would wait
    /// for ever for it to come back.
    pub(super) async fn during<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let ended = async {
            while !self.has_ended()? {
                tokio::time::sleep(WATCH_EVERY).await;
            }
            Err(self.failure("the server ended while it was measured"))
        };
        tokio::select! {
            done = work => done,
            ended = ended => ended,
        }
    }

    /// How it is reached.
    pub(super) fn global(&self) -> &Global {
        &self.global
    }

    /// Where its NATS listener is, if it was started with one.
    pub(super) fn nats(&self) -> Option<SocketAddr> {
        self.nats
    }

    /// A new connection to it.
    pub(super) async fn connect(&self) -> Result<Client, Failure> {
        connect(&self.global).await
    }

    /// Its process.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Child::id)
    }

    /// Waits until it has little to do, as far as its processor time is known: what it stored is put
    /// into order after a start and after publishing. It waits no longer than [`IDLE_MOST`].
    pub(super) async fn wait_idle(&self) {
        let began = Instant::now();
        while let Some(before) = Usage::of(self.pid())
            && began.elapsed() < IDLE_MOST
        {
            tokio::time::sleep(IDLE_LOOK).await;
            let used = Usage::of(self.pid()).map_or(0.0, |now| now.since(&before).cpu);
            if used <= IDLE_LOOK.as_secs_f64() * IDLE_PART {
                return;
            }
        }
    }

    /// Puts what it stored out of the page cache, and nothing else: programs stay in memory. Returns whether
    /// that can be done here.
    pub(super) fn evict_data(&self) -> bool {
        sync() && evict(&self.folder.join("data"))
    }

    /// Ends it as a crash would.
    pub(super) fn kill(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut child) = child.take() {
            // It may be over already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        self.kill();
        // What cannot be removed lies in a folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Has everything written to the disks: only such pages can leave the page cache.
fn sync() -> bool {
    Command::new("sync").status().is_ok_and(|status| status.success())
}

/// Empties the page cache, where that is allowed. Returns whether it was.
pub(super) fn drop_caches() -> bool {
    sync() && std::fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

/// Puts the files below a folder out of the page cache.
#[cfg(target_os = "linux")]
fn evict(folder: &Path) -> bool {
    use rustix::fs::{Advice, fadvise};
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.flatten().all(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return evict(&path);
        }
        // A file that is gone meanwhile is in no cache.
        std::fs::File::open(&path)
            .map_or(true, |file| fadvise(&file, 0, None, Advice::DontNeed).is_ok())
    })
}

#[cfg(not(target_os = "linux"))]
fn evict(_folder: &Path) -> bool {
    false
}
