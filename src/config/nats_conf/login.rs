//! `authorization`, and `accounts` if there is one: users, how they are known, and what they may do.
//!
//! What is said is checked value by value while it is read; whether it makes sense together is known only
//! with the flags, by [`NatsOptions::logins`].

use std::collections::HashSet;
use std::str::FromStr;

use super::error::NatsConfError;
use super::keys::ONE_ACCOUNT;
use super::mapping::{Table, Take, apply, asks_for_nothing, take};
use super::options::NatsOptions;
use super::tree::{Entry, Kind, Value};
use crate::access::Responses;
use crate::config::sections::Secret;
use crate::config::users::{AllowResponses, Lists, Permissions, checked};
use crate::server::{Credential, Password, PublicKey, User};

/// One of `users`.
#[derive(Clone, Debug, PartialEq)]
pub struct NatsUser {
    /// Its name; that of a user with a key is the key.
    pub name: String,
    /// How it is known. Without password and key only by a certificate, or as the one that clients are
    /// who present nothing.
    pub credential: Credential,
    /// What it may do, if that is said.
    pub permissions: Option<Permissions>,
}

/// The account that nats-server keeps for itself.
const SYSTEM: &str = "$SYS";

const AUTHORIZATION: Table<NatsOptions> = Table {
    within: "authorization",
    rows: &[
        ("token", |o, e| {
            let token = e.string()?;
            o.token = (!token.is_empty()).then_some(Secret(token));
            Ok(())
        }),
        ("timeout", |o, e| e.positive_duration().map(|time| o.auth_timeout = Some(time))),
        ("user", user),
        ("username", user),
        ("pass", password),
        ("password", password),
        ("users", users),
        ("default_permissions", default_permissions),
        ("default_permission", default_permissions),
        ("permissions", default_permissions),
    ],
    ignored: &[],
    refused: &[("auth_callout", "list the users (authorization { users })")],
};

const ACCOUNT: Table<NatsOptions> = Table {
    within: "accounts",
    rows: &[
        ("users", users),
        ("default_permissions", default_permissions),
        ("default_permission", default_permissions),
        ("permissions", default_permissions),
    ],
    ignored: &[
        ("nkey", "there is one account, which needs no key"),
        ("jetstream", "limits of accounts are not kept; give each stream its own"),
    ],
    refused: &[
        ("exports", ONE_ACCOUNT),
        ("imports", ONE_ACCOUNT),
        ("mappings", "publish to the subject itself"),
        ("maps", "publish to the subject itself"),
        ("limits", "limits of accounts are not kept"),
        ("msg_trace", "messages are not traced"),
        ("cluster_traffic", ONE_ACCOUNT),
    ],
};

/// A user while it is read.
#[derive(Default)]
struct Draft {
    name: Option<String>,
    password: Option<Password>,
    /// The key, and its text.
    key: Option<(PublicKey, String)>,
    permissions: Option<Permissions>,
}

const USER: Table<Draft> = Table {
    within: "users",
    rows: &[
        ("user", |user, e| e.string().map(|name| user.name = Some(name))),
        ("username", |user, e| e.string().map(|name| user.name = Some(name))),
        ("pass", |user, e| e.secret().map(|password| user.password = password)),
        ("password", |user, e| e.secret().map(|password| user.password = password)),
        ("nkey", |user, e| {
            let text = e.string()?;
            user.key = Some((parsed(e, &text)?, text));
            Ok(())
        }),
        ("permissions", user_permissions),
        ("permission", user_permissions),
        ("authorization", user_permissions),
    ],
    ignored: &[],
    refused: &[
        ("allowed_connection_types", "a user may connect in every way"),
        ("proxy_required", "clients connect directly"),
    ],
};

const PERMISSIONS: Table<Permissions> = Table {
    within: "permissions",
    rows: &[
        ("publish", publish),
        ("pub", publish),
        ("import", publish),
        ("subscribe", subscribe),
        ("sub", subscribe),
        ("export", subscribe),
        ("allow_responses", responses),
        ("allow_response", responses),
    ],
    ignored: &[],
    refused: &[],
};

const RESPONSES: Table<Responses> = Table {
    within: "allow_responses",
    rows: &[
        ("max", most_responses),
        ("max_msgs", most_responses),
        ("max_messages", most_responses),
        ("max_responses", most_responses),
        ("expires", response_time),
        ("expiration", response_time),
        ("ttl", response_time),
    ],
    ignored: &[],
    refused: &[],
};

