//! The data thread: moves packets between the TUN, the UDP sockets and the protocol core.
//!
//! Invariant: it owns the [`Device`] and the sockets, and it never waits for another thread: commands come
//! through a bounded queue that it empties, answers and events leave through calls that cannot block. A packet
//! is read, sealed or opened, and sent on this one thread; nothing is allocated for it.
mod command;
mod opened;
mod pause;
mod sealing;
mod tun;
mod udp;

pub use command::{Command, Handle, Inbox, IoCounters, Offloaded, Unanswered, channel};

use crate::limits;
use daemon::Clock;
use linux::tun::Tun;
use linux::udp::{ReceiveBatch, UdpSockets};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use opened::Opened;
use pause::{Pause, Taken};
use sealing::Sealing;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Sender;
use tun::{Gone, TunSide};
use udp::UdpSide;
use wg_proto::{Device, DeviceEvent, DropReason, Endpoint, Output, PeerIdentity, RotationOutput};

/// Why the data thread ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// The interface was deleted.
    LinkDeleted,
    /// `poll` failed, which it never does with good arguments.
    Broken,
}

/// The data thread's state.
pub struct DataPlane {
    device: Device,
    /// Apart from `out`, so that the device can read them while it writes there.
    received: ReceiveBatch,
    opened: Opened,
    sealing: Sealing,
    pause: Pause,
    out: Sides,
    inbox: Inbox,
    clock: Clock,
    /// When to ask at the latest whether the interface is up.
    next_look: Instant,
}

/// What the device writes to.
struct Sides {
    tun: TunSide,
    udp: UdpSide,
    events: Sender<DeviceEvent>,
    events_lost: u64,
    rotations: Option<Sender<RotationOutput>>,
}

/// What `poll` said.
struct Ready {
    tun: bool,
    tun_gone: bool,
    /// Only asked for while it is down.
    link_is_up: bool,
    command: bool,
    udp_v4: bool,
    udp_v6: bool,
}

impl Output for Sides {
    fn transmit(&mut self, to: Endpoint, datagram: &[u8]) {
        self.udp.queue(to, datagram);
    }

    #[inline]
    fn transmit_sealed(
        &mut self,
        to: Endpoint,
        bytes: usize,
        seal: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> Option<usize> {
        self.udp.seal(to, bytes, seal)
    }

    fn event(&mut self, event: DeviceEvent) {
        if self.events.try_send(event).is_err() {
            self.events_lost += 1;
        }
    }

    fn rotation(&mut self, output: RotationOutput) {
        // What is lost is said again.
        if let Some(rotations) = &self.rotations {
            let _ = rotations.try_send(output);
        }
    }
}

impl Sides {
    fn counters(&self, link_is_up: bool) -> IoCounters {
        let events_waiting = self.events.max_capacity() - self.events.capacity();
        let offloaded = Offloaded {
            tun: self.tun.offloads(),
            udp_send: self.udp.segments(),
            udp_receive: self.udp.sockets().v4.joins_segments(),
        };
        IoCounters {
            events_lost: self.events_lost,
            events_waiting,
            mtu: self.tun.mtu(),
            link_is_up,
            offloaded,
        }
    }
}

impl DataPlane {
    /// Puts the parts together.
    #[must_use]
    pub fn new(
        device: Device,
        tun: Tun,
        udp: UdpSockets,
        inbox: Inbox,
        events: Sender<DeviceEvent>,
        mtu: u16,
    ) -> Self {
        let tun = TunSide::new(tun, mtu);
        let out = Sides {
            // A plain device stands for doing without: nothing leaves in one piece either.
            udp: UdpSide::new(udp, tun.offloads().is_some()),
            tun,
            events,
            events_lost: 0,
            rotations: None,
        };
        Self {
            device,
            received: ReceiveBatch::new(),
            opened: Opened::for_device(&out.tun),
            sealing: Sealing::new(),
            pause: Pause::default(),
            out,
            inbox,
            clock: Clock,
            next_look: Clock.now(),
        }
    }

    /// Tells of rotations, and has new keys written down.
    #[must_use]
    pub fn with_rotations(mut self, rotations: Sender<RotationOutput>) -> Self {
        self.out.rotations = Some(rotations);
        self
    }

