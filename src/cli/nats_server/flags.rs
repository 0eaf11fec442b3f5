//! The command line of nats-server, with the syntax of Go's flags: one dash or two, a value after `=` or in the next
//! argument, switches without a value.

use std::path::PathBuf;

use crate::config::nats_conf::{NatsOptions, Port, TlsOptions};
use crate::config::sections::Secret;
use crate::config::tls::Verify;

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Show how the program is called.
    Help,
    /// Show the version.
    Version,
    /// Run the server.
    Serve(Flags),
}

/// What the command line says beside what it asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Flags {
    /// The configuration file.
    pub(super) config: Option<PathBuf>,
    /// Only check the configuration.
    pub(super) test: bool,
    /// Send a signal to a server instead: `<signal>` or `<signal>=<pid or file>`.
    pub(super) signal: Option<String>,
    /// What changes options, in its order.
    given: Vec<Given>,
}

/// A flag and its value.
#[derive(Debug, PartialEq, Eq)]
struct Given {
    flag: &'static Flag,
    /// The name it was called by.
    name: String,
    value: String,
}

/// One flag.
#[derive(Debug, PartialEq, Eq)]
struct Flag {
    names: &'static [&'static str],
    /// Whether it stands for true without a value.
    is_switch: bool,
    what: What,
}

/// What a flag is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Help,
    Version,
    Config,
    Test,
    Signal,
    Host,
    Port,
    HttpPort,
    ServerName,
    PidFile,
    PortsFileDir,
    LogFile,
    LogTime,
    LogTimeUtc,
    Debug,
    Trace,
    DebugAndTrace,
    JetStream,
    StoreDir,
    Token,
    User,
    Password,
    Tls,
    TlsVerify,
    TlsCert,
    TlsKey,
    TlsAuthority,
    /// Has no effect, and why.
    Ignored(&'static str),
    /// Is not supported, and what to do instead.
    Refused(&'static str),
}

const fn switch(names: &'static [&'static str], what: What) -> Flag {
    Flag { names, is_switch: true, what }
}

const fn valued(names: &'static [&'static str], what: What) -> Flag {
    Flag { names, is_switch: false, what }
}

const ONE_SERVER: What = What::Refused(
    "there is one server, and no cluster; run it alone, with two copies of every file by `claudebus serve --copies 2`",
);
const NO_SYSLOG: What = What::Refused("the log goes to stderr or to a file (--log)");
const GROWS: What = What::Ignored("the log grows until SIGUSR1 opens it again");

/// All flags of nats-server 2.15.
const FLAGS: &[Flag] = &[
    switch(&["h", "help", "help_tls"], What::Help),
    switch(&["v", "version"], What::Version),
    valued(&["c", "config"], What::Config),
    switch(&["t"], What::Test),
    valued(&["sl", "signal"], What::Signal),
    valued(&["a", "addr", "net"], What::Host),
    valued(&["p", "port"], What::Port),
    valued(&["m", "http_port"], What::HttpPort),
    valued(&["n", "name", "server_name"], What::ServerName),
    valued(&["P", "pid"], What::PidFile),
    valued(&["ports_file_dir"], What::PortsFileDir),
    valued(&["l", "log"], What::LogFile),
    switch(&["T", "logtime"], What::LogTime),
    switch(&["logtime_utc"], What::LogTimeUtc),
    switch(&["D", "debug"], What::Debug),
    switch(&["V", "trace", "VV"], What::Trace),
    switch(&["DV", "DVV"], What::DebugAndTrace),
    switch(&["js", "jetstream"], What::JetStream),
    valued(&["sd", "store_dir"], What::StoreDir),
    valued(&["auth"], What::Token),
    valued(&["user"], What::User),
    valued(&["pass"], What::Password),
    switch(&["tls"], What::Tls),
    switch(&["tlsverify"], What::TlsVerify),
    valued(&["tlscert"], What::TlsCert),
    valued(&["tlskey"], What::TlsKey),
    valued(&["tlscacert"], What::TlsAuthority),
    valued(
        &["client_advertise"],
        What::Ignored("there is one server, which clients know by the address they connect to"),
    ),
    valued(&["log_size_limit"], GROWS),
    valued(&["max_traced_msg_len"], What::Ignored("messages are not written to the log")),
    switch(&["s", "syslog"], NO_SYSLOG),
    valued(&["r", "remote_syslog"], NO_SYSLOG),
    valued(
        &["ms", "https_port"],
        What::Refused("the HTTP listener is plain; use --http_port and a proxy"),
    ),
    valued(&["routes", "cluster", "cluster_name", "cluster_listen"], ONE_SERVER),
    valued(&["cluster_advertise", "connect_retries"], ONE_SERVER),
    switch(&["no_advertise"], ONE_SERVER),
    valued(&["profile"], What::Refused("measure with the tools of the operating system")),
];

