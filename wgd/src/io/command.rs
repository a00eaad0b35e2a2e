//! How the control thread talks to the data thread: a bounded queue and an eventfd that wakes `poll`.
use crate::limits;
use linux::udp::UdpSockets;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use tokio::sync::oneshot;
use wg_proto::{Counters, DeviceState, DeviceUpdate, PeerIdentity};

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
    /// A snapshot with its secrets.
    State(Reply<DeviceState>),
    /// What was counted.
    Counters(Reply<(Counters, IoCounters)>),
    /// Which peer may send from this inner address.
    Owner {
        /// The inner address.
        source: IpAddr,
        /// Takes the peer.
        reply: Reply<Option<PeerIdentity>>,
    },
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
    /// The interface's MTU as far as known.
    pub mtu: u16,
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
        self.tell(command(Box::new(move |value| drop(sender.send(value)))))?;
        let answer = tokio::time::timeout(limits::ANSWER_TIME, answer).await;
        answer.map_err(|_| Unanswered)?.map_err(|_| Unanswered)
    }

    /// Asks and blocks this thread until the answer comes, where no future can wait (the hook of a scrape).
    ///
    /// # Errors
    /// When the data thread is gone.
    pub fn ask_blocking<T: Send + 'static>(
        &self,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, Unanswered> {
        let (sender, answer) = sync_channel(1);
        self.tell(command(Box::new(move |value| drop(sender.try_send(value)))))?;
        answer.recv_timeout(limits::ANSWER_TIME).map_err(|_| Unanswered)
    }

    /// Tells without waiting.
    ///
    /// # Errors
    /// When the data thread is gone.
    pub fn tell(&self, command: Command) -> Result<(), Unanswered> {
        self.queue.send(command).map_err(|_| Unanswered)?;
        // EAGAIN: the counter is full, so the thread is awake already.
        let _ = self.wake.write(1);
        Ok(())
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