/// `authorization`.
pub(super) fn authorization(options: &mut NatsOptions, entry: &Entry) -> Result<(), NatsConfError> {
    apply(&AUTHORIZATION, entry.map()?, options)
}

/// `accounts`: one, whose users are those of the server. Several would see each other's messages here.
pub(super) fn accounts(options: &mut NatsOptions, entry: &Entry) -> Result<(), NatsConfError> {
    if asks_for_nothing(entry) {
        return Ok(());
    }
    match entry.map()? {
        [account] if account.key != SYSTEM => apply(&ACCOUNT, account.map()?, options),
        _ => Err(entry.unsupported(ONE_ACCOUNT)),
    }
}

fn user(options: &mut NatsOptions, entry: &Entry) -> Result<(), NatsConfError> {
    options.user = Some(entry.string()?).filter(|name| !name.is_empty());
    Ok(())
}

fn password(options: &mut NatsOptions, entry: &Entry) -> Result<(), NatsConfError> {
    entry.secret()?;
    options.password = Some(entry.string()?).filter(|text| !text.is_empty()).map(Secret);
    Ok(())
}

fn users(options: &mut NatsOptions, entry: &Entry) -> Result<(), NatsConfError> {
    let Kind::List(list) = &entry.value.kind else {
        return Err(entry.invalid("write a list of users: [ { user: ann, password: … } ]"));
    };
    for value in list {
        let one = element(entry, value);
        let mut draft = Draft::default();
        take(&USER, one.map()?, &mut draft, &mut options.warnings)?;
        options.users.push(draft.finish(&one)?);
    }
    Ok(())
}

fn default_permissions(options: &mut NatsOptions, entry: &Entry) -> Result<(), NatsConfError> {
    options.default_permissions = Some(permissions(entry)?);
    Ok(())
}

impl Draft {
    fn finish(self, entry: &Entry) -> Result<NatsUser, NatsConfError> {
        let (name, credential) = match (self.name, self.password, self.key) {
            (None, None, Some((key, text))) => (text, Credential::Key(key)),
            (Some(name), password, None) if !name.is_empty() => {
                (name, password.map_or(Credential::Certificate, Credential::Password))
            }
            (None, _, None) => return Err(entry.invalid("a user needs `user` or `nkey`")),
            (Some(_), _, None) => return Err(entry.invalid("a user's name is not empty")),
            (_, _, Some(_)) => {
                return Err(entry.invalid("a user with `nkey` has neither name nor password"));
            }
        };
        Ok(NatsUser { name, credential, permissions: self.permissions })
    }
}

fn user_permissions(user: &mut Draft, entry: &Entry) -> Result<(), NatsConfError> {
    user.permissions = Some(permissions(entry)?);
    Ok(())
}

fn permissions(entry: &Entry) -> Result<Permissions, NatsConfError> {
    let mut found = Permissions::default();
    take(&PERMISSIONS, entry.map()?, &mut found, &mut Vec::new())?;
    Ok(found)
}

fn publish(permissions: &mut Permissions, entry: &Entry) -> Result<(), NatsConfError> {
    permissions.publish = lists(entry)?;
    Ok(())
}

fn subscribe(permissions: &mut Permissions, entry: &Entry) -> Result<(), NatsConfError> {
    permissions.subscribe = lists(entry)?;
    Ok(())
}

/// What is allowed, or a map of that and what is not.
fn lists<const QUEUES: bool>(entry: &Entry) -> Result<Lists<QUEUES>, NatsConfError> {
    let Kind::Map(entries) = &entry.value.kind else {
        return Ok(Lists { allow: Some(subjects::<QUEUES>(entry)?), deny: Vec::new() });
    };
    let table = Table {
        within: "permissions",
        rows: const {
            &[
                ("allow", allow::<QUEUES> as Take<Lists<QUEUES>>),
                ("deny", deny::<QUEUES> as Take<Lists<QUEUES>>),
            ]
        },
        ignored: &[],
        refused: &[],
    };
    let mut found = Lists::default();
    take(&table, entries, &mut found, &mut Vec::new())?;
    Ok(found)
}

fn allow<const QUEUES: bool>(
    lists: &mut Lists<QUEUES>,
    entry: &Entry,
) -> Result<(), NatsConfError> {
    lists.allow = Some(subjects::<QUEUES>(entry)?);
    Ok(())
}

fn deny<const QUEUES: bool>(lists: &mut Lists<QUEUES>, entry: &Entry) -> Result<(), NatsConfError> {
    lists.deny = subjects::<QUEUES>(entry)?;
    Ok(())
}

