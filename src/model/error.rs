//! Errors that cross the wire: JetStream's codes and texts, and ours.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// An error a client can branch on. `code` is of HTTP's kind, `err_code` is exact.
///
/// The numbers below 20,000 are JetStream's (nats-server, `server/errors.json`); ours start there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{description} ({code}/{err_code})")]
pub struct ApiError {
    /// 400, 401, 404, 412, 500 or 503.
    pub code: u16,
    /// What exactly went wrong.
    pub err_code: u32,
    /// For people.
    pub description: Cow<'static, str>,
}

/// Declares one constructor per error. `{}` in a text stands for the argument.
macro_rules! api_errors {
    ($($(#[$doc:meta])* $name:ident $(($arg:ident))? = $code:literal / $err_code:literal $text:literal;)*) => {
        impl ApiError {
            $(
                $(#[$doc])*
                #[must_use]
                pub fn $name($($arg: impl std::fmt::Display)?) -> Self {
                    let description = api_errors!(@text $text $(, $arg)?);
                    Self { code: $code, err_code: $err_code, description }
                }
            )*
        }
    };
    (@text $text:literal) => { Cow::Borrowed($text) };
    (@text $text:literal, $arg:ident) => { Cow::Owned(format!($text, $arg)) };
}

api_errors! {
    /// The request makes no sense.
    bad_request = 400 / 10003 "bad request";
    /// The request makes no sense, and why.
    bad_request_because(why) = 400 / 10003 "bad request: {}";
    /// The body is not the JSON that was expected.
    invalid_json(why) = 400 / 10025 "invalid JSON: {}";
    /// The request needs a newer server.
    required_api_level = 412 / 10185 "JetStream minimum api level required";
    /// What only a cluster can do.
    clustering_required = 503 / 10010 "JetStream clustering support required";
    /// A limit of the server is reached.
    insufficient_resources = 503 / 10023 "insufficient resources";
    /// The disk is full.
    storage_exceeded = 500 / 10047 "insufficient storage resources available";
    /// A body where none may be.
    not_empty_request = 400 / 10038 "expected an empty request payload";
    /// No stream of that name.
    stream_not_found = 404 / 10059 "stream not found";
    /// No stream captures the subject.
    no_stream_matches = 404 / 10055 "no stream matches subject";
    /// Another stream has that name.
    stream_name_exists = 400 / 10058 "stream name already in use with a different configuration";
    /// The name in the subject differs from the name in the body.
    stream_mismatch = 400 / 10056 "stream name in subject does not match request";
    /// The stream name is not a name.
    invalid_stream_name = 400 / 10128 "Stream name can not contain path separators";
    /// The subjects belong to another stream.
    subjects_overlap = 400 / 10065 "subjects overlap with an existing stream";
    /// The stream configuration is wrong.
    stream_invalid_config(why) = 500 / 10052 "{}";
    /// The stream cannot be changed so.
    stream_invalid_update(why) = 500 / 10052 "{}";
    /// The stream cannot be created so.
    stream_create_failed(why) = 500 / 10049 "{}";
    /// The subjects that a transform is for are wrong.
    transform_source_invalid(why) = 400 / 10155 "stream transform source: {}";
    /// What a transform makes of subjects is wrong.
    transform_destination_invalid(why) = 400 / 10156 "stream transform: {}";
    /// Only a copy has this header.
    stream_source_header = 400 / 10227 "message stream source header is not allowed";
    /// A mirror captures nothing.
    mirror_with_subjects = 400 / 10034 "stream mirrors can not contain subjects";
    /// A mirror copies from one stream.
    mirror_with_sources = 400 / 10031 "stream mirrors can not also contain other sources";
    /// A mirror's sequences are its origin's.
    mirror_with_first_seq = 400 / 10143 "stream mirrors can not have first sequence configured";
    /// Both ways to choose subjects of a mirror's origin.
    mirror_multiple_filters = 400 / 10150 "mirror with multiple subject transforms cannot also have a single subject filter";
    /// The subjects of a mirror's origin are wrong.
    mirror_filter_invalid(why) = 400 / 10151 "mirror transform source: {}";
    /// What a mirror makes of subjects is wrong.
    mirror_transform_invalid(why) = 400 / 10154 "mirror transform: {}";
    /// Two of a mirror's transforms are for the same subjects.
    mirror_overlapping_filters = 400 / 10152 "mirror subject filters can not overlap";
    /// No stream can have the name of the mirror's origin.
    mirror_invalid_name = 400 / 10142 "mirrored stream name is invalid";
    /// The origin's messages may be too large for the mirror.
    mirror_max_message_size = 400 / 10030 "stream mirror must have max message size >= source";
    /// A mirror stays one of its origin.
    mirror_not_updatable = 400 / 10055 "stream mirror configuration can not be updated";
    /// A mirror publishes nothing of its own.
    mirror_with_schedules = 400 / 10186 "stream mirrors can not also schedule messages";
    /// No stream can have the name of a source.
    source_invalid_name = 400 / 10141 "sourced stream name is invalid";
    /// Two sources are the same.
    source_duplicate = 400 / 10140 "duplicate source configuration detected";
    /// A source's messages may be too large.
    source_max_message_size = 400 / 10046 "stream source must have max message size >= target";
    /// Both ways to choose subjects of a source.
    source_multiple_filters = 400 / 10144 "source with multiple subject transforms cannot also have a single subject filter";
    /// The subjects of a source are wrong.
    source_filter_invalid(why) = 400 / 10145 "source transform source: {}";
    /// What is made of a source's subjects is wrong.
    source_transform_invalid(why) = 400 / 10146 "source transform: {}";
    /// Two transforms of a source are for the same subjects.
    source_overlapping_filters = 400 / 10147 "source filters can not overlap";
    /// A stream with sources publishes nothing of its own.
    source_with_schedules = 400 / 10187 "stream source can not also schedule messages";
    /// Less than no replica.
    negative_replicas = 400 / 10133 "replicas count cannot be negative";
    /// Only one replica on one machine.
    replicas_not_supported = 500 / 10074 "replicas > 1 not supported in non-clustered mode";
    /// No message there.
    message_not_found = 404 / 10037 "no message found";
    /// The sequence cannot be deleted.
    sequence_not_found(seq) = 400 / 10043 "sequence {} not found";
    /// Deleting a message failed.
    message_delete_failed(why) = 500 / 10057 "{}";
    /// Purging failed.
    purge_failed(why) = 500 / 10110 "{}";
    /// The stream allows no rollup.
    rollup_not_permitted = 500 / 10111 "rollup not permitted";
    /// The rollup cannot be, and why.
    rollup_failed(why) = 500 / 10111 "{}";
    /// The rollup header is neither `sub` nor `all`.
    rollup_invalid(value) = 500 / 10111 "rollup value invalid: \"{}\"";
    /// The stream is sealed.
    stream_sealed = 400 / 10109 "invalid operation on sealed stream";
    /// The message is larger than the stream allows.
    message_too_large = 400 / 10054 "message size exceeds maximum allowed";
    /// The header block is larger than 64 KiB.
    header_too_large = 400 / 10097 "header size exceeds maximum allowed of 64k";
    /// The publisher expected another stream.
    expected_stream_mismatch = 400 / 10060 "expected stream does not match";
    /// The publisher expected another last sequence.
    wrong_last_sequence(last) = 400 / 10071 "wrong last sequence: {}";
    /// The publisher expected another last message id.
    wrong_last_message_id(id) = 400 / 10070 "wrong last msg ID: {}";
    /// A subject for the expected sequence, without the sequence.
    expected_subject_alone = 400 / 10193 "missing sequence for expected last sequence per subject";
    /// The TTL is not a duration of at least a second.
    invalid_ttl = 400 / 10165 "invalid per-message TTL";
    /// The stream allows no TTL by message.
    ttl_disabled = 400 / 10166 "per-message TTL is disabled";
    /// The atomic batch has too many messages.
    batch_too_large(most) = 400 / 10199 "atomic publish batch is too large: {}";
    /// The stream takes no atomic batches in headers.
    batches_disabled = 400 / 10174 "atomic publish is disabled";
    /// A message of a batch without its number.
    batch_sequence_missing = 400 / 10175 "atomic publish sequence is missing";
    /// A message of a batch is missing.
    batch_incomplete = 400 / 10176 "atomic publish batch is incomplete";
    /// A header that no message of a batch can have.
    batch_unsupported_header(name) = 400 / 10177 "atomic publish unsupported header used: {}";
    /// The id of a batch is too long.
    batch_id_invalid = 400 / 10179 "atomic publish batch ID is invalid";
    /// A mirror takes no batches.
    mirror_with_atomic = 400 / 10198 "stream mirrors can not also use atomic publishing";
    /// The end of a batch is neither `1` nor `eob`.
    batch_commit_invalid = 400 / 10200 "atomic publish batch commit is invalid";
    /// A message of a batch was stored before, or is in it twice.
    batch_duplicate = 400 / 10201 "atomic publish batch contains duplicate message id";
    /// Too many batches are not committed yet.
    too_many_batches = 429 / 10210 "atomic publish too many inflight";
    /// What a publisher expects is about what its own batch changes.
    wrong_last_sequence_in_batch = 400 / 10164 "wrong last sequence";
    /// The stream takes no counters.
    counters_disabled = 400 / 10168 "message counters is disabled";
    /// The stream takes only counters.
    increment_missing = 400 / 10169 "message counter increment is missing";
    /// A counter's payload is the server's.
    counter_with_payload = 400 / 10170 "message counter has payload";
    /// What a counter is to grow by is no number, or comes with what a counter cannot have.
    increment_invalid = 400 / 10171 "message counter increment is invalid";
    /// The last message of the subject is no counter.
    counter_broken = 400 / 10172 "message counter is broken";
    /// The last message of the subject is being read.
    counter_unread = 503 / 10008 "JetStream system temporarily unavailable";
    /// A mirror counts nothing.
    mirror_with_counters = 400 / 10173 "stream mirrors can not also calculate counters";
    /// The stream takes no schedules.
    schedules_disabled = 400 / 10188 "message schedules is disabled";
    /// The schedule's time cannot be read.
    schedule_pattern_invalid(why) = 400 / 10189 "message schedules pattern is invalid: {}";
    /// The schedule's target is wrong.
    schedule_target_invalid(why) = 400 / 10190 "message schedules target is invalid: {}";
    /// The TTL of what a schedule publishes is wrong.
    schedule_ttl_invalid = 400 / 10191 "message schedules invalid per-message TTL";
    /// A schedule replaces the one of its subject and nothing else.
    schedule_rollup_invalid = 400 / 10192 "message schedules invalid rollup";
    /// A schedule has its payload from nowhere else.
    schedule_source_invalid = 400 / 10203 "message schedules source is invalid: schedules publish their own payload only";
    /// The schedule to be ended is wrong.
    scheduler_invalid = 400 / 10212 "message schedules invalid scheduler";
    /// The schedule's time zone is wrong.
    schedule_time_zone_invalid(why) = 400 / 10223 "message schedules time zone is invalid: {}";
    /// The stream is full and discards new messages.
    store_failed(why) = 503 / 10077 "{}";
    /// No consumer of that name.
    consumer_not_found = 404 / 10014 "consumer not found";
    /// The consumer name is taken.
    consumer_name_exists = 400 / 10013 "consumer name already in use";
    /// Creating the consumer failed.
    consumer_create_failed(why) = 500 / 10012 "{}";
    /// A consumer cannot go on at that sequence.
    consumer_invalid_reset(why) = 400 / 10204 "invalid reset: {}";
    /// A consumer of that name exists, and create was asked for.
    consumer_already_exists = 400 / 10148 "consumer already exists";
    /// No such consumer, and update was asked for.
    consumer_does_not_exist = 400 / 10149 "consumer does not exist";
    /// The stream has as many consumers as it may.
    maximum_consumers_limit = 400 / 10026 "maximum consumers limit reached";
    /// The name in the subject differs from the name in the body.
    consumer_durable_mismatch = 400 / 10017 "consumer name in subject does not match durable name in request";
    /// A durable consumer's name is missing in the subject.
    consumer_durable_not_in_subject = 400 / 10016 "consumer expected to be durable but no durable name set in subject";
    /// A durable consumer's name is missing in the body.
    consumer_durable_not_set = 400 / 10018 "consumer expected to be durable but a durable name was not set";
    /// A durable name where an ephemeral consumer was asked for.
    consumer_ephemeral_with_durable = 400 / 10020 "consumer expected to be ephemeral but a durable name was set in request";
    /// Several filters, and a filter in the subject.
    consumer_multiple_filters_in_subject = 400 / 10137 "consumer with multiple subject filters cannot use subject based API";
    /// The consumer's name is empty or has characters it may not have.
    consumer_bad_name = 400 / 10127 "Consumer name can not contain path separators";
    /// The filter in the subject differs from that in the body.
    consumer_filter_mismatch = 400 / 10131 "Consumer create request did not match filtered subject from create subject";
    /// Both ways to filter.
    consumer_duplicate_filters = 400 / 10136 "consumer cannot have both FilterSubject and FilterSubjects specified";
    /// Two filters overlap.
    consumer_overlapping_filters = 400 / 10138 "consumer subject filters cannot overlap";
    /// An empty filter.
    consumer_empty_filter = 400 / 10139 "consumer filter in FilterSubjects cannot be empty";
    /// A work queue wants explicit acks.
    workqueue_explicit_ack = 400 / 10098 "workqueue stream requires explicit ack";
    /// A work queue wants delivery from the start.
    workqueue_deliver_all = 400 / 10101 "consumer must be deliver all on workqueue stream";
    /// A work queue takes one unfiltered consumer.
    workqueue_multiple_unfiltered = 400 / 10099 "multiple non-filtered consumers not allowed on workqueue stream";
    /// Filters of a work queue's consumers must not overlap.
    workqueue_not_unique = 400 / 10100 "filtered consumer not unique on workqueue stream";
    /// A pull consumer needs acks on a work queue.
    pull_requires_ack = 400 / 10084 "consumer in pull mode requires explicit ack policy on workqueue stream";
    /// `last_per_subject` needs a filter.
    last_per_subject_requires_filter = 400 / 10094 "consumer delivery policy is deliver last per subject, but optional filter subject is not set";
    /// The consumer configuration contradicts itself.
    consumer_invalid_policy(why) = 400 / 10094 "{}";
    /// `max_ack_pending` above the stream's limit.
    consumer_max_pending_ack(limit) = 400 / 10121 "consumer max ack pending exceeds system limit of {}";
    /// New limits for a stream's consumers that some of them exceed.
    consumers_exceed_limits(names) = 500 / 10069 "change to limits violates consumers: {}";
    /// `max_batch` above the server's limit.
    consumer_max_request_batch(limit) = 400 / 10125 "consumer max request batch exceeds server limit of {}";
    /// A name is longer than 255 bytes.
    consumer_name_too_long(limit) = 400 / 10102 "consumer name is too long, maximum allowed is {}";
    /// A deliver subject with wildcards.
    deliver_to_wildcards = 400 / 10079 "consumer deliver subject has wildcards";
    /// Without acknowledgements none can be pending.
    max_ack_pending_without_acks = 400 / 10082 "consumer requires ack policy for max ack pending";
    /// A push consumer has no pulls that could wait.
    push_max_waiting = 400 / 10080 "consumer in push mode can not set max waiting";
    /// The stream captures what the consumer delivers.
    deliver_cycle = 400 / 10081 "consumer deliver subject forms a cycle";
    /// Heartbeats closer than 100 ms.
    small_heartbeat = 400 / 10083 "consumer idle heartbeat needs to be >= 100ms";
    /// Pulls have a rate of their own.
    pull_with_rate_limit = 400 / 10086 "consumer in pull mode can not have rate limit set";
    /// Heartbeats of a pull consumer are asked for with each pull.
    heartbeat_requires_push = 400 / 10088 "consumer idle heartbeat requires a push based consumer";
    /// Pulls are a control of their own.
    flow_control_requires_push = 400 / 10089 "consumer flow control requires a push based consumer";
    /// The share of acknowledgements to be sampled is no number.
    consumer_invalid_sampling(why) = 400 / 10095 "failed to parse consumer sampling configuration: {}";
    /// The deliver subject cannot be published to.
    invalid_deliver_subject = 400 / 10112 "invalid push consumer deliver subject";
    /// Pulls may wait less than a millisecond.
    max_expires_too_small = 400 / 10115 "consumer max request expires needs to be >= 1ms";
    /// An inactive threshold above the stream's limit.
    inactive_threshold_excess(limit) = 400 / 10153 "consumer inactive threshold exceeds system limit of {}";
    /// A snapshot cannot be sent there.
    snapshot_deliver_subject_invalid = 400 / 10015 "deliver subject not valid";
    /// There is a stream of the name that one is to be restored under.
    restore_name_exists = 400 / 10130 "stream name already in use, cannot restore";
    /// A stream cannot be restored.
    restore_failed(why) = 500 / 10062 "restore failed: {}";
    /// A priority policy without a group.
    priority_policy_without_group = 400 / 10159 "Setting PriorityPolicy requires at least one PriorityGroup to be set";
    /// A priority group without a name.
    empty_group_name = 400 / 10161 "Group name cannot be an empty string";
    /// A priority group's name has other characters, or more.
    invalid_group_name = 400 / 10162 "Valid priority group name must match A-Z, a-z, 0-9, -_/=)+ and may not exceed 16 characters";
    /// Priority groups are for those who pull.
    push_with_priority_group = 400 / 10178 "priority groups can not be used with push consumers";
    /// Priority groups without a policy.
    priority_group_without_policy = 400 / 10196 "consumer can not have priority groups when policy is none";
    /// A time for pinned clients where none are pinned.
    pinned_ttl_without_policy = 400 / 10197 "PinnedTTL cannot be set when PriorityPolicy is none";
    /// The consumer has no such priority group.
    no_priority_group = 400 / 10160 "Provided priority group does not exist for this consumer";
    /// A negative time to acknowledge.
    negative_ack_wait = 400 / 10183 "consumer ack wait needs to be positive";
    /// A negative step of a backoff.
    negative_backoff = 400 / 10184 "consumer backoff needs to be positive";
    /// Flow control wants heartbeats.
    flow_control_requires_heartbeat = 400 / 10108 "consumer with flow control also needs heartbeats";
    /// A backoff list longer than max_deliver.
    backoff_longer_than_max_deliver = 400 / 10116 "max deliver is required to be > length of backoff values";
    /// The subject is not one that can be published to.
    invalid_subject(subject) = 400 / 20001 "\"{}\" is not a subject that can be published to; tokens are separated by single dots and hold no spaces or wildcards";
    /// The message is larger than the server allows.
    payload_too_large(limit) = 400 / 20002 "the message is larger than the server's max_payload of {} bytes";
    /// Nobody listens.
    no_responders = 503 / 20003 "no responders: nobody is subscribed to the subject and no stream captures it";
    /// A dead letter that is not there.
    dead_letter_not_found(seq) = 404 / 20004 "dead letter {} not found";
    /// The operation's name is unknown.
    unknown_operation(name) = 400 / 20005 "unknown operation \"{}\"";
    /// Damaged on disk.
    damaged(what) = 500 / 20006 "{}";
    /// The id window is full.
    id_window_full = 503 / 20007 "the memory for message ids is used up; publish more slowly, without ids, or with a shorter duplicate window";
    /// The message was published before under this counter, and what became of it is no longer known.
    duplicate_too_old = 400 / 20008 "this message was published long ago under the same producer counter";
    /// The server is stopping.
    shutting_down = 503 / 20009 "the server is shutting down; reconnect and send again";
    /// The client has no secret that lets it in.
    not_admitted = 401 / 20011 "the server wants a token, and was given none or another one";
    /// An acknowledgement of what the server does not know to have delivered.
    not_delivered = 404 / 20012 "the server does not know that it delivered this message, because it was started anew; the message will come again";
    /// No schedule of that subject.
    schedule_not_found(subject) = 404 / 20013 "the stream has no schedule of subject \"{}\"";
    /// The stream has as many schedules as it may.
    too_many_schedules(most) = 503 / 20014 "the stream has {} schedules, as many as it may; remove some";
    /// The dead-letter target cannot take the message.
    dead_letters_full(why) = 503 / 20010 "the dead-letter stream cannot take the message: {}";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_take_their_argument() {
        let error = ApiError::wrong_last_sequence(5);
        assert_eq!(error.description, "wrong last sequence: 5");
        assert_eq!(
            serde_json::to_string(&error).expect("plain data"),
            r#"{"code":400,"err_code":10071,"description":"wrong last sequence: 5"}"#
        );
    }
}
