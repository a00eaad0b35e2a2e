//! Follows the interface's MTU over a netlink socket that was opened in its namespace at birth.
//!
//! Invariant: nothing is looked up by name; messages about other indexes are ignored. An interface that is moved
//! to another namespace is out of hearing: its last MTU stays in force, and a longer packet raises it.
use crate::io::{Command, Handle};
use crate::registered::register;
use linux::{NetNs, Privileged};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// RTMGRP_LINK, linux/rtnetlink.h.
const LINK_GROUP: u32 = 1;
/// A link message with all its statistics takes about 2 KiB.
const MESSAGE_BYTES: usize = 32 * 1024;

/// A socket that hears of link changes.
pub struct LinkMonitor {
    socket: AsyncFd<Socket>,
    index: u32,
}

impl LinkMonitor {
    /// Opens the socket in `namespace`, or here. Runs inside of a tokio runtime.
    ///
    /// # Errors
    /// When netlink cannot be opened.
    pub fn open(privileged: &Privileged, namespace: Option<&NetNs>, index: u32) -> io::Result<Self> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, LINK_GROUP))?;
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        let socket = match namespace {
            Some(namespace) => namespace.within(privileged, open)??,
            None => open()?,
        };
        Ok(Self { socket: register(socket, Interest::READABLE)?, index })
    }

    /// Tells the data thread of every change, until one of them is gone.
    pub(super) async fn follow(self, data: Handle) {
        loop {
            let mut buffer = Vec::with_capacity(MESSAGE_BYTES);
            let receive = |socket: &Socket| socket.recv(&mut buffer, 0);
            match self.socket.async_io(Interest::READABLE, receive).await {
                Ok(_) => {}
                // Messages were lost; the next one brings the present state.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => continue,
                Err(error) => {
                    tracing::warn!(%error, "the interface's mtu is no longer followed");
                    return;
                }
            }
            if let Some(mtu) = mtu_in(&buffer, self.index)
                && data.tell(Command::Mtu(mtu)).await.is_err()
            {
                return;
            }
        }
    }
}

fn mtu_in(bytes: &[u8], index: u32) -> Option<u16> {
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).ok()?;
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = message.payload else {
        return None;
    };
    if link.header.index != index {
        return None;
    }
    link.attributes.iter().find_map(|attribute| {
        if let LinkAttribute::Mtu(mtu) = attribute { u16::try_from(*mtu).ok() } else { None }
    })
}
