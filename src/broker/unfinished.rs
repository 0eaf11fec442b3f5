//! Jobs that must be finished even if the process ends before: what follows from something that
//! was confirmed. An acknowledgement that is durable settles its message for ever, so nothing else
//! would delete it from a work queue again; the same holds for what a rollup replaces.
//!
//! Such a job is written to the log in the group of what it follows from, unless it is done within
//! that turn, and starts anew after a restart. All of them may be done twice. Limits need none of
//! this: they are looked at when a broker begins.

use claudebus_storage::log::Filter;
use claudebus_storage::{Log, StreamId};
use serde::{Deserialize, Serialize};

use super::Broker;
use super::jobs::{Job, JobId, Task};
use super::restore::{RestoreError, not_understood};
use super::state;

/// A job as it is kept.
#[derive(Serialize, Deserialize)]
struct KeptJob {
    /// Patterns of the filter; none match everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    subjects: Vec<String>,
    task: KeptTask,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum KeptTask {
    /// What is below this sequence was replaced.
    RollUp { below: u64 },
    /// These were settled: first and last sequences of ranges.
    Discard { ranges: Vec<(u64, u64)> },
    /// What nobody wants goes, up to this sequence.
    Disinterest { until: u64 },
    /// The message of a schedule that was ended.
    Delete { seq: u64 },
}

/// Rows of consecutive sequences as ranges.
fn ranges(seqs: impl IntoIterator<Item = u64>) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for seq in seqs {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(seq) => *last = seq,
            _ => ranges.push((seq, seq)),
        }
    }
    ranges
}

impl KeptJob {
    /// What is to be kept of a job; nothing if it may end with the process.
    fn of(job: &Job) -> Option<Self> {
        let task = match &job.task {
            Task::Purge { below, answer: None, .. } => KeptTask::RollUp { below: *below },
            Task::Discard { seqs } => KeptTask::Discard { ranges: ranges(seqs.iter().copied()) },
            Task::Disinterest { until, .. } => KeptTask::Disinterest { until: *until },
            Task::Delete { seq, must_finish: true, .. } => KeptTask::Delete { seq: *seq },
            _ => return None,
        };
        let patterns = job.filter.patterns().unwrap_or_default();
        let subjects = patterns.iter().map(ToString::to_string).collect();
        Some(Self { subjects, task })
    }

    fn into_job(self, stream: StreamId) -> Job {
        let task = match self.task {
            KeptTask::RollUp { below } => {
                Task::Purge { cursor: 0, below, left: u64::MAX, purged: 0, answer: None }
            }
            KeptTask::Discard { ranges } => Task::Discard {
                seqs: ranges.into_iter().flat_map(|(first, last)| first..=last).collect(),
            },
            KeptTask::Disinterest { until } => Task::Disinterest { cursor: 0, until },
            KeptTask::Delete { seq } => {
                Task::Delete { seq, must_finish: true, erase: false, answer: None }
            }
        };
        let filter = match self.subjects.as_slice() {
            [] => Filter::all(),
            subjects => Filter::any_of(subjects.iter().map(String::as_str)),
        };
        Job { stream, task, filter, kept: true }
    }
}

impl<L: Log> Broker<L> {
    /// Keeps a job that did not get done at once.
    pub(super) fn keep_job(&mut self, id: JobId) {
        if let Some(job) = self.jobs.get_mut(&id)
            && let Some(kept) = KeptJob::of(job)
        {
            job.kept = true;
            self.log.put(&state::job_key(job.stream, id), &state::to_json(&kept));
        }
    }

    /// Forgets a job that is done or has no object any more.
    pub(super) fn forget_job(&mut self, id: JobId, job: &Job) {
        if job.kept {
            self.log.forget(&state::job_key(job.stream, id));
        }
    }

    /// Leaves the numbers of kept jobs alone. To be called before any job is started: the answer to
    /// a read finds its job by number.
    pub(super) fn pass_kept_jobs(&mut self) {
        for (key, _) in self.log.states(state::JOBS) {
            if let Some((_, id)) = state::parse_job_key(&key) {
                self.next_job = self.next_job.max(id.0 + 1);
            }
        }
    }

    /// Starts the jobs that an earlier process did not finish.
    pub(super) fn restore_jobs(&mut self) -> Result<(), RestoreError> {
        let mut found = Vec::new();
        for (key, kept) in self.log.states(state::JOBS) {
            let (stream, id) = state::parse_job_key(&key)
                .ok_or_else(|| not_understood("a job", "its key has another form"))?;
            if self.catalog.get(stream).is_none() {
                self.log.forget(&key);
                continue;
            }
            let kept: KeptJob = serde_json::from_slice(&kept.base)
                .map_err(|why| not_understood(format!("a job on {stream}"), why))?;
            self.jobs.insert(id, kept.into_job(stream));
            found.push(id);
        }
        for id in found {
            self.run_job(id);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_ranges() {
        assert_eq!(ranges([]), []);
        assert_eq!(
            ranges([3, 4, 5, 9, 8, u64::MAX]),
            [(3, 5), (9, 9), (8, 8), (u64::MAX, u64::MAX)]
        );
    }
}
