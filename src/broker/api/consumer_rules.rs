//! Rules of consumer configurations: defaults, what contradicts itself or its stream, what may
//! change.

use std::num::IntErrorKind;
use std::time::Duration;

use crate::model::consumer::{
    AckPolicy, ConsumerConfig, DeliverPolicy, PriorityPolicy, ReplayPolicy, is_group_name,
};
use crate::model::duration;
use crate::model::error::ApiError;
use crate::model::headers::is_key;
use crate::model::limits::Limits;
use crate::model::stream::{Retention, StreamConfig};
use crate::model::subject::{is_name, is_pattern, is_publishable, matches, overlap};

/// How long an application has to acknowledge, unless it says otherwise.
const DEFAULT_ACK_WAIT: Duration = Duration::from_secs(30);
/// Deliveries that may await acknowledgement, unless the consumer says otherwise.
const DEFAULT_MAX_ACK_PENDING: i64 = 1000;
/// Pulls that may wait, unless the consumer says otherwise.
const DEFAULT_MAX_WAITING: i64 = 512;
/// After how long unused an ephemeral consumer is deleted.
const DEFAULT_INACTIVE: Duration = Duration::from_secs(5);
/// Shortest idle heartbeat.
const MIN_HEARTBEAT: Duration = Duration::from_millis(100);
/// Shortest limit for how long a pull may wait.
const MIN_EXPIRES: Duration = Duration::from_millis(1);
/// How long a pinned client may be silent, unless the consumer says otherwise.
const DEFAULT_PRIORITY_TIMEOUT: Duration = Duration::from_mins(2);
/// Fastest replay, in percent: ten thousand times as fast. Beyond that it is instant.
const MAX_REPLAY_PERCENT: u64 = 1_000_000;
/// Longest name, in bytes.
const MAX_NAME: usize = 255;

fn policy<T>(why: impl std::fmt::Display) -> Result<T, ApiError> {
    Err(ApiError::consumer_invalid_policy(why))
}

/// Checks the name, which the configuration need not hold, and the durable name.
pub(super) fn check_name(name: &str, config: &ConsumerConfig) -> Result<(), ApiError> {
    if config.durable_name.as_deref().is_some_and(|durable| durable != name) {
        return Err(ApiError::consumer_durable_mismatch());
    }
    if name.len() > MAX_NAME {
        return Err(ApiError::consumer_name_too_long(MAX_NAME));
    }
    if is_name(name) { Ok(()) } else { Err(ApiError::consumer_bad_name()) }
}

/// Checks a consumer of this name without others of its stream, and fills in defaults.
pub(in crate::broker) fn complete_named(
    name: &str,
    config: ConsumerConfig,
    stream: &StreamConfig,
    limits: &Limits,
) -> Result<ConsumerConfig, ApiError> {
    check_name(name, &config)?;
    complete(config, stream, limits)
}

/// Fills in defaults and checks what can be checked without other consumers.
pub(super) fn complete(
    mut config: ConsumerConfig,
    stream: &StreamConfig,
    limits: &Limits,
) -> Result<ConsumerConfig, ApiError> {
    if config.num_replicas > 1 {
        return Err(ApiError::replicas_not_supported());
    }
    check_filters(&config)?;
    check_start(&config)?;
    if config.max_deliver <= 0 {
        config.max_deliver = -1;
    }
    let attempts = usize::try_from(config.max_deliver).unwrap_or(usize::MAX);
    if config.backoff.len() > attempts {
        return Err(ApiError::backoff_longer_than_max_deliver());
    }
    if let Some(first) = config.backoff.first() {
        config.ack_wait = *first;
    }
    check_order(&config)?;
    if config.replay_percent > 0 && config.replay_policy != ReplayPolicy::Original {
        return policy("consumer replay_percent requires replay policy original");
    }
    if config.replay_percent > MAX_REPLAY_PERCENT {
        return policy(format_args!("consumer replay_percent is {MAX_REPLAY_PERCENT} at most"));
    }
    check_sampling(&config)?;
    complete_acks(&mut config, stream)?;
    if config.deliver_subject.is_some() {
        complete_push(&config, stream)?;
    } else {
        complete_pull(&mut config, limits)?;
    }
    complete_groups(&mut config)?;
    let longest = stream.consumer_limits.inactive_threshold;
    if !longest.is_zero() {
        if config.inactive_threshold.is_zero() {
            config.inactive_threshold = longest;
        }
        if config.inactive_threshold > longest {
            return Err(ApiError::inactive_threshold_excess(duration::as_go(longest)));
        }
    }
    if config.durable_name.is_none() && config.inactive_threshold.is_zero() {
        config.inactive_threshold = DEFAULT_INACTIVE;
    }
    Ok(config)
}

