//! The socket as its clients see it, in front of a device without descriptors.
use super::*;
use crate::config::{Cli, Config};
use crate::control::{Control, Current};
use crate::io::{Command, Inbox, channel};
use crate::metrics::Metrics;
use crate::netcfg::Running;
use clap::Parser as _;
use daemon::Clock;
use linux::udp::UdpSockets;
use tokio::io::AsyncReadExt;
use tokio::sync::Mutex;
use wg_proto::uapi::Epoch;
use wg_proto::{Device, DeviceEvent, Endpoint, Output};

struct Nowhere;

impl Output for Nowhere {
    fn transmit(&mut self, _: Endpoint, _: &[u8]) {}
    fn event(&mut self, _: DeviceEvent) {}
}

/// A data thread without a TUN.
fn serve_device(inbox: Inbox) {
    let mut device = Device::new();
    loop {
        match inbox.next() {
            Some(Command::Apply { update, done, .. }) => {
                device.apply(update, Clock.now(), &mut Nowhere);
                done(());
            }
            Some(Command::State(reply)) => reply(device.state(Clock.now())),
            Some(
                Command::Turn(_)
                | Command::Counters(_)
                | Command::KeptAlive(_)
                | Command::Owner { .. }
                | Command::Mtu(_),
            ) => {}
            Some(
                Command::Rotate { .. }
                | Command::Kept { .. }
                | Command::Addresses(_)
                | Command::Probe { .. }
                | Command::ProbePath { .. }
                | Command::PathProbes(_)
                | Command::ProbeAll(_)
                | Command::Probes(_),
            ) => {}
            Some(Command::Sources(_) | Command::ForgetSource(_)) => {}
            Some(Command::Stop) => return,
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Control without netcfg, as after `netcfg = false`.
fn control() -> Arc<Control> {
    let (data, inbox) = channel().expect("eventfd");
    std::thread::spawn(move || serve_device(inbox));
    let file = tempfile::NamedTempFile::new().expect("file");
    let path = file.path().to_str().expect("text");
    let cli = Cli::try_parse_from(["wgd", "wg0", "--config", path]).expect("arguments");
    let metrics =
        Metrics::register(&prometheus::Registry::new(), "wg0", data.clone(), None, false).expect("metrics");
    let sockets = UdpSockets::bind(0, 0, true).expect("sockets");
    Arc::new(Control {
        config: Config::load(&cli).expect("an empty file"),
        data,
        netcfg: Running::off(),
        current: Mutex::new(Current {
            sockets: Some(sockets),
            mark: 0,
            tunnel: crate::conf::Tunnel::unconfigured(),
        }),
        metrics,
        epoch: Epoch { instant: Clock.now(), wall: Clock.wall() },
        lockdown: linux::Lockdown::default(),
        names: tokio::sync::watch::Sender::new(Vec::new()),
        watched: crate::control::Watched::new(1),
        rotations: crate::control::Watched::new(1),
    })
}

fn connect(control: &Arc<Control>) -> UnixStream {
    let (client, server) = UnixStream::pair().expect("pair");
    let control = Arc::clone(control);
    tokio::spawn(async move {
        let place = Places::new().take().await.expect("a place");
        converse(server, &place, &control, limits::UAPI_IDLE_TIME).await
    });
    client
}

/// One request; the answer up to its empty line.
async fn ask(client: &mut UnixStream, request: &str) -> String {
    client.write_all(request.as_bytes()).await.expect("write");
    let mut answer = String::new();
    let mut buffer = [0; 4096];
    while !answer.ends_with("\n\n") {
        let length = client.read(&mut buffer).await.expect("read");
        assert_ne!(length, 0, "closed after {answer:?}");
        answer.push_str(std::str::from_utf8(&buffer[..length]).expect("text"));
    }
    answer
}

const PEER: &str = "c5320103969ba1ba14be7e21b5a1d8dbe97aef742308cb446d753400789999a9";

#[tokio::test]
async fn one_connection_carries_several_operations() {
    let mut client = connect(&control());
    let set = format!("set=1\npublic_key={PEER}\nallowed_ip=10.1.0.0/16\n\n");
    assert_eq!(ask(&mut client, &set).await, "errno=0\n\n");
    let state = ask(&mut client, "get=1\n\n").await;
    assert!(state.contains(&format!("public_key={PEER}\n")) && state.contains("allowed_ip=10.1.0.0/16\n"));
    assert!(state.ends_with("errno=0\n\n"), "{state}");
}

#[tokio::test]
async fn an_idle_or_probing_client_keeps_nobody_waiting() {
    let control = control();
    let _idle = connect(&control);
    drop(connect(&control));
    let mut half = connect(&control);
    half.write_all(b"set=1\nprivate_").await.expect("write");
    assert_eq!(ask(&mut connect(&control), "set=1\n\n").await, "errno=0\n\n");
}

#[tokio::test]
async fn a_refused_set_is_a_negative_number_and_changes_nothing() {
    let mut client = connect(&control());
    let bad = format!("set=1\npublic_key={PEER}\nallowed_ip=10.1.0.0/99\n\n");
    assert_eq!(ask(&mut client, &bad).await, "errno=-22\n\n");
    assert_eq!(ask(&mut client, "set=1\nnonsense\n\n").await, "errno=-71\n\n");
    assert!(!ask(&mut client, "get=1\n\n").await.contains(PEER));
}

#[tokio::test]
async fn without_netcfg_port_and_mark_are_not_permitted() {
    let mut client = connect(&control());
    assert_eq!(ask(&mut client, "set=1\nlisten_port=1\n\n").await, "errno=-1\n\n");
    assert_eq!(ask(&mut client, "set=1\nfwmark=7\n\n").await, "errno=-1\n\n");
}

#[tokio::test]
async fn what_is_no_operation_closes_the_connection() {
    let mut client = connect(&control());
    client.write_all(b"GET / HTTP/1.1\n\n").await.expect("write");
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.expect("closed");
    assert!(rest.is_empty());
}

#[tokio::test]
async fn idle_clients_make_room_for_the_next() {
    let control = control();
    let folder = tempfile::tempdir().expect("directory");
    let path = folder.path().join("wg0.sock");
    tokio::spawn(serve(UnixListener::bind(&path).expect("socket"), control));
    let mut idle = Vec::new();
    for _ in 0..limits::UAPI_CONNECTIONS {
        let mut client = UnixStream::connect(&path).await.expect("connect");
        assert_eq!(ask(&mut client, "set=1\n\n").await, "errno=0\n\n");
        idle.push(client);
    }
    let mut half = idle.pop().expect("one of them");
    half.write_all(b"set=1\nprivate_").await.expect("write");
    let mut next = UnixStream::connect(&path).await.expect("connect");
    let answer = timeout(Duration::from_secs(20), ask(&mut next, "set=1\n\n")).await;
    assert_eq!(answer.expect("in time"), "errno=0\n\n");
    // The one that had been idle longest is closed; the others are still served.
    assert_eq!(idle[0].read(&mut [0; 1]).await.expect("end"), 0);
    assert_eq!(ask(&mut idle[1], "set=1\n\n").await, "errno=0\n\n");
}

#[tokio::test]
async fn what_was_sent_is_refused_without_being_repeated() {
    let secret = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a";
    let error = parse_set(&format!("private_key {secret}=\n")).err().expect("refused").to_string();
    assert!(!error.contains(&secret[..8]), "{error}");
}
