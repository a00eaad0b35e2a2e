//! Keys are replaced on two live devices, under numbered traffic in both directions: nothing is lost, nothing
//! comes twice; and whatever message is lost and whoever crashes at whatever moment, both sides come to agree.

use std::time::Duration;

use wg_proto::{
    Change, ChangedKey, Device, DeviceEvent, DeviceUpdate, Kept, KeptAs, KeptKey, PeerUpdate, PresharedKey,
    PublicKey, Refusal, RotateError, RotationKind, RotationOutcome, RotationOutput, RotationRequest,
    RotationStep, SecretKey, Verdict,
};

use crate::pair::{Left, Pair, Right, Sink, Who, ip_packet};

/// Length of the packets that carry numbers: on the wire they are longer than any control message.
const NUMBERED: usize = 300;
const BEAT: Duration = Duration::from_millis(5);

/// Two devices with a disk each.
struct Rig {
    pair: Pair,
    disks: [Disk; 2],
    next_number: [u32; 2],
    verdicts: [Vec<Verdict>; 2],
    /// What was written, in order: by whom.
    writes: Vec<Who>,
    /// The disk refuses.
    read_only: [bool; 2],
    /// How often it was told that nothing moves.
    stalled: usize,
}

/// What a side comes up with.
#[derive(Clone)]
struct Disk {
    secret: SecretKey,
    peer: PublicKey,
    preshared: Option<PresharedKey>,
    /// Beside the ones above, while a rotation lasts.
    next_secret: Option<SecretKey>,
    next_preshared: Option<PresharedKey>,
    denied: Vec<PublicKey>,
}

impl Disk {
    fn new(secret: SecretKey, peer: PublicKey, preshared: Option<PresharedKey>) -> Disk {
        Disk { secret, peer, preshared, next_secret: None, next_preshared: None, denied: Vec::new() }
    }
}

fn place(who: Who) -> usize {
    match who {
        Left => 0,
        Right => 1,
    }
}

fn other(who: Who) -> Who {
    match who {
        Left => Right,
        Right => Left,
    }
}

impl Rig {
    fn new() -> Rig {
        let mut pair = Pair::new();
        let (left, right) = (pair.left.secret.clone(), pair.right.secret.clone());
        let preshared = Some(PresharedKey::generate().unwrap());
        let disks = [
            Disk::new(left.clone(), right.public_key(), preshared.clone()),
            Disk::new(right, left.public_key(), preshared),
        ];
        pair.latency = Duration::from_millis(2);
        let mut rig = Rig {
            pair,
            disks,
            next_number: [0; 2],
            verdicts: [Vec::new(), Vec::new()],
            writes: Vec::new(),
            read_only: [false; 2],
            stalled: 0,
        };
        rig.start(Left);
        rig.start(Right);
        rig.run(Duration::from_millis(50));
        rig.assert_traffic_whole();
        rig
    }

    /// Comes up with what is on the disk; the first time and after a crash.
    fn start(&mut self, who: Who) {
        let disk = self.disks[place(who)].clone();
        let (own, theirs) = match who {
            Left => (self.pair.left.inner, (self.pair.right.inner, self.pair.right.address)),
            Right => (self.pair.right.inner, (self.pair.left.inner, self.pair.left.address)),
        };
        let mut peer = PeerUpdate::of(disk.peer);
        peer.endpoint = Some(theirs.1);
        peer.allowed_ips = vec![wg_proto::AllowedIpChange::Add(theirs.0.into())];
        if let Some(key) = disk.preshared {
            peer.preshared_key = Change::Set(key);
        }
        peer.next_preshared_key = disk.next_preshared;
        let update = DeviceUpdate {
            private_key: Change::Set(disk.secret),
            next_private_key: disk.next_secret,
            denied: Some(disk.denied),
            peers: vec![peer],
            ..DeviceUpdate::default()
        };
        let side = self.pair.side(who);
        side.device = Device::new();
        side.device.set_addresses(vec![own]);
        side.rotations.clear();
        self.pair.apply(who, update);
    }

