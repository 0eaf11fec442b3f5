//! Who is let in, and what they may do: tokens, passwords, keys and certificates.
//!
//! The secrets are checked here and nowhere else. What a grant means is the part of `access`, and how
//! a client presents itself that of its protocol.

mod credentials;
mod nkey;
mod password;
mod token;

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use hashbrown::HashMap;
use tokio::sync::Semaphore;

use crate::access::Grant;
pub use credentials::{Credential, User};
pub use nkey::{KeyError, PublicKey};
use password::PasswordHash;
pub use password::{Password, PasswordError};
pub(super) use token::Tokens;

/// Slow checks of passwords at once. 4: each keeps a processor busy for a tenth of a second and may need
/// 64 MiB; the others wait their turn, as long as the time to log in lasts.
const MAX_CHECKS: usize = 4;

/// Random bytes of what a client with a key signs. 11, as nats-server: as many as 15 letters hold.
const NONCE_BYTES: usize = 11;

/// What a client says to be let in. What is absent is none, or empty.
#[derive(Clone, Copy, Default)]
pub(super) struct Presented<'a> {
    pub(super) token: Option<&'a str>,
    pub(super) user: Option<&'a str>,
    pub(super) password: Option<&'a str>,
    /// A public key, as text.
    pub(super) key: Option<&'a str>,
    /// The signature by that key of `nonce`, as text.
    pub(super) signature: Option<&'a str>,
    /// What the client was asked to sign.
    pub(super) nonce: Option<&'a str>,
    /// The names in its certificate, which was found good.
    pub(super) certified: &'a [String],
}

/// A client that is let in.
#[derive(Debug)]
pub(super) struct Admitted {
    /// The user's name, or the key for users with keys, as nats-server shows them; empty for nobody in
    /// particular.
    pub(super) name: String,
    /// What it may do.
    pub(super) grant: Arc<Grant>,
}

impl Admitted {
    fn new(name: &str, grant: &Arc<Grant>) -> Self {
        Self { name: name.to_owned(), grant: Arc::clone(grant) }
    }
}

/// Everybody who is let in.
#[derive(Debug)]
pub(super) struct Logins {
    tokens: Tokens,
    passwords: HashMap<String, (Password, Arc<Grant>)>,
    keys: HashMap<PublicKey, Arc<Grant>>,
    /// Whether there are users, however they are known.
    has_users: bool,
    /// All users, by the name that a certificate must hold. Only if certificates name users.
    certified: Option<HashMap<String, Arc<Grant>>>,
    /// Hashes of real users, one of which is checked for each user that does not exist, so that time tells
    /// nothing.
    decoys: Vec<PasswordHash>,
    /// Which of them it is: the same for the same name, as with users that exist.
    choice: RandomState,
    checks: Arc<Semaphore>,
    everything: Arc<Grant>,
    /// Who clients are that present nothing, if they are let in.
    nobody: Option<(String, Arc<Grant>)>,
}

impl Logins {
    /// Those who know one of these tokens, who may do everything, and these users. With `certified`,
    /// clients must have a certificate with a user's name in it, and what they say beside it does not
    /// count.
    pub(super) fn new(tokens: Tokens, users: &[User], certified: bool) -> Self {
        let mut passwords = HashMap::new();
        let mut keys = HashMap::new();
        let mut by_name = HashMap::new();
        let mut decoys = Vec::new();
        for User { name, credential, grant } in users {
            let grant = Arc::new(grant.clone());
            by_name.insert(name.clone(), Arc::clone(&grant));
            match credential {
                Credential::Password(password) => {
                    decoys.extend(password.hash().cloned());
                    passwords.insert(name.clone(), (password.clone(), grant));
                }
                Credential::Key(key) => _ = keys.insert(*key, grant),
                Credential::Certificate => {}
            }
        }
        Self {
            tokens,
            passwords,
            keys,
            has_users: !users.is_empty(),
            certified: certified.then_some(by_name),
            decoys,
            choice: RandomState::new(),
            checks: Arc::new(Semaphore::new(MAX_CHECKS)),
            everything: Arc::default(),
            nobody: None,
        }
    }

    /// Lets in clients that present nothing as the user of this name; nobody does if there is none.
    pub(super) fn with_nobody(mut self, name: Option<&str>, users: &[User]) -> Self {
        let found = users.iter().find(|user| Some(user.name.as_str()) == name);
        self.nobody = found.map(|user| (user.name.clone(), Arc::new(user.grant.clone())));
        self
    }