    /// Knows the interface's own addresses: its own connections need no help to fit into the tunnel.
    #[must_use]
    pub fn with_own_addresses(mut self, addresses: Vec<IpAddr>) -> Self {
        self.out.tun.set_own_addresses(addresses);
        self
    }

    /// Runs until it is told to stop or the interface is gone. The UDP port is free when it returns.
    #[must_use]
    pub fn run(mut self) -> Ended {
        let ended = self.turn_until_ended();
        // The port first: whoever takes over the tunnel wants it as soon as the interface is gone.
        let Sides { tun, udp, .. } = self.out;
        drop(udp);
        drop(tun);
        ended
    }

    fn turn_until_ended(&mut self) -> Ended {
        self.look_at_link(self.clock.now());
        loop {
            let Some(ready) = self.wait() else { return Ended::Broken };
            if ready.tun_gone {
                return Ended::LinkDeleted;
            }
            if ready.command && !self.obey() {
                return Ended::Stopped;
            }
            // Read once a batch, as soon as it is here: the round trip of a probe ends with it.
            let mut now = self.clock.now();
            if ready.link_is_up || now >= self.next_look {
                self.look_at_link(now);
            }
            if ready.udp_v4 {
                self.out.udp.receive_v4(&mut self.received);
                self.open_received(now);
                now = self.clock.now();
            }
            if ready.udp_v6 {
                self.out.udp.receive_v6(&mut self.received);
                self.open_received(now);
            }
            let mut taken = Taken::default();
            if ready.tun {
                match self.sealing.turn(&mut self.device, &mut self.out, now) {
                    Ok(turn) => taken = turn,
                    Err(Gone) => return Ended::LinkDeleted,
                }
            }
            if self.device.next_timeout().is_some_and(|at| at <= now) {
                self.device.handle_timeout(now, &mut self.out);
            }
            self.flush();
            // A plain device brings a stream packet by packet too, and a stream is not to be slowed down.
            if let Some(pause) = self.pause.after(taken)
                && self.out.tun.offloads().is_some()
            {
                std::thread::sleep(pause);
            }
        }
    }

