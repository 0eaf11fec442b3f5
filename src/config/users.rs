//! `users`: who is let in and what they may do, in the words of nats-server's configuration.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::error::ConfigError;
use super::file::ConfigFile;
use super::sections::Secret;
use super::text;
use crate::access::{Grant, PublishRules, Responses, SubscribeRules, Target};
use crate::model::subject::is_pattern;
use crate::server::{Credential, Password, PublicKey, User};

/// Written instead of a number or duration that is not limited, as in NATS's configurations.
const UNLIMITED: &str = "-1";

/// One of `users`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserSection {
    /// Its name.
    #[serde(deserialize_with = "name")]
    pub name: String,
    /// Its password: a bcrypt or argon2id hash, or the password itself.
    #[serde(default, deserialize_with = "password")]
    pub password: Option<Secret>,
    /// Its public key, instead.
    #[serde(default, deserialize_with = "nkey")]
    pub nkey: Option<String>,
    /// What it may do; everything if not given.
    #[serde(default)]
    pub permissions: Permissions,
}

/// `users[].permissions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Permissions {
    /// Subjects it may publish to.
    pub publish: PublishLists,
    /// Subjects it may subscribe to, with a queue group or without.
    pub subscribe: SubscribeLists,
    /// Whether it may answer messages wherever their reply subject is.
    pub allow_responses: AllowResponses,
}

/// Lists of subjects. A single subject or a list of them is what is allowed.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Lists<const QUEUES: bool> {
    /// What is allowed; everything if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<String>>,
    /// What is not, all the same.
    pub deny: Vec<String>,
}

/// Where a user may publish.
pub type PublishLists = Lists<false>;
/// What a user may subscribe to: `subject`, or `subject queue`.
pub type SubscribeLists = Lists<true>;

/// One subject of such a list, maybe with a queue group.
#[derive(Deserialize)]
#[serde(transparent)]
struct Entry<const QUEUES: bool>(#[serde(deserialize_with = "entry::<_, QUEUES>")] String);

impl<'de, const QUEUES: bool> Deserialize<'de> for Lists<QUEUES> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListsVisitor::<QUEUES>)
    }
}

struct ListsVisitor<const QUEUES: bool>;

impl<'de, const QUEUES: bool> Visitor<'de> for ListsVisitor<QUEUES> {
    type Value = Lists<QUEUES>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a subject, a list of subjects, or a section with `allow` and `deny`")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Lists::default())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        let allow = Some(vec![checked::<QUEUES>(text).map_err(E::custom)?]);
        Ok(Lists { allow, deny: Vec::new() })
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        let allow = Vec::<Entry<QUEUES>>::deserialize(SeqAccessDeserializer::new(list))?;
        Ok(Lists { allow: Some(texts(allow)), deny: Vec::new() })
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        #[derive(Deserialize)]
        #[serde(default, deny_unknown_fields, bound = "")]
        struct Section<const QUEUES: bool> {
            allow: Option<OneOrMore<QUEUES>>,
            deny: Option<OneOrMore<QUEUES>>,
        }
        impl<const QUEUES: bool> Default for Section<QUEUES> {
            fn default() -> Self {
                Self { allow: None, deny: None }
            }
        }
        let section = Section::<QUEUES>::deserialize(MapAccessDeserializer::new(map))?;
        let deny = section.deny.map(|list| list.0).unwrap_or_default();
        Ok(Lists { allow: section.allow.map(|list| list.0), deny })
    }
}

/// One subject, or a list of them.
struct OneOrMore<const QUEUES: bool>(Vec<String>);

impl<'de, const QUEUES: bool> Deserialize<'de> for OneOrMore<QUEUES> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor<const QUEUES: bool>;
        impl<'de, const QUEUES: bool> Visitor<'de> for ListVisitor<QUEUES> {
            type Value = OneOrMore<QUEUES>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a subject or a list of subjects")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(OneOrMore(vec![checked::<QUEUES>(text).map_err(E::custom)?]))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
                let list = Vec::<Entry<QUEUES>>::deserialize(SeqAccessDeserializer::new(list))?;
                Ok(OneOrMore(texts(list)))
            }
        }
        deserializer.deserialize_any(ListVisitor::<QUEUES>)
    }
}