/// A subject, or a list of them.
fn subjects<const QUEUES: bool>(entry: &Entry) -> Result<Vec<String>, NatsConfError> {
    let texts = match &entry.value.kind {
        Kind::List(list) => list.iter().map(|value| element(entry, value).string()).collect(),
        _ => entry.string().map(|text| vec![text]),
    };
    let texts: Vec<String> = texts?;
    texts.iter().map(|text| checked::<QUEUES>(text).map_err(|why| entry.invalid(why))).collect()
}

fn responses(permissions: &mut Permissions, entry: &Entry) -> Result<(), NatsConfError> {
    let mut found = Responses::default();
    let is_on = match &entry.value.kind {
        Kind::Map(entries) => {
            take(&RESPONSES, entries, &mut found, &mut Vec::new())?;
            true
        }
        _ => entry.boolean()?,
    };
    permissions.allow_responses = AllowResponses(is_on.then_some(found));
    Ok(())
}

fn most_responses(responses: &mut Responses, entry: &Entry) -> Result<(), NatsConfError> {
    responses.max = match entry.number()? {
        // As nats-server has it: 0 is the default, what is below it no limit.
        0 => Responses::default().max,
        most => u64::try_from(most).ok(),
    };
    Ok(())
}

fn response_time(responses: &mut Responses, entry: &Entry) -> Result<(), NatsConfError> {
    if entry.value.text().is_some_and(|text| text.starts_with('-')) {
        responses.expires = None;
        return Ok(());
    }
    responses.expires =
        Some(entry.duration()?).filter(|time| !time.is_zero()).or(Responses::default().expires);
    Ok(())
}

/// A value of a list as if it had the list's key, for what is said of it.
fn element(list: &Entry, value: &Value) -> Entry {
    Entry {
        key: list.key.clone(),
        place: value.place.clone(),
        value: value.clone(),
        is_used: list.is_used,
    }
}

/// A text of its own kind. Errors do not repeat it.
fn parsed<T: FromStr<Err: std::fmt::Display>>(
    entry: &Entry,
    text: &str,
) -> Result<T, NatsConfError> {
    text.parse().map_err(|error: T::Err| entry.invalid(error.to_string()))
}

impl Entry {
    /// A password; none if it is empty.
    fn secret(&self) -> Result<Option<Password>, NatsConfError> {
        let text = self.string()?;
        if text.is_empty() { Ok(None) } else { parsed(self, &text).map(Some) }
    }
}

impl NatsOptions {
    /// Who is let in, beside those who know the token.
    ///
    /// # Errors
    /// What does not go together, in nats-server's words where it has some.
    pub fn logins(&self) -> Result<Vec<User>, String> {
        let single = self.single_user()?;
        match (&single, &self.token) {
            (Some(_), Some(_)) => return Err("Cannot have a user/pass and token".to_owned()),
            (Some(_), _) if !self.users.is_empty() => {
                return Err("Can not have a single user/pass and a users array".to_owned());
            }
            (_, Some(_)) if !self.users.is_empty() => {
                return Err("Can not have a token and a users array".to_owned());
            }
            _ => {}
        }
        let mut names = HashSet::new();
        if let Some(twice) = self.users.iter().find(|user| !names.insert(user.name.as_str())) {
            return Err(format!("Duplicate user \"{}\" detected", twice.name));
        }
        if let Some(nobody) = &self.no_auth_user
            && !names.contains(nobody.as_str())
        {
            return Err(format!("no_auth_user: \"{nobody}\" not present as user"));
        }
        let default = self.default_permissions.as_ref();
        Ok(single.into_iter().chain(self.users.iter().map(|user| user.admitted(default))).collect())
    }

    /// The user of `user` and `password`.
    fn single_user(&self) -> Result<Option<User>, String> {
        match (&self.user, &self.password) {
            (None, None) => Ok(None),
            (Some(name), Some(password)) => {
                let password = password.0.parse().map_err(|error| format!("{error}"))?;
                let credential = Credential::Password(password);
                let grant = self.default_permissions.as_ref().map(Permissions::grant);
                let grant = grant.unwrap_or_default();
                Ok(Some(User { name: name.clone(), credential, grant }))
            }
            (Some(name), None) => Err(format!("the user `{name}` has no password; give one")),
            (None, Some(_)) => Err("there is a password and no user; name the user".to_owned()),
        }
    }
}

impl NatsUser {
    fn admitted(&self, default: Option<&Permissions>) -> User {
        let permissions = self.permissions.as_ref().or(default);
        let grant = permissions.map(Permissions::grant).unwrap_or_default();
        User { name: self.name.clone(), credential: self.credential.clone(), grant }
    }
}
