//! How the control thread talks to the data thread: a bounded queue and an eventfd that wakes `poll`.
use crate::limits;
use linux::tun::Offloads;
use linux::udp::UdpSockets;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;
use tokio::sync::oneshot;
use wg_proto::{
    Counters, DeviceState, DeviceUpdate, Endpoint, Kept, PeerIdentity, Probed, Probes, PublicKey,
    RotateError, RotationRequest, Ticket,
};

/// Takes an answer away; called on the data thread, so it must not block.
pub(crate) type Reply<T> = Box<dyn FnOnce(T) + Send>;

/// What the data thread can be asked for.
pub enum Command {
    /// Changes the configuration, and the sockets with it.
    Apply {
        /// Validated.
        update: DeviceUpdate,
        /// Take the place of the present ones.
        sockets: Option<UdpSockets>,
        /// Called when it is in force.
        done: Reply<()>,
    },
    /// Nothing: the answer says that the loop has turned.
    Turn(Reply<()>),
    /// A snapshot with its secrets.
    State(Reply<DeviceState>),
    /// What was counted.
    Counters(Reply<(Counters, IoCounters)>),
    /// Whether every peer with a persistent keepalive has had a handshake in the last [`limits::PEER_UP`].
    KeptAlive(Reply<bool>),
    /// Which peer may send from this inner address; `since` is its last handshake.
    Owner {
        /// The inner address.
        source: IpAddr,
        /// Takes the peer.
        reply: Reply<Option<PeerIdentity>>,
    },
    /// The addresses that the interface has inside the tunnel.
    Addresses(Vec<IpAddr>),
    /// Measure the round trip to a peer.
    Probe {
        /// Whose key.
        peer: PublicKey,
        /// Takes what came of it; `None` for no such peer.
        reply: Reply<Option<Probed>>,
    },
    /// Measure the round trip to each peer that there are keys with.
    ProbeAll(Reply<Vec<(PublicKey, Probed)>>),
    /// What probes have shown.
    Probes(Reply<Vec<(PublicKey, Probes)>>),
    /// Asks a peer for an echo of this length; `None` for no such peer.
    ProbePath {
        /// Whom.
        peer: PublicKey,
        /// Of the whole packet.
        bytes: u16,
        /// Takes what came of the wish.
        reply: Reply<Option<Probed>>,
    },
    /// What has become of these questions.
    PathProbes(Reply<Vec<(PublicKey, Probes)>>),
    /// Begin to replace a key.
    Rotate {
        /// Which.
        request: RotationRequest,
        /// Takes whether it has begun.
        reply: Reply<Result<(), RotateError>>,
    },
    /// A new key was written down, or could not be.
    Kept {
        /// Which.
        ticket: Ticket,
        /// What came of it.
        kept: Kept,
        /// Called when the device goes on.
        done: Reply<()>,
    },
    /// The mark of the sockets, and each peer's endpoint that has a remembered address of ours.
    Sources(Reply<(u32, Vec<Endpoint>)>),
    /// Packets to this remote address are to leave from where the system likes.
    ForgetSource(SocketAddr),
    /// The interface's MTU changed.
    Mtu(u16),
    /// Close everything and return.
    Stop,
}

/// What the data thread itself counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoCounters {
    /// Events that found the queue full.
    pub events_lost: u64,
    /// Events that wait for the control thread.
    pub events_waiting: usize,
    /// The interface's MTU as far as known.
    pub mtu: u16,
    /// Whether the interface is up.
    pub link_is_up: bool,
    /// What is moved in one piece.
    pub offloaded: Offloaded,
}

/// What the kernel takes and gives in one piece.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offloaded {
    /// Of the TUN device; `None` for a plain one.
    pub tun: Option<Offloads>,
    /// Datagrams of one size are sent as one message (UDP_SEGMENT).
    pub udp_send: bool,
    /// They are received as one (UDP_GRO).
    pub udp_receive: bool,
}

/// The data thread is gone, or does not answer.
#[derive(Debug, thiserror::Error)]
#[error("the data thread does not answer")]
pub struct Unanswered;

