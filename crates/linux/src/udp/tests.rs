//! Two pairs of sockets on loopback.
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
    let sockets = UdpSockets::bind(0, 0).expect("bind");
    assert_ne!(sockets.port(), 0);
    for socket in sockets.each() {
        assert_eq!(socket.port().expect("bound"), sockets.port());
    }
}

#[test]
fn a_taken_port_is_an_error() {
    let sockets = UdpSockets::bind(0, 0).expect("bind");
    let error = UdpSockets::bind(sockets.port(), 0).expect_err("taken");
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn a_batch_arrives_whole_with_both_addresses() {
    let (a, b) = (UdpSockets::bind(0, 0).expect("a"), UdpSockets::bind(0, 0).expect("b"));
    let to = SocketAddr::from(([127, 0, 0, 2], b.port()));
    let from = LocalAddress { ip: [127, 0, 0, 3].into(), interface_index: 0 };
    let mut batch = SendBatch::new();
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
    let (a, b) = (UdpSockets::bind(0, 0).expect("a"), UdpSockets::bind(0, 0).expect("b"));
    let to = SocketAddr::from(([127, 0, 0, 1], b.port()));
    let gone = LocalAddress { ip: [192, 0, 2, 77].into(), interface_index: 0 };
    let mut batch = SendBatch::new();
    batch.push(to, Some(gone), None, b"one");
    batch.push(to, Some(gone), None, b"two");
    assert_eq!(batch.flush(&a.v4), Sent { sent: 2, failed: 0, stale_source: Some(to) });
    let (bytes, remote, _) = receive_one(&mut ReceiveBatch::new(), &b.v4);
    assert_eq!((bytes.as_slice(), remote.ip()), (&b"one"[..], IpAddr::from([127, 0, 0, 1])));
}

#[test]
fn a_hop_limit_goes_beside_the_source_in_both_families() {
    let (a, b) = (UdpSockets::bind(0, 0).expect("a"), UdpSockets::bind(0, 0).expect("b"));
    let ways = [
        (Some((&a.v4, &b.v4)), IpAddr::from([127, 0, 0, 1])),
        (a.v6.as_ref().zip(b.v6.as_ref()), IpAddr::from(Ipv6Addr::LOCALHOST)),
    ];
    for (pair, ip) in ways {
        let Some((from, to)) = pair else { continue };
        let mut batch = SendBatch::new();
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
    let (a, b) = (UdpSockets::bind(0, 0).expect("a"), UdpSockets::bind(0, 0).expect("b"));
    let mut batch = SendBatch::new();
    // Port 0 is refused with EINVAL.
    batch.push(SocketAddr::from(([127, 0, 0, 1], 0)), None, None, b"lost");
    batch.push(SocketAddr::from(([127, 0, 0, 1], b.port())), None, None, b"kept");
    assert_eq!(batch.flush(&a.v4), Sent { sent: 1, failed: 1, stale_source: None });
    assert_eq!(receive_one(&mut ReceiveBatch::new(), &b.v4).0, b"kept");
}

#[test]
fn sockets_survive_a_journey_as_descriptors() {
    let sockets = UdpSockets::bind(0, 0).expect("bind");
    let port = sockets.port();
    let mut descriptors: Vec<OwnedFd> = sockets.v6.into_iter().map(OwnedFd::from).collect();
    descriptors.push(sockets.v4.into());
    assert_eq!(UdpSockets::from_descriptors(descriptors).expect("the same pair").port(), port);
    let stream = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    assert!(UdpSockets::from_descriptors(vec![stream.into()]).is_err());
}
