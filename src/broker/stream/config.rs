//! Rules of stream configurations: defaults, what contradicts itself, what may change.

use std::time::Duration;

use crate::model::error::ApiError;
use crate::model::limits::Limits;
use crate::model::stream::{Discard, Retention, StreamConfig};
use crate::model::subject::{BAD_NAME, is_name, is_pattern, is_subset, overlap};

use super::origins;

/// The duplicate window of streams that name none.
const DEFAULT_WINDOW: Duration = Duration::from_secs(120);
/// The shortest `max_age` and duplicate window.
const MIN_WINDOW: Duration = Duration::from_millis(100);
/// Longest description, in bytes.
const MAX_DESCRIPTION: usize = 4096;
/// Most metadata, keys and values together, in bytes.
const MAX_METADATA: usize = 128 << 10;
/// Longest stream name, in bytes.
const MAX_NAME: usize = 255;

fn invalid<T>(why: impl std::fmt::Display) -> Result<T, ApiError> {
    Err(ApiError::stream_invalid_config(why))
}

/// Fills in defaults and checks what can be checked without other streams.
///
/// # Errors
/// The first thing that is wrong, as JetStream says it.
pub(in crate::broker) fn complete(
    mut config: StreamConfig,
    limits: &Limits,
) -> Result<StreamConfig, ApiError> {
    check_name(&config)?;
    config.description = config.description.filter(|text| !text.is_empty());
    if config.num_replicas > 5 {
        return invalid("maximum replicas is 5");
    }
    if config.num_replicas > 1 {
        return Err(ApiError::replicas_not_supported());
    }
    config.num_replicas = 1;
    for value in [
        &mut config.max_consumers,
        &mut config.max_msgs,
        &mut config.max_bytes,
        &mut config.max_msgs_per_subject,
        &mut config.max_msg_size,
    ] {
        if *value <= 0 {
            *value = -1;
        }
    }
    complete_times(&mut config, limits)?;
    origins::check_origins(&config)?;
    if config.subjects.is_empty() && !copies(&config) {
        config.subjects = vec![config.name.clone()];
    }
    check_subjects(&config)?;
    origins::complete_republish(&mut config)?;
    origins::check_transform(&config)?;
    check_features(&config)?;
    if config.discard_new_per_subject {
        if config.discard != Discard::New {
            return invalid("discard new per subject requires discard new policy to be set");
        }
        if config.max_msgs_per_subject <= 0 {
            return invalid("discard new per subject requires max msgs per subject > 0");
        }
    }
    if !config.subject_delete_marker_ttl.is_zero() {
        if config.subject_delete_marker_ttl < Duration::from_secs(1) {
            return invalid("subject delete marker TTL must be at least 1 second");
        }
        if config.deny_purge {
            return invalid("roll-ups require the purge permission");
        }
        config.allow_msg_ttl = true;
        config.allow_rollup_hdrs = true;
    }
    if config.allow_msg_schedules {
        // A schedule replaces the one before it on its subject.
        config.allow_rollup_hdrs = true;
    }
    if config.deny_purge && config.allow_rollup_hdrs {
        return invalid("roll-ups require the purge permission");
    }
    Ok(config)
}

/// What batches and counters cannot be together with.
fn check_features(config: &StreamConfig) -> Result<(), ApiError> {
    if config.mirror.is_some() && config.allow_atomic {
        return Err(ApiError::mirror_with_atomic());
    }
    if !config.allow_msg_counter {
        return Ok(());
    }
    if config.mirror.is_some() {
        return Err(ApiError::mirror_with_counters());
    }
    if config.discard == Discard::New {
        return invalid("counter stream cannot use discard new");
    }
    if config.retention != Retention::Limits {
        return invalid("counter stream can only use limits retention");
    }
    if config.allow_msg_ttl {
        return invalid("counter stream cannot use message TTLs");
    }
    if config.allow_msg_schedules {
        return invalid("counter stream cannot use message schedules");
    }
    Ok(())
}

/// Whether it copies from other streams.
fn copies(config: &StreamConfig) -> bool {
    config.mirror.is_some() || !config.sources.is_empty()
}

