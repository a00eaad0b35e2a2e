//! A tunnel as a person reads it: one line for the interface, one for each peer's health, one for its addresses,
//! and a sentence for each peer that is not up.
//!
//! Invariant: what comes from elsewhere goes through [`printable`]. With usual names and IPv4 addresses no line is
//! longer than 100 columns.

use super::uapi::{DeviceKind, DeviceView, PeerView, State};
use crate::console::{human_bytes, printable, table};

/// Longer names are cut in the first table; the second has them whole.
const NAME_COLUMNS: usize = 17;
/// More prefixes of a peer are counted instead of shown.
const PREFIXES_SHOWN: usize = 4;
/// Beginning of a key that stands for a peer without a name.
const KEY_SHOWN: usize = 8;

const HEALTH: [&str; 9] =
    ["PEER", "STATE", "HANDSHAKE", "RECEIVED", "SENT", "LOSS", "RTT", "KEEPALIVE", "PSK"];
const PLACES: [&str; 4] = ["PEER", "PUBLIC KEY", "ENDPOINT", "ALLOWED IPS"];

pub(crate) fn text(interface: &str, device: &DeviceView) -> String {
    let mut parts = vec![head(interface, device)];
    if !device.peers.is_empty() {
        let health: Vec<_> = device.peers.iter().map(health).collect();
        let places: Vec<_> = device.peers.iter().map(places).collect();
        parts.push(String::new());
        parts.push(table(&HEALTH, &health));
        parts.push(String::new());
        parts.push(table(&PLACES, &places));
        let words: Vec<_> = device.peers.iter().filter_map(words).collect();
        if !words.is_empty() {
            parts.push(String::new());
            parts.extend(words);
        }
    }
    parts.join("\n")
}

fn head(interface: &str, device: &DeviceView) -> String {
    let up = device.peers.iter().filter(|peer| peer.state() == State::Up).count();
    let first = match device.peers.len() {
        0 => format!("{}: no peers", printable(interface)),
        1 if up == 1 => format!("{}: its peer is up", printable(interface)),
        count => format!("{}: {up} of {count} peers up", printable(interface)),
    };
    let mut facts = vec![
        format!("key {}", device.public_key.as_deref().map_or("none".to_owned(), printable)),
        format!("port {}", device.listen_port.map_or("none".to_owned(), |port| port.to_string())),
    ];
    facts.extend(device.mtu.map(|mtu| format!("mtu {mtu}")));
    facts.push(format!("fwmark {}", device.fwmark.map_or("none".to_owned(), |mark| format!("0x{mark:x}"))));
    facts.extend(device.netcfg.map(|there| format!("netcfg {}", if there { "yes" } else { "NO" })));
    let mut lines = vec![first, format!("  {}", facts.join("  "))];
    // Apart: with it the line above would be wider than 100 columns.
    lines.extend(device.device.as_ref().map(|device| format!("  {}", device_kind(device))));
    let dropped: Vec<String> = device
        .drops
        .iter()
        .flatten()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| format!("{} {count}", printable(reason)))
        .collect();
    if !dropped.is_empty() {
        lines.push(format!("  dropped: {}", dropped.join(", ")));
    }
    if device.link_up == Some(false) {
        lines
            .push("  the interface is down: nothing is sent or answered until `ip link set … up`".to_owned());
    }
    if device.under_load == Some(true) {
        lines.push("  under load: those who begin handshakes are asked to prove their address".to_owned());
    }
    lines.join("\n")
}

fn health(peer: &PeerView) -> Vec<String> {
    let state = match peer.state() {
        State::Up => peer.up_seconds.map_or("up".to_owned(), |seconds| format!("up {}", span(seconds))),
        State::Down => "DOWN".to_owned(),
        State::Never => "NEVER UP".to_owned(),
    };
    vec![
        cut(&name(peer)),
        state,
        peer.last_handshake_age_seconds.map_or("never".to_owned(), span),
        human_bytes(peer.receive_bytes),
        human_bytes(peer.transmit_bytes),
        peer.loss_ratio.map_or("-".to_owned(), percent),
        round_trip(peer),
        peer.persistent_keepalive_seconds.map_or("off".to_owned(), |seconds| format!("{seconds}s")),
        if peer.has_preshared_key { "yes" } else { "no" }.to_owned(),
    ]
}

