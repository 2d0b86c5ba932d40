//! What Redis must allow.

use std::collections::BTreeSet;

use wakala_core::Permission;

/// The [`Permission::system`] of Redis servers, and that of Sentinels, whose users are others.
const REDIS: &str = "redis";
const SENTINEL: &str = "sentinel";
const COMMAND: &str = "COMMAND";
const READ: &str = "READ";
const KEY: &str = "KEY ";

/// To run a command, or a subcommand: `cluster|nodes`.
pub(crate) fn command(name: &str) -> Permission {
    Permission::new(REDIS, name, COMMAND)
}

/// To read one key, by the pattern that it alone matches.
pub(crate) fn read(key: &[u8]) -> Permission {
    Permission::new(REDIS, READ, format!("{KEY}{}", pattern(key)))
}

/// To run a command of Sentinels.
pub(crate) fn sentinel_command(name: &str) -> Permission {
    Permission::new(SENTINEL, name, COMMAND)
}

/// The rules that leave a user of a Redis server exactly the given permissions, one argument of `ACL SETUSER` each;
/// permissions of other systems are passed over. The order is always the same.
///
/// Whether the user may log in, and by which password, they leave as it is.
///
/// ```
/// use wakala_cache::{NodeAddress, RedisAccess, RedisMetrics, RedisQueue, redis_acl_rules};
/// use wakala_core::MetricsSource;
///
/// let source = RedisMetrics::server("orders", NodeAddress::new("redis-0", 6379), RedisAccess::new())
///     .with_queue(RedisQueue::list("jobs"));
/// assert_eq!(
///     redis_acl_rules(&source.permissions()),
///     ["resetkeys", "resetchannels", "-@all", "%R~jobs", "+info", "+llen", "+ping"]
/// );
/// ```
pub fn redis_acl_rules(permissions: &[Permission]) -> Vec<String> {
    rules(REDIS, permissions)
}

/// The same as a line for people, to be pasted into `redis-cli`: `ACL SETUSER wakala …`.
pub fn redis_acl(user: &str, permissions: &[Permission]) -> String {
    line(user, rules(REDIS, permissions))
}

/// The same for a user of the Sentinels, whose permissions and users are their own.
pub fn sentinel_acl(user: &str, permissions: &[Permission]) -> String {
    line(user, rules(SENTINEL, permissions))
}

fn rules(system: &str, permissions: &[Permission]) -> Vec<String> {
    let own = permissions.iter().filter(|permission| permission.system == system);
    let allowed: BTreeSet<String> = own
        .filter_map(|permission| match permission.resource.strip_prefix(KEY) {
            Some(pattern) => (permission.action == READ).then(|| format!("%R~{pattern}")),
            None => (permission.resource == COMMAND).then(|| format!("+{}", permission.action)),
        })
        .collect();
    // Keys come before commands by their first character.
    ["resetkeys", "resetchannels", "-@all"].map(str::to_owned).into_iter().chain(allowed).collect()
}

fn line(user: &str, rules: Vec<String>) -> String {
    let words = std::iter::once(user.to_owned()).chain(rules).map(|word| {
        let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'\\');
        if !word.is_empty() && word.bytes().all(plain) {
            word
        } else {
            format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
        }
    });
    format!("ACL SETUSER {}", words.collect::<Vec<_>>().join(" "))
}

/// The pattern that matches `key` and nothing else, but that a byte which is no text stands for any.
fn pattern(key: &[u8]) -> String {
    String::from_utf8_lossy(key)
        .chars()
        .flat_map(|character| match character {
            '*' | '?' | '[' | ']' | '\\' | '^' => vec!['\\', character],
            char::REPLACEMENT_CHARACTER => vec!['*'],
            _ => vec![character],
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_sorted_once_each_and_of_redis_only() {
        let permissions = [
            command("ping"),
            read(b"a*b c"),
            sentinel_command("sentinel|master"),
            Permission::new("postgres", "SELECT", "TABLE a"),
            command("cluster|nodes"),
            command("ping"),
        ];
        assert_eq!(
            redis_acl_rules(&permissions),
            ["resetkeys", "resetchannels", "-@all", "%R~a\\*b c", "+cluster|nodes", "+ping"]
        );
        assert_eq!(
            redis_acl("ops", &permissions),
            r#"ACL SETUSER ops resetkeys resetchannels -@all "%R~a\\*b c" +cluster|nodes +ping"#
        );
        assert_eq!(
            sentinel_acl("ops", &permissions),
            "ACL SETUSER ops resetkeys resetchannels -@all +sentinel|master"
        );
    }
}
