//! The keys of `pgbouncer.ini`, by version: which there are and what they take.

use super::PgBouncerVersion;

/// What a key takes, and how its running value is compared with that of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    /// A whole number from the first to the last.
    Number(u32, u32),
    /// 0 or 1: `yes` and `on` are refused by PgBouncer.
    Flag,
    /// Seconds, with or without a fraction.
    Seconds,
    /// One of these, in either case.
    Word(&'static [&'static str]),
    /// Rights of a file, in octal.
    Octal,
    /// Anything.
    Text,
}

/// A key, and the minor version of 1 that brought it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    since: u16,
    pub(super) takes: Takes,
}

impl Key {
    pub(super) fn is_in(&self, version: PgBouncerVersion) -> bool {
        version >= PgBouncerVersion::new(1, self.since)
    }

    pub(super) fn since(&self) -> PgBouncerVersion {
        PgBouncerVersion::new(1, self.since)
    }
}

/// The oldest and the newest version whose keys are known here.
pub(super) const OLDEST: PgBouncerVersion = PgBouncerVersion::new(1, 12);
pub(super) const NEWEST: PgBouncerVersion = PgBouncerVersion { major: 1, minor: 26, patch: u16::MAX };

/// From which version a key may stand in quotation marks, and there is a section `[peers]`.
pub(super) const QUOTED_KEYS: PgBouncerVersion = PgBouncerVersion::new(1, 25);
pub(super) const PEERS: PgBouncerVersion = PgBouncerVersion::new(1, 19);