fn check_name(config: &StreamConfig) -> Result<(), ApiError> {
    let name = &config.name;
    if name.is_empty() {
        return invalid(BAD_NAME);
    }
    if name.len() > MAX_NAME {
        return invalid(format_args!("stream name is too long, maximum allowed is {MAX_NAME}"));
    }
    if name.contains(['/', '\\']) {
        return Err(ApiError::invalid_stream_name());
    }
    if !is_name(name) {
        return invalid(BAD_NAME);
    }
    if config.description.as_ref().is_some_and(|text| text.len() > MAX_DESCRIPTION) {
        return invalid(format_args!(
            "stream description is too long, maximum allowed is {MAX_DESCRIPTION}"
        ));
    }
    let metadata: usize = config.metadata.iter().map(|(k, v)| k.len() + v.len()).sum();
    if metadata > MAX_METADATA {
        return invalid("stream metadata exceeds maximum size of 128.00 KB");
    }
    Ok(())
}

fn complete_times(config: &mut StreamConfig, limits: &Limits) -> Result<(), ApiError> {
    if !config.max_age.is_zero() && config.max_age < MIN_WINDOW {
        return invalid("max age needs to be >= 100ms");
    }
    let longest = if config.max_age.is_zero() { Duration::MAX } else { config.max_age };
    if config.duplicate_window.is_zero() {
        // A copy is known by where it was, and not by an id.
        if copies(config) {
            return Ok(());
        }
        config.duplicate_window = DEFAULT_WINDOW.min(longest);
    }
    if config.duplicate_window > longest {
        return invalid("duplicates window can not be larger then max age");
    }
    if config.duplicate_window < MIN_WINDOW {
        return invalid("duplicates window needs to be >= 100ms");
    }
    if config.duplicate_window > limits.max_duplicate_window {
        return invalid(format_args!(
            "duplicates window can not be larger than the server's limit of {}",
            humantime::format_duration(limits.max_duplicate_window)
        ));
    }
    Ok(())
}

fn check_subjects(config: &StreamConfig) -> Result<(), ApiError> {
    for (at, subject) in config.subjects.iter().enumerate() {
        if !is_pattern(subject) {
            return invalid("invalid subject");
        }
        for other in config.subjects.iter().skip(at + 1) {
            if overlap(subject, other) {
                return invalid(format_args!("subject \"{subject}\" overlaps with \"{other}\""));
            }
        }
        if config.no_ack {
            continue;
        }
        // Capturing these would answer every request of a client with a second reply.
        if subject == ">" {
            return invalid("capturing all subjects requires no-ack to be true");
        }
        let api = ["$JS.>", "$JSC.>", "$NRG.>"].iter().any(|api| overlap(subject, api));
        if api && !is_subset(subject, "$JS.EVENT.>") {
            return invalid("subjects that overlap with jetstream api require no-ack to be true");
        }
        if overlap(subject, "$SYS.>") && !is_subset(subject, "$SYS.ACCOUNT.>") {
            return invalid("subjects that overlap with system api require no-ack to be true");
        }
    }
    Ok(())
}

/// Checks that `old` may become `new`, and completes what follows from the change.
///
/// # Errors
/// What may not change, as JetStream says it.
pub(in crate::broker) fn check_update(
    old: &StreamConfig,
    mut new: StreamConfig,
) -> Result<StreamConfig, ApiError> {
    let wrong = |why: &str| {
        Err(ApiError::stream_invalid_update(format_args!(
            "stream configuration update can not {why}"
        )))
    };
    if new.sealed {
        new.max_age = Duration::ZERO;
        new.discard = Discard::New;
        new.deny_delete = true;
        new.deny_purge = true;
        new.allow_rollup_hdrs = false;
    }
    if old.storage != new.storage {
        return wrong("change storage type");
    }
    let queue = |config: &StreamConfig| config.retention == Retention::WorkQueue;
    if queue(old) != queue(&new) {
        return wrong("change retention policy to/from workqueue");
    }
    if old.sealed && !new.sealed {
        return wrong("unseal a sealed stream");
    }
    if old.deny_delete && !new.deny_delete {
        return wrong("cancel deny message deletes");
    }
    if old.deny_purge && !new.deny_purge {
        return wrong("cancel deny purge");
    }
    if new.mirror.is_some() && new.mirror != old.mirror {
        return Err(ApiError::mirror_not_updatable());
    }
    if old.allow_msg_counter != new.allow_msg_counter {
        return wrong("change message counter setting");
    }
    if old.allow_msg_ttl && !new.allow_msg_ttl {
        return Err(ApiError::stream_invalid_update("message TTL status can not be disabled"));
    }
    if old.allow_msg_schedules && !new.allow_msg_schedules {
        return Err(ApiError::stream_invalid_update("message schedules can not be disabled"));
    }
    Ok(new)
}