    /// A number from each side to the other.
    fn beat(&mut self) {
        for who in [Left, Right] {
            let (from, to) = (self.pair.side(who).inner, self.pair.side(other(who)).inner);
            let mut packet = ip_packet(from, to, NUMBERED);
            packet[40..44].copy_from_slice(&self.next_number[place(who)].to_be_bytes());
            self.next_number[place(who)] += 1;
            self.pair.send_packet(who, &packet);
        }
        self.pair.run(BEAT);
        self.keep();
    }

    fn run(&mut self, time: Duration) {
        let end = self.pair.now + time;
        while self.pair.now < end {
            self.beat();
        }
    }

    /// The same without numbers.
    fn rest(&mut self, time: Duration) {
        let end = self.pair.now + time;
        while self.pair.now < end {
            self.pair.run(Duration::from_millis(100));
            self.keep();
        }
    }

    /// Lets the disks do what was asked for.
    fn keep(&mut self) {
        for who in [Left, Right] {
            for output in std::mem::take(&mut self.pair.side(who).rotations) {
                match output {
                    RotationOutput::Keep { ticket, key } => {
                        let kept = if self.read_only[place(who)] {
                            Kept::Failed("read-only".to_owned())
                        } else {
                            Kept::OnDisk
                        };
                        if !ticket.rehearsal && kept == Kept::OnDisk {
                            self.writes.push(who);
                            let disk = &mut self.disks[place(who)];
                            match key {
                                KeptKey::Own { key, place: KeptAs::Next, .. } => disk.next_secret = Some(key),
                                KeptKey::Own { key, place: KeptAs::Current, deny } => {
                                    (disk.secret, disk.next_secret) = (key, None);
                                    disk.denied.extend(deny);
                                }
                                KeptKey::Peer { old, new, deny } => {
                                    disk.peer = new;
                                    disk.denied.extend(deny.then_some(old));
                                }
                                KeptKey::Preshared { key, place: KeptAs::Next, .. } => {
                                    disk.next_preshared = Some(key);
                                }
                                KeptKey::Preshared { key, place: KeptAs::Current, .. } => {
                                    (disk.preshared, disk.next_preshared) = (Some(key), None);
                                }
                            }
                        }
                        self.pair.input(who, |device, now, sink| device.kept(ticket, &kept, now, sink));
                    }
                    RotationOutput::Finished(verdict) => self.verdicts[place(who)].push(verdict),
                    RotationOutput::Step { step, .. } => {
                        self.stalled += usize::from(step == RotationStep::Stalled);
                    }
                }
            }
        }
    }

    fn rotate(&mut self, who: Who, kind: RotationKind, compromised: bool) {
        self.try_rotate(who, kind, compromised).unwrap();
    }

    fn try_rotate(&mut self, who: Who, kind: RotationKind, compromised: bool) -> Result<(), RotateError> {
        let request = RotationRequest { kind, peer: None, compromised };
        let mut result = Ok(());
        self.pair.input(who, |device, now, sink: &mut Sink| result = device.rotate(&request, now, sink));
        result
    }

    fn run_until_over(&mut self, who: Who) -> Verdict {
        for _ in 0..20_000 {
            if let Some(verdict) = self.verdicts[place(who)].pop() {
                return verdict;
            }
            self.beat();
        }
        panic!("no verdict");
    }

    /// Every number arrived, once.
    fn assert_traffic_whole(&mut self) {
        self.pair.settle();
        for who in [Left, Right] {
            let numbers = self.numbers(who);
            let sent = self.next_number[place(other(who))];
            assert_eq!(numbers, (0..sent).collect::<Vec<_>>());
        }
    }

    fn numbers(&mut self, who: Who) -> Vec<u32> {
        let delivered = &self.pair.side(who).delivered;
        assert!(delivered.iter().all(|packet| packet.len() == NUMBERED), "a control message was delivered");
        let mut numbers: Vec<u32> =
            delivered.iter().map(|packet| u32::from_be_bytes(packet[40..44].try_into().unwrap())).collect();
        numbers.sort_unstable();
        numbers
    }

    /// Both would come up with keys that fit.
    fn assert_agreed(&self) {
        let [left, right] = &self.disks;
        for disk in &self.disks {
            assert!(disk.next_secret.is_none() && disk.next_preshared.is_none(), "a rotation is open");
        }
        assert_eq!(left.peer, right.secret.public_key());
        assert_eq!(right.peer, left.secret.public_key());
        let bytes = |disk: &Disk| disk.preshared.as_ref().map(|key| key.reveal_base64().to_string());
        assert_eq!(bytes(left), bytes(right));
    }