    fn wait(&mut self) -> Option<Ready> {
        let timeout = self.device.next_timeout().map(|at| until(at, self.clock.now()));
        let timeout = timeout.unwrap_or(PollTimeout::NONE);
        let sockets = self.out.udp.sockets();
        let down = !self.device.link_is_up();
        let tun = if down { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
        let mut set = [
            PollFd::new(self.out.tun.as_fd(), tun),
            PollFd::new(self.inbox.as_fd(), PollFlags::POLLIN),
            PollFd::new(sockets.v4.as_fd(), PollFlags::POLLIN),
            PollFd::new(sockets.v6.as_ref().unwrap_or(&sockets.v4).as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut set, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => {
                tracing::error!(%error, "poll");
                return None;
            }
        }
        let events = set.map(|descriptor| descriptor.revents().unwrap_or(PollFlags::empty()));
        let gone = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
        // POLLERR on a UDP socket is an ICMP error, which the next receive clears.
        let udp = PollFlags::POLLIN | PollFlags::POLLERR;
        Some(Ready {
            tun: events[0].contains(PollFlags::POLLIN),
            tun_gone: events[0].intersects(gone),
            link_is_up: events[0].contains(PollFlags::POLLOUT),
            command: events[1].contains(PollFlags::POLLIN),
            udp_v4: events[2].intersects(udp),
            udp_v6: sockets.v6.is_some() && events[3].intersects(udp),
        })
    }

    fn open_received(&mut self, now: Instant) {
        let (memory, places) = self.received.places();
        for place in places {
            let from = udp::endpoint(&place);
            let datagram = &mut memory[place.bytes.clone()];
            if let Some(packet) = self.device.handle_udp(datagram, from, now, &mut self.out) {
                let start = place.bytes.start;
                let packet = start + packet.start..start + packet.end;
                self.opened.keep(packet, memory, &mut self.out.tun);
            }
        }
        self.opened.write(memory, &mut self.out.tun);
    }

    /// Asks the kernel whether the interface is up. What it says of changes may not be heard everywhere.
    fn look_at_link(&mut self, now: Instant) {
        self.next_look = now + limits::LINK_LOOK_INTERVAL;
        let up = self.out.tun.is_up();
        if up == self.device.link_is_up() {
            return;
        }
        self.device.set_link_up(up, now, &mut self.out);
        if up {
            tracing::info!("the interface is up");
        } else {
            tracing::info!("the interface is down: nothing is sent or answered");
        }
    }

    fn set_mtu(&mut self, mtu: u16) {
        self.out.tun.set_mtu(mtu);
        self.device.set_mtu(mtu);
    }

    fn flush(&mut self) {
        while let Some(stale) = self.out.udp.flush() {
            self.device.forget_source(stale);
        }
        for _ in 0..self.out.tun.take_write_errors() {
            self.device.count_drop(DropReason::TunWriteError);
        }
        for _ in 0..self.out.udp.take_send_errors() {
            self.device.count_drop(DropReason::UdpSendError);
        }
    }

    /// Carries out what waits in the queue; false for the order to stop.
    fn obey(&mut self) -> bool {
        self.inbox.clear();
        while let Some(command) = self.inbox.next() {
            let now = self.clock.now();
            match command {
                Command::Apply { update, sockets, done } => {
                    if let Some(sockets) = sockets {
                        self.out.udp.replace(sockets);
                    }
                    self.device.apply(update, now, &mut self.out);
                    done(());
                }
                Command::Turn(reply) => reply(()),
                Command::State(reply) => reply(self.device.state(now)),
                Command::Counters(reply) => {
                    let io = self.out.counters(self.device.link_is_up());
                    reply((self.device.counters().clone(), io));
                }
                Command::KeptAlive(reply) => {
                    let young = |at: Instant| now.saturating_duration_since(at) < limits::PEER_UP;
                    reply(self.device.kept_alive().all(|handshake| handshake.is_some_and(young)));
                }
                Command::Owner { source, reply } => {
                    let since = self.device.last_handshake_by_source(source);
                    reply(self.device.peer_by_source(source).map(|peer| PeerIdentity { since, ..peer }));
                }
                Command::Addresses(addresses) => {
                    self.out.tun.set_own_addresses(addresses.clone());
                    self.device.set_addresses(addresses);
                }
                Command::Probe { peer, reply } => {
                    reply(self.device.probe(&peer, now, &mut self.out));
                    // It counts from now, so it must not wait for the rest of this turn.
                    self.flush();
                }
                Command::ProbeAll(reply) => {
                    reply(self.device.probe_all(now, &mut self.out));
                    self.flush();
                }
                Command::ProbePath { peer, bytes, reply } => {
                    reply(self.device.probe_path(&peer, bytes, now, &mut self.out));
                    self.flush();
                }
                Command::PathProbes(reply) => reply(self.device.path_probes(now).collect()),
                Command::Probes(reply) => reply(self.device.probes(now).collect()),
                Command::Sources(reply) => reply((self.device.fwmark(), self.device.sources().collect())),
                Command::ForgetSource(remote) => self.device.forget_source(remote),
                Command::Rotate { request, reply } => {
                    reply(self.device.rotate(&request, now, &mut self.out));
                }
                Command::Kept { ticket, kept, done } => {
                    self.device.kept(ticket, &kept, now, &mut self.out);
                    done(());
                }
                Command::Mtu(mtu) => {
                    self.set_mtu(mtu);
                    // It is told with every change of the link.
                    self.look_at_link(now);
                }
                Command::Stop => return false,
            }
        }
        true
    }
}

/// The time until `at`, rounded up to the millisecond that `poll` knows, so that it is not called in vain.
fn until(at: Instant, now: Instant) -> PollTimeout {
    let left = at.saturating_duration_since(now) + Duration::from_micros(999);
    PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_rounded_up_and_never_negative() {
        let now = Clock.now();
        assert_eq!(until(now, now + Duration::from_secs(1)), PollTimeout::ZERO);
        assert_eq!(until(now + Duration::from_micros(1), now), PollTimeout::from(1u8));
        assert_eq!(until(now + Duration::from_millis(250), now), PollTimeout::from(250u8));
    }
}
