//! A device as its UAPI socket tells it (the cross-platform interface of WireGuard).
//!
//! Invariant: the private and pre-shared keys in the answer are wiped and go no further; only the public
//! key that follows from the former is kept.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde::{Deserialize, Serialize};
use wg_proto::{KeyError, PublicKey, SecretKey};
use zeroize::Zeroizing;

use crate::limits::{SESSION_LIFE, UAPI_BYTES_AT_MOST, UAPI_TIMEOUT};

/// A device.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(crate) struct DeviceView {
    pub(crate) public_key: Option<String>,
    pub(crate) listen_port: Option<u16>,
    pub(crate) fwmark: Option<u32>,
    /// This and what follows wgd alone can tell.
    pub(crate) mtu: Option<u16>,
    /// Whether the interface is set up.
    pub(crate) link_up: Option<bool>,
    /// Whether there is a wgd-netcfg.
    pub(crate) netcfg: Option<bool>,
    pub(crate) device: Option<DeviceKind>,
    pub(crate) under_load: Option<bool>,
    /// By reason.
    pub(crate) drops: Option<BTreeMap<String, u64>>,
    pub(crate) peers: Vec<PeerView>,
}

/// What wgd's TUN device and sockets move in one piece.
#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
pub(crate) struct DeviceKind {
    /// "offload" or "plain".
    pub(crate) kind: String,
    /// TCP, from and to the device.
    pub(crate) tcp: bool,
    /// UDP, likewise.
    pub(crate) udp: bool,
    /// Datagrams of the tunnel on their way out.
    pub(crate) udp_send: bool,
    /// And in.
    pub(crate) udp_receive: bool,
}

/// A peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct PeerView {
    /// The operator's word for it, if wgd told it.
    pub(crate) name: Option<String>,
    pub(crate) public_key: String,
    pub(crate) has_preshared_key: bool,
    pub(crate) endpoint: Option<String>,
    pub(crate) allowed_ips: Vec<String>,
    /// Seconds since 1970; none: never.
    pub(crate) last_handshake_unix: Option<u64>,
    /// As of the question; none: never.
    pub(crate) last_handshake_age_seconds: Option<u64>,
    pub(crate) receive_bytes: u64,
    pub(crate) transmit_bytes: u64,
    pub(crate) persistent_keepalive_seconds: Option<u16>,
    /// This and what follows wgd alone can tell.
    pub(crate) up_seconds: Option<u64>,
    /// Share of the peer's recent datagrams that never came.
    pub(crate) loss_ratio: Option<f64>,
    pub(crate) rtt_ms: Option<f64>,
    /// `probe` or `handshake`.
    pub(crate) rtt_from: Option<String>,
    /// What came of the probe that was asked for with this question.
    pub(crate) probe: Option<String>,
}

/// How a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The keys of its last handshake are good.
    Up,
    /// They have run out.
    Down,
    /// It never completed one.
    Never,
}

impl PeerView {
    pub(crate) fn state(&self) -> State {
        match self.last_handshake_age_seconds {
            // As wgd counts: at this age no key is left.
            Some(age) if age < SESSION_LIFE.as_secs() => State::Up,
            Some(_) => State::Down,
            None => State::Never,
        }
    }
}

/// Why a device could not be asked.
#[derive(Debug)]
pub(crate) enum QueryError {
    /// The socket is not there, or nobody listens on it.
    NotRunning(std::io::Error),
    /// We may not use it.
    NotAllowed(std::io::Error),
    /// It broke off or took too long.
    Broken(std::io::Error),
    /// The daemon answered with an error number.
    Errno(i32),
    /// A line that is none of the protocol's.
    Malformed { key: String, what: String },
}

impl std::fmt::Display for QueryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            QueryError::NotRunning(error) => write!(f, "no daemon answers: {error}"),
            QueryError::NotAllowed(error) | QueryError::Broken(error) => write!(f, "{error}"),
            QueryError::Errno(number) => write!(f, "the daemon answered errno={number}"),
            QueryError::Malformed { key, what } => write!(f, "the daemon's answer: {key}: {what}"),
        }
    }
}

/// Asks the daemon behind `socket`.
pub(crate) fn query(socket: &Path, now_unix: u64) -> Result<DeviceView, QueryError> {
    let stream = UnixStream::connect(socket).map_err(refusal)?;
    ask(stream, now_unix)
}

fn refusal(error: std::io::Error) -> QueryError {
    let kind = error.kind();
    if [std::io::ErrorKind::NotFound, std::io::ErrorKind::ConnectionRefused].contains(&kind) {
        QueryError::NotRunning(error)
    } else if kind == std::io::ErrorKind::PermissionDenied {
        QueryError::NotAllowed(error)
    } else {
        QueryError::Broken(error)
    }
}

fn ask(mut stream: UnixStream, now_unix: u64) -> Result<DeviceView, QueryError> {
    stream.set_read_timeout(Some(UAPI_TIMEOUT)).map_err(QueryError::Broken)?;
    stream.set_write_timeout(Some(UAPI_TIMEOUT)).map_err(QueryError::Broken)?;
    stream.write_all(b"get=1\n\n").map_err(QueryError::Broken)?;
    read_device(BufReader::new(stream.take(UAPI_BYTES_AT_MOST)), now_unix)
}

