//! Our sessions against boringtun's, which has been in the field for years, and against whoever changes what they say.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;
use proptest::prelude::*;

use super::handshake::{Initiated, Parties};
use super::initiation::{Initiation, Initiator};
use super::stamp::Stamper;
use super::symmetric::Symmetric;
use super::transport::Pair;
use crate::identity::{Admission, Identity};
use crate::limits::our_choice::SCRATCH_BYTES;
use crate::load::Load;
use crate::session::{Scratch, Session, Tick};
use crate::{DropReason, PresharedKey, SecretKey};

const SECOND: Duration = Duration::from_secs(1);
const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

/// One of our sessions, and what it borrows.
struct Ours {
    identity: Identity,
    session: Session,
    stamper: Stamper,
    scratch: Box<Scratch>,
    now: Instant,
}

impl Ours {
    fn new(secret: &SecretKey, peer: &SecretKey, preshared: Option<&PresharedKey>) -> Ours {
        let identity = Identity::new(secret.clone());
        let session = Session::new(&identity, &peer.public_key(), preshared, 0x00ab_cdef);
        let scratch = vec![0; SCRATCH_BYTES].try_into().unwrap();
        Ours { identity, session, stamper: Stamper::default(), scratch, now: start() }
    }

    fn initiate(&mut self) -> Vec<u8> {
        self.session.initiate(self.now, &mut self.stamper, &mut self.scratch).expect("an initiation").to_vec()
    }

    /// What is due, if it is a handshake message.
    fn initiation_due(&mut self) -> Option<Vec<u8>> {
        match self.session.tick(self.now, &mut self.stamper, &mut self.scratch) {
            Tick::Initiation(message) => Some(message.to_vec()),
            Tick::Nothing | Tick::Keepalive(_) | Tick::GaveUp => None,
        }
    }

    /// Through the gate and both locks.
    fn read(&self, message: &[u8]) -> Result<Initiation, DropReason> {
        let mut cookie = [0; 64];
        match self.identity.admit(message, ADDRESS, &mut Load::default(), self.now, &mut cookie) {
            Admission::Pass => self.identity.prove(self.identity.initiator_of(message)?),
            Admission::Refuse(reason) => Err(reason),
            Admission::Cookie(_) => Err(DropReason::Mac2Missing),
        }
    }

    fn answer(&mut self, message: &[u8]) -> Vec<u8> {
        let initiation = self.read(message).expect("an initiation of the peer's");
        self.session.accept_initiation(&initiation, self.now, &mut self.scratch).expect("an answer").to_vec()
    }

    fn finish(&mut self, response: &[u8]) -> Result<Vec<u8>, DropReason> {
        self.session.accept_response(response, self.now, &mut self.scratch).map(<[u8]>::to_vec)
    }

    fn seal(&mut self, text: &[u8]) -> Option<Vec<u8>> {
        let mut datagram = vec![0; Session::sealed_bytes(text.len())];
        datagram[16..16 + text.len()].copy_from_slice(text);
        self.session.seal(&mut datagram, self.now).then_some(datagram)
    }

    fn open(&mut self, datagram: &[u8]) -> Result<Vec<u8>, DropReason> {
        let mut datagram = datagram.to_vec();
        let opened = self.session.open(&mut datagram, self.now)?;
        Ok(datagram[16..16 + opened.bytes].to_vec())
    }
}

/// The other implementation.
struct Theirs {
    tunn: Tunn,
    buffer: Vec<u8>,
}

impl Theirs {
    fn new(secret: &SecretKey, peer: &SecretKey, preshared: Option<&PresharedKey>) -> Theirs {
        Theirs::limited(secret, peer, preshared, u64::MAX)
    }

    fn limited(secret: &SecretKey, peer: &SecretKey, preshared: Option<&PresharedKey>, limit: u64) -> Theirs {
        let public = x25519::PublicKey::from(*secret.public_key().as_bytes());
        let tunn = Tunn::new(
            secret.to_x25519(),
            x25519::PublicKey::from(*peer.public_key().as_bytes()),
            preshared.map(|key| *key.reveal_bytes()),
            None,
            7,
            Some(Arc::new(RateLimiter::new(&public, limit))),
        );
        Theirs { tunn, buffer: vec![0; 4096] }
    }