/// Reads the arguments after the program's name.
///
/// # Errors
/// What is wrong, in nats-server's words where it has some.
pub(super) fn parse(arguments: &[String]) -> Result<Request, String> {
    let mut flags = Flags::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let Some(name) = dashed(argument)? else {
            return word(argument);
        };
        if name.is_empty() {
            // `--` ends the flags.
            return rest.next().map_or(Ok(Request::Serve(flags)), |next| word(next));
        }
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (name, None),
        };
        let flag = FLAGS
            .iter()
            .find(|flag| flag.names.contains(&name))
            .ok_or_else(|| format!("flag provided but not defined: -{name}"))?;
        let value = match value {
            Some(value) => value,
            None if flag.is_switch => "true".to_owned(),
            None => {
                rest.next().cloned().ok_or_else(|| format!("flag needs an argument: -{name}"))?
            }
        };
        let is_on = !flag.is_switch || boolean(name, &value)?;
        match flag.what {
            What::Help if is_on => return Ok(Request::Help),
            What::Version if is_on => return Ok(Request::Version),
            What::Help | What::Version => {}
            What::Config => flags.config = Some(value.into()),
            What::Test => flags.test = is_on,
            What::Signal => flags.signal = Some(value),
            _ => flags.given.push(Given { flag, name: name.to_owned(), value }),
        }
    }
    Ok(Request::Serve(flags))
}

/// The flag without its dashes; none if it is no flag.
fn dashed(argument: &str) -> Result<Option<&str>, String> {
    let Some(one) = argument.strip_prefix('-').filter(|rest| !rest.is_empty()) else {
        return Ok(None);
    };
    let Some(name) = one.strip_prefix('-') else {
        return if one.starts_with('=') { Err(bad_syntax(argument)) } else { Ok(Some(one)) };
    };
    if name.starts_with(['-', '=']) { Err(bad_syntax(argument)) } else { Ok(Some(name)) }
}

fn bad_syntax(argument: &str) -> String {
    format!("bad flag syntax: {argument}")
}

/// What a word after the flags asks for. There are two commands, which nobody needs.
fn word(word: &str) -> Result<Request, String> {
    match word.to_ascii_lowercase().as_str() {
        "help" => Ok(Request::Help),
        "version" => Ok(Request::Version),
        _ => Err(format!("unrecognized command: \"{word}\"")),
    }
}

/// True or false as Go reads it.
fn boolean(name: &str, value: &str) -> Result<bool, String> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("invalid boolean value \"{value}\" for -{name}: parse error")),
    }
}

impl Flags {
    /// Changes what the file says to what the flags say.
    ///
    /// # Errors
    /// The flag that is not supported or makes no sense, and why.
    pub(super) fn apply(&self, options: &mut NatsOptions) -> Result<(), String> {
        self.given.iter().try_for_each(|given| given.apply(options))?;
        // `--tls=false` takes back what the file and other flags say.
        let off = |given: &&Given| given.flag.what == What::Tls && !given.is_on();
        if self.given.iter().any(|given| off(&given)) {
            options.tls = None;
        }
        Ok(())
    }
}

