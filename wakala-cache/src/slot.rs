//! The slot of a key in a cluster.

/// How many slots there are.
pub(crate) const SLOTS: u16 = 16_384;

/// The slot of a key: CRC-16/XMODEM of it, or of what stands between its first `{` and the next `}` where that is not
/// empty, modulo 16384. From the specification of Redis Cluster, "Key distribution model" and "Hash tags".
pub(crate) fn slot_of(key: &[u8]) -> u16 {
    crc16(hash_tag(key)) % SLOTS
}

fn hash_tag(key: &[u8]) -> &[u8] {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|byte| *byte == b'}')?;
        Some(&rest[..close])
    });
    tag.filter(|tag| !tag.is_empty()).unwrap_or(key)
}

/// Polynomial 0x1021, from 0, nothing reflected.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            let shifted = crc << 1;
            if crc & 0x8000 == 0 { shifted } else { shifted ^ 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use wakala_testbed::RedisCluster;

    use super::*;

    #[test]
    fn the_check_value_of_the_algorithm_comes_out() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
    }

    #[tokio::test]
    async fn slots_are_those_of_the_server() {
        let cluster = RedisCluster::builder(1).start().await.unwrap();
        let node = cluster.node(0);
        let mut keys = ["", "a", "{", "{}", "{}a", "a{b}c", "a{b", "{{a}}b", "a}{b}{c}", "}{", "x{y}{z}"]
            .map(str::to_owned)
            .to_vec();
        keys.extend((0..200).map(|n| format!("key:{n}:{}", n * n)));
        for key in keys {
            let slot = node.text(&["CLUSTER", "KEYSLOT", &key]).await.unwrap();
            assert_eq!(slot_of(key.as_bytes()).to_string(), slot, "{key:?}");
        }
    }
}