    fn initiate(&mut self) -> Vec<u8> {
        sent(self.tunn.format_handshake_initiation(&mut self.buffer, true)).expect("an initiation")
    }

    /// What it says to a handshake message.
    fn take(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        sent(self.tunn.decapsulate(Some(ADDRESS), message, &mut self.buffer))
    }

    fn seal(&mut self, text: &[u8]) -> Vec<u8> {
        let datagram = sent(self.tunn.encapsulate(text, &mut self.buffer)).expect("a datagram");
        assert_eq!(datagram[0], 4, "it has no keys");
        datagram
    }

    /// The packet, or that there is none to see.
    fn open(&mut self, datagram: &[u8]) -> Option<Vec<u8>> {
        match self.tunn.decapsulate(None, datagram, &mut self.buffer) {
            TunnResult::WriteToTunnelV4(packet, _) => Some(packet.to_vec()),
            TunnResult::Done => Some(Vec::new()),
            TunnResult::Err(_) => None,
            other @ (TunnResult::WriteToNetwork(_) | TunnResult::WriteToTunnelV6(..)) => panic!("{other:?}"),
        }
    }
}

fn sent(result: TunnResult<'_>) -> Option<Vec<u8>> {
    match result {
        TunnResult::WriteToNetwork(datagram) => Some(datagram.to_vec()),
        TunnResult::Done
        | TunnResult::Err(_)
        | TunnResult::WriteToTunnelV4(..)
        | TunnResult::WriteToTunnelV6(..) => None,
    }
}

/// An inner packet with a number in it.
fn packet(number: u32, length: usize) -> Vec<u8> {
    let mut packet = vec![0x5a; length.max(24)];
    packet[..4].copy_from_slice(&[0x45, 0, 0, 0]);
    let bytes = u16::try_from(packet.len()).unwrap();
    packet[2..4].copy_from_slice(&bytes.to_be_bytes());
    packet[20..24].copy_from_slice(&number.to_be_bytes());
    packet
}

fn secrets() -> (SecretKey, SecretKey) {
    (SecretKey::generate().unwrap(), SecretKey::generate().unwrap())
}

fn preshared() -> [Option<PresharedKey>; 2] {
    [None, Some(PresharedKey::generate().unwrap())]
}

/// Who begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    We,
    They,
}

/// A handshake, up to the keepalive that ends it.
fn shake(ours: &mut Ours, theirs: &mut Theirs, first: First) {
    match first {
        First::We => {
            let initiation = ours.initiate();
            let response = theirs.take(&initiation).expect("a response");
            let keepalive = ours.finish(&response).expect("it fits");
            assert_eq!(theirs.open(&keepalive), Some(Vec::new()));
        }
        First::They => {
            let initiation = theirs.initiate();
            let response = ours.answer(&initiation);
            let keepalive = theirs.take(&response).expect("a keepalive");
            assert_eq!(ours.open(&keepalive), Ok(Vec::new()));
        }
    }
}

fn connected(first: First) -> (Ours, Theirs) {
    let (a, b) = secrets();
    let (mut ours, mut theirs) = (Ours::new(&a, &b, None), Theirs::new(&b, &a, None));
    shake(&mut ours, &mut theirs, first);
    (ours, theirs)
}

#[test]
fn both_implementations_agree_in_both_roles_with_and_without_a_preshared_key() {
    for first in [First::We, First::They] {
        for preshared in preshared() {
            let (a, b) = secrets();
            let mut ours = Ours::new(&a, &b, preshared.as_ref());
            let mut theirs = Theirs::new(&b, &a, preshared.as_ref());
            shake(&mut ours, &mut theirs, first);
            for (number, length) in (0..).zip([24, 100, 1_420, 2_000]) {
                let packet = packet(number, length);
                let datagram = ours.seal(&packet).expect("keys");
                assert_eq!(datagram.len(), packet.len() + 32);
                assert_eq!(theirs.open(&datagram).as_ref(), Some(&packet), "{first:?}");
                assert_eq!(ours.open(&theirs.seal(&packet)), Ok(packet), "{first:?}");
            }
        }
    }
}

