//! Checking a data directory that no server runs on: the log by itself, and whether the broker
//! understands what the log keeps for it.
//!
//! It changes nothing unless it is asked to set damage aside.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use claudebus_storage::disk::Disk;
use claudebus_storage::verify::{
    Finding, Harm, QuarantineError, Quarantined, Verified, quarantine, verify,
};
use claudebus_storage::{Engine, RealDisk, RealDiskError, StreamId};

use super::clock::Clock;
use crate::broker::{Broker, BrokerOptions, stream_names};
use crate::model::limits::Limits;

/// Why a data directory cannot be checked at all.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// There is no data directory there.
    #[error("{} is no data directory: it has no file FORMAT and no directory manifest", path.display())]
    NoData {
        /// The path.
        path: PathBuf,
    },
    /// It is in use, or cannot be locked.
    #[error("{0}")]
    Disk(#[from] RealDiskError),
    /// A directory in it cannot be listed.
    #[error("cannot list {}: {source}", path.display())]
    List {
        /// The data directory.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Damage could not be set aside.
    #[error(transparent)]
    Quarantine(#[from] QuarantineError),
}

/// What was found in a data directory.
#[derive(Debug)]
pub struct Verification {
    /// What was gone through.
    pub verified: Verified,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// The streams' names, as far as they are known.
    pub names: BTreeMap<StreamId, String>,
    /// What was set aside.
    pub set_aside: Vec<Quarantined>,
}

impl Verification {
    /// What to call a stream: its name, or its number if the name is not known.
    #[must_use]
    pub fn name(&self, id: StreamId) -> String {
        self.names.get(&id).cloned().unwrap_or_else(|| id.to_string())
    }
}

/// Checks the data directory, and sets aside what is damaged if `repair` is asked for.
///
/// # Errors
/// [`VerifyError`] if it cannot be checked; damage is a finding and no error.
pub fn verify_directory(path: &Path, repair: bool) -> Result<Verification, VerifyError> {
    // Opening makes the directory if it is not there, which is not what was meant here.
    if !path.join("FORMAT").exists() && !path.join("manifest").is_dir() {
        return Err(VerifyError::NoData { path: path.to_path_buf() });
    }
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(path)?);
    let mut findings = Vec::new();
    let (mut verified, engine) = verify(&disk, &mut |finding| findings.push(finding))
        .map_err(|source| VerifyError::List { path: path.to_path_buf(), source })?;
    let starts = engine.is_some();
    let names = engine.as_ref().map(stream_names).unwrap_or_default();
    findings.extend(engine.and_then(restore));
    verified.findings = findings.len() as u64;
    let set_aside = if repair { quarantine(disk.as_ref(), &findings, starts)? } else { Vec::new() };
    Ok(Verification { verified, findings, names, set_aside })
}

/// Has a broker begin on the log as it would be recovered; what it says if it cannot.
fn restore(engine: Engine) -> Option<Finding> {
    let options = BrokerOptions {
        limits: Limits::default(),
        default_streams: Vec::new(),
        server_name: String::new(),
        seed: 0,
    };
    let error = Broker::open(engine, options, Clock::new().now()).err()?;
    Some(Finding {
        file: "state".to_owned(),
        bytes: None,
        lost: None,
        groups: None,
        what: error.to_string(),
        harm: Harm::Start,
    })
}
