//! CLAUDEBUS_CRASH_AT, a testing aid: the process ends at a named place in storage, as if it had
//! been killed there.
//!
//! `CLAUDEBUS_CRASH_AT=<place>:<n>` aborts at the n-th passage of the place, counted from 1.
//! Nothing is flushed or cleaned up. Not for any other use.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use claudebus_storage::CrashPoints;

use crate::cli::exit::{Exit, Failure};

/// The variable.
pub(super) const CRASH_VARIABLE: &str = "CLAUDEBUS_CRASH_AT";

/// Where this process ends. Storage calls a plain function, which finds it here.
static PLAN: OnceLock<Plan> = OnceLock::new();

/// Which place, and how many passages are left.
#[derive(Debug)]
struct Plan {
    place: String,
    left: AtomicU64,
}

impl Plan {
    /// Reads `<place>:<n>`.
    fn parse(text: &str) -> Option<Self> {
        let (place, count) = text.rsplit_once(':')?;
        let count: u64 = count.parse().ok().filter(|count| *count > 0)?;
        (!place.is_empty()).then(|| Self { place: place.to_owned(), left: AtomicU64::new(count) })
    }

    /// Counts a passage; true at the one that was asked for.
    fn is_due(&self, place: &str) -> bool {
        place == self.place && self.left.fetch_sub(1, Ordering::Relaxed) == 1
    }
}

/// The crash points that `value` asks for, which is what the variable holds.
pub(super) fn crash_points(value: Option<&str>) -> Result<CrashPoints, Failure> {
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        return Ok(CrashPoints::default());
    };
    let plan = Plan::parse(value).ok_or_else(|| {
        Failure::new(Exit::Config, format_args!("{CRASH_VARIABLE}=`{value}` is no crash point"))
            .hint("write <place>:<n>, n from 1; unset the variable unless you are testing")
    })?;
    // Only one server runs in a process; a second plan would find the first.
    let _ = PLAN.set(plan);
    Ok(CrashPoints::new(passed))
}

/// Called by storage at every place.
fn passed(place: &'static str) {
    if PLAN.get().is_some_and(|plan| plan.is_due(place)) {
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_due_at_its_passage_only() {
        let plan = Plan::parse("journal:before-sync:2").unwrap();
        assert_eq!(plan.place, "journal:before-sync");
        let due: Vec<bool> =
            ["journal:before-sync", "x", "journal:before-sync", "journal:before-sync"]
                .iter()
                .map(|place| plan.is_due(place))
                .collect();
        assert_eq!(due, [false, false, true, false]);
        for bad in ["", "x", "x:", "x:0", "x:-1", ":1", "x:y"] {
            assert!(Plan::parse(bad).is_none(), "{bad}");
        }
    }
}
