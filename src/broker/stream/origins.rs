//! Rules of mirrors and sources, and of what becomes of subjects, that can be checked without other
//! streams.

use crate::model::error::ApiError;
use crate::model::stream::{StreamConfig, StreamSource, SubjectTransform};
use crate::model::subject::{is_name, is_pattern, is_subset, overlap};
use crate::model::transform::{Transform, TransformError};

use super::sources::key_of;

/// Sources of one stream, and transforms of all of them together. 1,000: each is a job and some hundred
/// bytes of memory.
const MAX_SOURCES: usize = 1000;

fn invalid<T>(why: impl std::fmt::Display) -> Result<T, ApiError> {
    Err(ApiError::stream_invalid_config(why))
}

/// Checks a stream's mirror and sources.
///
/// # Errors
/// The first thing that is wrong, as JetStream says it.
pub(super) fn check_origins(config: &StreamConfig) -> Result<(), ApiError> {
    if let Some(mirror) = &config.mirror {
        check_mirror(config, mirror)?;
    }
    let parts: usize = config.sources.iter().map(|s| 1 + s.subject_transforms.len()).sum();
    if parts > MAX_SOURCES {
        return invalid(format_args!(
            "sources and their transforms can not be more than {MAX_SOURCES}"
        ));
    }
    for (at, source) in config.sources.iter().enumerate() {
        if !is_name(&source.name) {
            return Err(ApiError::source_invalid_name());
        }
        let key = key_of(source);
        if config.sources.iter().take(at).any(|other| key_of(other) == key) {
            return Err(ApiError::source_duplicate());
        }
        check_source(source)?;
    }
    if config.allow_msg_schedules && !config.sources.is_empty() {
        return Err(ApiError::source_with_schedules());
    }
    Ok(())
}

fn check_mirror(config: &StreamConfig, mirror: &StreamSource) -> Result<(), ApiError> {
    if config.first_seq > 0 {
        return Err(ApiError::mirror_with_first_seq());
    }
    if !config.subjects.is_empty() {
        return Err(ApiError::mirror_with_subjects());
    }
    if !config.sources.is_empty() {
        return Err(ApiError::mirror_with_sources());
    }
    if config.allow_msg_schedules {
        return Err(ApiError::mirror_with_schedules());
    }
    if !mirror.filter_subject.is_empty() && !mirror.subject_transforms.is_empty() {
        return Err(ApiError::mirror_multiple_filters());
    }
    if !config.subject_delete_marker_ttl.is_zero() {
        return invalid("subject delete markers forbidden on mirrors");
    }
    let transforms = &mirror.subject_transforms;
    for (at, transform) in transforms.iter().enumerate() {
        if let Some(subject) = wrong_pattern(&transform.src) {
            return Err(ApiError::mirror_filter_invalid(subject));
        }
        check_mapping(transform).map_err(ApiError::mirror_transform_invalid)?;
        let overlaps = |other: &SubjectTransform| overlap(all(&transform.src), all(&other.src));
        if transforms.iter().skip(at + 1).any(overlaps) {
            return Err(ApiError::mirror_overlapping_filters());
        }
    }
    if !is_name(&mirror.name) {
        return Err(ApiError::mirror_invalid_name());
    }
    check_external(mirror)
}

fn check_source(source: &StreamSource) -> Result<(), ApiError> {
    check_external(source)?;
    let transforms = &source.subject_transforms;
    if !source.filter_subject.is_empty() && !transforms.is_empty() {
        return Err(ApiError::source_multiple_filters());
    }
    for transform in transforms {
        if let Some(subject) = wrong_pattern(&transform.src) {
            return Err(ApiError::source_filter_invalid(subject));
        }
        check_mapping(transform).map_err(ApiError::source_transform_invalid)?;
    }
    for (at, one) in transforms.iter().enumerate() {
        let (one, mut others) = (all(&one.src), transforms.iter().skip(at + 1));
        let within = |other: &str| is_subset(one, other) || is_subset(other, one);
        if others.any(|other| within(all(&other.src))) {
            return Err(ApiError::source_overlapping_filters());
        }
    }
    Ok(())
}

