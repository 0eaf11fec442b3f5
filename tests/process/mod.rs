//! A broker as a process of its own, under test: started, waited for, killed.
//!
//! It knows the command line and the file that says the server is ready; it opens no connection.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs::File;
use std::io;
use std::net::UdpSocket;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How often a condition is looked at while waiting for it.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// How a broker is started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Its data directory.
    pub data: PathBuf,
    /// The UDP port of the QUIC listener, on loopback.
    pub port: u16,
    /// The TCP port of the HTTP listener, on loopback.
    pub http: u16,
    /// More arguments of `serve`.
    pub arguments: Vec<String>,
    /// What stands before the program: a tracer with its arguments, or nothing.
    pub wrapper: Vec<String>,
    /// Where it ends by itself, `<point>:<n>`.
    pub crash_at: Option<String>,
}

impl Launch {
    /// A broker with this data directory, on free ports.
    pub fn new(data: &Path) -> io::Result<Self> {
        Ok(Self {
            data: data.to_path_buf(),
            port: free_udp_port()?,
            http: free_tcp_port()?,
            arguments: Vec::new(),
            wrapper: Vec::new(),
            crash_at: None,
        })
    }

    /// The same with more arguments of `serve`.
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|&a| a.to_owned()));
        self
    }

    /// Where clients find it.
    pub fn url(&self) -> String {
        format!("quic://127.0.0.1:{}", self.port)
    }

    /// The certificate authority that clients must believe.
    pub fn ca_file(&self) -> PathBuf {
        self.data.join("tls").join("ca.pem")
    }

    fn ready_file(&self) -> PathBuf {
        self.data.with_extension("ready")
    }

    /// What the broker printed.
    pub fn log_file(&self) -> PathBuf {
        self.data.with_extension("log")
    }

    /// Starts the process; does not wait for it to be ready.
    pub fn start(&self) -> io::Result<Broker> {
        let ready = self.ready_file();
        match std::fs::remove_file(&ready) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let program = env!("CARGO_BIN_EXE_claudebus");
        let mut command = match self.wrapper.split_first() {
            Some((wrapper, arguments)) => {
                let mut command = Command::new(wrapper);
                command.args(arguments).arg(program);
                command
            }
            None => Command::new(program),
        };
        let log = File::options().create(true).append(true).open(self.log_file())?;
        command
            .arg("serve")
            .arg("--data")
            .arg(&self.data)
            .args(["--quic", &format!("127.0.0.1:{}", self.port)])
            .args(["--http", &format!("127.0.0.1:{}", self.http)])
            .args(["--nats", "off"])
            .arg("--ready-file")
            .arg(&ready)
            .args(&self.arguments)
            // Clients of this machine must not take it for their server.
            .env("CLAUDEBUS_CONTEXT", self.data.with_extension("context"))
            .env_remove("CLAUDEBUS_CRASH_AT")
            .envs(self.crash_at.iter().map(|at| ("CLAUDEBUS_CRASH_AT", at)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let started = Instant::now();
        Ok(Broker { child: command.spawn()?, ready, started })
    }
}

/// A running broker. Killed when dropped.
#[derive(Debug)]
pub struct Broker {
    child: Child,
    ready: PathBuf,
    /// When the process was started.
    pub started: Instant,
}

/// How a wait for a broker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// It is ready.
    Ready,
    /// The process is over.
    Ended(ExitStatus),
    /// Neither happened in time.
    TimedOut,
}

impl Broker {
    /// The process id; of the wrapper, if there is one.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it accepts connections, or did before it ended.
    pub fn was_ready(&self) -> bool {
        self.ready.exists()
    }

    /// Waits until it accepts connections, ends, or `limit` is over.
    pub fn wait_ready(&mut self, limit: Duration) -> io::Result<Waited> {
        let ready = self.ready.clone();
        self.wait_for(limit, || ready.exists())
    }

    /// Waits until it ends by itself or `limit` is over.
    pub fn wait_end(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        match self.wait_for(limit, || false)? {
            Waited::Ended(status) => Ok(Some(status)),
            Waited::Ready | Waited::TimedOut => Ok(None),
        }
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    fn wait_for(&mut self, limit: Duration, mut is: impl FnMut() -> bool) -> io::Result<Waited> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Waited::Ended(status));
            }
            if is() {
                return Ok(Waited::Ready);
            }
            if Instant::now() >= end {
                return Ok(Waited::TimedOut);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// `kill -9`, and waits for the end. Says whether the kill is what ended it.
    pub fn kill(&mut self) -> io::Result<bool> {
        self.send_kill()?;
        Ok(self.child.wait()?.signal() == Some(9))
    }
}

impl Broker {
    /// Sends `SIGKILL` and does not wait, as for a process that is traced: the kernel waits with
    /// its end until its tracer has seen it.
    #[allow(dead_code)]
    pub fn send_kill(&mut self) -> io::Result<()> {
        self.child.kill()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may be over already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_udp_port() -> io::Result<u16> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn free_tcp_port() -> io::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