/// Whether two complete configurations mean the same; metadata of tools (`_nats.*`) is ignored.
pub(in crate::broker) fn is_same(left: &StreamConfig, right: &StreamConfig) -> bool {
    let plain = |config: &StreamConfig| {
        let mut config = config.clone();
        config.metadata.retain(|key, _| !key.starts_with("_nats."));
        config
    };
    plain(left) == plain(right)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use super::*;

    fn named(name: &str) -> StreamConfig {
        StreamConfig { name: name.into(), ..StreamConfig::default() }
    }

    fn completed(change: impl FnOnce(&mut StreamConfig)) -> Result<StreamConfig, ApiError> {
        let mut config = named("S");
        change(&mut config);
        complete(config, &Limits::default())
    }

    #[test]
    fn defaults_are_jetstreams() {
        let config = completed(|c| c.max_msgs = 0).unwrap();
        assert_eq!(config.subjects, ["S"]);
        assert_eq!((config.max_msgs, config.num_replicas), (-1, 1));
        assert_eq!(config.duplicate_window, Duration::from_secs(120));
        let short = completed(|c| c.max_age = Duration::from_secs(1)).unwrap();
        assert_eq!(short.duplicate_window, Duration::from_secs(1));
    }

    #[test]
    fn the_shortest_max_age_and_one_below() {
        assert!(completed(|c| c.max_age = Duration::from_millis(100)).is_ok());
        let error = completed(|c| c.max_age = Duration::from_millis(99)).unwrap_err();
        assert_eq!(error.err_code, 10052);
    }

    #[test]
    fn contradictions_are_refused() {
        let refused = |change: fn(&mut StreamConfig)| completed(change).unwrap_err().err_code;
        assert_eq!(refused(|c| c.name = "a/b".into()), 10128);
        assert_eq!(refused(|c| c.name = "a.b".into()), 10052);
        assert_eq!(refused(|c| c.name = "x".repeat(256)), 10052);
        assert!(completed(|c| c.name = "x".repeat(255)).is_ok());
        assert_eq!(refused(|c| c.num_replicas = 3), 10074);
        assert_eq!(refused(|c| c.subjects = vec![">".into()]), 10052);
        assert_eq!(refused(|c| c.subjects = vec!["$JS.API.>".into()]), 10052);
        assert_eq!(refused(|c| c.subjects = vec!["a.*".into(), "a.b".into()]), 10052);
        assert_eq!(refused(|c| c.discard_new_per_subject = true), 10052);
        assert_eq!(
            refused(|c| {
                c.deny_purge = true;
                c.allow_rollup_hdrs = true;
            }),
            10052
        );
        assert!(completed(|c| c.subjects = vec!["$JS.EVENT.ADVISORY.>".into()]).is_ok());
        assert!(
            completed(|c| {
                c.subjects = vec![">".into()];
                c.no_ack = true;
            })
            .is_ok()
        );
    }

    #[test]
    fn what_may_not_change() {
        let old = completed(|c| c.deny_delete = true).unwrap();
        assert!(check_update(&old, old.clone()).is_ok());
        let refused = |change: fn(&mut StreamConfig)| {
            let mut new = old.clone();
            change(&mut new);
            check_update(&old, new).unwrap_err().err_code
        };
        assert_eq!(refused(|c| c.storage = crate::model::stream::Storage::Memory), 10052);
        assert_eq!(refused(|c| c.retention = Retention::WorkQueue), 10052);
        assert_eq!(refused(|c| c.deny_delete = false), 10052);
        let mut sealed = old.clone();
        sealed.sealed = true;
        let sealed = check_update(&old, sealed).unwrap();
        assert!(sealed.deny_purge && sealed.discard == Discard::New);
        assert!(check_update(&sealed, old.clone()).is_err());
        let mut other = old.clone();
        (other.max_consumers, other.first_seq) = (3, 10);
        assert_eq!(check_update(&old, other.clone()).unwrap(), other);
        // What sealing implies need not be said to seal once more.
        let mut again = old.clone();
        again.sealed = true;
        assert_eq!(check_update(&sealed, again).unwrap(), sealed);
    }

    #[test]
    fn tools_metadata_makes_no_difference() {
        let plain = completed(|_| {}).unwrap();
        let marked = completed(|c| {
            c.metadata.insert("_nats.level".into(), "1".into());
        })
        .unwrap();
        assert!(is_same(&plain, &marked));
        let other = completed(|c| {
            c.metadata.insert("a".into(), "1".into());
        })
        .unwrap();
        assert!(!is_same(&plain, &other));
    }
}