impl Given {
    fn apply(&self, options: &mut NatsOptions) -> Result<(), String> {
        let text = || self.value.clone();
        let path = || Some(PathBuf::from(&self.value)).filter(|path| !path.as_os_str().is_empty());
        let is_on = self.is_on();
        match self.flag.what {
            What::Host => options.host = Some(text()).filter(|host| !host.is_empty()),
            What::Port => options.port = self.port()?,
            What::HttpPort => options.http_port = Some(self.port()?),
            What::ServerName => options.server_name = Some(text()).filter(|name| !name.is_empty()),
            What::PidFile => options.pid_file = path(),
            What::PortsFileDir => options.ports_file_dir = path(),
            What::LogFile => options.log_file = path(),
            What::LogTime => options.logtime = is_on,
            What::LogTimeUtc => options.logtime_utc = is_on,
            What::Debug => options.debug = is_on,
            What::Trace => options.trace = is_on,
            What::DebugAndTrace => (options.debug, options.trace) = (is_on, is_on),
            What::JetStream => options.jetstream = is_on,
            What::StoreDir => options.store_dir = path(),
            What::Token => options.token = Some(Secret(text())).filter(|token| !token.0.is_empty()),
            What::User => options.user = Some(text()).filter(|name| !name.is_empty()),
            What::Password => {
                options.password = Some(Secret(text())).filter(|password| !password.0.is_empty());
            }
            What::Tls | What::TlsVerify | What::TlsCert | What::TlsKey | What::TlsAuthority => {
                self.apply_tls(options.tls.get_or_insert_default());
            }
            What::Ignored(why) => options.warn(format_args!("--{}", self.name), why),
            What::Refused(_) if self.flag.is_switch && !is_on => {}
            What::Refused(instead) => return Err(self.unsupported(instead)),
            // Taken while reading.
            What::Help | What::Version | What::Config | What::Test | What::Signal => {}
        }
        Ok(())
    }

    /// Whether a switch is on. Only switches are asked, whose values were read before.
    fn is_on(&self) -> bool {
        boolean(&self.name, &self.value).unwrap_or(false)
    }

    /// Any of these flags asks for TLS.
    fn apply_tls(&self, tls: &mut TlsOptions) {
        let path = || Some(PathBuf::from(&self.value)).filter(|path| !path.as_os_str().is_empty());
        match self.flag.what {
            What::TlsVerify => match (self.is_on(), tls.verify) {
                (true, Verify::Off) => tls.verify = Verify::On,
                (false, Verify::On) => tls.verify = Verify::Off,
                _ => {}
            },
            What::TlsCert => tls.cert = path(),
            What::TlsKey => tls.key = path(),
            What::TlsAuthority => tls.ca = path(),
            _ => {}
        }
    }

    fn port(&self) -> Result<Port, String> {
        let (name, value) = (&self.name, &self.value);
        value.parse().map_err(|why| format!("invalid value \"{value}\" for flag -{name}: {why}"))
    }

