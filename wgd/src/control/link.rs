//! Follows the interface's MTU over a netlink socket that was opened in its namespace at birth.
//!
//! Invariant: nothing is looked up by name; messages about other indexes, or about this index in other namespaces, are
//! ignored. Of an interface that is moved the kernel says where it goes, and the socket listens there as well, if it
//! could be opened so (CAP_NET_BROADCAST). Moved once more, from there, it is out of hearing: its last MTU stays in
//! force, and a longer packet raises it.
use crate::io::{Command, Handle};
use crate::registered::register;
use linux::{NetNs, Privileged};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, NetlinkAddr, recvmsg};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// RTMGRP_LINK, linux/rtnetlink.h.
const LINK_GROUP: u32 = 1;
/// A link message with all its statistics takes about 2 KiB.
const MESSAGE_BYTES: usize = 32 * 1024;

/// A socket that hears of link changes.
pub struct LinkMonitor {
    socket: AsyncFd<Socket>,
    place: Place,
}

/// Where the interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// The socket's number for the namespace; `None` for its own.
    namespace: Option<i32>,
    index: u32,
}

/// What a message says of the interface.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Mtu(u16),
    Moved(Place),
    /// Nothing, or of another interface.
    Nothing,
}

impl LinkMonitor {
    /// Opens the socket in `namespace`, or here. Runs inside of a tokio runtime.
    ///
    /// # Errors
    /// When netlink cannot be opened.
    pub fn open(privileged: &Privileged, namespace: Option<&NetNs>, index: u32) -> io::Result<Self> {
        let socket = match namespace {
            Some(namespace) => namespace.within(privileged, Self::socket)??,
            None => Self::socket()?,
        };
        Self::over(socket, index)
    }

    /// The socket, opened in this namespace.
    ///
    /// # Errors
    /// When netlink cannot be opened.
    pub fn socket() -> io::Result<Socket> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        if let Err(error) = socket.set_listen_all_namespaces(true) {
            tracing::debug!(%error, "an interface that is moved will be out of hearing");
        }
        socket.bind(&SocketAddr::new(0, LINK_GROUP))?;
        socket.set_non_blocking(true)?;
        Ok(socket)
    }

    /// Follows interface `index` over a socket that was opened where it is. Runs inside of a tokio runtime.
    ///
    /// # Errors
    /// When it cannot be registered.
    pub fn over(socket: Socket, index: u32) -> io::Result<Self> {
        let place = Place { namespace: None, index };
        Ok(Self { socket: register(socket, Interest::READABLE)?, place })
    }

    /// Tells the data thread of every change, until one of them is gone.
    pub(super) async fn follow(mut self, data: Handle) {
        let mut buffer = vec![0; MESSAGE_BYTES];
        loop {
            let receive = |socket: &Socket| receive(socket, &mut buffer);
            let (length, namespace) = match self.socket.async_io(Interest::READABLE, receive).await {
                Ok(received) => received,
                // Messages were lost; the next one brings the present state.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => continue,
                Err(error) => {
                    tracing::warn!(%error, "the interface's mtu is no longer followed");
                    return;
                }
            };
            match said(&buffer[..length], namespace, self.place) {
                Said::Mtu(mtu) => {
                    if data.tell(Command::Mtu(mtu)).await.is_err() {
                        return;
                    }
                }
                Said::Moved(place) => self.place = place,
                Said::Nothing => {}
            }
        }
    }
}

/// One message, and the namespace it is about if that is not the socket's own.
fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<(usize, Option<i32>)> {
    let mut control = nix::cmsg_space!([u8; 64]);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::empty();
    let message = recvmsg::<NetlinkAddr>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let mut namespace = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::Unknown(other) = control
            && other.cmsg_header.cmsg_level == libc::SOL_NETLINK
            && other.cmsg_header.cmsg_type == libc::NETLINK_LISTEN_ALL_NSID
        {
            namespace = other.data_bytes.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
        }
    }
    Ok((message.bytes, namespace))
}

fn said(bytes: &[u8], namespace: Option<i32>, place: Place) -> Said {
    let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) else { return Said::Nothing };
    let NetlinkPayload::InnerMessage(message) = message.payload else { return Said::Nothing };
    let is_it = |link: &LinkMessage| Place { namespace, index: link.header.index } == place;
    if let RouteNetlinkMessage::NewLink(link) = &message
        && is_it(link)
    {
        let mtu = |attribute: &LinkAttribute| {
            if let LinkAttribute::Mtu(mtu) = attribute { u16::try_from(*mtu).ok() } else { None }
        };
        return link.attributes.iter().find_map(mtu).map_or(Said::Nothing, Said::Mtu);
    }
    if let RouteNetlinkMessage::DelLink(link) = &message
        && is_it(link)
    {
        return moved(link, place);
    }
    Said::Nothing
}

/// Numbers of namespaces are those of the namespace that says so: from another one than the socket's they mean nothing.
fn moved(link: &LinkMessage, place: Place) -> Said {
    let (mut namespace, mut index) = (None, place.index);
    for attribute in &link.attributes {
        if let LinkAttribute::NewNetnsId(number) = attribute {
            namespace = Some(*number);
        } else if let LinkAttribute::NewIfIndex(new) = attribute {
            index = u32::try_from(*new).unwrap_or(index);
        }
    }
    match namespace {
        Some(_) if place.namespace.is_none() => Said::Moved(Place { namespace, index }),
        Some(_) | None => Said::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_core::NetlinkHeader;

    const HERE: Place = Place { namespace: None, index: 7 };

    fn link(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes = attributes;
        link
    }

    fn bytes(message: RouteNetlinkMessage) -> Vec<u8> {
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    #[test]
    fn only_the_interface_itself_is_heard() {
        let message =
            |index| bytes(RouteNetlinkMessage::NewLink(link(index, vec![LinkAttribute::Mtu(1280)])));
        assert_eq!(said(&message(7), None, HERE), Said::Mtu(1280));
        assert_eq!(said(&message(8), None, HERE), Said::Nothing);
        assert_eq!(said(&message(7), Some(3), HERE), Said::Nothing, "another namespace's number 7");
        assert_eq!(said(&[0; 3], None, HERE), Said::Nothing);
    }

    #[test]
    fn an_interface_that_is_moved_is_followed_once() {
        let attributes = vec![LinkAttribute::NewNetnsId(3), LinkAttribute::NewIfIndex(2)];
        let message = bytes(RouteNetlinkMessage::DelLink(link(7, attributes.clone())));
        let there = Place { namespace: Some(3), index: 2 };
        assert_eq!(said(&message, None, HERE), Said::Moved(there));
        let mtu = bytes(RouteNetlinkMessage::NewLink(link(2, vec![LinkAttribute::Mtu(1300)])));
        assert_eq!(said(&mtu, Some(3), there), Said::Mtu(1300));
        let again = bytes(RouteNetlinkMessage::DelLink(link(2, attributes)));
        assert_eq!(said(&again, Some(3), there), Said::Nothing);
        // An interface that is deleted goes nowhere.
        assert_eq!(
            said(&bytes(RouteNetlinkMessage::DelLink(link(7, Vec::new()))), None, HERE),
            Said::Nothing
        );
    }
}