fn complete_acks(config: &mut ConsumerConfig, stream: &StreamConfig) -> Result<(), ApiError> {
    let most = stream.consumer_limits.max_ack_pending;
    if config.ack_policy == AckPolicy::None {
        // Nothing awaits acknowledgement; the limit is shown all the same, as by nats-server.
        if config.max_ack_pending == 0 && most > 0 {
            config.max_ack_pending = most;
        }
        return Ok(());
    }
    if config.ack_wait.is_zero() {
        config.ack_wait = DEFAULT_ACK_WAIT;
    }
    if config.max_ack_pending == 0 {
        config.max_ack_pending = if most > 0 { most } else { DEFAULT_MAX_ACK_PENDING };
    }
    if config.max_ack_pending < 0 {
        config.max_ack_pending = -1;
    }
    if most > 0 && !(1..=most).contains(&config.max_ack_pending) {
        return Err(ApiError::consumer_max_pending_ack(most));
    }
    Ok(())
}

fn check_order(config: &ConsumerConfig) -> Result<(), ApiError> {
    if config.order_by.is_none() && !config.by_priority {
        return Ok(());
    }
    if config.order_by.as_deref().is_some_and(|key| !is_key(key)) {
        return policy("consumer order_by is \"subject\" or the name of a header");
    }
    if config.ack_policy != AckPolicy::Explicit {
        return policy("consumer order_by and by_priority require explicit acknowledgements");
    }
    if config.by_priority && config.replay_policy == ReplayPolicy::Original {
        return policy("consumer by_priority contradicts replay at original speed");
    }
    Ok(())
}

fn complete_push(config: &ConsumerConfig, stream: &StreamConfig) -> Result<(), ApiError> {
    let subject = config.deliver_subject.as_deref().unwrap_or_default();
    if !is_pattern(subject) {
        return Err(ApiError::invalid_deliver_subject());
    }
    if !is_publishable(subject) {
        return Err(ApiError::deliver_to_wildcards());
    }
    if stream.subjects.iter().any(|captured| matches(captured, subject)) {
        return Err(ApiError::deliver_cycle());
    }
    if config.max_waiting != 0 {
        return Err(ApiError::push_max_waiting());
    }
    if config.ack_policy == AckPolicy::None && config.max_ack_pending > 0 {
        return Err(ApiError::max_ack_pending_without_acks());
    }
    if config.flow_control && config.idle_heartbeat.is_zero() {
        return Err(ApiError::flow_control_requires_heartbeat());
    }
    if !config.idle_heartbeat.is_zero() && config.idle_heartbeat < MIN_HEARTBEAT {
        return Err(ApiError::small_heartbeat());
    }
    Ok(())
}

fn complete_pull(config: &mut ConsumerConfig, limits: &Limits) -> Result<(), ApiError> {
    if config.max_waiting <= 0 {
        config.max_waiting = DEFAULT_MAX_WAITING;
    }
    let most = i64::try_from(limits.max_request_batch).unwrap_or(i64::MAX);
    if config.max_batch <= 0 {
        config.max_batch = most;
    } else if most > 0 && config.max_batch > most {
        return Err(ApiError::consumer_max_request_batch(most));
    }
    if !config.max_expires.is_zero() && config.max_expires < MIN_EXPIRES {
        return Err(ApiError::max_expires_too_small());
    }
    if !config.idle_heartbeat.is_zero() {
        return Err(ApiError::heartbeat_requires_push());
    }
    if config.flow_control {
        return Err(ApiError::flow_control_requires_push());
    }
    if config.rate_limit_bps > 0 {
        return Err(ApiError::pull_with_rate_limit());
    }
    Ok(())
}

