//! Redis or Valkey: alone, with replicas and Sentinels, as a cluster.

mod builder;
mod certs;
mod cluster;
mod install;
mod member;
mod sentinel;
mod server;

pub use builder::RedisBuilder;
pub use cluster::{RedisCluster, RedisClusterBuilder};
pub use install::RedisFlavour;
pub use member::RedisMember;
pub use sentinel::{RedisSentinels, RedisSentinelsBuilder};
pub use server::RedisServer;