fn places(peer: &PeerView) -> Vec<String> {
    let shown = peer.allowed_ips.iter().take(PREFIXES_SHOWN).map(|prefix| printable(prefix));
    let mut allowed = shown.collect::<Vec<_>>().join(", ");
    match peer.allowed_ips.len() {
        0 => allowed.push_str("none"),
        count if count > PREFIXES_SHOWN => {
            allowed.push_str(&format!(" and {} more", count - PREFIXES_SHOWN));
        }
        _ => {}
    }
    vec![
        name(peer),
        printable(&peer.public_key),
        peer.endpoint.as_deref().map_or("unknown".to_owned(), printable),
        allowed,
    ]
}

/// What is to be said of a peer that is not up.
fn words(peer: &PeerView) -> Option<String> {
    let name = name(peer);
    match (peer.state(), &peer.endpoint) {
        (State::Up, _) => None,
        (State::Never, None) => {
            Some(format!("{name} has not been heard yet, and nobody said where it is: it has to begin."))
        }
        (State::Never, Some(_)) => Some(format!(
            "{name} has never completed a handshake: look at both public keys, the pre-shared key, the endpoint \
             and the firewalls."
        )),
        (State::Down, _) => {
            let age = span(peer.last_handshake_age_seconds.unwrap_or_default());
            let quiet = match peer.persistent_keepalive_seconds {
                Some(_) => "",
                None => " Without a keepalive that is usual when there is nothing to say.",
            };
            Some(format!("{name}: the last handshake is {age} old, and keys end after 3m.{quiet}"))
        }
    }
}

/// What a peer is called, or the beginning of its key.
pub(crate) fn name(peer: &PeerView) -> String {
    peer.name.as_deref().map_or_else(|| short(&peer.public_key), printable)
}

/// The beginning of a key.
pub(crate) fn short(key: &str) -> String {
    format!("{}…", printable(&key.chars().take(KEY_SHOWN).collect::<String>()))
}

fn cut(name: &str) -> String {
    if name.chars().count() <= NAME_COLUMNS {
        return name.to_owned();
    }
    let kept: String = name.chars().take(NAME_COLUMNS - 1).collect();
    format!("{kept}…")
}

fn round_trip(peer: &PeerView) -> String {
    match (peer.probe.as_deref(), peer.rtt_ms) {
        (Some("no session"), _) => "no keys".to_owned(),
        (Some(result), _) if result != "answered" => printable(result),
        (_, Some(milliseconds)) => time(milliseconds),
        (_, None) => "-".to_owned(),
    }
}

/// `0.42ms`, `17.3ms`, `250ms`.
pub(crate) fn time(milliseconds: f64) -> String {
    match milliseconds {
        ..10.0 => format!("{milliseconds:.2}ms"),
        ..100.0 => format!("{milliseconds:.1}ms"),
        _ => format!("{milliseconds:.0}ms"),
    }
}

fn percent(ratio: f64) -> String {
    if ratio > 0.0 && ratio < 0.001 { "<0.1%".to_owned() } else { format!("{:.1}%", ratio * 100.0) }
}