fn read_device(mut answer: impl BufRead, now_unix: u64) -> Result<DeviceView, QueryError> {
    let mut device = DeviceView::default();
    let mut line = Zeroizing::new(String::new());
    loop {
        line.clear();
        if answer.read_line(&mut line).map_err(QueryError::Broken)? == 0 {
            return Err(QueryError::Broken(std::io::ErrorKind::UnexpectedEof.into()));
        }
        let text = line.trim_end_matches('\n');
        if text.is_empty() {
            break;
        }
        let (key, value) = text.split_once('=').ok_or_else(|| malformed("?", "a line without `=`"))?;
        if key == "errno" {
            match number(key, value)? {
                0 => continue,
                errno => return Err(QueryError::Errno(errno)),
            }
        }
        take(&mut device, key, value)?;
    }
    for peer in &mut device.peers {
        peer.last_handshake_age_seconds = peer.last_handshake_unix.map(|then| now_unix.saturating_sub(then));
    }
    Ok(device)
}

fn take(device: &mut DeviceView, key: &str, value: &str) -> Result<(), QueryError> {
    match key {
        "public_key" => {
            let key = PublicKey::from_hex(value).map_err(|error| malformed(key, &error.to_string()))?;
            device.peers.push(PeerView { public_key: key.to_base64(), ..PeerView::default() });
            return Ok(());
        }
        "private_key" => {
            device.public_key = public_of_hex(value).map_err(|error| malformed(key, &error.to_string()))?;
            return Ok(());
        }
        "listen_port" => {
            device.listen_port = Some(number(key, value)?);
            return Ok(());
        }
        "fwmark" => {
            device.fwmark = Some(number(key, value)?);
            return Ok(());
        }
        _ => {}
    }
    let Some(peer) = device.peers.last_mut() else {
        // An extension of the device section: clients ignore what they do not know.
        return Ok(());
    };
    match key {
        "preshared_key" => peer.has_preshared_key = value.bytes().any(|digit| digit != b'0'),
        "endpoint" => peer.endpoint = Some(value.to_owned()),
        "allowed_ip" => peer.allowed_ips.push(value.to_owned()),
        "last_handshake_time_sec" => {
            peer.last_handshake_unix = Some(number(key, value)?).filter(|seconds| *seconds > 0);
        }
        "rx_bytes" => peer.receive_bytes = number(key, value)?,
        "tx_bytes" => peer.transmit_bytes = number(key, value)?,
        "persistent_keepalive_interval" => {
            peer.persistent_keepalive_seconds = Some(number(key, value)?).filter(|seconds| *seconds > 0);
        }
        _ => {}
    }
    Ok(())
}

/// The public key of a private key in hexadecimal; zeros are "none set".
fn public_of_hex(hex: &str) -> Result<Option<String>, KeyError> {
    match SecretKey::from_hex(hex) {
        Ok(secret) => Ok(Some(secret.public_key().to_base64())),
        Err(KeyError::Zero) => Ok(None),
        Err(error @ (KeyError::Hex | KeyError::Base64)) => Err(error),
    }
}

fn number<T: std::str::FromStr>(key: &str, value: &str) -> Result<T, QueryError> {
    value.parse().map_err(|_| malformed(key, "not a number in range"))
}

fn malformed(key: &str, what: &str) -> QueryError {
    QueryError::Malformed { key: crate::console::printable(key), what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_with_two_peers_is_read() {
        let answer = format!(
            "private_key={}\nlisten_port=51820\nextension=1\npublic_key={}\npreshared_key={}\n\
             endpoint=192.0.2.1:51820\nallowed_ip=10.100.0.10/32\nlast_handshake_time_sec=1000\n\
             last_handshake_time_nsec=5\nrx_bytes=7\ntx_bytes=8\npersistent_keepalive_interval=25\n\
             public_key={}\npreshared_key={}\nlast_handshake_time_sec=0\npersistent_keepalive_interval=0\n\
             errno=0\n\n",
            "77076d0a7318a57d3c16c17251b26645df4c2f92ebc0992ac177fba51db92c2a",
            "01".repeat(32),
            "02".repeat(32),
            "03".repeat(32),
            "00".repeat(32),
        );
        let device = read_device(answer.as_bytes(), 1010).unwrap();
        // As the stock `wg pubkey` derives it.
        assert_eq!(device.public_key.as_deref(), Some("+KlTWi0v9gXo4UTVT071xiMTogVduyH93T/ZwpnrAV0="));
        assert_eq!(device.listen_port, Some(51820));
        let [first, second] = device.peers.as_slice() else { panic!("two peers") };
        assert_eq!(first.last_handshake_age_seconds, Some(10));
        assert_eq!((first.receive_bytes, first.transmit_bytes), (7, 8));
        assert!(first.has_preshared_key && !second.has_preshared_key);
        assert_eq!((second.last_handshake_unix, second.persistent_keepalive_seconds), (None, None));
    }

    #[test]
    fn an_error_number_a_broken_answer_and_nonsense_are_told_apart() {
        assert!(matches!(read_device(&b"errno=1\n\n"[..], 0), Err(QueryError::Errno(1))));
        assert!(matches!(read_device(&b"listen_port=1\n"[..], 0), Err(QueryError::Broken(_))));
        assert!(matches!(read_device(&b"listen_port=x\n\n"[..], 0), Err(QueryError::Malformed { .. })));
        assert!(matches!(read_device(&b"public_key=zz\n\n"[..], 0), Err(QueryError::Malformed { .. })));
    }
}