    /// What runs is what is on the disk.
    fn assert_in_force(&mut self) {
        for who in [Left, Right] {
            let disk = self.disks[place(who)].clone();
            let now = self.pair.now;
            let state = self.pair.side(who).device.state(now);
            assert_eq!(state.public_key, Some(disk.secret.public_key()));
            assert_eq!(state.peers[0].public_key, disk.peer);
            let bytes = |key: &Option<PresharedKey>| key.as_ref().map(|key| key.reveal_base64().to_string());
            assert_eq!(bytes(&state.peers[0].preshared_key), bytes(&disk.preshared));
        }
    }

    fn assert_it_carries(&mut self) {
        self.assert_it_carries_or("");
    }

    fn assert_it_carries_or(&mut self, what: &str) {
        let seen = [self.numbers(Left).len(), self.numbers(Right).len()];
        self.run(Duration::from_millis(100));
        self.pair.settle();
        for who in [Left, Right] {
            assert!(self.numbers(who).len() >= seen[place(who)] + 18, "the tunnel is not back: {what}");
        }
    }
}

const KINDS: [RotationKind; 2] = [RotationKind::Static, RotationKind::Preshared];

#[test]
fn ten_rotations_of_each_kind_lose_and_double_nothing() {
    for kind in KINDS {
        let mut rig = Rig::new();
        for round in 0..10 {
            let who = if round % 3 == 2 { Right } else { Left };
            let before = rig.disks.clone();
            rig.rotate(who, kind, false);
            let verdict = rig.run_until_over(who);
            assert!(verdict.is_complete(), "{verdict:?}");
            assert_eq!(verdict.kept, Some(Kept::OnDisk));
            assert_eq!(verdict.peers[0].1, RotationOutcome::Rotated { kept_there: true });
            rig.run(Duration::from_millis(20));
            rig.assert_traffic_whole();
            rig.assert_agreed();
            rig.assert_in_force();
            let changed = match kind {
                RotationKind::Static => {
                    rig.disks[place(who)].secret.public_key() != before[place(who)].secret.public_key()
                }
                RotationKind::Preshared => {
                    !rig.disks[0].preshared.as_ref().unwrap().same_as(before[0].preshared.as_ref().unwrap())
                }
            };
            assert!(changed);
            let own = |event: &DeviceEvent| matches!(event, DeviceEvent::KeyChanged { .. });
            for who in [Left, Right] {
                let events = std::mem::take(&mut rig.pair.side(who).events);
                assert_eq!(events.iter().filter(|event| own(event)).count(), 1, "{kind:?} {events:?}");
            }
        }
    }
}

#[test]
fn the_rotating_side_writes_before_it_switches_and_the_other_before_it_confirms() {
    for kind in KINDS {
        let mut rig = Rig::new();
        rig.rotate(Left, kind, false);
        rig.run_until_over(Left);
        // The last lets go of the old one.
        assert!(rig.writes == [Left, Right, Left]);
    }
}

#[test]
fn rotations_from_both_sides_at_once_come_one_after_the_other() {
    for (left, right) in
        [(KINDS[0], KINDS[0]), (KINDS[0], KINDS[1]), (KINDS[1], KINDS[0]), (KINDS[1], KINDS[1])]
    {
        let mut rig = Rig::new();
        rig.rotate(Left, left, false);
        rig.rotate(Right, right, false);
        for who in [Left, Right] {
            let verdict = rig.run_until_over(who);
            assert!(verdict.is_complete(), "{verdict:?}");
        }
        rig.run(Duration::from_millis(50));
        rig.assert_traffic_whole();
        rig.assert_agreed();
        rig.assert_in_force();
    }
}

#[test]
fn a_second_rotation_of_the_same_side_waits_to_be_asked_again() {
    let mut rig = Rig::new();
    rig.rotate(Left, RotationKind::Static, false);
    assert_eq!(rig.try_rotate(Left, RotationKind::Preshared, false), Err(RotateError::Busy));
}