#[test]
fn different_preshared_keys_agree_on_nothing() {
    for first in [First::We, First::They] {
        let (a, b) = secrets();
        let [_, key] = preshared();
        let (mut ours, mut theirs) = (Ours::new(&a, &b, key.as_ref()), Theirs::new(&b, &a, None));
        if first == First::We {
            let response = theirs.take(&ours.initiate()).expect("it cannot know yet");
            assert_eq!(ours.finish(&response), Err(DropReason::DecryptFailed));
        } else {
            let response = ours.answer(&theirs.initiate());
            assert_eq!(theirs.take(&response), None);
        }
        assert!(!ours.session.is_ready(ours.now));
    }
}

#[test]
fn the_handshake_is_made_anew_a_thousand_times() {
    let (mut ours, mut theirs) = connected(First::We);
    for round in 0..1_000 {
        // The other one counts indices modulo 8 and ours modulo 256; both come around.
        let before = (ours.seal(&packet(round, 60)).unwrap(), theirs.seal(&packet(round, 70)));
        shake(&mut ours, &mut theirs, if round % 3 == 0 { First::They } else { First::We });
        assert_eq!(theirs.open(&before.0), Some(packet(round, 60)), "under way while keys changed");
        assert_eq!(ours.open(&before.1), Ok(packet(round, 70)), "under way while keys changed");
        let datagram = ours.seal(&packet(round, 80)).unwrap();
        assert_eq!(theirs.open(&datagram), Some(packet(round, 80)));
        assert_eq!(ours.open(&theirs.seal(&packet(round, 90))), Ok(packet(round, 90)));
    }
}

#[test]
fn keys_of_two_handshakes_ago_open_nothing() {
    let (mut ours, mut theirs) = connected(First::We);
    let old = theirs.seal(&packet(1, 60));
    shake(&mut ours, &mut theirs, First::We);
    shake(&mut ours, &mut theirs, First::We);
    assert_eq!(ours.open(&old), Err(DropReason::UnknownIndex));
}

#[test]
fn a_cookie_of_the_other_implementation_lets_us_through() {
    let (a, b) = secrets();
    let (mut ours, mut theirs) = (Ours::new(&a, &b, None), Theirs::limited(&b, &a, None, 0));
    let cookie = theirs.take(&ours.initiate()).expect("a cookie");
    assert_eq!((cookie[0], cookie.len()), (3, 64));
    let mut forged = cookie.clone();
    for at in 4..64 {
        forged[at] ^= 1;
        assert!(ours.session.accept_cookie(&forged, ours.now).is_err(), "byte {at}");
        forged[at] ^= 1;
    }
    assert_eq!(ours.session.accept_cookie(&cookie, ours.now), Ok(()));
    assert!(ours.session.accept_cookie(&cookie, ours.now).is_err(), "once");
    ours.now += SECOND * 6;
    let initiation = ours.initiation_due().expect("it is tried again");
    let response = theirs.take(&initiation).expect("a response");
    assert_eq!(response[0], 2, "the address is proven");
    assert!(ours.finish(&response).is_ok());
    // Two minutes later the cookie is none any more.
    ours.now += SECOND * 121;
    let initiation = ours.initiate();
    assert_eq!(initiation[132..], [0; 16]);
}

#[test]
fn our_answers_carry_a_cookie_as_well() {
    let (a, b) = secrets();
    let (mut ours, mut theirs) = (Ours::new(&a, &b, None), Theirs::limited(&b, &a, None, 0));
    let initiation = theirs.initiate();
    let cookie = theirs.take(&ours.answer(&initiation)).expect("a cookie");
    assert_eq!(cookie[0], 3);
    assert_eq!(ours.session.accept_cookie(&cookie, ours.now), Ok(()));
    let initiation = theirs.initiate();
    let keepalive = theirs.take(&ours.answer(&initiation)).expect("a keepalive");
    assert_eq!(ours.open(&keepalive), Ok(Vec::new()));
}

