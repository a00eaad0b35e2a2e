//! What becomes of the interface itself: its MTU, and whether it is up.
//!
//! **Invariant:** while the interface is down no datagram leaves and none is answered; if it stays so, no session key is
//! kept either.

use std::time::Instant;

use super::{Device, PeerId};
use crate::Output;
use crate::limits::our_choice::SESSIONS_OUTLIVE_LINK;

/// Whether the interface is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Up,
    Down {
        /// `None`: they have.
        sessions_end: Option<Instant>,
    },
}

impl Device {
    /// The interface's MTU: padding stops there.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu;
    }

    /// Whether the interface is up, as it is taken to be until this is called. Set down it is silent at once, and its
    /// sessions end as those of the kernel's own WireGuard do, save that an interface which is only moved to another
    /// namespace, and so is down for a moment, keeps them. Set up again it speaks at once to the peers that are to be kept
    /// alive, and to the others with the first packet for them.
    pub fn set_link_up(&mut self, up: bool, now: Instant, out: &mut impl Output) {
        if self.link_is_up() == up {
            return;
        }
        if !up {
            self.link = Link::Down { sessions_end: Some(now + SESSIONS_OUTLIVE_LINK) };
            return;
        }
        self.end_sessions_when_due(now, out);
        self.link = Link::Up;
        // What was due meanwhile is due now.
        self.deadline = Some(now);
        for id in self.present() {
            self.with_peer(id, now, out, |peer, cx| {
                if peer.wants_keepalives() {
                    peer.send_keepalive(cx);
                }
            });
        }
    }

    /// Whether the interface is up, as far as the device was told.
    pub fn link_is_up(&self) -> bool {
        self.link == Link::Up
    }

    /// Ends the sessions of an interface that has been down for long enough.
    pub(super) fn end_sessions_when_due(&mut self, now: Instant, out: &mut impl Output) {
        let Link::Down { sessions_end: Some(at) } = self.link else { return };
        if now < at {
            return;
        }
        self.link = Link::Down { sessions_end: None };
        for id in self.present() {
            self.with_peer(id, now, out, |peer, cx| peer.end_sessions(cx));
        }
    }

    fn present(&self) -> Vec<PeerId> {
        (0..self.peers.len()).filter(|id| self.peers[*id].is_some()).collect()
    }
}
