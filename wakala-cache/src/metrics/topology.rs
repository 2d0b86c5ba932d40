//! Which nodes a cluster has, as far as its metrics need to know.

use std::collections::BTreeMap;

use wakala_core::Result;

use crate::config::NodeAddress;
use crate::error::Call;

/// What one node, or most of them, say of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) is_replica: bool,
    /// Held for dead by the one that says so.
    pub(super) failed: bool,
    /// Of its slots.
    pub(super) epoch: u64,
    /// Ranges whose ends belong to them.
    pub(super) slots: Vec<(u16, u16)>,
    /// How many nodes are said to be its replicas, and not dead.
    pub(super) replicas: u32,
}

/// The nodes that one node knows.
#[derive(Clone, Debug, Default)]
pub(super) struct View(pub(super) BTreeMap<NodeAddress, Member>);

impl View {
    /// Reads an answer to `CLUSTER NODES`; a node that does not know its own address is at `asked`.
    pub(super) fn read(call: &Call, text: &str, asked: &NodeAddress) -> Result<Self> {
        let mut members = BTreeMap::new();
        let mut by_id = BTreeMap::new();
        let mut masters = Vec::new();
        for line in text.lines() {
            let odd = || call.odd_answer(format!("CLUSTER NODES with the line {line:?}"));
            let words: Vec<_> = line.split(' ').collect();
            let [id, address, flags, master, _ping, _pong, epoch, _link, slots @ ..] = &words[..] else {
                return Err(odd());
            };
            let flag = |wanted: &str| flags.split(',').any(|flag| flag == wanted);
            if flag("noaddr") || flag("handshake") {
                continue;
            }
            let address = address_in(address, flag("myself").then_some(asked)).ok_or_else(odd)?;
            let failed = flag("fail");
            if !failed && flag("slave") {
                masters.push((*master).to_owned());
            }
            let mut owned = Vec::new();
            // Open slots are in brackets.
            for range in slots.iter().filter(|range| !range.is_empty() && !range.starts_with('[')) {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                owned.push((first.parse().map_err(|_| odd())?, last.parse().map_err(|_| odd())?));
            }
            let epoch = epoch.parse().map_err(|_| odd())?;
            by_id.insert((*id).to_owned(), address.clone());
            members.insert(
                address,
                Member { is_replica: flag("slave"), failed, epoch, slots: owned, replicas: 0 },
            );
        }
        for master in masters {
            if let Some(member) = by_id.get(&master).and_then(|address| members.get_mut(address)) {
                member.replicas += 1;
            }
        }
        Ok(Self(members))
    }

    /// The nodes that more than half of those who answered know: neither one that was just forgotten by all others, nor one
    /// that nobody has met. What is said of each is that of the highest epoch; dead is whom most hold for dead.
    pub(super) fn agreed(views: &[Self]) -> Self {
        let mut said: BTreeMap<&NodeAddress, Vec<&Member>> = BTreeMap::new();
        for (address, member) in views.iter().flat_map(|view| &view.0) {
            said.entry(address).or_default().push(member);
        }
        let most = |count: usize| count * 2 > views.len();
        let members = said.into_iter().filter(|(_, said)| most(said.len())).filter_map(|(address, said)| {
            let newest = said.iter().max_by_key(|member| member.epoch)?;
            let failed = said.iter().filter(|member| member.failed).count() * 2 > said.len();
            Some((address.clone(), Member { failed, ..(**newest).clone() }))
        });
        Self(members.collect())
    }

    /// The master that owns a slot.
    pub(super) fn owner_of(&self, slot: u16) -> Option<&NodeAddress> {
        let owns =
            |member: &Member| member.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot));
        self.0
            .iter()
            .filter(|(_, member)| owns(member))
            .max_by_key(|(_, member)| member.epoch)
            .map(|(address, _)| address)
    }
}