/// `75` → `1m 15s`.
fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// What kind of device it is, and what of its offloads is missing.
fn device_kind(device: &DeviceKind) -> String {
    let DeviceKind { kind, tcp, udp, udp_send, udp_receive } = device;
    let inner: Vec<&str> = [(*tcp, "tcp"), (*udp, "udp")]
        .into_iter()
        .filter_map(|(is_on, name)| is_on.then_some(name))
        .collect();
    let mut text = format!("device {}", printable(kind));
    if !inner.is_empty() {
        text.push_str(&format!(" ({})", inner.join(", ")));
    }
    let outer = [(*udp_send, "sends"), (*udp_receive, "receives")];
    for (_, what) in outer.into_iter().filter(|(is_on, _)| *tcp && !is_on) {
        text.push_str(&format!(", {what} one by one"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";

    fn device() -> DeviceView {
        let web1 = PeerView {
            name: Some("web1".into()),
            public_key: KEY.into(),
            has_preshared_key: true,
            endpoint: Some("192.0.2.10:51820".into()),
            allowed_ips: vec!["10.100.0.10/32".into()],
            last_handshake_age_seconds: Some(75),
            up_seconds: Some(7260),
            receive_bytes: 2048,
            transmit_bytes: 3 << 20,
            loss_ratio: Some(0.012),
            rtt_ms: Some(1.318),
            persistent_keepalive_seconds: Some(25),
            ..PeerView::default()
        };
        let down = PeerView {
            name: Some("db1".into()),
            last_handshake_age_seconds: Some(181),
            up_seconds: None,
            endpoint: None,
            persistent_keepalive_seconds: None,
            ..web1.clone()
        };
        let never = PeerView { public_key: KEY.into(), ..PeerView::default() };
        DeviceView {
            public_key: Some(KEY.into()),
            listen_port: Some(51820),
            fwmark: Some(0xca6c),
            mtu: Some(1420),
            link_up: Some(true),
            netcfg: Some(true),
            device: Some(DeviceKind {
                kind: "offload".into(),
                tcp: true,
                udp: true,
                udp_send: true,
                udp_receive: true,
            }),
            under_load: Some(false),
            drops: Some([("no_route".to_owned(), 3), ("replay".to_owned(), 0)].into()),
            peers: vec![web1, down, never],
        }
    }

    #[test]
    fn the_table_is_what_a_person_reads() {
        let expected = "\
wg0: 1 of 3 peers up
  key xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=  port 51820  mtu 1420  fwmark 0xca6c  netcfg yes
  device offload (tcp, udp)
  dropped: no_route 3

PEER       STATE     HANDSHAKE  RECEIVED  SENT      LOSS  RTT     KEEPALIVE  PSK
web1       up 2h 1m  1m 15s     2.00 KiB  3.00 MiB  1.2%  1.32ms  25s        yes
db1        DOWN      3m 1s      2.00 KiB  3.00 MiB  1.2%  1.32ms  off        yes
xTIBA5rb…  NEVER UP  never      0 B       0 B       -     -       off        no

PEER       PUBLIC KEY                                    ENDPOINT          ALLOWED IPS
web1       xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=  192.0.2.10:51820  10.100.0.10/32
db1        xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=  unknown           10.100.0.10/32
xTIBA5rb…  xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=  unknown           none

db1: the last handshake is 3m 1s old, and keys end after 3m. Without a keepalive that is usual when there is nothing to say.
xTIBA5rb… has not been heard yet, and nobody said where it is: it has to begin.";
        assert_eq!(text("wg0", &device()), expected);
    }

    #[test]
    fn long_figures_stay_within_100_columns() {
        let mut device = device();
        let peer = &mut device.peers[0];
        peer.name = Some("a-name-that-is-much-longer-than-usual".into());
        peer.up_seconds = Some(86_400 * 399 + 86_399);
        peer.last_handshake_age_seconds = Some(179);
        (peer.receive_bytes, peer.transmit_bytes) = (1023 << 20, (1 << 40) - 1);
        (peer.loss_ratio, peer.rtt_ms) = (Some(1.0), Some(65_535.0));
        peer.persistent_keepalive_seconds = Some(65_535);
        let text = text("wg0", &device);
        let health = text.lines().skip(4).take(4);
        assert!(health.clone().all(|line| line.chars().count() <= 100), "{text}");
    }

    #[test]
    fn without_wgd_what_is_unknown_is_left_out() {
        let mut device = device();
        (device.mtu, device.netcfg, device.drops) = (None, None, None);
        let text = text("wg0", &device);
        assert!(!text.contains("mtu") && !text.contains("netcfg") && !text.contains("dropped"), "{text}");
    }

    #[test]
    fn control_characters_of_names_do_not_reach_a_terminal() {
        let mut device = device();
        device.peers[0].name = Some("a\u{1b}[31m".into());
        device.peers[1].endpoint = Some("\u{7}".into());
        assert!(!text("w\u{1b}", &device).chars().any(|c| c.is_control() && c != '\n'));
    }

    #[test]
    fn states_follow_the_keys_age() {
        let at = |age| PeerView { last_handshake_age_seconds: age, ..PeerView::default() }.state();
        assert_eq!([at(None), at(Some(0)), at(Some(179))], [State::Never, State::Up, State::Up]);
        assert_eq!([at(Some(180)), at(Some(9_999))], [State::Down; 2]);
    }

    #[test]
    fn times_have_three_digits() {
        let texts = [0.42, 9.994, 17.26, 250.4].map(time);
        assert_eq!(texts, ["0.42ms", "9.99ms", "17.3ms", "250ms"]);
    }

    #[test]
    fn a_probe_that_was_not_answered_says_so() {
        let mut peer = device().peers.remove(0);
        for (result, shown) in [("answered", "1.32ms"), ("no answer", "no answer"), ("no session", "no keys")]
        {
            peer.probe = Some(result.into());
            assert_eq!(round_trip(&peer), shown);
        }
    }
}
