//! The messages of rotations: how they come out of the tunnel, whom they concern, and how they go into it.
//!
//! **Invariant:** one that comes is heard only if it was addressed to us, and one that goes has a destination
//! that the allowed IPs give to its peer.

use std::net::IpAddr;
use std::time::Instant;

use zeroize::{Zeroize, Zeroizing};

use super::TheirStep;
use crate::control::{Body, ControlMessage, Refusal, RotationId, payload_of};
use crate::device::{Device, PeerId};
use crate::peer::Place;
use crate::{DropReason, Output};

impl Device {
    /// A message that was taken out of the stream. Its source is the peer's. A key may be in it, so it is wiped where it lies.
    pub(in crate::device) fn take_control(
        &mut self,
        id: PeerId,
        place: Option<Place>,
        packet: &mut [u8],
        now: Instant,
        out: &mut impl Output,
    ) {
        let copy = Zeroizing::new(packet.to_vec());
        packet.zeroize();
        let packet = copy;
        let Some((source, destination)) =
            packet::Datagram::parse(&packet).map(|it| (it.source.ip(), it.destination.ip()))
        else {
            return;
        };
        if !self.addresses.contains(&destination) {
            return self.count_drop(DropReason::NoRoute);
        }
        let Some(message) = payload_of(&packet).and_then(ControlMessage::decode) else {
            return self.count_drop(DropReason::Malformed);
        };
        self.rotations.learned.insert(id, source);
        self.hear(id, place, message, now, out);
        self.service_rotations(now, out);
    }

    fn hear(
        &mut self,
        id: PeerId,
        place: Option<Place>,
        message: ControlMessage,
        now: Instant,
        out: &mut impl Output,
    ) {
        if let Some(theirs) = self.rotations.theirs.get(&id)
            && theirs.step == TheirStep::Accepted
            && theirs.boot != message.boot
            && place == Some(Place::Current)
        {
            // It has started anew, with the old key: it never wrote the new one and knows nothing of it.
            self.forget_theirs(id);
        }
        let ControlMessage { boot, id: number, body } = message;
        match body {
            Body::Hello => self.say(id, Body::Welcome, number, now, out),
            Body::Announce { key, compromised } => {
                self.hear_announcement(id, boot, number, key, compromised, now, out);
            }
            Body::Switched => {
                let answer = match self.rotations.theirs.get(&id) {
                    Some(theirs) if theirs.id == number => match theirs.step {
                        TheirStep::Settled { kept } => Some(Body::Confirm { kept }),
                        TheirStep::Rehearsing | TheirStep::Accepted | TheirStep::Keeping => None,
                    },
                    Some(_) | None => Some(Body::Unknown),
                };
                if let Some(answer) = answer {
                    self.say(id, answer, number, now, out);
                }
            }
            Body::Withdraw => {
                let theirs = self.rotations.theirs.get(&id).filter(|theirs| theirs.id == number);
                if theirs.is_some_and(|it| matches!(it.step, TheirStep::Rehearsing | TheirStep::Accepted)) {
                    self.forget_theirs(id);
                }
            }
            Body::Done => {}
            Body::Welcome => self.hear_answer(id, None, Answer::Welcome, now, out),
            Body::Accept => {
                let under_the_old = place != Some(Place::Next);
                self.hear_answer(id, Some(number), Answer::Accept { under_the_old }, now, out);
            }
            Body::Refuse(refusal) => self.hear_answer(id, Some(number), Answer::Refuse(refusal), now, out),
            Body::Confirm { kept } => self.hear_answer(id, Some(number), Answer::Confirm { kept }, now, out),
            Body::Unknown => {
                let under_the_old = place != Some(Place::Next);
                self.hear_answer(id, Some(number), Answer::Unknown { under_the_old }, now, out);
            }
        }
    }

    /// Where the peer's wgd is to be found inside the tunnel: where it wrote from, else its only address.
    pub(super) fn address_of(&self, id: PeerId) -> Option<(IpAddr, IpAddr)> {
        let of_family =
            |to: &IpAddr| self.addresses.iter().copied().find(|own| own.is_ipv4() == to.is_ipv4());
        let single = |net: &ipnet::IpNet| net.prefix_len() == net.max_prefix_len();
        let configured = self.allowed_ips.of_peer(id).filter(single).map(|net| net.addr());
        let learned = self.rotations.learned.get(&id).copied();
        let learned = learned.filter(|address| self.allowed_ips.lookup(*address) == Some(id));
        learned.into_iter().chain(configured).find_map(|to| Some((of_family(&to)?, to)))
    }

    pub(super) fn say(
        &mut self,
        id: PeerId,
        body: Body,
        number: RotationId,
        now: Instant,
        out: &mut impl Output,
    ) {
        if self.rotations.boot == 0 {
            self.rotations.boot = getrandom::u64().unwrap_or(1).max(1);
        }
        let Some((from, to)) = self.address_of(id) else { return };
        let message = ControlMessage { boot: self.rotations.boot, id: number, body };
        let Some(packet) = message.to_packet(from, to) else { return };
        self.with_peer(id, now, out, |peer, cx| peer.send(&packet, cx));
    }
}

pub(super) enum Answer {
    Welcome,
    Accept { under_the_old: bool },
    Refuse(Refusal),
    Confirm { kept: bool },
    Unknown { under_the_old: bool },
}