#[test]
fn every_single_message_can_be_lost() {
    for kind in KINDS {
        let mut messages = 0;
        for lost in 1..=16 {
            let mut rig = Rig::new();
            // Messages of the Noise protocol repeat themselves: those are not lost here.
            rig.pair.lost_short = Some(rig.pair.short + lost);
            let before = rig.pair.short;
            rig.rotate(Left, kind, false);
            let verdict = rig.run_until_over(Left);
            assert!(verdict.is_complete(), "after losing message {lost}: {verdict:?}");
            messages = messages.max(rig.pair.short - before);
            rig.run(Duration::from_millis(50));
            rig.assert_traffic_whole();
            rig.assert_agreed();
            rig.assert_in_force();
        }
        assert!(messages >= 7, "hello, welcome, announce, accept, switched, confirm, done: {messages}");
    }
}

#[test]
fn a_crash_at_any_moment_leaves_a_tunnel_that_comes_back() {
    for kind in KINDS {
        for crashing in [Left, Right] {
            for moment in 0..24 {
                let mut rig = Rig::new();
                rig.rotate(Left, kind, false);
                // One event at a time: a delivery, or a write to the disk.
                for _ in 0..moment {
                    if !rig.pair.deliver_one() {
                        rig.keep();
                        rig.pair.run(Duration::from_millis(1));
                    }
                }
                rig.start(crashing);
                rig.run(Duration::from_millis(400));
                rig.assert_it_carries();
                rig.run(Duration::from_secs(30));
                rig.assert_it_carries();
                rig.assert_agreed();
                rig.assert_in_force();
            }
        }
    }
}

/// Each side crashes at each moment of a rotation, at the same time or one shortly after the other.
#[test]
fn both_sides_can_crash_at_any_moment() {
    const MOMENTS: usize = 24;
    for kind in KINDS {
        for left in 0..MOMENTS {
            for right in left.saturating_sub(4)..MOMENTS.min(left + 5) {
                let mut rig = Rig::new();
                rig.rotate(Left, kind, false);
                for moment in 0..=left.max(right) {
                    for (who, at) in [(Left, left), (Right, right)] {
                        if at == moment {
                            rig.start(who);
                        }
                    }
                    if !rig.pair.deliver_one() {
                        rig.keep();
                        rig.pair.run(Duration::from_millis(1));
                    }
                }
                let what = format!("{kind:?}, left at {left}, right at {right}");
                rig.run(Duration::from_millis(700));
                rig.assert_it_carries_or(&what);
                rig.rest(Duration::from_secs(10));
                rig.assert_it_carries_or(&what);
                rig.assert_agreed();
                rig.assert_in_force();
            }
        }
    }
}

#[test]
fn a_rotation_that_a_peer_does_not_end_is_told_and_goes_on_when_it_can() {
    let mut rig = Rig::new();
    // Our last life had the new key on disk, and the peer cannot write it down.
    rig.disks[place(Left)].next_preshared = Some(PresharedKey::generate().unwrap());
    rig.read_only[place(Right)] = true;
    rig.start(Left);
    rig.rest(Duration::from_secs(590));
    let under_way = |rig: &mut Rig| {
        let now = rig.pair.now;
        rig.pair.side(Left).device.state(now).peers[0].rotation
    };
    let early = under_way(&mut rig).expect("it waits for the peer");
    assert!(!early.is_stalled && rig.stalled == 0, "{early:?}");
    rig.rest(Duration::from_secs(60));
    assert!(under_way(&mut rig).is_some_and(|late| late.is_stalled));
    assert_eq!(rig.stalled, 1, "told once");
    rig.assert_it_carries();
    rig.read_only[place(Right)] = false;
    rig.rest(Duration::from_secs(20));
    assert_eq!(under_way(&mut rig), None);
    rig.assert_agreed();
}

#[test]
fn a_key_that_cannot_be_kept_is_not_used() {
    for kind in KINDS {
        for refusing in [Left, Right] {
            let mut rig = Rig::new();
            rig.read_only[place(refusing)] = true;
            rig.rotate(Left, kind, false);
            let verdict = rig.run_until_over(Left);
            assert!(!verdict.is_complete() && verdict.public_key.is_none(), "{verdict:?}");
            rig.run(Duration::from_millis(50));
            rig.assert_traffic_whole();
            rig.assert_agreed();
            rig.assert_in_force();
            rig.read_only = [false; 2];
            rig.rotate(Left, kind, false);
            assert!(rig.run_until_over(Left).is_complete());
        }
    }
}