fn complete_groups(config: &mut ConsumerConfig) -> Result<(), ApiError> {
    if config.priority_policy == PriorityPolicy::None {
        if !config.priority_groups.is_empty() {
            return Err(ApiError::priority_group_without_policy());
        }
        if !config.priority_timeout.is_zero() {
            return Err(ApiError::pinned_ttl_without_policy());
        }
        return Ok(());
    }
    if config.deliver_subject.is_some() {
        return Err(ApiError::push_with_priority_group());
    }
    if config.priority_groups.is_empty() {
        return Err(ApiError::priority_policy_without_group());
    }
    match config.priority_groups.iter().find(|name| !is_group_name(name)) {
        Some(name) if name.is_empty() => return Err(ApiError::empty_group_name()),
        Some(_) => return Err(ApiError::invalid_group_name()),
        None => {}
    }
    if config.priority_policy == PriorityPolicy::PinnedClient && config.priority_timeout.is_zero() {
        config.priority_timeout = DEFAULT_PRIORITY_TIMEOUT;
    }
    Ok(())
}

/// The share of acknowledgements that are sampled is a whole number, with `%` behind it or not.
fn check_sampling(config: &ConsumerConfig) -> Result<(), ApiError> {
    let Some(share) = config.sample_freq.as_deref() else { return Ok(()) };
    let number = share.strip_suffix('%').unwrap_or(share);
    // The words are those of the real server's language.
    let why = match number.parse::<i64>() {
        Ok(_) => return Ok(()),
        Err(error) => match error.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        },
    };
    let why = format!("strconv.Atoi: parsing {number:?}: {why}");
    Err(ApiError::consumer_invalid_sampling(why))
}

fn check_filters(config: &ConsumerConfig) -> Result<(), ApiError> {
    let single = config.filter_subject.as_deref().is_some_and(|filter| !filter.is_empty());
    if single && !config.filter_subjects.is_empty() {
        return Err(ApiError::consumer_duplicate_filters());
    }
    for (at, filter) in config.filter_subjects.iter().enumerate() {
        if filter.is_empty() {
            return Err(ApiError::consumer_empty_filter());
        }
        if config.filter_subjects.iter().skip(at + 1).any(|other| overlap(filter, other)) {
            return Err(ApiError::consumer_overlapping_filters());
        }
    }
    match config.filters().find(|filter| !is_pattern(filter)) {
        Some(_) => Err(ApiError::stream_invalid_config("invalid subject")),
        None => Ok(()),
    }
}

fn check_start(config: &ConsumerConfig) -> Result<(), ApiError> {
    let (seq, time) = (config.opt_start_seq > 0, config.opt_start_time.is_some());
    match config.deliver_policy {
        DeliverPolicy::ByStartSequence if !seq => policy(
            "consumer delivery policy is deliver by start sequence, but optional start sequence is not set",
        ),
        DeliverPolicy::ByStartTime if !time => policy(
            "consumer delivery policy is deliver by start time, but optional start time is not set",
        ),
        DeliverPolicy::LastPerSubject if config.filters().next().is_none() => {
            Err(ApiError::last_per_subject_requires_filter())
        }
        DeliverPolicy::ByStartSequence if time => policy(
            "consumer delivery policy is deliver by start sequence, but optional start time is also set",
        ),
        DeliverPolicy::ByStartTime if seq => policy(
            // Twice "start": so the real server says it.
            "consumer delivery policy is deliver by start time, but optional start start sequence is also set",
        ),
        DeliverPolicy::ByStartSequence | DeliverPolicy::ByStartTime => Ok(()),
        other if seq || time => {
            let way = match other {
                DeliverPolicy::Last => "last",
                DeliverPolicy::New => "new",
                DeliverPolicy::LastPerSubject => "last per subject",
                _ => "all",
            };
            let start = if seq { "sequence" } else { "time" };
            policy(format_args!(
                "consumer delivery policy is deliver {way}, but optional start {start} is also set"
            ))
        }
        _ => Ok(()),
    }
}

/// Checks a consumer of a work queue against the others.
pub(super) fn check_among<'a>(
    config: &ConsumerConfig,
    stream: &StreamConfig,
    others: impl Iterator<Item = &'a ConsumerConfig>,
) -> Result<(), ApiError> {
    if stream.retention != Retention::WorkQueue {
        return Ok(());
    }
    if config.ack_policy != AckPolicy::Explicit {
        let pull_without = config.deliver_subject.is_none() && config.ack_policy == AckPolicy::None;
        return Err(if pull_without {
            ApiError::pull_requires_ack()
        } else {
            ApiError::workqueue_explicit_ack()
        });
    }
    if config.deliver_policy != DeliverPolicy::All {
        return Err(ApiError::workqueue_deliver_all());
    }
    for other in others {
        if config.filters().next().is_none() || other.filters().next().is_none() {
            return Err(ApiError::workqueue_multiple_unfiltered());
        }
        if config.filters().any(|ours| other.filters().any(|theirs| overlap(ours, theirs))) {
            return Err(ApiError::workqueue_not_unique());
        }
    }
    Ok(())
}

