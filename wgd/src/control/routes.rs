//! Follows the system's routes, for a reply leaves from the address that its peer wrote to only as long as the way back
//! leads through the interface that the peer came in by.
//!
//! The kernel's WireGuard compares the two with each packet. Here they are compared when a route has changed, so that
//! packets cost nothing; between changes the answer is the same.
//!
//! Invariant: nothing but a question for a route is ever sent to netlink from here, and one answer is awaited for each
//! question. The sockets belong to the namespace of the UDP sockets.
use crate::io::{Command, Handle};
use crate::limits;
use crate::registered::register;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::RouteAttribute;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;
use std::net::IpAddr;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use wg_proto::Endpoint;

/// RTMGRP_IPV4_ROUTE and RTMGRP_IPV6_ROUTE, linux/rtnetlink.h.
const ROUTE_GROUPS: u32 = 0x40 | 0x400;
/// A route with many next hops takes some KiB.
const MESSAGE_BYTES: usize = 32 * 1024;

/// Two sockets: one hears of changes, the other asks.
pub struct RouteMonitor {
    changes: AsyncFd<Socket>,
    questions: AsyncFd<Socket>,
}

impl RouteMonitor {
    /// Opens the sockets in this namespace. Runs inside of a tokio runtime.
    ///
    /// # Errors
    /// When netlink cannot be opened.
    pub fn open() -> io::Result<Self> {
        let open = |groups| -> io::Result<AsyncFd<Socket>> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, groups))?;
            socket.set_non_blocking(true)?;
            register(socket, Interest::READABLE | Interest::WRITABLE)
        };
        Ok(Self { changes: open(ROUTE_GROUPS)?, questions: open(0)? })
    }

    /// Looks at every peer's way back after each change, until the data thread is gone.
    pub(super) async fn follow(self, data: Handle) {
        loop {
            match receive(&self.changes).await {
                Ok(_) => {}
                // Messages were lost, which says that there were some.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => {
                    tracing::warn!(%error, "the system's routes are no longer followed");
                    return;
                }
            }
            let Ok((mark, sources)) = data.ask(Command::Sources).await else { return };
            let count = u32::try_from(sources.len()).unwrap_or(u32::MAX);
            for source in sources {
                if self.leaves_elsewhere(mark, &source).await
                    && data.tell(Command::ForgetSource(source.remote)).await.is_err()
                {
                    return;
                }
            }
            tokio::time::sleep(limits::ROUTES_PERIOD + limits::ROUTES_PERIOD_PER_PEER * count).await;
        }
    }

    /// Whether a packet to the peer, with the address of ours that it wrote to, would leave by another interface than
    /// the one it came in by. Not knowing it is a no: sending tells as well, when the address is gone.
    async fn leaves_elsewhere(&self, mark: u32, source: &Endpoint) -> bool {
        let Some(local) = source.local else { return false };
        let Some(question) = question(source.remote.ip(), local.ip, mark) else { return false };
        let send = |socket: &Socket| socket.send(&question, 0);
        if self.questions.async_io(Interest::WRITABLE, send).await.is_err() {
            return false;
        }
        let answer = tokio::time::timeout(limits::ANSWER_TIME, receive(&self.questions)).await;
        let Ok(Ok(answer)) = answer else { return false };
        interface_in(&answer).is_some_and(|interface| interface != local.interface_index)
    }
}

async fn receive(socket: &AsyncFd<Socket>) -> io::Result<Vec<u8>> {
    let mut buffer = Vec::with_capacity(MESSAGE_BYTES);
    socket.async_io(Interest::READABLE, |socket| socket.recv(&mut buffer, 0)).await?;
    Ok(buffer)
}

/// RTM_GETROUTE for one destination from one source.
fn question(to: IpAddr, from: IpAddr, mark: u32) -> Option<Vec<u8>> {
    let bits = if to.is_ipv4() { 32 } else { 128 };
    let mut route = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(to, bits)
        .ok()?
        .source_prefix(from, bits)
        .ok()?
        .build();
    if mark != 0 {
        route.attributes.push(RouteAttribute::Mark(mark));
    }
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(route));
    message.header.flags = NLM_F_REQUEST;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    Some(bytes)
}

/// Where the route of an answer leads out.
fn interface_in(bytes: &[u8]) -> Option<u32> {
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).ok()?;
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) = message.payload else {
        return None;
    };
    route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Oif(interface) = attribute { Some(*interface) } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use wg_proto::LocalAddress;

    #[tokio::test]
    async fn loopback_is_reached_by_loopback() {
        let monitor = RouteMonitor::open().expect("netlink");
        let mut source = Endpoint {
            remote: (Ipv4Addr::LOCALHOST, 1).into(),
            local: Some(LocalAddress { ip: Ipv4Addr::LOCALHOST.into(), interface_index: 1 }),
        };
        assert!(!monitor.leaves_elsewhere(0, &source).await);
        source.local = Some(LocalAddress { ip: Ipv4Addr::LOCALHOST.into(), interface_index: 77 });
        assert!(monitor.leaves_elsewhere(0, &source).await);
        // An address that is not ours: netlink refuses the question, and sending will tell.
        source.local = Some(LocalAddress { ip: Ipv4Addr::new(192, 0, 2, 77).into(), interface_index: 77 });
        assert!(!monitor.leaves_elsewhere(0, &source).await);
        source.local = None;
        assert!(!monitor.leaves_elsewhere(0, &source).await);
    }
}
