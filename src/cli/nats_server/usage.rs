//! What `--help` shows.

/// Help in nats-server's form, of what is supported.
pub(super) const USAGE: &str = "
Usage: nats-server [options]

claudebus in the place of nats-server. `claudebus --help` shows what else it does.

Server Options:
    -a, --addr, --net <host>         Bind to host address (default: 127.0.0.1, or 0.0.0.0 with a login)
    -p, --port <port>                Use port for clients (default: 4222, any free one: -1)
    -n, --name
        --server_name <server_name>  Server name
    -P, --pid <file>                 File to store PID
    -m, --http_port <port>           Use port for http monitoring
    -c, --config <file>              Configuration file
    -t                               Test configuration and exit
    -sl,--signal <signal>[=<pid>]    Send signal to nats-server process (ldm, stop, quit, term, reopen, reload)
                                     <pid> can be either a PID or the path to a PID file
        --ports_file_dir <dir>       Creates a ports file in the specified directory (nats-server_<pid>.ports)

Logging Options:
    -l, --log <file>                 File to redirect log output
    -T, --logtime                    Timestamp log entries (default: true)
        --logtime_utc                Timestamps in UTC instead of local timezone (default: false)
    -D, --debug                      Enable debugging output
    -V, --trace                      Enable tracing output
    -DV                              Debug and trace

JetStream Options:
    -js, --jetstream                 Keep streams on the disk (in memory otherwise)
    -sd, --store_dir <dir>           Set the storage directory

Authorization Options:
        --user <user>                User required for connections
        --pass <password>            Password required for connections
        --auth <token>               Authorization token required for connections

TLS Options:
        --tls                        Enable TLS, do not verify clients
        --tlscert <file>             Server certificate file
        --tlskey <file>              Private key for server certificate
        --tlsverify                  Enable TLS, verify client certificates
        --tlscacert <file>           Client certificate CA for verification

Common Options:
    -h, --help                       Show this message
    -v, --version                    Show version

Accepted without effect: --client_advertise, --log_size_limit, --max_traced_msg_len.
Refused, with the reason: clusters, syslog, profiling.

";
