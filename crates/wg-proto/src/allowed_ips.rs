//! Cryptokey routing: which peer owns an inner address.
//!
//! A path-compressed binary trie per address family, its nodes in one vector, with each peer's
//! prefixes listed beside it in the order they were given.
//!
//! **Invariant:** a prefix belongs to at most one peer, and the trie and the lists say the same.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

/// Prefixes and their owners. `P` is whatever names a peer, cheap to copy.
#[derive(Clone, Debug)]
pub struct AllowedIps<P> {
    v4: Trie<P>,
    v6: Trie<P>,
    /// By order of insertion, which is how `wg show` lists them.
    lists: HashMap<P, BTreeMap<u64, IpNet>>,
    next_order: u64,
}

impl<P> Default for AllowedIps<P> {
    fn default() -> AllowedIps<P> {
        AllowedIps { v4: Trie::new(), v6: Trie::new(), lists: HashMap::new(), next_order: 0 }
    }
}

impl<P: Copy + Eq + std::hash::Hash> AllowedIps<P> {
    /// The owner of the longest prefix that holds the address.
    #[inline]
    pub fn lookup(&self, address: IpAddr) -> Option<P> {
        let (trie, bits) = match address {
            IpAddr::V4(v4) => (&self.v4, u128::from(v4.to_bits()) << 96),
            IpAddr::V6(v6) => (&self.v6, v6.to_bits()),
        };
        trie.lookup(bits).map(|owner| owner.peer)
    }

    /// Gives the prefix to a peer, taking it from whoever had it. Bits beyond the length are ignored.
    pub fn insert(&mut self, prefix: IpNet, peer: P) {
        let prefix = prefix.trunc();
        let order = self.next_order;
        let (trie, bits, length) = self.trie_mut(prefix);
        let owner = trie.entry(bits, length);
        match owner {
            Some(owner) if owner.peer == peer => return,
            Some(owner) => {
                let before = std::mem::replace(owner, Owner { peer, order });
                self.unlist(before);
            }
            None => *owner = Some(Owner { peer, order }),
        }
        self.next_order += 1;
        self.lists.entry(peer).or_default().insert(order, prefix);
    }

    /// Takes the prefix from the peer; nothing happens if another has it.
    pub fn remove(&mut self, prefix: IpNet, peer: P) {
        let (trie, bits, length) = self.trie_mut(prefix.trunc());
        if let Some(owner) = trie.remove_if(bits, length, |owner| owner.peer == peer) {
            self.unlist(owner);
        }
    }

    /// Takes everything the peer has.
    pub fn remove_peer(&mut self, peer: P) {
        for prefix in self.lists.remove(&peer).unwrap_or_default().into_values() {
            let (trie, bits, length) = self.trie_mut(prefix);
            trie.remove_if(bits, length, |_| true);
        }
    }

