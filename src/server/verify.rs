//! Checking a data directory that no server runs on: the log by itself, and whether the broker
//! understands what the log keeps for it.
//!
//! It changes nothing unless it is asked to set damage aside.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use claudebus_storage::copies::repair_all;
use claudebus_storage::disk::Disk;
use claudebus_storage::verify::{
    Finding, Harm, QuarantineError, Quarantined, Verified, quarantine, verify,
};
use claudebus_storage::{Engine, RealDisk, RealDiskError, StreamId};

use super::clock::Clock;
use super::disk::{Found, find_copies};
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
    /// Copies could not be made again.
    #[error("cannot make the copies in {} again: {source}; what is whole was not changed", path.display())]
    Repair {
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
    /// How many damaged or missing copies of files were made again.
    pub repaired: u64,
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
    let first: Arc<dyn Disk> = Arc::new(RealDisk::open(path)?);
    let mut findings = Vec::new();
    let disk = match find_copies(path, &first)? {
        Found::None => first,
        Found::Twin(disk) => disk,
        Found::Unusable(place) => {
            findings.push(unusable(&place));
            first
        }
    };
    let (verified, engine) = verify(&disk, &mut |finding| findings.push(finding))
        .map_err(|source| VerifyError::List { path: path.to_path_buf(), source })?;
    let starts = engine.is_some();
    let names = engine.as_ref().map(stream_names).unwrap_or_default();
    findings.extend(engine.and_then(restore));
    let (mut set_aside, mut repaired) = (Vec::new(), 0);
    if repair {
        set_aside = quarantine(disk.as_ref(), &findings, starts)?;
        repaired = repair_all(disk.as_ref())
            .map_err(|source| VerifyError::Repair { path: path.to_path_buf(), source })?;
    }
    Ok(Verification { verified, findings, names, set_aside, repaired })
}

/// There should be copies, and there are none that can be used.
fn unusable(place: &Path) -> Finding {
    Finding {
        file: "COPIES".to_owned(),
        copy: Some(2),
        bytes: None,
        lost: None,
        groups: None,
        what: format!("the copies in {} are missing or out of date", place.display()),
        harm: Harm::Copies,
    }
}

/// Has a broker begin on the log as it would be recovered; what it says if it cannot.
fn restore(engine: Engine) -> Option<Finding> {
    let options = BrokerOptions {
        limits: Limits::default(),
        default_streams: Vec::new(),
        server_name: String::new(),
        domain: None,
        seed: 0,
    };
    let error = Broker::open(engine, options, Clock::new().now()).err()?;
    Some(Finding {
        file: "state".to_owned(),
        copy: None,
        bytes: None,
        lost: None,
        groups: None,
        what: error.to_string(),
        harm: Harm::Start,
    })
}