fn texts<const QUEUES: bool>(list: Vec<Entry<QUEUES>>) -> Vec<String> {
    list.into_iter().map(|entry| entry.0).collect()
}

fn entry<'de, D: Deserializer<'de>, const QUEUES: bool>(from: D) -> Result<String, D::Error> {
    checked::<QUEUES>(&String::deserialize(from)?).map_err(D::Error::custom)
}

/// A subject, with a queue group where that may be.
pub(super) fn checked<const QUEUES: bool>(text: &str) -> Result<String, String> {
    let words: Vec<&str> = text.split(' ').collect();
    match words.as_slice() {
        [subject] if is_pattern(subject) => Ok(text.to_owned()),
        [subject, queue] if QUEUES && is_pattern(subject) && is_pattern(queue) => {
            Ok(text.to_owned())
        }
        _ if QUEUES => Err(format!(
            "`{text}` is neither a subject nor a subject, a space and a queue group; write for \
             example `orders.>` or `orders.> workers`"
        )),
        _ => Err(format!("`{text}` is not a subject; write for example `orders.>`")),
    }
}

/// Whether a user may answer messages. `true` is once within two minutes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AllowResponses(pub Option<Responses>);

impl Serialize for AllowResponses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown {
            max: String,
            expires: String,
        }
        let Some(Responses { max, expires }) = self.0 else { return false.serialize(serializer) };
        let unlimited = || UNLIMITED.to_owned();
        let shown = Shown {
            max: max.map_or_else(unlimited, |max| max.to_string()),
            expires: expires.map_or_else(unlimited, text::show_duration),
        };
        shown.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for AllowResponses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ResponsesVisitor)
    }
}

struct ResponsesVisitor;

impl<'de> Visitor<'de> for ResponsesVisitor {
    type Value = AllowResponses;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("true, false, or a section with `max` and `expires`")
    }

    fn visit_unit<E: Error>(self) -> Result<AllowResponses, E> {
        Ok(AllowResponses(None))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<AllowResponses, E> {
        match text {
            "true" => Ok(AllowResponses(Some(Responses::default()))),
            "false" => Ok(AllowResponses(None)),
            other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
        }
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<AllowResponses, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Section {
            #[serde(default = "usual_max", deserialize_with = "max")]
            max: Option<u64>,
            #[serde(default = "usual_expires", deserialize_with = "expires")]
            expires: Option<Duration>,
        }
        let Section { max, expires } = Section::deserialize(MapAccessDeserializer::new(map))?;
        Ok(AllowResponses(Some(Responses { max, expires })))
    }
}

fn usual_max() -> Option<u64> {
    Responses::default().max
}

fn usual_expires() -> Option<Duration> {
    Responses::default().expires
}

fn max<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let word = String::deserialize(from)?;
    match word.parse() {
        _ if word == UNLIMITED => Ok(None),
        Ok(max) if max > 0 => Ok(Some(max)),
        _ => Err(D::Error::custom(format_args!(
            "found `{word}`, expected a whole number of at least 1, or -1 for no limit"
        ))),
    }
}

fn expires<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let word = String::deserialize(from)?;
    if word == UNLIMITED {
        return Ok(None);
    }
    text::positive_duration(&word).map(Some).map_err(D::Error::custom)
}

fn name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let name = String::deserialize(from)?;
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(D::Error::custom("a user's name is not empty and holds no control characters"));
    }
    Ok(name)
}

fn password<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Secret>, D::Error> {
    let Some(password) = Option::<Secret>::deserialize(from)? else { return Ok(None) };
    password.0.parse::<Password>().map_err(D::Error::custom)?;
    Ok(Some(password))
}

fn nkey<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let Some(key) = Option::<String>::deserialize(from)? else { return Ok(None) };
    // Nor is what may be a seed repeated.
    key.parse::<PublicKey>().map_err(D::Error::custom)?;
    Ok(Some(key))
}

