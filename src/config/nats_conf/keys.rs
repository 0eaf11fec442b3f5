//! Keys of nats-server that change nothing here, or that are refused, with the reason for people.

/// Keys at the top that are accepted and have no effect.
pub(super) const IGNORED: &[(&str, &str)] = &[
    ("client_advertise", "there is one server, which clients know by the address they connect to"),
    ("connect_error_reports", "there are no routes that could fail"),
    ("reconnect_error_reports", "there are no routes that could fail"),
    ("disable_sublist_cache", "subscriptions are found without a cache"),
    ("logfile_size_limit", "the log grows until SIGUSR1 opens it again"),
    ("log_size_limit", "the log grows until SIGUSR1 opens it again"),
    ("logfile_max_num", "the log grows until SIGUSR1 opens it again"),
    ("log_max_num", "the log grows until SIGUSR1 opens it again"),
    ("max_closed_clients", "closed connections are not listed"),
    ("max_traced_msg_len", "messages are not written to the log"),
    ("server_metadata", "nobody reads it"),
    ("server_tags", "they place replicas, of which there is one"),
];

/// Keys of `jetstream` that are accepted and have no effect.
pub(super) const IGNORED_JETSTREAM: &[(&str, &str)] = &[
    ("max_memory_store", UNBOUNDED),
    ("max_mem_store", UNBOUNDED),
    ("max_mem", UNBOUNDED),
    ("max_file_store", UNBOUNDED),
    ("max_file", UNBOUNDED),
    ("sync_interval", "what is acknowledged is on the disk already"),
    ("sync", "what is acknowledged is on the disk already"),
    ("sync_always", "what is acknowledged is on the disk already"),
    ("max_outstanding_catchup", "there are no replicas"),
    ("max_buffered_msgs", "acknowledgements bound what publishers have in flight"),
    ("max_buffered_size", "acknowledgements bound what publishers have in flight"),
    ("request_queue_limit", "requests of one connection are bounded by themselves"),
    ("strict", "requests are read strictly where nats-server does by default"),
    ("unique_tag", "it places replicas, of which there is one"),
];

const UNBOUNDED: &str = "streams are bounded by their own limits and by the disk";

/// Keys at the top that ask for what is not here, and what to do instead.
pub(super) const REFUSED: &[(&str, &str)] = &[
    ("cluster", ONE_SERVER),
    ("gateway", ONE_SERVER),
    ("leafnodes", ONE_SERVER),
    ("leaf", ONE_SERVER),
    ("system_account", ONE_ACCOUNT),
    ("system", ONE_ACCOUNT),
    ("operator", TOKENS),
    ("operators", TOKENS),
    ("roots", TOKENS),
    ("root", TOKENS),
    ("trusted", TOKENS),
    ("trusted_keys", TOKENS),
    ("resolver", TOKENS),
    ("account_resolver", TOKENS),
    ("resolver_preload", TOKENS),
    ("resolver_pinned_accounts", TOKENS),
    ("default_js_domain", "there is one account, and the domain is the one of `jetstream`"),
    ("default_sentinel", TOKENS),
    ("mqtt", "only NATS clients are served; put a bridge for MQTT in front"),
    ("mappings", "publish to the subject itself"),
    ("maps", "publish to the subject itself"),
    ("https", PLAIN_HTTP),
    ("https_port", PLAIN_HTTP),
    ("http_base_path", "paths of the HTTP listener begin at /; put a proxy in front"),
    ("prof_port", "measure with the tools of the operating system"),
    ("syslog", NO_SYSLOG),
    ("remote_syslog", NO_SYSLOG),
    ("msg_trace", "messages are not traced"),
    ("ocsp", "TLS comes without it"),
    ("ocsp_cache", "TLS comes without it"),
    ("proxies", "clients connect directly"),
    ("proxy_protocol", "clients connect directly"),
    ("allow_non_tls", "clients that need no TLS have a listener of their own; run a second server"),
];

/// Keys of `jetstream` that ask for what is not here.
pub(super) const REFUSED_JETSTREAM: &[(&str, &str)] = &[
    ("cipher", ENCRYPTION),
    ("key", ENCRYPTION),
    ("ek", ENCRYPTION),
    ("encryption_key", ENCRYPTION),
    ("prev_key", ENCRYPTION),
    ("prev_ek", ENCRYPTION),
    ("prev_encryption_key", ENCRYPTION),
    ("tpm", ENCRYPTION),
    ("extension_hint", ONE_SERVER),
    ("tags", "they place replicas, of which there is one"),
];

/// Keys of `limits` in `jetstream`.
pub(super) const REFUSED_LIMITS: &[(&str, &str)] = &[
    ("max_ack_pending", "give each consumer its own"),
    ("max_ha_assets", ONE_SERVER),
    ("max_batch_inflight_per_stream", BATCHES),
    ("max_batch_inflight_total", BATCHES),
    ("max_batch_size", BATCHES),
    ("max_batch_timeout", BATCHES),
    ("duplicate_window", "give each stream its own"),
];

const BATCHES: &str = "limits of batches cannot be chosen";
pub(super) const ONE_SERVER: &str = "there is one server, and no cluster; run it alone, with two copies of every file by `claudebus serve --copies 2`";
pub(super) const ONE_ACCOUNT: &str =
    "all clients share one account; run one server for each, or separate them by subjects";
pub(super) const TOKENS: &str =
    "JWTs are not checked; list the users, with passwords or keys (authorization { users })";
pub(super) const PLAIN_HTTP: &str = "the HTTP listener is plain; use http_port and a proxy";
pub(super) const NO_SYSLOG: &str = "the log goes to stderr or to a file (log_file)";
pub(super) const ENCRYPTION: &str = "files are not encrypted; use an encrypted file system";