#[test]
fn a_compromised_key_is_gone_at_once_and_never_comes_back() {
    for kind in KINDS {
        let mut rig = Rig::new();
        let old = rig.disks.clone();
        rig.rotate(Left, kind, true);
        let verdict = rig.run_until_over(Left);
        assert!(verdict.is_complete(), "{verdict:?}");
        rig.run(Duration::from_millis(100));
        rig.assert_it_carries();
        rig.assert_agreed();
        rig.assert_in_force();
        // Both sides remember, and still do when they have started anew.
        let expected =
            if kind == RotationKind::Static { vec![old[0].secret.public_key()] } else { Vec::new() };
        assert_eq!(rig.disks[0].denied, expected);
        assert_eq!(rig.disks[1].denied, expected);
        for who in [Left, Right] {
            rig.start(who);
        }
        rig.run(Duration::from_millis(100));
        rig.assert_it_carries();
        for (who, key) in expected.iter().flat_map(|key| [(Left, *key), (Right, *key)]) {
            let peers = vec![PeerUpdate::of(key)];
            rig.pair.apply(who, DeviceUpdate { peers, ..DeviceUpdate::default() });
            let now = rig.pair.now;
            assert_eq!(rig.pair.side(who).device.state(now).peers.len(), 1);
        }
        if kind == RotationKind::Static {
            // Whoever holds the old key cannot even be configured again.
            let mut peer = PeerUpdate::of(old[1].peer);
            peer.preshared_key = Change::Clear;
            rig.pair.apply(Right, DeviceUpdate { peers: vec![peer], ..DeviceUpdate::default() });
            let now = rig.pair.now;
            assert_eq!(rig.pair.right.device.state(now).peers.len(), 1);
        }
    }
}

#[test]
fn a_peer_that_gives_up_key_after_key_comes_to_an_end() {
    let mut rig = Rig::new();
    let key = |number: u16| {
        let mut bytes = [7; 32];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        PublicKey::from_bytes(bytes)
    };
    rig.disks[1].denied = (0..1_024).map(key).collect();
    rig.start(Right);
    rig.run(Duration::from_millis(100));
    rig.rotate(Left, RotationKind::Static, true);
    let verdict = rig.run_until_over(Left);
    assert_eq!(verdict.peers[0].1, RotationOutcome::Refused(Refusal::CannotKeep), "{verdict:?}");
    assert_eq!(rig.disks[1].denied.len(), 1_024);
}

#[test]
fn a_key_that_the_configuration_denies_loses_its_peer_and_may_come_back_when_it_does_not() {
    let mut pair = Pair::connected();
    let right = pair.right.public_key();
    let update = |denied: Vec<PublicKey>| DeviceUpdate {
        denied: Some(denied),
        peers: vec![PeerUpdate::of(right)],
        ..DeviceUpdate::default()
    };
    pair.apply(Left, update(vec![right]));
    let now = pair.now;
    assert!(pair.left.device.state(now).peers.is_empty());
    pair.set(Left, &format!("public_key={}\nallowed_ip=10.0.0.2/32\n", right.to_hex()));
    assert!(pair.left.device.state(now).peers.is_empty(), "not by hand either");
    pair.apply(Left, update(Vec::new()));
    assert_eq!(pair.left.device.state(now).peers.len(), 1);
}