/// Checks that `old` may become `new`. `bound` tells whether a push consumer has a listener.
pub(super) fn check_update(
    old: &ConsumerConfig,
    new: &ConsumerConfig,
    bound: bool,
) -> Result<(), ApiError> {
    let fixed = [
        (old.deliver_policy != new.deliver_policy, "deliver policy can not be updated"),
        (old.opt_start_seq != new.opt_start_seq, "start sequence can not be updated"),
        (old.opt_start_time != new.opt_start_time, "start time can not be updated"),
        (old.ack_policy != new.ack_policy, "ack policy can not be updated"),
        (old.replay_policy != new.replay_policy, "replay policy can not be updated"),
        (old.idle_heartbeat != new.idle_heartbeat, "heart beats can not be updated"),
        (old.flow_control != new.flow_control, "flow control can not be updated"),
        (old.mem_storage != new.mem_storage, "memory storage can not be updated"),
        (old.durable_name != new.durable_name, "durable name can not be updated"),
        (
            old.deliver_subject.is_none() && new.deliver_subject.is_some(),
            "can not update pull consumer to push based",
        ),
        (
            old.deliver_subject.is_some() && new.deliver_subject.is_none(),
            "can not update push consumer to pull based",
        ),
        (old.max_waiting != new.max_waiting, "max waiting can not be updated"),
        (old.order_by != new.order_by, "order_by can not be updated"),
        (old.by_priority != new.by_priority, "by_priority can not be updated"),
    ];
    if let Some((_, why)) = fixed.into_iter().find(|(changed, _)| *changed) {
        return Err(ApiError::consumer_create_failed(why));
    }
    if bound && old.deliver_subject != new.deliver_subject {
        return Err(ApiError::consumer_name_exists());
    }
    Ok(())
}