    /// A peer's prefixes in the order they were given.
    pub fn of_peer(&self, peer: P) -> impl Iterator<Item = IpNet> + '_ {
        self.lists.get(&peer).into_iter().flat_map(|list| list.values().copied())
    }

    /// How many prefixes there are.
    pub fn len(&self) -> usize {
        self.lists.values().map(BTreeMap::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    fn trie_mut(&mut self, prefix: IpNet) -> (&mut Trie<P>, u128, u8) {
        match prefix {
            IpNet::V4(v4) => (&mut self.v4, u128::from(v4.addr().to_bits()) << 96, v4.prefix_len()),
            IpNet::V6(v6) => (&mut self.v6, v6.addr().to_bits(), v6.prefix_len()),
        }
    }

    fn unlist(&mut self, owner: Owner<P>) {
        if let Some(list) = self.lists.get_mut(&owner.peer) {
            list.remove(&owner.order);
            if list.is_empty() {
                self.lists.remove(&owner.peer);
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Owner<P> {
    peer: P,
    order: u64,
}

/// Addresses stand left-aligned in 128 bits, so that one trie serves both families.
#[derive(Clone, Debug)]
struct Trie<P> {
    /// The root, at 0, is the zero-length prefix and is never taken away.
    nodes: Vec<Node<P>>,
    free: Vec<u32>,
}

#[derive(Clone, Debug)]
struct Node<P> {
    bits: u128,
    length: u8,
    /// Longer prefixes by their next bit. 0 is "none": nothing points at the root.
    children: [u32; 2],
    owner: Option<Owner<P>>,
}

impl<P: Copy> Trie<P> {
    fn lookup(&self, address: u128) -> Option<Owner<P>> {
        let mut best = None;
        let mut at = 0;
        loop {
            let node = &self.nodes[at as usize];
            if common_prefix(node.bits, address) < node.length {
                return best;
            }
            best = node.owner.or(best);
            at = match node.length {
                128 => 0,
                length => node.children[bit(address, length)],
            };
            if at == 0 {
                return best;
            }
        }
    }

    /// The place of this prefix's owner, made if it is missing.
    fn entry(&mut self, bits: u128, length: u8) -> &mut Option<Owner<P>> {
        let mut at = 0;
        loop {
            // Here the node at `at` is a prefix of (bits, length).
            let here = &self.nodes[at as usize];
            if here.length == length {
                break;
            }
            let side = bit(bits, here.length);
            let below = here.children[side];
            if below == 0 {
                let leaf = self.add(bits, length);
                self.nodes[at as usize].children[side] = leaf;
                at = leaf;
                break;
            }
            let next = &self.nodes[below as usize];
            let shared = common_prefix(next.bits, bits).min(next.length).min(length);
            if shared == next.length {
                at = below;
                continue;
            }
            // The paths part inside the edge: a node goes there, for both to hang from.
            let next_side = bit(next.bits, shared);
            let fork = self.add(mask(bits, shared), shared);
            self.nodes[fork as usize].children[next_side] = below;
            self.nodes[at as usize].children[side] = fork;
            at = fork;
        }
        &mut self.nodes[at as usize].owner
    }

    fn remove_if(&mut self, bits: u128, length: u8, wanted: impl Fn(&Owner<P>) -> bool) -> Option<Owner<P>> {
        let mut path = [0; 129];
        let mut depth = 0;
        loop {
            let node = &self.nodes[path[depth] as usize];
            if node.length > length || common_prefix(node.bits, bits) < node.length {
                return None;
            }
            if node.length == length {
                break;
            }
            let below = node.children[bit(bits, node.length)];
            if below == 0 {
                return None;
            }
            depth += 1;
            path[depth] = below;
        }
        let found = self.nodes[path[depth] as usize].owner.filter(&wanted)?;
        self.nodes[path[depth] as usize].owner = None;
        // A node without owner and with less than two branches only lengthens the way. At most the
        // found one and the fork above it can have become so.
        for depth in (1..=depth).rev().take(2) {
            self.splice_out(path[depth], path[depth - 1]);
        }
        Some(found)
    }

    fn splice_out(&mut self, at: u32, parent: u32) {
        let node = &self.nodes[at as usize];
        let heir = match node.children {
            [_, _] if node.owner.is_some() => return,
            [0, only] | [only, 0] => only,
            [_, _] => return,
        };
        for child in &mut self.nodes[parent as usize].children {
            if *child == at {
                *child = heir;
            }
        }
        self.free.push(at);
    }

    fn add(&mut self, bits: u128, length: u8) -> u32 {
        let node = Node { bits, length, children: [0; 2], owner: None };
        if let Some(at) = self.free.pop() {
            self.nodes[at as usize] = node;
            return at;
        }
        self.nodes.push(node);
        u32::try_from(self.nodes.len() - 1).expect("memory ends long before 2^32 nodes")
    }
}

impl<P> Trie<P> {
    fn new() -> Trie<P> {
        let root = Node { bits: 0, length: 0, children: [0; 2], owner: None };
        Trie { nodes: vec![root], free: Vec::new() }
    }
}

fn common_prefix(a: u128, b: u128) -> u8 {
    u8::try_from((a ^ b).leading_zeros()).expect("128 at most")
}

/// The bit behind a prefix of this length, which is below 128.
fn bit(bits: u128, length: u8) -> usize {
    usize::from(bits >> (127 - length) & 1 == 1)
}

fn mask(bits: u128, length: u8) -> u128 {
    match length {
        0 => 0,
        length => bits & (u128::MAX << (128 - u32::from(length))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_longest_prefix_wins() {
        let table = table(&[("0.0.0.0/0", 1), ("10.0.0.0/8", 2), ("10.1.0.0/16", 3), ("10.1.2.3/32", 4)]);
        for (address, owner) in [("1.1.1.1", 1), ("10.9.9.9", 2), ("10.1.9.9", 3), ("10.1.2.3", 4)] {
            assert_eq!(table.lookup(address.parse().unwrap()), Some(owner), "{address}");
        }
        assert_eq!(table.lookup("::1".parse().unwrap()), None, "the families are apart");
    }

    #[test]
    fn a_prefix_moves_to_the_peer_that_asked_last() {
        let mut table = table(&[("10.0.0.0/24", 1), ("10.0.1.0/24", 1)]);
        table.insert(net("10.0.0.77/24"), 2);
        assert_eq!(table.of_peer(1).collect::<Vec<_>>(), [net("10.0.1.0/24")]);
        assert_eq!(table.of_peer(2).collect::<Vec<_>>(), [net("10.0.0.0/24")]);
        table.remove(net("10.0.0.0/24"), 1);
        assert_eq!(table.lookup("10.0.0.5".parse().unwrap()), Some(2), "not the asker's to remove");
    }

    #[test]
    fn prefixes_are_listed_in_the_order_given() {
        let given = ["192.168.4.0/24", "10.0.0.0/8", "fd00::/64", "0.0.0.0/0", "::/0"];
        let table = table(&given.map(|prefix| (prefix, 7)));
        let listed: Vec<String> = table.of_peer(7).map(|prefix| prefix.to_string()).collect();
        assert_eq!(listed, given);
    }

    #[test]
    fn emptied_tables_hold_no_nodes_but_the_roots() {
        let mut table = AllowedIps::default();
        for third in 0..=255_u8 {
            table.insert(net(&format!("10.0.{third}.0/24")), third % 3);
        }
        for peer in 0..3 {
            table.remove_peer(peer);
        }
        assert!(table.is_empty());
        assert_eq!(table.v4.nodes.len() - table.v4.free.len(), 1);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(IpNet, u8),
        Remove(IpNet, u8),
        RemovePeer(u8),
    }

    proptest! {
        /// Against a list that is searched from end to end.
        #[test]
        fn the_trie_agrees_with_a_slow_list(
            steps in proptest::collection::vec(step(), 1..120),
            probes in proptest::collection::vec(address(), 1..60),
        ) {
            let mut table = AllowedIps::default();
            let mut slow: Vec<(IpNet, u8)> = Vec::new();
            for step in steps {
                match step {
                    Step::Insert(prefix, peer) => {
                        table.insert(prefix, peer);
                        let known = slow.contains(&(prefix.trunc(), peer));
                        if !known {
                            slow.retain(|(other, _)| *other != prefix.trunc());
                            slow.push((prefix.trunc(), peer));
                        }
                    }
                    Step::Remove(prefix, peer) => {
                        table.remove(prefix, peer);
                        slow.retain(|entry| *entry != (prefix.trunc(), peer));
                    }
                    Step::RemovePeer(peer) => {
                        table.remove_peer(peer);
                        slow.retain(|(_, owner)| *owner != peer);
                    }
                }
            }
            for address in probes {
                let expected = slow
                    .iter()
                    .filter(|(prefix, _)| prefix.contains(&address))
                    .max_by_key(|(prefix, _)| prefix.prefix_len())
                    .map(|(_, peer)| *peer);
                prop_assert_eq!(table.lookup(address), expected, "{}", address);
            }
            for peer in 0..4 {
                let expected: Vec<IpNet> =
                    slow.iter().filter(|(_, owner)| *owner == peer).map(|(prefix, _)| *prefix).collect();
                prop_assert_eq!(table.of_peer(peer).collect::<Vec<_>>(), expected);
            }
            prop_assert_eq!(table.len(), slow.len());
        }
    }

    /// Few distinct bits, so that prefixes nest and collide often.
    fn address() -> impl Strategy<Value = IpAddr> {
        let sparse = prop_oneof![Just(0_u8), Just(1), Just(0x80), Just(0xff), any::<u8>()];
        prop_oneof![
            proptest::collection::vec(sparse.clone(), 4)
                .prop_map(|o| IpAddr::from(<[u8; 4]>::try_from(o).unwrap())),
            proptest::collection::vec(sparse, 16)
                .prop_map(|o| IpAddr::from(<[u8; 16]>::try_from(o).unwrap())),
        ]
    }

    fn prefix() -> impl Strategy<Value = IpNet> {
        (address(), any::<u8>()).prop_map(|(address, length)| {
            let longest = if address.is_ipv4() { 33 } else { 129 };
            IpNet::new(address, u8::try_from(u16::from(length) % longest).unwrap()).unwrap()
        })
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (prefix(), 0..4_u8).prop_map(|(prefix, peer)| Step::Insert(prefix, peer)),
            3 => (prefix(), 0..4_u8).prop_map(|(prefix, peer)| Step::Remove(prefix, peer)),
            1 => (0..4_u8).prop_map(Step::RemovePeer),
        ]
    }

    fn table(entries: &[(&str, u8)]) -> AllowedIps<u8> {
        let mut table = AllowedIps::default();
        for (prefix, peer) in entries {
            table.insert(net(prefix), *peer);
        }
        table
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }
}
