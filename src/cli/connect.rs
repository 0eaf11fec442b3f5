//! From the connection options to a client, and from its errors to failures with a hint.

use super::args::Global;
use super::exit::{Exit, Failure};
use crate::client::{
    AckError, ApiError, Client, ConnectError, ConsumeError, PublishError, RequestError, SendError,
};

/// Connects as the options say.
pub(super) async fn connect(global: &Global) -> Result<Client, Failure> {
    let mut builder = Client::builder()
        .name("claudebus-cli")
        .connect_timeout(global.timeout)
        .request_timeout(global.timeout);
    if let Some(url) = &global.server {
        builder = builder.url(url);
    }
    if let Some(ca) = &global.ca {
        builder = builder.ca_file(ca);
    }
    if let Some(fingerprint) = &global.fingerprint {
        builder = builder.fingerprint(fingerprint);
    }
    if let Some(token) = &global.token {
        builder = builder.token(token);
    }
    Ok(builder.connect().await?)
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let (exit, hint) = match &error {
            ConnectError::Address(_) | ConnectError::Fingerprint(_) | ConnectError::Trust(_) => {
                (Exit::Usage, None)
            }
            ConnectError::Refused { .. } => {
                (Exit::Denied, Some("give the token with --token or CLAUDEBUS_TOKEN"))
            }
            ConnectError::NoTrust { .. } => (
                Exit::NotConnected,
                Some("start a server with `claudebus serve`, or give --ca FILE"),
            ),
            ConnectError::Timeout { .. } | ConnectError::Handshake { .. } => (
                Exit::NotConnected,
                Some("start a server with `claudebus serve`, or name one with --server"),
            ),
            _ => (Exit::NotConnected, None),
        };
        let failure = Self::new(exit, error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

/// The exit code of an error that the server answered with.
fn exit_of(error: &ApiError) -> Exit {
    match error.code {
        _ if error.err_code == ApiError::invalid_subject("").err_code => Exit::Usage,
        404 => Exit::NotFound,
        401 | 403 => Exit::Denied,
        _ => Exit::Failed,
    }
}

/// The next step after an error that the server answered with.
fn with_hint(failure: Failure, error: &ApiError) -> Failure {
    let is = |other: ApiError| error.err_code == other.err_code;
    if is(ApiError::stream_not_found()) {
        failure.hint("`claudebus stream ls` lists the streams there are")
    } else if is(ApiError::consumer_not_found()) {
        failure.hint("`claudebus consumer ls STREAM` lists the consumers there are")
    } else if is(ApiError::consumer_already_exists()) {
        failure.hint("`claudebus consumer edit STREAM CONSUMER` changes it")
    } else if is(ApiError::no_stream_matches()) {
        failure.hint(
            "make a stream that captures the subject: claudebus stream add NAME --subjects SUBJECT",
        )
    } else if is(ApiError::subjects_overlap()) {
        failure.hint("`claudebus stream ls --subject SUBJECT` shows which one has them")
    } else if is(ApiError::storage_exceeded()) {
        failure.hint(
            "the server's disk is full; free some of it, or let go of messages: \
             claudebus purge STREAM --keep N",
        )
    } else {
        failure
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        match &error {
            RequestError::Api { error: api, .. } => with_hint(Self::new(exit_of(api), &error), api),
            RequestError::Name { .. } => Self::usage(&error),
            RequestError::Timeout { .. } => Self::new(Exit::TimedOut, &error),
            RequestError::Disconnected { .. } | RequestError::Closed { .. } => {
                Self::new(Exit::NotConnected, &error)
            }
            _ => Self::new(Exit::Failed, &error),
        }
    }
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        match &error {
            PublishError::Subject(_) | PublishError::Header(_) => Self::usage(&error),
            PublishError::Refused(api)
                if api.err_code == ApiError::no_stream_matches().err_code =>
            {
                let text = "the message went to whoever listens now, but no stream stores it";
                with_hint(Self::new(exit_of(api), format_args!("{text}: {api}")), api)
            }
            PublishError::Refused(api) => with_hint(Self::new(exit_of(api), &error), api),
            PublishError::Closed => Self::new(Exit::NotConnected, &error),
            _ => Self::new(Exit::Failed, &error),
        }
    }
}

impl From<ConsumeError> for Failure {
    fn from(error: ConsumeError) -> Self {
        match &error {
            ConsumeError::Refused { error: api, .. } => {
                with_hint(Self::new(exit_of(api), &error), api)
            }
            ConsumeError::Closed { .. } => Self::new(Exit::NotConnected, &error),
            _ => Self::new(Exit::Failed, &error),
        }
    }
}

impl From<AckError> for Failure {
    fn from(error: AckError) -> Self {
        match &error {
            AckError::Refused(api) => with_hint(Self::new(exit_of(api), &error), api),
            AckError::Closed => Self::new(Exit::NotConnected, &error),
        }
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        match &error {
            SendError::Subject(_) | SendError::Header(_) => Self::usage(&error),
            SendError::Refused(api) => with_hint(Self::new(exit_of(api), &error), api),
            SendError::Timeout { .. } => Self::new(Exit::TimedOut, &error),
            SendError::NoResponders(_) => Self::new(Exit::NotFound, &error)
                .hint("`claudebus reply SUBJECT ...` answers requests"),
            SendError::Closed => Self::new(Exit::NotConnected, &error),
            _ => Self::new(Exit::Failed, &error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_exist_has_its_own_exit_code_and_a_hint() {
        let error =
            RequestError::Api { operation: "X".into(), error: ApiError::stream_not_found() };
        let failure = Failure::from(error);
        assert_eq!(failure.exit, Exit::NotFound);
        assert!(failure.hint.is_some_and(|hint| hint.contains("stream ls")));
        let refused = PublishError::Refused(ApiError::no_stream_matches());
        let failure = Failure::from(refused);
        assert_eq!(failure.exit, Exit::NotFound);
        assert!(failure.message.contains("no stream stores it"), "{failure:?}");
        assert!(failure.hint.is_some_and(|hint| hint.contains("stream add")));
        assert_eq!(Failure::from(SendError::Subject("a b".into())).exit, Exit::Usage);
    }
}