/// `127.0.0.1:6379@16379,host`; the host is missing where a node was not told its own.
fn address_in(text: &str, own: Option<&NodeAddress>) -> Option<NodeAddress> {
    let (host, port) = text.split(['@', ',']).next()?.rsplit_once(':')?;
    let port = port.parse().ok()?;
    match (host, own) {
        ("", Some(own)) => Some(NodeAddress::new(own.host(), port)),
        ("", None) => None,
        (host, _) => Some(NodeAddress::new(host, port)),
    }
}

/// The address in `MOVED 3999 127.0.0.1:6381` or `ASK 3999 127.0.0.1:6381`, without the first word. Where the host is
/// missing, it is that of the node that was asked.
pub(super) fn redirection(details: &str, asked: &NodeAddress) -> Option<NodeAddress> {
    address_in(details.split(' ').nth(1)?, Some(asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<View> {
        let call = Call { operation: "latest", subject: "redis a:1".to_owned(), writes: false };
        View::read(&call, text, &"asked:7".parse().unwrap())
    }

    fn at(text: &str) -> NodeAddress {
        text.parse().unwrap()
    }

    #[test]
    fn lines_of_all_versions_are_read() {
        let view = read(
            "1 :6379@16379 myself,master - 0 0 3 connected 0-99 200 [201->-2]\n\
             2 10.0.0.2:6379@16379,name master - 0 0 2 connected 100-199\n\
             3 ::1:6380@16380 slave 1 0 0 3 connected\n\
             4 10.0.0.4:6379@16379 slave,fail 1 0 0 3 disconnected\n\
             5 :0@0 master,noaddr - 0 0 1 disconnected\n\
             6 10.0.0.6:6379@16379 handshake - 0 0 0 connected",
        )
        .unwrap();
        let found: Vec<_> = view.0.keys().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.2:6379", "10.0.0.4:6379", "[::1]:6380", "asked:6379"]);
        let own = &view.0[&at("asked:6379")];
        assert_eq!(
            (own.slots.as_slice(), own.replicas, own.is_replica),
            (&[(0, 99), (200, 200)][..], 1, false)
        );
        assert!(view.0[&at("10.0.0.4:6379")].failed);
        assert_eq!(view.owner_of(150), Some(&at("10.0.0.2:6379")));
        assert_eq!((view.owner_of(200), view.owner_of(201)), (Some(&at("asked:6379")), None));
        assert!(read("nonsense").is_err());
    }

    #[test]
    fn most_decide_who_belongs_and_who_is_dead() {
        let line = |id: u8, flags: &str, epoch: u8, slots: &str| {
            format!("{id} a:{id} {flags} - 0 0 {epoch} connected {slots}")
        };
        let all =
            [line(1, "master", 1, "0"), line(2, "master,fail", 2, "1"), line(3, "master", 3, "2")].join("\n");
        let stale = [line(1, "master", 1, "0-1"), line(2, "master", 1, "")].join("\n");
        let views = [read(&all).unwrap(), read(&all).unwrap(), read(&stale).unwrap()];
        let agreed = View::agreed(&views);
        assert_eq!(agreed.0.len(), 3);
        assert!(agreed.0[&at("a:2")].failed);
        assert_eq!(agreed.owner_of(1), Some(&at("a:2")), "the higher epoch counts");
        // One that only itself knows is no member.
        let alone = read(&line(9, "master", 9, "")).unwrap();
        let agreed = View::agreed(&[read(&all).unwrap(), alone.clone()]);
        assert!(agreed.0.is_empty(), "two that know nothing of each other");
        let agreed = View::agreed(&[read(&all).unwrap(), read(&all).unwrap(), alone]);
        assert_eq!(agreed.0.len(), 3);
    }

    #[test]
    fn redirections_are_read() {
        let asked = at("asked:1");
        assert_eq!(redirection("3999 127.0.0.1:6381", &asked), Some(at("127.0.0.1:6381")));
        assert_eq!(redirection("3999 :6381", &asked), Some(at("asked:6381")));
        assert_eq!(redirection("3999", &asked), None);
    }
}
