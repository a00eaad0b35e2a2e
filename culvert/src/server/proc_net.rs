//! The tables of `/proc/PID/net`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A TCP socket that listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    pub(crate) inode: u64,
}

/// A route, without its gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) device: String,
    pub(crate) destination: IpAddr,
    pub(crate) prefix: u32,
}

impl Route {
    /// Leads everywhere.
    pub(crate) fn is_default(&self) -> bool {
        self.prefix == 0
    }
}

/// The names in `dev`.
pub(super) fn devices(text: &str) -> Vec<String> {
    text.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

/// Those of `tcp` or `tcp6` in state LISTEN (0A).
pub(super) fn listeners(text: &str) -> Vec<Listener> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        (*state == "0A").then_some(())?;
        Some(Listener { address: socket_address(local)?, inode: inode.parse().ok()? })
    };
    text.lines().skip(1).filter_map(line).collect()
}

/// The sockets of `udp` or `udp6` that take datagrams from anybody: bound, and connected to nobody.
pub(super) fn open_to_all(text: &str) -> Vec<SocketAddr> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, remote) = (socket_address(fields.get(1)?)?, socket_address(fields.get(2)?)?);
        (local.port() != 0 && remote.port() == 0).then_some(local)
    };
    text.lines().skip(1).filter_map(line).collect()
}

/// The inodes in `packet`, `raw` or `raw6`: the ninth column of the first, the tenth of the others.
pub(super) fn inodes(text: &str) -> Vec<u64> {
    let at = text.lines().next().unwrap_or_default();
    let is_packet = at.contains("Proto");
    let column = if is_packet { 8 } else { 9 };
    let of = |line: &str| line.split_whitespace().nth(column)?.parse().ok();
    text.lines().skip(1).filter_map(of).collect()
}

/// Four bytes in the machine's order, or four times that; then the port.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let words: Option<Vec<[u8; 4]>> = (0..address.len() / 8)
        .map(|at| Some(u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes()))
        .collect();
    let words = words?;
    let ip = match words.as_slice() {
        [four] => IpAddr::V4(Ipv4Addr::from(*four)),
        [_, _, _, _] => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// `route`: device, destination and mask in the machine's order.
pub(super) fn routes(text: &str) -> Vec<Route> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let word = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok();
        Some(Route {
            device: (*fields.first()?).to_owned(),
            destination: IpAddr::V4(Ipv4Addr::from(word(1)?.to_ne_bytes())),
            prefix: word(7)?.count_ones(),
        })
    };
    text.lines().skip(1).filter_map(line).collect()
}

/// RTF_REJECT, include/uapi/linux/route.h: the kernel's own entry for "nowhere", on `lo`.
const REJECT: u32 = 0x200;

/// `ipv6_route`: destination, prefix, …, flags, device.
pub(super) fn routes_v6(text: &str) -> Vec<Route> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let flags = u32::from_str_radix(fields.get(8)?, 16).ok()?;
        (flags & REJECT == 0).then_some(())?;
        Some(Route {
            device: (*fields.get(9)?).to_owned(),
            destination: IpAddr::V6(Ipv6Addr::from(u128::from_str_radix(fields.first()?, 16).ok()?)),
            prefix: u32::from_str_radix(fields.get(1)?, 16).ok()?,
        })
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_read() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0B00640A:1F41 00000000:0000 0A 00000000:00000000 00:00000000 00000000 64012        0 4711 1 0 100 0 0 10 0\n   \
            1: 0B00640A:1F41 0A00640A:9C40 01 00000000:00000000 00:00000000 00000000 64012        0 4712 1 0 100 0 0 10 0\n";
        assert_eq!(listeners(text), [Listener { address: "10.100.0.11:8001".parse().unwrap(), inode: 4711 }]);
        let six = "  sl  local_address                         remote_address                        st\n   \
            0: 00000000000000000000000001000000:1F40 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 99 1\n";
        assert_eq!(listeners(six)[0].address, "[::1]:8000".parse().unwrap());
    }

    #[test]
    fn who_takes_datagrams_from_anybody_is_read() {
        let text = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n  \
            31: 00000000:CA6C 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 9 2 0 0\n  \
            32: 0B02000A:0044 0102000A:0043 01 00000000:00000000 00:00000000 00000000     0        0 9 2 0 0\n";
        assert_eq!(open_to_all(text), ["0.0.0.0:51820".parse().unwrap()]);
    }

    #[test]
    fn routes_are_read() {
        let text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            wg0\t0000640A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
            eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        let [tunnel, default] = &routes(text)[..] else { panic!("two routes") };
        assert_eq!((tunnel.device.as_str(), tunnel.prefix), ("wg0", 24));
        assert_eq!(tunnel.destination, "10.100.0.0".parse::<IpAddr>().unwrap());
        assert!(default.is_default() && !tunnel.is_default());
        let six = "fd000000000000000000000000000000 70 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001      wg0\n\
            00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n";
        assert_eq!(routes_v6(six).len(), 1, "the second leads nowhere");
    }

    #[test]
    fn raw_and_packet_sockets_are_counted() {
        let packet = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n0000000000000000 3      3    0003   2     1 0      0      815\n";
        assert_eq!(inodes(packet), [815]);
        let raw = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref\n  \
            1: 00000000:0001 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 816 2 0 0\n";
        assert_eq!(inodes(raw), [816]);
    }
}
