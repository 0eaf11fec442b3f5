//! Takes acknowledged bytes away, to see that the oracle notices.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::SystemTime;

/// Wipes the journal file that was written last: its bytes look as if they had never been written.
pub fn wipe_newest_journal(data: &Path) -> io::Result<()> {
    let mut newest: Option<(SystemTime, std::path::PathBuf)> = None;
    for entry in fs::read_dir(data.join("journal"))? {
        let entry = entry?;
        let written = entry.metadata()?.modified()?;
        if newest.as_ref().is_none_or(|(when, _)| *when < written) {
            newest = Some((written, entry.path()));
        }
    }
    let Some((_, path)) = newest else {
        return Err(io::Error::other("there is no journal file to wipe"));
    };
    let file = File::options().write(true).open(&path)?;
    let len = file.metadata()?.len();
    file.set_len(0)?;
    file.set_len(len)?;
    println!("wiped {}", path.display());
    Ok(())
}
