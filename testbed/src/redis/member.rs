use std::error::Error;

/// One line of `CLUSTER NODES`: what a node knows of itself or of another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct RedisMember {
    /// The node's id.
    pub id: String,
    /// Its port for clients.
    pub port: u16,
    /// `master`, `slave`, `fail`, `fail?`, `handshake` and so on; without `myself`.
    pub flags: Vec<String>,
    /// The id of its master, of a replica.
    pub master: Option<String>,
    /// The epoch of its slots.
    pub config_epoch: u64,
    /// Whether the node that tells this is connected to it.
    pub is_connected: bool,
    /// The slots that it owns, as ranges whose ends belong to them.
    pub slots: Vec<(u16, u16)>,
    /// Its open slots, as it has them: `[12->-id]`, `[12-<-id]`. Known of the node itself only.
    pub open: Vec<String>,
}

impl RedisMember {
    /// All lines of an answer to `CLUSTER NODES`, in the order of their ids.
    pub(super) fn parse_all(text: &str) -> Result<Vec<Self>, Box<dyn Error + Send + Sync>> {
        let mut members = text.lines().map(Self::parse).collect::<Result<Vec<_>, _>>()?;
        members.sort();
        Ok(members)
    }

    fn parse(line: &str) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let odd = || format!("an odd line of CLUSTER NODES: {line}");
        let words: Vec<_> = line.split(' ').collect();
        let [id, address, flags, master, _ping, _pong, epoch, link, rest @ ..] = &words[..] else {
            return Err(odd().into());
        };
        let port = address.split('@').next().and_then(|host| host.rsplit_once(':')).ok_or_else(odd)?.1;
        let (open, owned): (Vec<&str>, Vec<&str>) =
            rest.iter().copied().partition(|word| word.starts_with('['));
        let slots = owned.iter().map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((*range, *range));
            Ok((first.parse()?, last.parse()?))
        });
        Ok(Self {
            id: (*id).to_owned(),
            port: port.parse()?,
            flags: flags.split(',').filter(|flag| *flag != "myself").map(str::to_owned).collect(),
            master: (*master != "-").then(|| (*master).to_owned()),
            config_epoch: epoch.parse()?,
            is_connected: *link == "connected",
            slots: slots.collect::<Result<_, std::num::ParseIntError>>()?,
            open: open.into_iter().map(str::to_owned).collect(),
        })
    }

    /// Whether it has that flag.
    pub fn is(&self, flag: &str) -> bool {
        self.flags.iter().any(|own| own == flag)
    }

    /// How many slots it owns.
    pub fn slot_count(&self) -> u32 {
        self.slots.iter().map(|(first, last)| u32::from(*last) - u32::from(*first) + 1).sum()
    }

    /// What all nodes must agree on.
    pub(super) fn essence(&self) -> (&str, u16, Option<&str>, &[(u16, u16)]) {
        (&self.id, self.port, self.master.as_deref(), &self.slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let text = "b 127.0.0.1:30001@31001 myself,master - 0 0 7 connected 0-99 200 [12->-a] [13-<-a]\n\
                    a 127.0.0.1:30002@31002,host slave,fail? b 0 5 6 disconnected";
        let members = RedisMember::parse_all(text).unwrap();
        let [replica, master] = &members[..] else { panic!("{members:?}") };
        assert_eq!((master.id.as_str(), master.port, master.config_epoch), ("b", 30001, 7));
        assert_eq!((master.slots.as_slice(), master.slot_count()), (&[(0, 99), (200, 200)][..], 101));
        assert_eq!(master.open, ["[12->-a]", "[13-<-a]"]);
        assert!(master.is("master") && master.is_connected && !master.is("myself"));
        assert_eq!((replica.port, replica.master.as_deref()), (30002, Some("b")));
        assert!(replica.is("fail?") && !replica.is_connected);
        assert!(RedisMember::parse_all("a b c").is_err());
    }
}