    fn unsupported(&self, instead: &str) -> String {
        format!("--{} is not supported: {instead}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    fn flags(line: &str) -> Flags {
        match parse(&words(line)) {
            Ok(Request::Serve(flags)) => flags,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn options(line: &str) -> NatsOptions {
        let mut options = NatsOptions::default();
        flags(line).apply(&mut options).unwrap_or_else(|why| panic!("{line}: {why}"));
        options
    }

    fn refused(line: &str) -> String {
        match parse(&words(line)) {
            Ok(Request::Serve(flags)) => flags.apply(&mut NatsOptions::default()).unwrap_err(),
            Ok(other) => panic!("{line}: {other:?}"),
            Err(why) => why,
        }
    }

    #[test]
    fn values_follow_or_stand_behind_an_equals_sign() {
        for line in ["-p 4333", "--p 4333", "-port 4333", "--port=4333", "-p=4333", "-p 1 -p 4333"]
        {
            assert_eq!(options(line).port, Port::Number(4333), "{line}");
        }
        assert_eq!(options("-p -1").port, Port::Any);
        assert_eq!(options("-n a=b").server_name.as_deref(), Some("a=b"));
        assert_eq!(options("--name=a=b").server_name.as_deref(), Some("a=b"));
    }

    #[test]
    fn switches_need_no_value() {
        for line in ["-js", "--jetstream", "-js=true", "-js=1", "-js=false --js=T"] {
            assert!(options(line).jetstream, "{line}");
        }
        assert!(!options("-js=false").jetstream && !options("-js -js=0").jetstream);
        let options = options("-DV -T=false --logtime_utc -V=f -tls=false -s=false");
        assert!(options.debug && !options.trace && !options.logtime && options.logtime_utc);
    }

    #[test]
    fn a_harness_is_understood() {
        let line = "-p -1 -a 127.0.0.1 -js -sd /d -c f.conf -P pid --ports_file_dir /ports -l log \
                    -m 8222 --auth s3cret --client_advertise x:1";
        let options = options(line);
        assert_eq!(options.host.as_deref(), Some("127.0.0.1"));
        assert_eq!(options.http_port, Some(Port::Number(8222)));
        assert_eq!(options.store_dir, Some("/d".into()));
        assert_eq!(options.token, Some(Secret("s3cret".into())));
        assert_eq!(options.warnings.len(), 1);
        let flags = flags("-c f.conf -t --signal=stop=7");
        assert_eq!((flags.config, flags.test), (Some("f.conf".into()), true));
        assert_eq!(flags.signal.as_deref(), Some("stop=7"));
    }

    #[test]
    fn users_and_certificates_are_understood() {
        let line =
            "--user ann --pass s3cret --tls --tlscert c --tlskey=k --tlsverify --tlscacert a";
        let found = options(line);
        assert_eq!(found.user.as_deref(), Some("ann"));
        assert_eq!(found.password, Some(Secret("s3cret".into())));
        let tls = found.tls.expect("it is asked for");
        assert_eq!(
            (tls.cert, tls.key, tls.ca),
            (Some("c".into()), Some("k".into()), Some("a".into()))
        );
        assert_eq!(tls.verify, Verify::On);
        assert_eq!(options("--tls=false --tlscert c").tls, None);
        assert_eq!(options("--tlscert c --tlsverify=false").tls.unwrap().verify, Verify::Off);
    }

    #[test]
    fn help_and_version_come_before_all_else() {
        for line in ["-v", "--version", "-p 1 version", "-v --nonsense"] {
            assert_eq!(parse(&words(line)), Ok(Request::Version), "{line}");
        }
        for line in ["-h", "-help", "help", "--help_tls"] {
            assert_eq!(parse(&words(line)), Ok(Request::Help), "{line}");
        }
    }

    #[test]
    fn errors_are_those_of_nats_server() {
        for (line, why) in [
            ("--foo", "flag provided but not defined: -foo"),
            ("--foo=1", "flag provided but not defined: -foo"),
            ("-p", "flag needs an argument: -p"),
            ("-js=x", "invalid boolean value \"x\" for -js: parse error"),
            ("---p", "bad flag syntax: ---p"),
            ("--=1", "bad flag syntax: --=1"),
            ("extra", "unrecognized command: \"extra\""),
            ("-js extra -p 1", "unrecognized command: \"extra\""),
            ("- -p 1", "unrecognized command: \"-\""),
            ("-- extra", "unrecognized command: \"extra\""),
        ] {
            assert_eq!(refused(line), why, "{line}");
        }
        assert!(refused("-p x").starts_with("invalid value \"x\" for flag -p: "));
    }

    #[test]
    fn what_is_not_supported_is_said() {
        for line in ["-s", "--routes x", "-ms 1"] {
            let why = refused(line);
            let name = line.trim_start_matches('-').split(' ').next().unwrap();
            assert!(why.starts_with(&format!("--{name} is not supported: ")), "{line}: {why}");
        }
    }

    #[test]
    fn no_name_belongs_to_two_flags() {
        let names: Vec<_> = FLAGS.iter().flat_map(|flag| flag.names).collect();
        let different: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(names.len(), different.len());
    }

    proptest! {
        #[test]
        fn any_arguments_are_a_request_or_an_error(
            arguments in proptest::collection::vec("(-{0,3}(p|js|c|sl|tls|auth|=|x)?(=.{0,3})?|\\PC{0,4})", 0..6)
        ) {
            if let Ok(Request::Serve(flags)) = parse(&arguments) {
                let _ = flags.apply(&mut NatsOptions::default());
            }
        }
    }
}
