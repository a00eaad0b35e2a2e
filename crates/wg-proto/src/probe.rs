//! Round trips through the tunnel: an ICMP echo to a peer's own address, which the IP stack of its host answers.
//!
//! Each peer has at most one question open. One that is still open when the next is asked was lost, unless that is
//! sooner than [`PROBE_WAIT`]: then the next waits for it.
//!
//! **Invariant:** a reply is taken out of the stream only if it answers the open question of this very peer: it came
//! in the peer's session, from the address that was asked, with the device's identifier and the open sequence number.
//! Any other packet goes on to the TUN.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use packet::echo::{Addresses, EchoReply, EchoRequest};

use crate::limits::our_choice::PROBE_WAIT;

/// No secret: whoever can answer sees the question. Without randomness any number does.
pub(crate) fn random_identifier() -> u16 {
    let mut bytes = [0; 2];
    let _ = getrandom::fill(&mut bytes);
    u16::from_ne_bytes(bytes)
}

/// What came of the wish to measure a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probed {
    /// A question is on its way.
    Sent,
    /// The one before is still open, and young.
    UnderWay,
    /// There are no keys to seal it with.
    NoSession,
    /// The peer has no host address among its allowed IPs, or we have none of its family.
    NoAddress,
}

/// What a peer's probes have shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probes {
    /// Of the last one that was answered, unless one was lost since.
    pub round_trip: Option<Duration>,
    /// How long the last one has been waiting for its answer; `None` when it has come.
    pub open_for: Option<Duration>,
    /// Questions sent.
    pub sent: u64,
    /// Of these, those that were answered in time.
    pub answered: u64,
    /// Of these, those that were not.
    pub lost: u64,
}

/// A peer's questions.
#[derive(Debug, Default)]
pub(crate) struct Probe {
    open: Option<Question>,
    next_sequence: u16,
    seen: Probes,
}

#[derive(Debug)]
struct Question {
    asked: IpAddr,
    sequence: u16,
    at: Instant,
}

impl Probe {
    /// Whether another question would have to wait.
    pub(crate) fn is_under_way(&self, now: Instant) -> bool {
        self.open.as_ref().is_some_and(|open| now.saturating_duration_since(open.at) < PROBE_WAIT)
    }

    /// Writes the next question, as long as `buffer`.
    pub(crate) fn write<'a>(
        &self,
        addresses: Addresses,
        identifier: u16,
        buffer: &'a mut [u8],
    ) -> Option<&'a [u8]> {
        let sequence = self.next_sequence;
        let total_length = buffer.len();
        EchoRequest { addresses, identifier, sequence, total_length }.write(buffer)
    }

    /// That question has been sent.
    pub(crate) fn sent(&mut self, addresses: Addresses, now: Instant) {
        let asked = match addresses {
            Addresses::V4(_, to) => IpAddr::V4(to),
            Addresses::V6(_, to) => IpAddr::V6(to),
        };
        let question = Question { asked, sequence: self.next_sequence, at: now };
        self.next_sequence = self.next_sequence.wrapping_add(1);
        self.seen.sent += 1;
        if self.open.replace(question).is_some() {
            self.seen.lost += 1;
            self.seen.round_trip = None;
        }
    }

    /// Whether `packet`, which came in the peer's session, answers the open question; then it is closed.
    pub(crate) fn is_answered_by(&mut self, packet: &[u8], identifier: u16, now: Instant) -> bool {
        let Some(open) = &self.open else { return false };
        let Some(reply) = EchoReply::parse(packet) else { return false };
        if (reply.source, reply.identifier, reply.sequence) != (open.asked, identifier, open.sequence) {
            return false;
        }
        self.seen.round_trip = Some(now.saturating_duration_since(open.at));
        self.seen.answered += 1;
        self.open = None;
        true
    }

    pub(crate) fn seen(&self, now: Instant) -> Probes {
        let open_for = self.open.as_ref().map(|open| now.saturating_duration_since(open.at));
        Probes { open_for, ..self.seen }
    }
}