/// A C `int`.
pub(super) const INT: u32 = i32::MAX.unsigned_abs();
const ANY: Takes = Takes::Number(0, INT);
const AT_LEAST_ONE: Takes = Takes::Number(1, INT);
const PORT: Takes = Takes::Number(1, 65535);
pub(super) const MODES: Takes = Takes::Word(&["session", "transaction", "statement"]);
const SSL: Takes = Takes::Word(&["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]);
const AUTH: Takes =
    Takes::Word(&["any", "trust", "plain", "md5", "cert", "hba", "ldap", "pam", "scram-sha-256"]);

const fn key(name: &'static str, since: u16, takes: Takes) -> Key {
    Key { name, since, takes }
}

use Takes::{Flag, Octal, Seconds, Text};

/// Of `[pgbouncer]`.
pub(super) const SETTINGS: &[Key] = &[
    key("admin_users", 0, Text),
    key("application_name_add_host", 0, Flag),
    key("auth_dbname", 19, Text),
    key("auth_file", 0, Text),
    key("auth_hba_file", 0, Text),
    key("auth_ident_file", 23, Text),
    key("auth_ldap_options", 25, Text),
    key("auth_query", 0, Text),
    key("auth_type", 0, AUTH),
    key("auth_user", 0, Text),
    key("autodb_idle_timeout", 0, Seconds),
    key("cancel_wait_timeout", 19, Seconds),
    key("client_idle_timeout", 0, Seconds),
    key("client_login_timeout", 0, Seconds),
    key("client_tls13_ciphers", 25, Text),
    key("client_tls_ca_file", 0, Text),
    key("client_tls_cert_file", 0, Text),
    key("client_tls_ciphers", 0, Text),
    key("client_tls_dheparams", 0, Text),
    key("client_tls_ecdhcurve", 0, Text),
    key("client_tls_key_file", 0, Text),
    key("client_tls_protocols", 0, Text),
    key("client_tls_sslmode", 0, SSL),
    key("conffile", 0, Text),
    key("default_pool_size", 0, AT_LEAST_ONE),
    key("disable_pqexec", 0, Flag),
    key("dns_max_ttl", 0, Seconds),
    key("dns_nxdomain_ttl", 0, Seconds),
    key("dns_zone_check_period", 0, Seconds),
    key("idle_transaction_timeout", 0, Seconds),
    key("ignore_startup_parameters", 0, Text),
    key("job_name", 0, Text),
    key("listen_addr", 0, Text),
    key("listen_backlog", 0, ANY),
    key("listen_port", 0, PORT),
    key("log_connections", 0, Flag),
    key("log_disconnections", 0, Flag),
    key("log_pooler_errors", 0, Flag),
    key("log_stats", 0, Flag),
    key("logfile", 0, Text),
    key("login_notify_message", 26, Text),
    key("max_client_conn", 0, AT_LEAST_ONE),
    key("max_db_client_connections", 24, ANY),
    key("max_db_connections", 0, ANY),
    key("max_packet_size", 0, AT_LEAST_ONE),
    key("max_prepared_statements", 21, ANY),
    key("max_user_client_connections", 24, ANY),
    key("max_user_connections", 0, ANY),
    key("min_pool_size", 0, ANY),
    key("peer_id", 19, Takes::Number(0, 16383)),
    key("pidfile", 0, Text),
    key("pkt_buf", 0, AT_LEAST_ONE),
    key("pool_idle_timeout", 26, Seconds),
    key("pool_mode", 0, MODES),
    key("query_timeout", 0, Seconds),
    key("query_wait_notify", 25, ANY),
    key("query_wait_timeout", 0, Seconds),
    key("reserve_pool_size", 0, ANY),
    key("reserve_pool_timeout", 0, Seconds),
    key("resolv_conf", 0, Text),
    key("sbuf_loopcnt", 0, ANY),
    key("scram_iterations", 25, AT_LEAST_ONE),
    key("server_check_delay", 0, Seconds),
    key("server_check_query", 0, Text),
    key("server_connect_timeout", 0, Seconds),
    key("server_fast_close", 0, Flag),
    key("server_idle_timeout", 0, Seconds),
    key("server_lifetime", 0, Seconds),
    key("server_login_retry", 0, Seconds),
    key("server_reset_query", 0, Text),
    key("server_reset_query_always", 0, Flag),
    key("server_round_robin", 0, Flag),
    key("server_tls13_ciphers", 25, Text),
    key("server_tls_ca_file", 0, Text),
    key("server_tls_cert_file", 0, Text),
    key("server_tls_ciphers", 0, Text),
    key("server_tls_key_file", 0, Text),
    key("server_tls_protocols", 0, Text),
    key("server_tls_sslmode", 0, SSL),
    key("so_reuseport", 0, Flag),
    key("stats_period", 0, AT_LEAST_ONE),
    key("stats_users", 0, Text),
    key("suspend_timeout", 0, Seconds),
    key("syslog", 0, Flag),
    key("syslog_facility", 0, Text),
    key("syslog_ident", 0, Text),
    key("tcp_defer_accept", 0, ANY),
    key("tcp_keepalive", 0, Flag),
    key("tcp_keepcnt", 0, ANY),
    key("tcp_keepidle", 0, ANY),
    key("tcp_keepintvl", 0, ANY),
    key("tcp_socket_buffer", 0, ANY),
    key("tcp_user_timeout", 13, ANY),
    key("track_extra_parameters", 20, Text),
    key("transaction_timeout", 25, Seconds),
    key("unix_socket_dir", 0, Text),
    key("unix_socket_group", 0, Text),
    key("unix_socket_mode", 0, Octal),
    key("user", 0, Text),
    key("verbose", 0, ANY),
];

/// Of a line of `[databases]`. Here PgBouncer reads a word in the place of a number as 0, and says nothing.
pub(super) const OF_DATABASE: &[Key] = &[
    key("application_name", 0, Text),
    key("auth_dbname", 19, Text),
    key("auth_query", 22, Text),
    key("auth_user", 0, Text),
    key("client_encoding", 0, Text),
    key("connect_query", 0, Text),
    key("datestyle", 0, Text),
    key("dbname", 0, Text),
    key("host", 0, Text),
    key("load_balance_hosts", 24, Takes::Word(&["disable", "round-robin"])),
    key("max_db_client_connections", 24, ANY),
    key("max_db_connections", 0, ANY),
    key("min_pool_size", 16, ANY),
    key("password", 0, Text),
    key("pool_mode", 0, MODES),
    key("pool_size", 0, AT_LEAST_ONE),
    key("port", 0, PORT),
    key("query_wait_timeout", 26, ANY),
    key("reserve_pool", 0, ANY),
    key("reserve_pool_size", 24, ANY),
    key("server_lifetime", 23, ANY),
    key("timezone", 0, Text),
    key("user", 0, Text),
];

/// Of a line of `[users]`.
pub(super) const OF_USER: &[Key] = &[
    key("client_idle_timeout", 24, ANY),
    key("idle_transaction_timeout", 24, ANY),
    key("max_user_client_connections", 24, ANY),
    key("max_user_connections", 0, ANY),
    key("pool_mode", 0, MODES),
    key("pool_size", 23, AT_LEAST_ONE),
    key("query_timeout", 24, ANY),
    key("query_wait_timeout", 26, ANY),
    key("reserve_pool_size", 24, ANY),
    key("transaction_timeout", 25, ANY),
];

/// Of a line of `[peers]`.
pub(super) const OF_PEER: &[Key] =
    &[key("host", 19, Text), key("pool_size", 19, AT_LEAST_ONE), key("port", 19, PORT)];

pub(super) fn find(table: &'static [Key], name: &str) -> Option<&'static Key> {
    table.iter().find(|key| key.name == name)
}

impl Takes {
    /// Why the text is nothing that the key takes, if so.
    pub(super) fn refuses(self, text: &str) -> Option<String> {
        match self {
            Self::Number(from, to) => match number(text) {
                Some(value) if (from..=to).contains(&value) => None,
                Some(value) if value < from && from == 1 && value == 0 => {
                    Some("0 would leave nobody a connection; the least is 1".to_owned())
                }
                Some(_) => Some(format!("{text} is not from {from} to {to}")),
                None => Some(format!("{text:?} is not a whole number from {from} to {to} in plain digits")),
            },
            Self::Flag => (!matches!(text, "0" | "1")).then(|| format!("{text:?} is neither 0 nor 1")),
            Self::Seconds => seconds(text)
                .is_none()
                .then(|| format!("{text:?} is not a number of seconds; no unit may follow it")),
            Self::Word(words) => (!words.iter().any(|word| word.eq_ignore_ascii_case(text)))
                .then(|| format!("{text:?} is none of {}", words.join(", "))),
            Self::Octal => octal(text).is_none().then(|| format!("{text:?} is no mode such as 0777")),
            Self::Text => None,
        }
    }

    /// Whether the file's text and the running value, as the console writes it, are the same.
    pub(super) fn same(self, file: &str, running: &str) -> bool {
        match self {
            Self::Number(..) | Self::Flag => match (number(file), number(running)) {
                (Some(file), Some(running)) => file == running,
                _ => file == running,
            },
            // The console writes six digits.
            Self::Seconds => match (file.parse::<f64>(), running.parse::<f64>()) {
                (Ok(file), Ok(running)) => (file - running).abs() <= 1e-5 * file.abs(),
                _ => file == running,
            },
            Self::Word(_) => file.eq_ignore_ascii_case(running),
            Self::Octal => octal(file).is_some_and(|mode| mode.to_string() == running) || file == running,
            Self::Text => file == running,
        }
    }
}

/// Plain digits only: `010` is 8 to PgBouncer, `0x10` 16, and `5x` is 5 in the line of a database.
fn number(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

fn seconds(text: &str) -> Option<f64> {
    // Beyond this its microseconds do not fit.
    const MOST: f64 = 1e12;
    let plain = text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    plain.then(|| text.parse().ok()).flatten().filter(|seconds| *seconds <= MOST)
}

fn octal(text: &str) -> Option<u32> {
    let plain = text.starts_with('0') && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    plain.then(|| u32::from_str_radix(text, 8).ok()).flatten().filter(|mode| *mode <= 0o7777)
}