    /// Whether a client that presents nothing is not let in.
    pub(super) fn must_be_presented(&self) -> bool {
        !self.is_open() && self.nobody.is_none()
    }

    /// Whether nobody is configured, so that everyone is let in and may do everything.
    pub(super) fn is_open(&self) -> bool {
        self.tokens.is_empty() && !self.has_users && self.certified.is_none()
    }

    /// What a client is to sign, if there are users with keys.
    pub(super) fn nonce(&self) -> Option<String> {
        use base64::Engine as _;
        let random: [u8; NONCE_BYTES] = rand::random();
        let nonce = || base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random);
        (!self.keys.is_empty()).then(nonce)
    }

    /// Whether a client is let in whose protocol knows no permissions: one that presents a token, or
    /// `user:password` of somebody who may do everything.
    pub(super) async fn admit_wholly(&self, token: Option<&str>) -> bool {
        if self.is_open() || self.tokens.hold(token) {
            return true;
        }
        let Some((user, password)) = token.and_then(|token| token.split_once(':')) else {
            return false;
        };
        self.admit_user(user, password).await.is_some_and(|grant| grant.is_everything())
    }

    /// Who a client is and what it may do; nothing if it is not let in.
    pub(super) async fn admit(&self, presented: Presented<'_>) -> Option<Admitted> {
        if self.is_open() {
            return Some(Admitted::new("", &self.everything));
        }
        if let Some(users) = &self.certified {
            // Who says to be somebody else is not believed either.
            let said = presented.user.filter(|user| !user.is_empty());
            let certified = presented
                .certified
                .iter()
                .find_map(|name| users.get(name).map(|grant| Admitted::new(name, grant)));
            return certified.filter(|_| said.is_none());
        }
        if let Some(key) = presented.key.filter(|key| !key.is_empty()) {
            return self.admit_key(key, presented).map(|grant| Admitted::new(key, &grant));
        }
        if let Some(user) = presented.user.filter(|user| !user.is_empty()) {
            let grant = self.admit_user(user, presented.password.unwrap_or_default()).await?;
            return Some(Admitted::new(user, &grant));
        }
        if presented.token.is_none_or(str::is_empty)
            && let Some((name, grant)) = &self.nobody
        {
            return Some(Admitted::new(name, grant));
        }
        self.tokens.hold(presented.token).then(|| Admitted::new("", &self.everything))
    }

    fn admit_key(&self, key: &str, presented: Presented<'_>) -> Option<Arc<Grant>> {
        let key: PublicKey = key.parse().ok()?;
        let grant = self.keys.get(&key)?;
        let is_signed = key.has_signed(presented.nonce?, presented.signature?);
        is_signed.then(|| Arc::clone(grant))
    }

    async fn admit_user(&self, name: &str, given: &str) -> Option<Arc<Grant>> {
        let user = self.passwords.get(name);
        // One slow check for each, whatever the user is like, if one is slow for any.
        let own = user.and_then(|(password, _)| password.hash());
        let slow = match own.or_else(|| self.decoy(name)) {
            Some(hash) => self.check(hash.clone(), given.to_owned()).await,
            None => false,
        };
        let (password, grant) = user?;
        let is_right = match password.plain() {
            Some(plain) => token::same(plain.as_bytes(), given.as_bytes()),
            None => slow,
        };
        is_right.then(|| Arc::clone(grant))
    }

    fn decoy(&self, name: &str) -> Option<&PasswordHash> {
        let count = u64::try_from(self.decoys.len()).ok().filter(|count| *count > 0)?;
        let at = usize::try_from(self.choice.hash_one(name) % count).ok()?;
        self.decoys.get(at)
    }

    /// Checks a password on a thread where that keeps nobody waiting, of those that may do so at once. One
    /// that has begun ends, also if nobody waits for it any more.
    async fn check(&self, hash: PasswordHash, given: String) -> bool {
        let Ok(permit) = Arc::clone(&self.checks).acquire_owned().await else { return false };
        let check = tokio::task::spawn_blocking(move || {
            let is_right = hash.is_of(&given);
            drop(permit);
            is_right
        });
        check.await.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use crate::access::{PublishRules, SubscribeRules};

    /// Of `hunter2`, as cheap as it may be.
    const HASH: &str = "$argon2id$v=19$m=256,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$y4SLniVRQwDdC5zaJfAw61JJdUYokRHWL+qh8q+w8Nc";
    const KEY: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";

    fn user(name: &str, credential: Credential) -> User {
        // Each may publish to its own name alone, so that it shows who was let in.
        let allow = Some(vec![name.to_owned()]);
        let publish = PublishRules { allow, deny: Vec::new() };
        let grant = Grant::new(publish, SubscribeRules::default(), None);
        User { name: name.to_owned(), credential, grant }
    }

    fn password(text: &str) -> Credential {
        Credential::Password(text.parse().unwrap())
    }

    fn logins() -> Logins {
        let users = [
            user("ann", password(HASH)),
            user("bob", password("plain")),
            user("kim", Credential::Key(KEY.parse().unwrap())),
            user("cat@example.org", Credential::Certificate),
        ];
        Logins::new(tokens(&["secret"]), &users, false)
    }

    fn tokens(tokens: &[&str]) -> Tokens {
        tokens.iter().map(|token| (*token).to_owned()).collect()
    }

    fn by_password<'a>(user: &'a str, password: &'a str) -> Presented<'a> {
        Presented { user: Some(user), password: Some(password), ..Presented::default() }
    }

    #[tokio::test]
    async fn each_user_is_let_in_with_its_own_password_alone() {
        let logins = logins();
        for (name, right) in [("ann", "hunter2"), ("bob", "plain")] {
            let grant = logins.admit(by_password(name, right)).await.expect(name).grant;
            assert!(grant.may_publish(name) && !grant.may_publish("other"));
            for wrong in ["", "hunter", "hunter22", "Hunter2", HASH, "plai"] {
                assert!(logins.admit(by_password(name, wrong)).await.is_none(), "{name} {wrong}");
            }
        }
        for nobody in ["eve", "cat@example.org", "kim", "ANN", "ann "] {
            for given in ["", "hunter2", "plain", "secret"] {
                assert!(logins.admit(by_password(nobody, given)).await.is_none(), "{nobody}");
            }
        }
    }

    #[tokio::test]
    async fn a_token_is_no_password_and_a_password_no_token() {
        let logins = logins();
        let token = |token| Presented { token, ..Presented::default() };
        assert!(logins.admit(token(Some("secret"))).await.unwrap().grant.is_everything());
        for wrong in [None, Some(""), Some("plain"), Some("hunter2"), Some("secre")] {
            assert!(logins.admit(token(wrong)).await.is_none(), "{wrong:?}");
        }
        assert!(logins.admit_wholly(Some("secret")).await && !logins.admit_wholly(None).await);
    }

    /// CVE-2023-47090 in nats-server: a configuration that let in somebody nobody had thought of.
    #[tokio::test]
    async fn no_shape_of_configuration_lets_in_who_presents_nothing() {
        let users = [user("ann", password(HASH))];
        let keys = [user("kim", Credential::Key(KEY.parse().unwrap()))];
        let certificates = [user("cat@example.org", Credential::Certificate)];
        let shapes: [(&[&str], &[User], bool); 7] = [
            (&["secret"], &[], false),
            (&[], &users, false),
            (&[], &keys, false),
            (&["secret"], &users, false),
            (&[], &certificates, true),
            (&[], &certificates, false),
            (&[], &[], true),
        ];
        for (at, (secrets, users, certified)) in shapes.into_iter().enumerate() {
            let logins = Logins::new(tokens(secrets), users, certified);
            assert!(!logins.is_open(), "shape {at}");
            let nothing = Presented::default();
            let empty = Presented {
                token: Some(""),
                user: Some(""),
                password: Some(""),
                key: Some(""),
                signature: Some(""),
                nonce: Some(""),
                certified: &[],
            };
            for presented in [nothing, empty] {
                assert!(logins.admit(presented).await.is_none(), "shape {at}");
            }
            for token in [None, Some(""), Some(":"), Some("ann:"), Some("kim:")] {
                assert!(!logins.admit_wholly(token).await, "shape {at} {token:?}");
            }
        }
        assert!(Logins::new(Tokens::default(), &[], false).is_open());
    }

    #[tokio::test]
    async fn who_presents_nothing_may_be_a_user_and_who_presents_something_wrong_is_nobody() {
        let users = [user("ann", password("plain")), user("guest", Credential::Certificate)];
        let logins = Logins::new(Tokens::default(), &users, false);
        assert!(logins.must_be_presented());
        let logins = logins.with_nobody(Some("guest"), &users);
        assert!(!logins.must_be_presented() && !logins.is_open());
        let admitted = logins.admit(Presented::default()).await.unwrap();
        assert_eq!(admitted.name, "guest");
        assert!(admitted.grant.may_publish("guest") && !admitted.grant.may_publish("ann"));
        let ann = logins.admit(by_password("ann", "plain")).await.unwrap();
        assert!(ann.grant.may_publish("ann"));
        for wrong in [by_password("ann", "wrong"), by_password("guest", ""), by_password("x", "")] {
            assert!(logins.admit(wrong).await.is_none());
        }
        let token = Presented { token: Some("x"), ..Presented::default() };
        let key = Presented { key: Some(KEY), ..Presented::default() };
        assert!(logins.admit(token).await.is_none() && logins.admit(key).await.is_none());
        assert!(!logins.admit_wholly(None).await);
        let unknown = Logins::new(Tokens::default(), &users, false).with_nobody(Some("x"), &users);
        assert!(unknown.admit(Presented::default()).await.is_none());
    }

    #[tokio::test]
    async fn only_who_may_do_everything_is_let_in_where_permissions_are_unknown() {
        let grant = Grant::default();
        let all = User { name: "all".to_owned(), credential: password("p:q"), grant };
        let logins = Logins::new(Tokens::default(), &[all, user("bob", password("plain"))], false);
        assert!(logins.admit_wholly(Some("all:p:q")).await);
        for wrong in [None, Some(""), Some("all"), Some("all:"), Some("all:p"), Some("bob:plain")] {
            assert!(!logins.admit_wholly(wrong).await, "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn a_key_signs_what_it_was_asked_to() {
        let logins = logins();
        let nonce = logins.nonce().expect("there are keys");
        assert_eq!(nonce.len(), 15);
        assert_ne!(logins.nonce(), Some(nonce));
        let signed = Presented {
            key: Some(KEY),
            signature: Some(nkey::tests::SIGNATURE),
            nonce: Some(nkey::tests::NONCE),
            ..Presented::default()
        };
        assert!(logins.admit(signed).await.unwrap().grant.may_publish("kim"));
        let other_nonce = Presented { nonce: Some("0123456789abcdf"), ..signed };
        let no_nonce = Presented { nonce: None, ..signed };
        let no_signature = Presented { signature: None, ..signed };
        for wrong in [other_nonce, no_nonce, no_signature] {
            assert!(logins.admit(wrong).await.is_none());
        }
        assert_eq!(Logins::new(tokens(&["secret"]), &[], false).nonce(), None);
    }

    #[tokio::test]
    async fn a_certificate_names_its_user_and_nothing_else_counts() {
        let users = [user("cat@example.org", Credential::Certificate), user("bob", password("p"))];
        let logins = Logins::new(tokens(&["secret"]), &users, true);
        let names = ["x".to_owned(), "cat@example.org".to_owned()];
        let certified = Presented { certified: &names, ..Presented::default() };
        assert!(logins.admit(certified).await.unwrap().grant.may_publish("cat@example.org"));
        let said = Presented { user: Some("bob"), password: Some("p"), ..certified };
        assert!(logins.admit(said).await.is_none());
        let token = Presented { token: Some("secret"), ..Presented::default() };
        assert!(logins.admit(token).await.is_none());
        let prefix = ["cat@example.org.evil".to_owned()];
        assert!(logins.admit(Presented { certified: &prefix, ..certified }).await.is_none());
    }

    #[tokio::test]
    async fn users_that_do_not_exist_cost_as_much_as_those_that_do() {
        let logins = logins();
        for name in ["eve", "bob", "kim"] {
            assert!(logins.decoy(name).is_some(), "{name}");
            assert_eq!(logins.decoy(name), logins.decoy(name));
        }
        let plain = Logins::new(Tokens::default(), &[user("bob", password("plain"))], false);
        assert_eq!(plain.decoy("eve"), None);
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = format!("{:?} {:#?}", logins(), logins());
        assert!(!shown.contains("secret") && !shown.contains("plain"), "{shown}");
        assert!(!shown.contains("argon2"), "{shown}");
    }
}