/// Whether two complete configurations mean the same; metadata of tools (`_nats.*`) is ignored, and
/// a pause is not part of it.
pub(super) fn is_same(left: &ConsumerConfig, right: &ConsumerConfig) -> bool {
    let plain = |config: &ConsumerConfig| {
        let mut config = config.clone();
        config.metadata.retain(|key, _| !key.starts_with("_nats."));
        if config.filter_subject.as_deref() == Some("") {
            config.filter_subject = None;
        }
        config.num_replicas = 0;
        // It was looked up by its name; one that the server made up is not part of the configuration.
        config.name = None;
        config
    };
    plain(left) == plain(right)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
    use super::*;

    fn stream() -> StreamConfig {
        StreamConfig { name: "S".into(), subjects: vec!["s.>".into()], ..StreamConfig::default() }
    }

    fn durable() -> ConsumerConfig {
        ConsumerConfig {
            name: Some("c".into()),
            durable_name: Some("c".into()),
            ack_policy: AckPolicy::Explicit,
            ..ConsumerConfig::default()
        }
    }

    fn completed(change: impl FnOnce(&mut ConsumerConfig)) -> Result<ConsumerConfig, ApiError> {
        let mut config = durable();
        change(&mut config);
        complete(config, &stream(), &Limits::default())
    }

    #[test]
    fn defaults_are_jetstreams() {
        let config = completed(|_| {}).unwrap();
        assert_eq!(
            (config.max_deliver, config.max_waiting, config.max_ack_pending),
            (-1, 512, 1000)
        );
        assert_eq!(config.ack_wait, Duration::from_secs(30));
        assert_eq!(config.inactive_threshold, Duration::ZERO);
        let ephemeral = completed(|c| c.durable_name = None).unwrap();
        assert_eq!(ephemeral.inactive_threshold, Duration::from_secs(5));
        let backoff = completed(|c| c.backoff = vec![Duration::from_secs(2)]).unwrap();
        assert_eq!(backoff.ack_wait, Duration::from_secs(2));
    }

    #[test]
    fn limits_of_a_stream_are_defaults() {
        let mut stream = stream();
        stream.consumer_limits.max_ack_pending = 5;
        stream.consumer_limits.inactive_threshold = Duration::from_secs(60);
        let without_acks = ConsumerConfig { ack_policy: AckPolicy::None, ..durable() };
        for config in [durable(), without_acks.clone()] {
            let ephemeral = ConsumerConfig { durable_name: None, ..config };
            let config = complete(ephemeral, &stream, &Limits::default()).unwrap();
            assert_eq!(config.max_ack_pending, 5);
            assert_eq!(config.inactive_threshold, Duration::from_secs(60));
        }
        let push = ConsumerConfig { deliver_subject: Some("d".into()), ..without_acks };
        assert_eq!(complete(push, &stream, &Limits::default()).unwrap_err().err_code, 10082);
    }

    #[test]
    fn contradictions_are_refused() {
        let refused = |change: fn(&mut ConsumerConfig)| completed(change).unwrap_err().err_code;
        assert_eq!(
            refused(|c| {
                c.max_deliver = 1;
                c.backoff = vec![Duration::from_secs(1); 2];
            }),
            10116
        );
        assert_eq!(
            refused(|c| {
                c.filter_subject = Some("s.a".into());
                c.filter_subjects = vec!["s.b".into()];
            }),
            10136
        );
        assert_eq!(refused(|c| c.filter_subjects = vec!["s.a".into(), "s.*".into()]), 10138);
        assert_eq!(refused(|c| c.filter_subjects = vec![String::new()]), 10139);
        assert_eq!(refused(|c| c.deliver_policy = DeliverPolicy::LastPerSubject), 10094);
        assert_eq!(
            refused(|c| {
                c.deliver_subject = Some("d".into());
                c.flow_control = true;
            }),
            10108
        );
        for (subject, code) in [("s.x", 10081), ("d.*", 10079), ("d..x", 10112)] {
            let error = completed(|c| c.deliver_subject = Some(subject.into())).unwrap_err();
            assert_eq!(error.err_code, code, "{subject}");
        }
        assert_eq!(refused(|c| c.idle_heartbeat = Duration::from_secs(1)), 10088);
        assert_eq!(refused(|c| c.flow_control = true), 10089);
        assert_eq!(refused(|c| c.rate_limit_bps = 1), 10086);
        assert_eq!(refused(|c| c.max_expires = Duration::from_micros(999)), 10115);
        assert!(completed(|c| c.max_expires = Duration::from_millis(1)).is_ok());
        assert_eq!(refused(|c| c.filter_subject = Some("s..a".into())), 10052);
    }

    #[test]
    fn priority_groups_have_a_policy_and_names() {
        let with = |policy, names: &[&str]| {
            completed(|c| {
                c.priority_policy = policy;
                c.priority_groups = names.iter().map(ToString::to_string).collect();
            })
        };
        let code = |policy, names: &[&str]| with(policy, names).unwrap_err().err_code;
        let overflow = PriorityPolicy::Overflow;
        assert_eq!(code(PriorityPolicy::None, &["a"]), 10196);
        assert_eq!(code(overflow, &[]), 10159);
        assert_eq!(code(overflow, &["a", ""]), 10161);
        for name in ["a b", "a.b", "a)", "a+", "aaaaaaaaaaaaaaaaa"] {
            assert_eq!(code(overflow, &[name]), 10162, "{name}");
        }
        assert!(with(overflow, &["aaaaaaaaaaaaaaaa", "Az09-_/="]).is_ok());
        let minute = Duration::from_mins(1);
        assert_eq!(completed(|c| c.priority_timeout = minute).unwrap_err().err_code, 10197);
        let pinned = with(PriorityPolicy::PinnedClient, &["a"]).unwrap();
        assert_eq!(pinned.priority_timeout, Duration::from_mins(2));
        let push = ConsumerConfig { deliver_subject: Some("d".into()), ..durable() };
        let push = ConsumerConfig { priority_policy: overflow, ..push };
        assert_eq!(complete(push, &stream(), &Limits::default()).unwrap_err().err_code, 10178);
    }

    #[test]
    fn a_start_that_the_policy_does_not_have_is_refused_by_name() {
        let text = |change: fn(&mut ConsumerConfig)| completed(change).unwrap_err().description;
        assert_eq!(
            text(|c| (c.deliver_policy, c.opt_start_seq) = (DeliverPolicy::New, 2)),
            "consumer delivery policy is deliver new, but optional start sequence is also set"
        );
        assert_eq!(
            text(|c| c.opt_start_time = Some(crate::model::time::Timestamp(1))),
            "consumer delivery policy is deliver all, but optional start time is also set"
        );
    }

    #[test]
    fn a_sample_is_a_number() {
        let with = |share: &str| completed(|c| c.sample_freq = Some(share.into()));
        for (share, percent) in [("100%", 100), ("30", 30), ("200", 100), ("-5", 0)] {
            assert_eq!(with(share).unwrap().sampled_percent(), percent, "{share}");
        }
        for share in ["much", "%", "1.5"] {
            let error = with(share).unwrap_err();
            assert_eq!(error.err_code, 10095, "{share}");
            assert!(error.description.ends_with(": invalid syntax"), "{error}");
        }
    }

    #[test]
    fn a_streams_limit_for_pending_acks_and_one_past() {
        let mut stream = stream();
        stream.consumer_limits.max_ack_pending = 5;
        let with = |most| ConsumerConfig { max_ack_pending: most, ..durable() };
        let complete = |most| complete(with(most), &stream, &Limits::default());
        assert_eq!(complete(0).unwrap().max_ack_pending, 5);
        assert!(complete(5).is_ok());
        assert_eq!(complete(6).unwrap_err().err_code, 10121);
        assert_eq!(complete(-1).unwrap_err().err_code, 10121);
    }

    #[test]
    fn the_servers_limit_for_one_request_and_one_past() {
        let limits = Limits { max_request_batch: 100, ..Limits::default() };
        let with = |most| ConsumerConfig { max_batch: most, ..durable() };
        let complete = |config| complete(config, &stream(), &limits);
        for (given, kept) in [(-1, 100), (0, 100), (7, 7), (100, 100)] {
            assert_eq!(complete(with(given)).unwrap().max_batch, kept, "{given}");
        }
        assert_eq!(complete(with(101)).unwrap_err().err_code, 10125);
        let push = ConsumerConfig { deliver_subject: Some("d".into()), ..durable() };
        assert_eq!(complete(push).unwrap().max_batch, 0);
        assert_eq!(super::complete(with(-1), &stream(), &Limits::default()).unwrap().max_batch, 0);
    }

    #[test]
    fn a_work_queue_has_one_consumer_for_each_message() {
        let queue = StreamConfig { retention: Retention::WorkQueue, ..stream() };
        let filtered =
            |filter: &str| ConsumerConfig { filter_subject: Some(filter.into()), ..durable() };
        let among = |config: &ConsumerConfig, other: &ConsumerConfig| {
            check_among(config, &queue, std::iter::once(other)).map_err(|e| e.err_code)
        };
        assert_eq!(among(&durable(), &durable()), Err(10099));
        assert_eq!(among(&filtered("s.a"), &filtered("s.*")), Err(10100));
        assert_eq!(among(&filtered("s.a"), &filtered("s.b")), Ok(()));
        let none = ConsumerConfig { ack_policy: AckPolicy::None, ..durable() };
        assert_eq!(among(&none, &durable()), Err(10084));
        let new = ConsumerConfig { deliver_policy: DeliverPolicy::New, ..durable() };
        assert_eq!(among(&new, &durable()), Err(10101));
    }

    #[test]
    fn what_may_not_change() {
        let old = completed(|_| {}).unwrap();
        let refused = |change: fn(&mut ConsumerConfig)| {
            let mut new = old.clone();
            change(&mut new);
            check_update(&old, &new, true).map_err(|e| e.err_code)
        };
        assert_eq!(refused(|c| c.ack_policy = AckPolicy::All), Err(10012));
        assert_eq!(refused(|c| c.deliver_subject = Some("d".into())), Err(10012));
        assert_eq!(refused(|c| c.max_deliver = 7), Ok(()));
        let push = completed(|c| c.deliver_subject = Some("d".into())).unwrap();
        let moved = ConsumerConfig { deliver_subject: Some("e".into()), ..push.clone() };
        assert_eq!(check_update(&push, &moved, true).unwrap_err().err_code, 10013);
        assert!(check_update(&push, &moved, false).is_ok());
    }
}