/// There is one server and one account, so no other stream is anywhere else.
fn check_external(source: &StreamSource) -> Result<(), ApiError> {
    match &source.external {
        Some(external) if !external.api.is_empty() || !external.deliver.is_empty() => {
            invalid(format_args!(
                "stream \"{}\" can not be copied from another domain or account: \"external\" is \
                 not supported by this server",
                source.name
            ))
        }
        _ => Ok(()),
    }
}

/// Checks where a stream publishes what it has stored, and fills in the default.
///
/// # Errors
/// The first thing that is wrong, as JetStream says it.
pub(super) fn complete_republish(config: &mut StreamConfig) -> Result<(), ApiError> {
    let Some(republish) = &mut config.republish else { return Ok(()) };
    if republish.src.is_empty() {
        republish.src = ">".to_owned();
    }
    if !republish.dest.is_empty()
        && config.subjects.iter().any(|subject| overlap(&republish.dest, subject))
    {
        return invalid("stream configuration for republish destination forms a cycle");
    }
    if Transform::new(&republish.src, &republish.dest).is_err() {
        return invalid(format_args!(
            "stream configuration for republish with transform from '{}' to '{}' not valid",
            republish.src, republish.dest
        ));
    }
    Ok(())
}

/// Checks what the subjects of a stream's messages become.
///
/// # Errors
/// What is wrong, as JetStream says it.
pub(super) fn check_transform(config: &StreamConfig) -> Result<(), ApiError> {
    let Some(transform) = &config.subject_transform else { return Ok(()) };
    if let Some(subject) = wrong_pattern(&transform.src) {
        return Err(ApiError::transform_source_invalid(subject));
    }
    check_mapping(transform).map_err(ApiError::transform_destination_invalid)
}

fn check_mapping(transform: &SubjectTransform) -> Result<(), TransformError> {
    Transform::new(&transform.src, &transform.dest).map(|_| ())
}

/// What is wrong with the subjects that a transform is for.
fn wrong_pattern(subject: &str) -> Option<String> {
    (!subject.is_empty() && !is_pattern(subject)).then(|| format!("invalid subject {subject}"))
}

