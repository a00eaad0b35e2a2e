//! The table of checks, one module per part of the contract.

mod addresses;
mod background;
mod config_file;
mod connection;
mod descriptors;
mod device_keys;
mod ends;
mod errno;
mod get;
mod peers;
mod refused;
mod session;
mod sockets;
mod start;
mod wg_tool;

use crate::check::Check;

/// Every check, in the order of the contract.
#[must_use]
pub fn all() -> Vec<Check> {
    [
        start::CHECKS,
        background::CHECKS,
        sockets::CHECKS,
        ends::CHECKS,
        descriptors::CHECKS,
        get::CHECKS,
        device_keys::CHECKS,
        peers::CHECKS,
        addresses::CHECKS,
        refused::CHECKS,
        session::CHECKS,
        connection::CHECKS,
        errno::CHECKS,
        wg_tool::CHECKS,
        config_file::CHECKS,
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_are_words() {
        let mut names: Vec<&str> = all().iter().map(|check| check.name).collect();
        names.sort_unstable();
        for pair in names.windows(2) {
            assert_ne!(pair[0], pair[1]);
        }
        for name in names {
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{name}"
            );
        }
    }
}
