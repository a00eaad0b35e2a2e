//! Two pairs of sockets on loopback.
use super::send::Refusal;
use super::*;

fn receive_one(batch: &mut ReceiveBatch, socket: &UdpSocket) -> (Vec<u8>, SocketAddr, Option<LocalAddress>) {
    for _ in 0..200 {
        if batch.receive(socket).expect("receive") > 0 {
            let datagram = batch.datagrams().next().expect("counted");
            return (datagram.bytes.to_vec(), datagram.remote, datagram.local);
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("nothing came");
}

#[test]
fn both_families_share_one_random_port() {
    let sockets = UdpSockets::bind(0, 0, true).expect("bind");
    assert_ne!(sockets.port(), 0);
    for socket in sockets.each() {
        assert_eq!(socket.port().expect("bound"), sockets.port());
    }
}

#[test]
fn a_taken_port_is_an_error() {
    let sockets = UdpSockets::bind(0, 0, true).expect("bind");
    let error = UdpSockets::bind(sockets.port(), 0, true).expect_err("taken");
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn a_batch_arrives_whole_with_both_addresses() {
    let (a, b) = (UdpSockets::bind(0, 0, true).expect("a"), UdpSockets::bind(0, 0, true).expect("b"));
    let to = SocketAddr::from(([127, 0, 0, 2], b.port()));
    let from = LocalAddress { ip: [127, 0, 0, 3].into(), interface_index: 0 };
    let mut batch = SendBatch::new(true);
    for number in 0..10u8 {
        batch.push(to, Some(from), None, &vec![number; 100 * usize::from(number)]);
    }
    assert_eq!(batch.flush(&a.v4), Sent { sent: 10, failed: 0, stale_source: None });
    assert!(batch.is_empty());
    let mut received = ReceiveBatch::new();
    let mut next = 0u8;
    while next < 10 {
        received.receive(&b.v4).expect("receive");
        for datagram in received.datagrams() {
            assert_eq!(datagram.bytes, vec![next; 100 * usize::from(next)]);
            assert_eq!(datagram.remote, SocketAddr::from(([127, 0, 0, 3], a.port())));
            assert_eq!(datagram.local.expect("pktinfo").ip, IpAddr::from([127, 0, 0, 2]));
            next += 1;
        }
    }
}

#[test]
fn a_source_that_is_gone_is_cleared_and_the_datagram_still_sent() {
    let (a, b) = (UdpSockets::bind(0, 0, true).expect("a"), UdpSockets::bind(0, 0, true).expect("b"));
    let to = SocketAddr::from(([127, 0, 0, 1], b.port()));
    let gone = LocalAddress { ip: [192, 0, 2, 77].into(), interface_index: 0 };
    let mut batch = SendBatch::new(true);
    batch.push(to, Some(gone), None, b"one");
    batch.push(to, Some(gone), None, b"two");
    assert_eq!(batch.flush(&a.v4), Sent { sent: 2, failed: 0, stale_source: Some(to) });
    let (bytes, remote, _) = receive_one(&mut ReceiveBatch::new(), &b.v4);
    assert_eq!((bytes.as_slice(), remote.ip()), (&b"one"[..], IpAddr::from([127, 0, 0, 1])));
}

#[test]
fn a_hop_limit_goes_beside_the_source_in_both_families() {
    let (a, b) = (UdpSockets::bind(0, 0, true).expect("a"), UdpSockets::bind(0, 0, true).expect("b"));
    let ways = [
        (Some((&a.v4, &b.v4)), IpAddr::from([127, 0, 0, 1])),
        (a.v6.as_ref().zip(b.v6.as_ref()), IpAddr::from(Ipv6Addr::LOCALHOST)),
    ];
    for (pair, ip) in ways {
        let Some((from, to)) = pair else { continue };
        let mut batch = SendBatch::new(true);
        let local = LocalAddress { ip, interface_index: 0 };
        batch.push(SocketAddr::from((ip, b.port())), Some(local), Some(7), b"near");
        // The kernel refuses messages that it cannot read, and a limit of 0.
        assert_eq!(batch.flush(from), Sent { sent: 1, failed: 0, stale_source: None });
        assert_eq!(receive_one(&mut ReceiveBatch::new(), to).0, b"near");
        batch.push(SocketAddr::from((ip, b.port())), Some(local), Some(0), b"spent");
        assert_eq!(batch.flush(from).sent, usize::from(ip.is_ipv6()));
    }
}

#[test]
fn a_refused_datagram_does_not_stop_the_others() {
    let (a, b) = (UdpSockets::bind(0, 0, true).expect("a"), UdpSockets::bind(0, 0, true).expect("b"));
    let mut batch = SendBatch::new(true);
    // Port 0 is refused with EINVAL.
    batch.push(SocketAddr::from(([127, 0, 0, 1], 0)), None, None, b"lost");
    batch.push(SocketAddr::from(([127, 0, 0, 1], b.port())), None, None, b"kept");
    assert_eq!(batch.flush(&a.v4), Sent { sent: 1, failed: 1, stale_source: None });
    assert_eq!(receive_one(&mut ReceiveBatch::new(), &b.v4).0, b"kept");
}

#[test]
fn sockets_survive_a_journey_as_descriptors() {
    let sockets = UdpSockets::bind(0, 0, true).expect("bind");
    let port = sockets.port();
    let mut descriptors: Vec<OwnedFd> = sockets.v6.into_iter().map(OwnedFd::from).collect();
    descriptors.push(sockets.v4.into());
    assert_eq!(UdpSockets::from_descriptors(descriptors).expect("the same pair").port(), port);
    let stream = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    assert!(UdpSockets::from_descriptors(vec![stream.into()]).is_err());
}

/// What arrives at a socket, in order, until `count` datagrams are there.
fn receive_all(socket: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
    let mut received = ReceiveBatch::new();
    let mut datagrams = Vec::new();
    for _ in 0..200 {
        if received.receive(socket).expect("receive") == 0 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        datagrams.extend(received.datagrams().map(|datagram| datagram.bytes.to_vec()));
        if datagrams.len() >= count {
            return datagrams;
        }
    }
    panic!("{} of {count} came", datagrams.len());
}

#[test]
fn datagrams_of_one_size_are_one_message_and_arrive_as_they_were() {
    let (a, b) = (UdpSockets::bind(0, 0, true).expect("a"), UdpSockets::bind(0, 0, true).expect("b"));
    assert!(a.v4.cuts_segments() && b.v4.joins_segments());
    let ways = [
        (Some((&a.v4, &b.v4)), IpAddr::from([127, 0, 0, 1])),
        (a.v6.as_ref().zip(b.v6.as_ref()), IpAddr::from(Ipv6Addr::LOCALHOST)),
    ];
    for (pair, ip) in ways {
        let Some((from, to)) = pair else { continue };
        let local = LocalAddress { ip, interface_index: 0 };
        for segments in [true, false] {
            let mut batch = SendBatch::new(segments);
            let sizes = [1_452, 1_452, 1_452, 900, 1_452, 48, 48, 0, 48, 1_452];
            let sent: Vec<Vec<u8>> = (0..).zip(sizes).map(|(number, size)| vec![number; size]).collect();
            for datagram in &sent {
                batch.push(SocketAddr::from((ip, b.port())), Some(local), Some(9), datagram);
            }
            assert_eq!(batch.queued.len(), if segments { 6 } else { 10 });
            assert_eq!(batch.flush(from), Sent { sent: 10, failed: 0, stale_source: None });
            assert_eq!(receive_all(to, 10), sent);
            assert_eq!(batch.segments(), segments);
        }
    }
}

#[test]
fn a_socket_that_joins_nothing_gets_each_datagram_by_itself() {
    let (a, b) = (UdpSockets::bind(0, 0, true).expect("a"), UdpSockets::bind(0, 0, false).expect("b"));
    assert!(b.each().all(|socket| !socket.joins_segments()));
    let mut batch = SendBatch::new(true);
    for number in 0..4 {
        batch.push(SocketAddr::from(([127, 0, 0, 1], b.port())), None, None, &[number; 100]);
    }
    assert_eq!(batch.flush(&a.v4).sent, 4);
    let mut received = ReceiveBatch::new();
    let mut messages = 0;
    while messages < 4 {
        let count = received.receive(&b.v4).expect("receive");
        assert_eq!(received.datagrams().count(), count, "a datagram each");
        messages += count;
    }
}

#[test]
fn a_batch_is_full_when_one_more_would_not_fit_its_message() {
    let to = SocketAddr::from(([127, 0, 0, 1], 9));
    let mut batch = SendBatch::new(true);
    let mut count = 0;
    while !batch.is_full() {
        batch.push(to, None, None, &[7; 1_452]);
        count += 1;
    }
    assert_eq!((count, batch.queued.len(), batch.discard()), (45, 1, 45));
    while !batch.is_full() {
        batch.push(to, None, None, &[7; 112]);
    }
    assert!(batch.queued.iter().all(|message| message.datagrams <= 64));
    batch.discard();
    // Whatever comes next, there is room for it.
    batch.push(to, None, None, &[7; 60_000]);
    batch.push(to, None, None, &[7; 65_507]);
    assert_eq!(batch.discard(), 2);
}

#[test]
fn another_address_source_or_hop_limit_is_another_message() {
    let to = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let local = |last| Some(LocalAddress { ip: [127, 0, 0, last].into(), interface_index: 0 });
    let mut batch = SendBatch::new(true);
    batch.push(to(1), None, None, b"a");
    batch.push(to(2), None, None, b"a");
    batch.push(to(2), local(1), None, b"a");
    batch.push(to(2), local(2), None, b"a");
    batch.push(to(2), local(2), Some(3), b"a");
    batch.push(to(2), local(2), Some(3), b"a");
    assert_eq!(batch.queued.len(), 5);
}

#[test]
fn what_the_kernel_refuses_as_one_message_is_sent_one_by_one() {
    let (a, b) = (UdpSockets::bind(0, 0, true).expect("a"), UdpSockets::bind(0, 0, true).expect("b"));
    let to = SocketAddr::from(([127, 0, 0, 1], b.port()));
    // Without checksums a message cannot be cut (EINVAL).
    let no_checksums: libc::c_int = 1;
    // SAFETY: SO_NO_CHECK reads one int at the address it gets.
    let set = unsafe {
        libc::setsockopt(
            a.v4.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NO_CHECK,
            (&raw const no_checksums).cast(),
            4,
        )
    };
    assert_eq!(set, 0);
    let mut batch = SendBatch::new(true);
    for number in 0..5 {
        batch.push(to, None, None, &[number; 200]);
    }
    batch.push(to, None, None, &[5; 20]);
    assert_eq!(batch.flush(&a.v4), Sent { sent: 6, failed: 0, stale_source: None });
    let lengths: Vec<usize> = receive_all(&b.v4, 6).iter().map(Vec::len).collect();
    assert_eq!(lengths, [200, 200, 200, 200, 200, 20]);
}

/// Whoever tries again at once would do so for as long as the queue is full.
#[test]
fn a_datagram_for_a_full_queue_is_dropped() {
    let sockets = UdpSockets::bind(0, 0, true).expect("bind");
    let mut batch = SendBatch::new(true);
    batch.push(SocketAddr::from(([127, 0, 0, 1], sockets.port())), None, None, b"one");
    let refused = |batch: &mut SendBatch, errno| batch.refused(Some(errno), 0, &sockets.v4);
    assert_eq!(refused(&mut batch, libc::ENOBUFS), Refusal::Drop);
    assert_eq!(refused(&mut batch, libc::EAGAIN), Refusal::Again, "there is room in the buffer");
}
