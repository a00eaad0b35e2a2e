//! How many connections each address has.
//!
//! **Invariant:** an address is in the table exactly as long as it has a connection, so the table is no larger
//! than the number of connections.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Who counts as one: an IPv4 address, or an IPv6 network of 64 bits, for that is what one customer gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place(u128);

impl Place {
    /// Where `address` belongs.
    pub fn of(address: IpAddr) -> Place {
        match address.to_canonical() {
            // An IPv6 place has no bit among the low 64, and no client is 0.0.0.0: the two never meet.
            IpAddr::V4(address) => Place(u128::from(address.to_bits())),
            IpAddr::V6(address) => Place(address.to_bits() >> 64 << 64),
        }
    }

    /// All that tells it from others.
    pub fn bits(self) -> u128 {
        self.0
    }
}

/// The table.
#[derive(Clone, Debug, Default)]
pub struct Census(Arc<Mutex<HashMap<Place, usize>>>);

/// One connection of an address, until dropped.
#[derive(Debug)]
pub struct Counted {
    census: Census,
    place: Place,
}

impl Census {
    /// Counts a connection of `address`, unless it has `most` already.
    pub fn enter(&self, address: IpAddr, most: usize) -> Option<Counted> {
        let place = Place::of(address);
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = table.entry(place).or_insert(0);
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Counted { census: self.clone(), place })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut table = self.census.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = table.get_mut(&self.place) {
            *count -= 1;
            if *count == 0 {
                table.remove(&self.place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_so_many_connections_and_no_more() {
        let census = Census::default();
        let one = census.enter(address("192.0.2.1"), 2).unwrap();
        let _two = census.enter(address("::ffff:192.0.2.1"), 2).unwrap();
        assert!(census.enter(address("192.0.2.1"), 2).is_none());
        assert!(census.enter(address("192.0.2.2"), 2).is_some(), "another address");
        drop(one);
        assert!(census.enter(address("192.0.2.1"), 2).is_some());
    }

    #[test]
    fn a_network_of_64_bits_counts_as_one_and_leaves_nothing_behind() {
        let census = Census::default();
        let one = census.enter(address("2001:db8::1"), 1).unwrap();
        assert!(census.enter(address("2001:db8::ffff:2"), 1).is_none());
        assert!(census.enter(address("2001:db8:0:1::1"), 1).is_some());
        drop(one);
        assert!(census.0.lock().unwrap().is_empty());
    }
}