/// Users, no two of one name or one key.
pub(super) fn unique_users<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Vec<UserSection>, D::Error> {
    let users = Option::<Vec<UserSection>>::deserialize(from)?.unwrap_or_default();
    let (mut names, mut keys) = (HashSet::new(), HashSet::new());
    for user in &users {
        if !names.insert(user.name.as_str()) {
            return Err(D::Error::custom(format_args!("two users are named `{}`", user.name)));
        }
        if user.nkey.as_deref().is_some_and(|key| !keys.insert(key)) {
            let why = format_args!("the user `{}` has the key of another", user.name);
            return Err(D::Error::custom(why));
        }
    }
    Ok(users)
}

impl ConfigFile {
    /// The users. With `certified`, certificates name them, so that they need neither password nor key.
    ///
    /// # Errors
    /// [`ConfigError`], about a user that cannot be let in, or a value whose variable is not set.
    pub fn users(&self, certified: bool) -> Result<Vec<User>, ConfigError> {
        self.require("users")?;
        let users = self.sections.users.iter().enumerate();
        users
            .map(|(at, section)| {
                let credential = section.credential(certified).map_err(|why| {
                    let place = self.place(&format!("users[{at}].name"));
                    ConfigError::Invalid { place, path: format!("users[{at}]"), why }
                })?;
                let grant = section.permissions.grant();
                Ok(User { name: section.name.clone(), credential, grant })
            })
            .collect()
    }

    /// The line of a value.
    fn place(&self, path: &str) -> String {
        let found = self.places.iter().find(|(at, _)| at == path);
        found.map(|(_, place)| place.clone()).unwrap_or_default()
    }
}

impl UserSection {
    fn credential(&self, certified: bool) -> Result<Credential, String> {
        match (&self.password, &self.nkey) {
            (Some(_), Some(_)) => {
                Err("it has a password and a key; a user is known by one of them".to_owned())
            }
            (Some(password), None) => {
                password.0.parse().map(Credential::Password).map_err(|error| format!("{error}"))
            }
            (None, Some(key)) => {
                key.parse().map(Credential::Key).map_err(|error| format!("{error}"))
            }
            (None, None) if certified => Ok(Credential::Certificate),
            (None, None) => Err("it has neither `password` nor `nkey`, and \
                                 `server.nats_tls.verify` is not `map`, so that nothing tells who it \
                                 is"
            .to_owned()),
        }
    }
}