#[test]
fn initiations_that_cross_leave_one_connection() {
    let (mut ours, mut theirs) = connected(First::We);
    for _ in 0..20 {
        let (i, they) = (ours.initiate(), theirs.initiate());
        let before = (ours.seal(&packet(1, 60)).unwrap(), theirs.seal(&packet(2, 60)));
        let (mine, answer) = (ours.answer(&they), theirs.take(&i).expect("a response"));
        let (to_them, to_us) = (ours.finish(&answer).unwrap(), theirs.take(&mine).expect("a keepalive"));
        assert_eq!(theirs.open(&before.0), Some(packet(1, 60)));
        assert_eq!(ours.open(&before.1), Ok(packet(2, 60)), "the keys of before wait for the peer's");
        assert_eq!(theirs.open(&to_them), Some(Vec::new()));
        assert_eq!(ours.open(&to_us), Ok(Vec::new()));
        let datagram = ours.seal(&packet(3, 60)).unwrap();
        assert_eq!(theirs.open(&datagram), Some(packet(3, 60)));
        assert_eq!(ours.open(&theirs.seal(&packet(4, 60))), Ok(packet(4, 60)));
    }
    // Had each left the renewal to the other, nobody would begin.
    ours.now += SECOND * 120;
    ours.seal(&packet(5, 60)).unwrap();
    assert!(ours.initiation_due().is_some());
}

#[test]
fn nothing_is_sealed_under_an_answer_before_the_peer_has_used_it() {
    let (a, b) = secrets();
    let (mut ours, mut theirs) = (Ours::new(&a, &b, None), Theirs::new(&b, &a, None));
    let response = ours.answer(&theirs.initiate());
    assert_eq!(ours.seal(&packet(1, 60)), None);
    assert!(ours.session.may_hold_keys() && !ours.session.is_ready(ours.now));
    let keepalive = theirs.take(&response).unwrap();
    let mut opened = keepalive.clone();
    assert!(ours.session.open(&mut opened, ours.now).unwrap().confirms);
    assert!(ours.seal(&packet(1, 60)).is_some());
    let next = theirs.seal(&packet(2, 60));
    assert!(!ours.session.open(&mut next.clone(), ours.now).unwrap().confirms, "once");
}