fn all(subject: &str) -> &str {
    if subject.is_empty() { ">" } else { subject }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::model::stream::{ExternalStream, Republish};

    fn of(name: &str) -> StreamSource {
        StreamSource { name: name.into(), ..StreamSource::default() }
    }

    fn mapped(pairs: &[(&str, &str)]) -> StreamSource {
        let transform = |(src, dest): &(&str, &str)| SubjectTransform {
            src: (*src).into(),
            dest: (*dest).into(),
        };
        StreamSource { subject_transforms: pairs.iter().map(transform).collect(), ..of("O") }
    }

    fn refused(change: impl FnOnce(&mut StreamConfig)) -> (u32, String) {
        let mut config = StreamConfig { name: "S".into(), ..StreamConfig::default() };
        change(&mut config);
        let error = check_origins(&config).unwrap_err();
        (error.err_code, error.description.into_owned())
    }

    /// Each row is what nats-server 2.15.1 said, but for `external`.
    #[test]
    fn what_a_mirror_cannot_be() {
        let mirror = |change: fn(&mut StreamConfig)| {
            refused(|c| {
                c.mirror = Some(of("O"));
                change(c);
            })
            .0
        };
        assert_eq!(mirror(|c| c.subjects = vec!["x".into()]), 10034);
        assert_eq!(mirror(|c| c.sources = vec![of("O")]), 10031);
        assert_eq!(mirror(|c| c.first_seq = 5), 10143);
        assert_eq!(mirror(|c| c.allow_msg_schedules = true), 10186);
        assert_eq!(mirror(|c| c.mirror = Some(of(""))), 10142);
        assert_eq!(mirror(|c| c.mirror = Some(of("a.b"))), 10142);
        assert_eq!(mirror(|c| c.mirror.as_mut().unwrap().external = Some(elsewhere())), 10052);
        let with = |pairs: &[(&str, &str)]| refused(|c| c.mirror = Some(mapped(pairs)));
        let text = "mirror transform source: invalid subject o..a";
        assert_eq!(with(&[("o..a", "p.a")]), (10151, text.to_owned()));
        let text =
            "mirror transform: invalid mapping destination: wildcard index out of range in $2: [2]";
        assert_eq!(with(&[("o.*", "p.$2")]), (10154, text.to_owned()));
        assert_eq!(with(&[("o.*", "p.$1"), ("o.a", "q")]).0, 10152);
        let both = StreamSource { filter_subject: "o.a".into(), ..mapped(&[("o.a", "p")]) };
        assert_eq!(refused(|c| c.mirror = Some(both)).0, 10150);
    }

    fn elsewhere() -> ExternalStream {
        ExternalStream { api: "$JS.hub.API".into(), deliver: String::new() }
    }

    #[test]
    fn what_sources_cannot_be() {
        let code = |sources: Vec<StreamSource>| refused(|c| c.sources = sources).0;
        assert_eq!(code(vec![of("")]), 10141);
        assert_eq!(code(vec![of("O"), of("O")]), 10140);
        let all = StreamSource { filter_subject: ">".into(), ..of("O") };
        assert_eq!(code(vec![all, of("O")]), 10140);
        assert_eq!(code(vec![mapped(&[("o..a", "p.a")])]), 10145);
        assert_eq!(code(vec![mapped(&[("o.*", "p.$2")])]), 10146);
        assert_eq!(code(vec![mapped(&[("o.*", "p.$1"), ("o.a", "q")])]), 10147);
        let both = StreamSource { filter_subject: "o.a".into(), ..mapped(&[("o.a", "p")]) };
        assert_eq!(code(vec![both]), 10144);
        let external = StreamSource { external: Some(elsewhere()), ..of("O") };
        assert_eq!(code(vec![external]), 10052);
        let many = |count: usize| (0..count).map(|at| of(&format!("O{at}"))).collect();
        assert_eq!(code(many(MAX_SOURCES + 1)), 10052);
        let config = StreamConfig { sources: many(MAX_SOURCES), ..StreamConfig::default() };
        assert!(check_origins(&config).is_ok());
        let schedules = |c: &mut StreamConfig| {
            c.sources = vec![of("O")];
            c.allow_msg_schedules = true;
        };
        assert_eq!(refused(schedules).0, 10187);
    }

    #[test]
    fn where_a_stream_can_publish_to() {
        let republish = |src: &str, dest: &str| {
            let republish = Republish { src: src.into(), dest: dest.into(), headers_only: false };
            let subjects = vec!["rp.>".to_owned()];
            let republish = Some(republish);
            let mut config = StreamConfig { subjects, republish, ..StreamConfig::default() };
            let result = complete_republish(&mut config).map_err(|error| error.description);
            result.map(|()| config.republish.unwrap().src)
        };
        let cycle = "stream configuration for republish destination forms a cycle";
        for (src, dest) in [("rp.>", "rp.x.>"), ("", ">"), ("rp.*", "rp.$1")] {
            assert_eq!(republish(src, dest).unwrap_err(), cycle);
        }
        let text =
            "stream configuration for republish with transform from 'rp.>' to 'out' not valid";
        assert_eq!(republish("rp.>", "out").unwrap_err(), text);
        assert!(republish("rp.*", "out.$2").is_err() && republish("rp..x", "out.x").is_err());
        assert_eq!(republish("", "out.>").unwrap(), ">");
        assert_eq!(republish("rp.>", "").unwrap(), "rp.>");
    }
}
