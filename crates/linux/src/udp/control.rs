//! Addresses and control messages as the kernel reads and writes them.
use super::LocalAddress;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Room for what goes with a datagram at most, in eights for its alignment: an `in6_pktinfo` (CMSG_SPACE(20) is 40), a hop
/// limit (24) and a segment size (24).
pub(super) const CONTROL_WORDS: usize = 11;
/// CMSG_SPACE of an int or of a 16-bit number (24), in eights.
const SHORT_WORDS: usize = 3;

/// Control messages that are being written.
pub(super) type Control = [u64; CONTROL_WORDS];

/// What came with a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ancillary {
    pub(super) local: Option<LocalAddress>,
    /// It is several datagrams of this size, the last one perhaps shorter.
    pub(super) segment_bytes: Option<usize>,
}

/// Writes `address` as the kernel reads it and says how long it is. A `sockaddr_in` fits into a `sockaddr_in6`
/// and is no more strictly aligned.
pub(super) fn write_address(name: &mut libc::sockaddr_in6, address: SocketAddr) -> libc::socklen_t {
    match address {
        SocketAddr::V4(v4) => {
            let value = libc::sockaddr_in {
                sin_family: family(libc::AF_INET),
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: `sockaddr_in` (16 bytes, align 4) fits into `sockaddr_in6` (28 bytes, align 4).
            unsafe { std::ptr::from_mut(name).cast::<libc::sockaddr_in>().write(value) };
            size::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            *name = libc::sockaddr_in6 {
                sin6_family: family(libc::AF_INET6),
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            size::<libc::sockaddr_in6>()
        }
    }
}

/// A C structure's size as the kernel's 32-bit length.
#[expect(clippy::cast_possible_truncation, reason = "the structures in this file are at most 128 bytes")]
pub(super) const fn size<T>() -> u32 {
    size_of::<T>() as u32
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "AF_INET is 2, AF_INET6 is 10")]
const fn family(number: libc::c_int) -> libc::sa_family_t {
    number as libc::sa_family_t
}

/// Writes the control message that chooses the source address and says how long it is.
///
/// The interface stays 0: the routing table chooses it, as in the kernel's own WireGuard, so that an address of
/// ours that lives on another interface than the route works.
pub(super) fn write_packet_info(control: &mut Control, local: IpAddr) -> usize {
    let header = control.as_mut_ptr().cast::<libc::cmsghdr>();
    match local {
        IpAddr::V4(ip) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            // SAFETY: `control` is 88 bytes, aligned to 8 as `cmsghdr` wants; header (16) and `in_pktinfo` (12)
            // fit, and CMSG_DATA points right behind the header.
            unsafe {
                (*header).cmsg_level = libc::IPPROTO_IP;
                (*header).cmsg_type = libc::IP_PKTINFO;
                (*header).cmsg_len = libc::CMSG_LEN(size::<libc::in_pktinfo>()) as _;
                libc::CMSG_DATA(header).cast::<libc::in_pktinfo>().write_unaligned(info);
                libc::CMSG_SPACE(size::<libc::in_pktinfo>()) as usize
            }
        }
        IpAddr::V6(ip) => {
            let info =
                libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: ip.octets() }, ipi6_ifindex: 0 };
            // SAFETY: as above; header (16) and `in6_pktinfo` (20) fit into 88 bytes.
            unsafe {
                (*header).cmsg_level = libc::IPPROTO_IPV6;
                (*header).cmsg_type = libc::IPV6_PKTINFO;
                (*header).cmsg_len = libc::CMSG_LEN(size::<libc::in6_pktinfo>()) as _;
                libc::CMSG_DATA(header).cast::<libc::in6_pktinfo>().write_unaligned(info);
                libc::CMSG_SPACE(size::<libc::in6_pktinfo>()) as usize
            }
        }
    }
}

/// Writes the control message that chooses the hop limit, behind what the first `words` hold already, and says how
/// long it is.
pub(super) fn write_hop_limit(control: &mut Control, words: usize, is_v4: bool, hop_limit: u8) -> usize {
    let (level, kind) =
        if is_v4 { (libc::IPPROTO_IP, libc::IP_TTL) } else { (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) };
    write_short(control, words, level, kind, libc::c_int::from(hop_limit))
}

/// The same for the size that the bytes are cut into.
pub(super) fn write_segment_size(control: &mut Control, words: usize, bytes: u16) -> usize {
    write_short(control, words, libc::SOL_UDP, libc::UDP_SEGMENT, bytes)
}

/// `T` is an integer of at most 32 bits.
fn write_short<T>(
    control: &mut Control,
    words: usize,
    level: libc::c_int,
    kind: libc::c_int,
    value: T,
) -> usize {
    const { assert!(size_of::<T>() <= 4) };
    let header = control[words..words + SHORT_WORDS].as_mut_ptr().cast::<libc::cmsghdr>();
    // SAFETY: the slice is 24 bytes, aligned to 8 as `cmsghdr` wants; header (16) and up to four bytes fit, and
    // CMSG_DATA points right behind the header.
    unsafe {
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = libc::CMSG_LEN(size::<T>()) as _;
        libc::CMSG_DATA(header).cast::<T>().write_unaligned(value);
        libc::CMSG_SPACE(size::<T>()) as usize
    }
}

pub(super) fn address_of(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the kernel wrote a `sockaddr_in` (it says AF_INET); the storage is larger and more aligned.
            let v4 = unsafe { *std::ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above for AF_INET6.
            let v6 = unsafe { *std::ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            // The flow label is the sender's business of this one datagram, not a part of its address.
            Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// Reads what came with a message.
pub(super) fn ancillary(header: &libc::msghdr) -> Ancillary {
    let mut found = Ancillary::default();
    // SAFETY: the kernel wrote `msg_controllen` bytes of well-formed control messages to `msg_control`, which
    // still points to a live buffer of the batch; CMSG_FIRSTHDR and CMSG_NXTHDR stay inside of it.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !message.is_null() {
        // SAFETY: non-null results of the two macros point to a complete header.
        let control = unsafe { *message };
        match (control.cmsg_level, control.cmsg_type) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // SAFETY: a message of this type carries an `in_pktinfo`.
                let info = unsafe { libc::CMSG_DATA(message).cast::<libc::in_pktinfo>().read_unaligned() };
                found.local = Some(LocalAddress {
                    ip: Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()).into(),
                    interface_index: info.ipi_ifindex.cast_unsigned(),
                });
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                // SAFETY: a message of this type carries an `in6_pktinfo`.
                let info = unsafe { libc::CMSG_DATA(message).cast::<libc::in6_pktinfo>().read_unaligned() };
                found.local = Some(LocalAddress {
                    ip: Ipv6Addr::from(info.ipi6_addr.s6_addr).into(),
                    interface_index: info.ipi6_ifindex,
                });
            }
            (libc::SOL_UDP, libc::UDP_GRO) => {
                // SAFETY: a message of this type carries an int (net/ipv4/udp.c, udp_cmsg_recv).
                let bytes = unsafe { libc::CMSG_DATA(message).cast::<libc::c_int>().read_unaligned() };
                found.segment_bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes > 0);
            }
            _ => {}
        }
        // SAFETY: `message` is a header inside of the buffer of `header`.
        message = unsafe { libc::CMSG_NXTHDR(header, message) };
    }
    found
}