#[test]
fn every_flipped_bit_of_an_initiation_is_refused() {
    let (a, b) = secrets();
    let (ours, mut theirs) = (Ours::new(&a, &b, None), Theirs::new(&b, &a, None));
    let mut message = theirs.initiate();
    assert!(ours.read(&message).is_ok());
    for bit in 0..132 * 8 {
        message[bit / 8] ^= 1 << (bit % 8);
        assert!(ours.read(&message).is_err(), "bit {bit}");
        // Behind the gate as well: all but type and index, which are in no seal.
        let read = ours.identity.initiator_of(&message).and_then(|initiator| ours.identity.prove(initiator));
        assert_eq!(read.is_ok(), !(64..116 * 8).contains(&bit), "bit {bit}");
        message[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn every_flipped_bit_of_a_response_is_refused_and_ends_nothing() {
    let (a, b) = secrets();
    let (mut ours, mut theirs) = (Ours::new(&a, &b, None), Theirs::new(&b, &a, None));
    let mut message = theirs.take(&ours.initiate()).unwrap();
    for bit in 0..76 * 8 {
        message[bit / 8] ^= 1 << (bit % 8);
        let mut cookie = [0; 64];
        let admission = ours.identity.admit(&message, ADDRESS, &mut Load::default(), ours.now, &mut cookie);
        assert!(matches!(admission, Admission::Refuse(_)), "bit {bit}");
        if (64..60 * 8).contains(&bit) {
            assert!(ours.finish(&message).is_err(), "bit {bit}");
        }
        message[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(ours.finish(&message).is_ok(), "whoever forged has ended nothing");
    assert!(ours.finish(&message).is_err(), "once");
}

#[test]
fn every_flipped_bit_of_data_is_refused_and_spends_no_number() {
    let (mut ours, mut theirs) = connected(First::They);
    let mut message = theirs.seal(&packet(1, 60));
    // The first four bytes say that it is data; who asks has looked.
    for bit in 32..message.len() * 8 {
        message[bit / 8] ^= 1 << (bit % 8);
        assert!(ours.open(&message).is_err(), "bit {bit}");
        message[bit / 8] ^= 1 << (bit % 8);
    }
    for length in 0..message.len() {
        assert!(ours.open(&message[..length]).is_err(), "{length} bytes");
    }
    assert_eq!(ours.open(&message), Ok(packet(1, 60)));
    assert_eq!(ours.open(&message), Err(DropReason::Replay));
}

#[test]
fn a_secret_that_everybody_knows_is_refused() {
    let (a, b) = secrets();
    let ours = Ours::new(&a, &b, None);
    let public = x25519::PublicKey::from(*a.public_key().as_bytes());
    // A point of low order as key of the moment: whoever is asked computes zeros, and the attacker knows it.
    let mut message = [0; 148];
    let mut symmetric = Symmetric::new(&public);
    symmetric.mix_ephemeral(&[0; 32]);
    let key = symmetric.mix_secret(&[0; 32]);
    symmetric.seal(&key, b.public_key().as_bytes(), &mut message[40..88]);
    let read = Initiator::open(&a.to_x25519(), &public, &message);
    assert_eq!(read.err(), Some(DropReason::DecryptFailed));
    // The same with the static key: nothing is ever begun.
    let low = x25519::PublicKey::from([0; 32]);
    let peer = crate::PublicKey::from_bytes(*low.as_bytes());
    let mut session = Session::new(&ours.identity, &peer, None, 1);
    let mut scratch: Box<Scratch> = vec![0; SCRATCH_BYTES].try_into().unwrap();
    assert!(!session.can_agree());
    assert!(session.initiate(ours.now, &mut Stamper::default(), &mut scratch).is_none());
}

#[test]
fn dates_of_initiations_grow_for_the_other_implementation() {
    let (a, b) = secrets();
    let (mut ours, mut theirs) = (Ours::new(&a, &b, None), Theirs::new(&b, &a, None));
    let mut last = None;
    for _ in 0..50 {
        let initiation = ours.initiate();
        assert_eq!(theirs.take(&initiation).expect("later than the one before")[0], 2);
        ours.session = Session::new(&ours.identity, &b.public_key(), None, 1);
        let made = ours.read(&theirs.initiate()).unwrap().made;
        assert!(last < Some(made));
        last = Some(made);
    }
}

#[test]
fn keys_serve_for_180_seconds_and_are_wiped_then() {
    for first in [First::We, First::They] {
        let (mut ours, mut theirs) = connected(first);
        let (early, late) = (theirs.seal(&packet(1, 60)), theirs.seal(&packet(2, 60)));
        ours.now += SECOND * 180 - Duration::from_nanos(1);
        assert!(ours.seal(&packet(3, 60)).is_some());
        assert_eq!(ours.open(&early), Ok(packet(1, 60)));
        ours.now += Duration::from_nanos(1);
        assert_eq!(ours.seal(&packet(4, 60)), None);
        assert_eq!(ours.open(&late), Err(DropReason::UnknownIndex));
        assert!(ours.session.may_hold_keys());
        ours.initiation_due();
        assert!(!ours.session.may_hold_keys());
    }
}

#[test]
fn who_began_begins_again_with_what_is_sent_after_two_minutes_or_comes_after_165_seconds() {
    for (first, at, sent, begins) in [
        (First::We, 119, Some(packet(1, 60)), false),
        (First::We, 120, Some(packet(1, 60)), true),
        (First::We, 120, Some(Vec::new()), true),
        (First::They, 179, Some(packet(1, 60)), false),
        (First::We, 164, None, false),
        (First::We, 165, None, true),
        (First::They, 179, None, false),
    ] {
        let (mut ours, mut theirs) = connected(first);
        ours.now += SECOND * at;
        match sent {
            Some(text) => assert!(ours.seal(&text).is_some()),
            None => assert!(ours.open(&theirs.seal(&packet(1, 60))).is_ok()),
        }
        assert_eq!(ours.initiation_due().is_some(), begins, "{first:?} after {at} s");
    }
}

#[test]
fn a_session_that_nobody_uses_comes_to_rest() {
    let (mut ours, _) = connected(First::We);
    assert!(!ours.session.is_dormant());
    ours.now += SECOND * 181;
    assert_eq!(ours.initiation_due(), None);
    assert!(ours.session.is_dormant());
}

#[test]
fn a_session_takes_less_than_a_kilobyte_of_the_place_for_secrets() {
    // wgd's arena is sized by it, in blocks of 64 bytes.
    let sizes = [
        size_of::<Pair>(),
        size_of::<Pair>(),
        size_of::<Pair>(),
        size_of::<Parties>(),
        size_of::<Initiated>(),
    ];
    let bytes: usize = sizes.into_iter().map(|size| size.next_multiple_of(64)).sum();
    assert!(bytes <= 960, "{bytes} bytes: {sizes:?}");
}

/// What a line does to datagrams: how often each arrives, and how far behind its place.
fn line() -> impl Strategy<Value = Vec<(u8, u16)>> {
    let behind = prop_oneof![8 => Just(0_u16), 4 => 0_u16..40, 1 => 0_u16..900];
    proptest::collection::vec((prop_oneof![8 => Just(1_u8), 1 => Just(0), 1 => 2_u8..4], behind), 10_000)
}

/// The order in which they arrive.
fn arrivals(line: &[(u8, u16)]) -> Vec<usize> {
    let mut arrivals: Vec<(usize, usize)> = Vec::new();
    for (number, (copies, behind)) in line.iter().enumerate() {
        for copy in 0..usize::from(*copies) {
            arrivals.push((number + usize::from(*behind) + copy * 7, number));
        }
    }
    arrivals.sort_by_key(|(at, _)| *at);
    arrivals.into_iter().map(|(_, number)| number).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn ten_thousand_packets_each_way_arrive_once_each_over_a_bad_line(there in line(), back in line()) {
        let (mut ours, mut theirs) = connected(First::We);
        let number = |packet: &[u8]| u32::from_be_bytes(packet[20..24].try_into().unwrap()) as usize;
        let sent: Vec<_> = (0..10_000).map(|number| ours.seal(&packet(number, 40)).unwrap()).collect();
        let mut came = vec![0_u8; sent.len()];
        for arrival in arrivals(&there) {
            if let Some(packet) = theirs.open(&sent[arrival]) {
                prop_assert_eq!(number(&packet), arrival);
                came[arrival] += 1;
            }
        }
        // Nobody is overtaken by more than 921 numbers, which the smaller of both windows holds.
        prop_assert!(came.iter().zip(&there).all(|(came, (copies, _))| *came == (*copies).min(1)));
        let sent: Vec<_> = (0..10_000).map(|number| theirs.seal(&packet(number, 40))).collect();
        let mut came = vec![0_u8; sent.len()];
        for arrival in arrivals(&back) {
            match ours.open(&sent[arrival]) {
                Ok(packet) => {
                    prop_assert_eq!(number(&packet), arrival);
                    came[arrival] += 1;
                }
                Err(reason) => prop_assert_eq!(reason, DropReason::Replay),
            }
        }
        prop_assert!(came.iter().zip(&back).all(|(came, (copies, _))| *came == (*copies).min(1)));
    }
}

#[expect(clippy::disallowed_methods, reason = "tests need one instant to count from")]
fn start() -> Instant {
    Instant::now()
}