/// The control thread's end; clones share it.
#[derive(Clone)]
pub struct Handle {
    queue: SyncSender<Command>,
    wake: Arc<EventFd>,
}

/// The data thread's end.
pub struct Inbox {
    queue: Receiver<Command>,
    wake: Arc<EventFd>,
}

/// Makes the two ends.
///
/// # Errors
/// When the process is out of descriptors.
pub fn channel() -> io::Result<(Handle, Inbox)> {
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let wake = Arc::new(EventFd::from_value_and_flags(0, flags)?);
    let (sender, receiver) = sync_channel(limits::CONTROL_QUEUE);
    Ok((Handle { queue: sender, wake: Arc::clone(&wake) }, Inbox { queue: receiver, wake }))
}

impl Handle {
    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// When the data thread is gone.
    pub async fn ask<T: Send + 'static>(
        &self,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, Unanswered> {
        let (sender, answer) = oneshot::channel();
        let command = command(Box::new(move |value| drop(sender.send(value))));
        let ask = async {
            self.tell(command).await?;
            answer.await.map_err(|_| Unanswered)
        };
        tokio::time::timeout(limits::ANSWER_TIME, ask).await.map_err(|_| Unanswered)?
    }

    /// Asks and blocks this thread until the answer comes, where no future can wait (the hook of a scrape).
    ///
    /// # Errors
    /// When the data thread is gone, or does not answer within [`limits::SCRAPE_TIME`].
    pub fn ask_blocking<T: Send + 'static>(
        &self,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, Unanswered> {
        let (sender, answer) = sync_channel(1);
        let mut command = command(Box::new(move |value| drop(sender.try_send(value))));
        let mut left = limits::SCRAPE_TIME;
        while let Some(back) = self.try_tell(command)? {
            command = back;
            left = left
                .checked_sub(limits::QUEUE_RETRY)
                .filter(|left| *left > Duration::ZERO)
                .ok_or(Unanswered)?;
            std::thread::sleep(limits::QUEUE_RETRY);
        }
        answer.recv_timeout(left).map_err(|_| Unanswered)
    }

    /// Tells without waiting for what comes of it. While the queue is full the runtime goes on with other work:
    /// a data thread that hangs must not keep the signals from being heard.
    ///
    /// # Errors
    /// When the data thread is gone, or takes nothing.
    pub async fn tell(&self, mut command: Command) -> Result<(), Unanswered> {
        let tell = async {
            while let Some(back) = self.try_tell(command)? {
                command = back;
                tokio::time::sleep(limits::QUEUE_RETRY).await;
            }
            Ok(())
        };
        tokio::time::timeout(limits::ANSWER_TIME, tell).await.map_err(|_| Unanswered)?
    }

    /// Gives the command back if the queue is full.
    fn try_tell(&self, command: Command) -> Result<Option<Command>, Unanswered> {
        match self.queue.try_send(command) {
            Ok(()) => {
                // EAGAIN: the counter is full, so the thread is awake already.
                let _ = self.wake.write(1);
                Ok(None)
            }
            Err(TrySendError::Full(command)) => Ok(Some(command)),
            Err(TrySendError::Disconnected(_)) => Err(Unanswered),
        }
    }
}

impl Inbox {
    /// Makes the eventfd silent again; before the queue is emptied, or a wake-up would be lost.
    pub(super) fn clear(&self) {
        let _ = self.wake.read();
    }

    pub(crate) fn next(&self) -> Option<Command> {
        self.queue.try_recv().ok()
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_queue_keeps_nothing_else_waiting() {
        let (data, _hangs) = channel().expect("eventfd");
        for _ in 0..limits::CONTROL_QUEUE {
            data.tell(Command::Mtu(1_280)).await.expect("room");
        }
        let one_more = data.tell(Command::Stop);
        // Sending blocked this thread, and with it the timer.
        assert!(tokio::time::timeout(Duration::from_millis(20), one_more).await.is_err());
    }

    #[tokio::test]
    async fn a_data_thread_that_is_gone_is_noticed_at_once() {
        let (data, gone) = channel().expect("eventfd");
        drop(gone);
        assert!(data.ask(Command::State).await.is_err() && data.ask_blocking(Command::State).is_err());
    }
}