#[test]
fn a_peer_that_is_no_wgd_keeps_its_tunnel_and_the_verdict_says_so() {
    for kind in KINDS {
        let mut rig = Rig::new();
        // Without an address of its own it takes no control messages: like any other implementation.
        rig.pair.right.device.set_addresses(Vec::new());
        rig.rotate(Left, kind, false);
        let verdict = rig.run_until_over(Left);
        assert_eq!(verdict.peers[0].1, RotationOutcome::NotWgd);
        rig.run(Duration::from_millis(50));
        assert_eq!(verdict.public_key.is_some(), kind == RotationKind::Static);
        // Beside the old one, then in its place.
        assert_eq!(rig.writes.len(), if kind == RotationKind::Static { 2 } else { 0 });
        rig.assert_traffic_whole();
        let Some(new) = verdict.public_key else { continue };
        // Its operator configures our new key: the tunnel moves over.
        rig.disks[1].peer = new;
        rig.start(Right);
        rig.pair.side(Left).events.clear();
        rig.run(Duration::from_millis(100));
        rig.assert_it_carries();
        rig.assert_in_force();
    }
}

#[test]
fn a_peer_that_is_not_heard_is_not_taken_for_another_program() {
    for kind in KINDS {
        let mut rig = Rig::new();
        rig.pair.cut = true;
        rig.rotate(Left, kind, false);
        rig.rest(Duration::from_secs(6));
        rig.pair.cut = false;
        let verdict = rig.run_until_over(Left);
        assert!(verdict.is_complete(), "{kind:?}: {verdict:?}");
        rig.run(Duration::from_millis(50));
        rig.assert_agreed();

        let mut rig = Rig::new();
        rig.pair.cut = true;
        rig.rotate(Left, kind, false);
        rig.rest(Duration::from_secs(40));
        let verdict = rig.verdicts[place(Left)].pop().expect("it was given up");
        assert_eq!(verdict.peers[0].1, RotationOutcome::Unreachable, "{kind:?}");
        assert!(verdict.kept.is_none() && rig.writes.is_empty(), "nothing was changed");
        rig.pair.cut = false;
        rig.run(Duration::from_millis(50));
        rig.assert_it_carries();
    }
}

#[test]
fn what_programs_send_to_the_control_port_never_reaches_the_peer() {
    let mut rig = Rig::new();
    let id = wg_proto::RotationId::random().unwrap();
    let message = wg_proto::ControlMessage { boot: 1, id, body: wg_proto::Body::Hello };
    let payload = message.encode();
    let at = |ip| std::net::SocketAddr::new(ip, wg_proto::CONTROL_PORT);
    let datagram = packet::Datagram {
        source: at(rig.pair.left.inner),
        destination: at(rig.pair.right.inner),
        payload: &payload,
    };
    let packet = datagram.to_packet().unwrap();
    let sent = rig.pair.sent.len();
    rig.pair.send_packet(Left, &packet);
    assert_eq!(rig.pair.sent.len(), sent);
    assert_eq!(rig.pair.drops(Left, wg_proto::DropReason::SourceNotAllowed), 1);
}

#[test]
fn a_preshared_key_that_is_set_by_hand_takes_over_without_loss() {
    let mut rig = Rig::new();
    for (at, who) in [(0, Left), (1, Right), (2, Right), (3, Left)] {
        let key = format!("{:02x}", at / 2 + 1).repeat(32);
        let peer = match who {
            Left => rig.pair.right.public_key(),
            Right => rig.pair.left.public_key(),
        };
        rig.pair.set(who, &format!("public_key={}\npreshared_key={key}\n", peer.to_hex()));
        rig.run(Duration::from_millis(100));
        rig.assert_traffic_whole();
    }
    let keys = [Left, Right].map(|who| rig.pair.peer(who).preshared_key.unwrap());
    assert!(keys[0].same_as(&keys[1]));
    let changed =
        |event: &&DeviceEvent| matches!(event, DeviceEvent::KeyChanged { key: ChangedKey::Preshared, .. });
    assert_eq!(rig.pair.left.events.iter().filter(changed).count(), 2);
}

#[test]
fn a_peers_name_outlives_a_configuration_that_knows_none() {
    let mut pair = Pair::connected();
    let right = pair.right.public_key();
    let mut named = PeerUpdate::of(right);
    named.friendly_name = Some("svc1".into());
    pair.apply(Left, DeviceUpdate { peers: vec![named], ..DeviceUpdate::default() });
    // As `wg setconf` does it.
    pair.set(Left, &format!("replace_peers=true\npublic_key={}\nallowed_ip=10.0.0.2/32\n", right.to_hex()));
    assert_eq!(pair.peer(Left).friendly_name.as_deref(), Some("svc1"));
}