impl Permissions {
    /// What they are as one.
    pub(super) fn grant(&self) -> Grant {
        let target = |text: &String| match text.split_once(' ') {
            Some((subject, queue)) => Target::queue(subject, queue),
            None => Target::subject(text),
        };
        let targets = |list: &Vec<String>| list.iter().map(target).collect();
        let publish =
            PublishRules { allow: self.publish.allow.clone(), deny: self.publish.deny.clone() };
        let subscribe = SubscribeRules {
            allow: self.subscribe.allow.as_ref().map(targets),
            deny: targets(&self.subscribe.deny),
        };
        Grant::new(publish, subscribe, self.allow_responses.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
    const KEY: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";

    fn users(yaml: &str) -> Result<Vec<User>, ConfigError> {
        ConfigFile::parse(yaml, "f.yaml", &|_| None)?.users(false)
    }

    fn wrong(yaml: &str) -> String {
        users(yaml).expect_err(yaml).to_string()
    }

    #[test]
    fn users_as_people_write_them() {
        let yaml = format!(
            "users:
  - name: ann
    password: {HASH}
    permissions:
      publish: [\"orders.>\", \"$JS.API.>\"]
      subscribe:
        allow: [\"_INBOX.>\", \"orders.* workers\"]
        deny: orders.secret
      allow_responses: {{max: 5, expires: 1m}}
  - name: kim
    nkey: {KEY}
    permissions: {{publish: a, allow_responses: true}}
  - {{name: bob, password: b}}
"
        );
        let users = users(&yaml).unwrap();
        let [ann, kim, bob] = &users[..] else { panic!("{users:?}") };
        assert!(ann.grant.may_publish("orders.x") && !ann.grant.may_publish("other"));
        assert!(ann.grant.may_subscribe("orders.x", Some("workers")));
        assert!(!ann.grant.may_subscribe("orders.x", None));
        assert!(!ann.grant.may_receive("orders.secret", None));
        let responses = Responses { max: Some(5), expires: Some(Duration::from_secs(60)) };
        assert_eq!(ann.grant.responses(), Some(&responses));
        assert_eq!(kim.grant.responses(), Some(&Responses::default()));
        assert!(matches!(kim.credential, Credential::Key(_)));
        assert!(bob.grant.is_everything());
        assert!(matches!(&bob.credential, Credential::Password(password) if password.is_plain()));
    }

    #[test]
    fn what_is_wrong_names_its_line() {
        for (yaml, expected) in [
            ("users:\n  - name: ann\n    pasword: x", "f.yaml:3: unknown key `pasword`"),
            ("users:\n  - name: ann\n", "f.yaml:2: `users[0]`: it has neither"),
            (
                "users:\n  - name: a\n    password: $2a$x",
                "f.yaml:3: `users[0].password`: the password",
            ),
            ("users:\n  - name: a\n    nkey: SU", "f.yaml:3: `users[0].nkey`: this is a seed"),
            ("users:\n  - {name: a, password: b}\n  - {name: a, password: c}", "two users"),
            (
                "users:\n  - name: a\n    password: b\n    permissions:\n      publish: [\"a..b\"]",
                "f.yaml:5",
            ),
            (
                "users:\n  - name: a\n    password: b\n    permissions:\n      publish: \"a b\"",
                "f.yaml:5",
            ),
            (
                "users:\n  - name: a\n    password: b\n    permissions:\n      subscribe: {alow: a}",
                "did you mean `allow`",
            ),
            (
                "users:\n  - name: a\n    password: b\n    permissions: {allow_responses: yes}",
                "f.yaml:4",
            ),
            (
                "users:\n  - name: a\n    password: b\n    permissions: {allow_responses: {max: 0}}",
                "f.yaml:4",
            ),
            ("users:\n  - name: ''\n    password: b", "f.yaml:2"),
        ] {
            let error = wrong(yaml);
            assert!(error.contains(expected), "{yaml}\n{error}");
        }
        let both = format!("users:\n  - name: a\n    password: b\n    nkey: {KEY}");
        assert!(wrong(&both).contains("a password and a key"));
    }

    /// A rule must not vanish because a variable is not set.
    #[test]
    fn a_variable_that_is_not_set_is_an_error() {
        let yaml =
            "users:\n  - name: a\n    password: b\n    permissions: {publish: {deny: [\"${X}\"]}}";
        assert!(wrong(yaml).contains("needs the environment variable X"));
        assert!(wrong("users:\n  - name: a\n    password: ${X}").contains("variable X"));
    }

    #[test]
    fn passwords_are_not_shown_nor_repeated_by_errors() {
        let yaml = "users:\n  - name: a\n    password: 5ecret";
        let file = ConfigFile::parse(yaml, "f", &|_| None).unwrap();
        let shown = serde_json::to_string(&file.sections).unwrap();
        let shown = format!("{shown} {file:?} {:?}", file.users(false).unwrap());
        assert!(!shown.contains("5ecret"));
        for yaml in [
            "users:\n  - name: a\n    password: $2a$5ecret",
            "users:\n  - name: a\n    nkey: SU5ecret",
            "users:\n  - name: a\n    password: {x: 5ecret}",
        ] {
            assert!(!wrong(yaml).contains("5ecret"), "{}", wrong(yaml));
        }
    }

    #[test]
    fn certificates_need_no_password() {
        let file = ConfigFile::parse("users:\n  - name: cat@example.org", "f", &|_| None).unwrap();
        assert!(file.users(false).is_err());
        let users = file.users(true).unwrap();
        assert_eq!(users[0].credential, Credential::Certificate);
    }
}
