//! What the daemon tells Prometheus.
//!
//! Invariant: figures of peers are read from the data thread at each scrape, so a peer that was removed is gone
//! from the next one. Names and public keys are labels, as in prometheus_wireguard_exporter; outer addresses
//! never are.
mod durations;

use crate::io::{Command, Handle, IoCounters, Offloaded};
use crate::limits;
use daemon::Clock;
use durations::Durations;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use wg_proto::{Counters, DeviceState, PeerState, PublicKey};

/// Counters that the control thread keeps itself.
#[derive(Clone)]
pub struct Metrics {
    uapi: IntCounterVec,
    netcfg: IntGauge,
    reload_successful: IntGauge,
    reload_success_at: IntGauge,
    told: Arc<Mutex<Told>>,
    key_generation: IntGaugeVec,
    rotations: IntCounterVec,
}

/// What events have told, for the next scrape.
#[derive(Default)]
struct Told {
    handshakes: Durations,
    /// The key that is meant; before the first look at the device, the one that it started with.
    key: Option<PublicKey>,
    key_created_unix: Option<u64>,
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// When a name is registered twice.
    pub fn register(
        registry: &Registry,
        interface: &str,
        data: Handle,
        key_created: Option<SystemTime>,
        handshake_delay: bool,
    ) -> prometheus::Result<Self> {
        let uapi = IntCounterVec::new(
            Opts::new("wgd_uapi_operations_total", "Operations on the configuration socket."),
            &["op", "result"],
        )?;
        for (op, result) in [("get", "ok"), ("get", "error"), ("set", "ok"), ("set", "error")] {
            uapi.with_label_values(&[op, result]);
        }
        let reload_successful = IntGauge::new(
            "wgd_config_last_reload_successful",
            "Whether the configuration file was good the last time it was read.",
        )?;
        reload_successful.set(1);
        let reload_success_at = IntGauge::new(
            "wgd_config_last_reload_success_timestamp_seconds",
            "When a good configuration file was last read, in seconds since 1970-01-01 UTC.",
        )?;
        reload_success_at.set(now_unix());
        let netcfg = IntGauge::new(
            "wgd_netcfg_up",
            "Whether wgd-netcfg is there to change port, mark, routes and configuration.",
        )?;
        // A number that is told, not a rate: its name ends without `_total`.
        let key_generation = IntGaugeVec::new(
            Opts::new(
                "wgd_key_generation",
                "How often keys were replaced since the start, by the kind of key.",
            ),
            &["kind"],
        )?;
        for kind in ["own", "peer", "preshared"] {
            key_generation.with_label_values(&[kind]);
        }
        let rotations = IntCounterVec::new(
            Opts::new("wgd_rotations_total", "Rotations of keys that this end began, by what came of them."),
            &["kind", "result"],
        )?;
        for kind in ["static", "psk"] {
            for result in ["rotated", "degraded", "unchanged"] {
                rotations.with_label_values(&[kind, result]);
            }
        }
        registry.register(Box::new(key_generation.clone()))?;
        registry.register(Box::new(rotations.clone()))?;
        registry.register(Box::new(netcfg.clone()))?;
        registry.register(Box::new(uapi.clone()))?;
        registry.register(Box::new(reload_successful.clone()))?;
        registry.register(Box::new(reload_success_at.clone()))?;
        let key_created_unix =
            key_created.map(|at| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
        let told = Arc::new(Mutex::new(Told { key_created_unix, ..Told::default() }));
        let tunnel = Tunnel {
            interface: interface.to_owned(),
            data,
            clock: Clock,
            told: Arc::clone(&told),
            handshake_delay,
            answered_unix: Mutex::new(None),
        };
        registry.register(Box::new(tunnel))?;
        Ok(Self { uapi, netcfg, reload_successful, reload_success_at, told, key_generation, rotations })
    }

    /// Counts an operation on the configuration socket.
    pub fn uapi(&self, op: &str, ok: bool) {
        self.uapi.with_label_values(&[op, if ok { "ok" } else { "error" }]).inc();
    }

    /// Notes how long a handshake took that this end began.
    pub fn handshake(&self, peer: PublicKey, took: Duration) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).handshakes.observe(peer, took);
    }

    /// Notes that the device has another private key from now on.
    pub fn private_key_changed(&self, public_key: PublicKey) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        (told.key, told.key_created_unix) = (Some(public_key), Some(Clock.unix_milliseconds() / 1_000));
    }

    /// Counts a key that was replaced.
    pub fn key_changed(&self, kind: &str) {
        self.key_generation.with_label_values(&[kind]).inc();
    }

    /// Counts a rotation that this end began.
    pub fn rotated(&self, kind: &str, result: &str) {
        self.rotations.with_label_values(&[kind, result]).inc();
    }

    /// Notes whether the second process is there.
    pub fn netcfg(&self, is_there: bool) {
        self.netcfg.set(i64::from(is_there));
    }

    /// Notes how a reload went.
    pub fn reloaded(&self, ok: bool) {
        self.reload_successful.set(i64::from(ok));
        if ok {
            self.reload_success_at.set(now_unix());
        }
    }
}

fn now_unix() -> i64 {
    i64::try_from(Clock.unix_milliseconds() / 1_000).unwrap_or(i64::MAX)
}

/// Asks the data thread when it is collected.
struct Tunnel {
    interface: String,
    data: Handle,
    clock: Clock,
    told: Arc<Mutex<Told>>,
    /// Whether to tell the age of handshakes, too.
    handshake_delay: bool,
    /// When the data thread last answered.
    answered_unix: Mutex<Option<u64>>,
}

impl Collector for Tunnel {
    fn desc(&self) -> Vec<&Desc> {
        // The families depend on the peers; the registry needs no description to collect them.
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // The second question is asked only if the first was answered, so a thread that hangs costs one wait.
        let state = self.data.ask_blocking(Command::State);
        let answer = state.and_then(|state| Ok((state, self.data.ask_blocking(Command::Counters)?)));
        let mut answered = self.answered_unix.lock().unwrap_or_else(PoisonError::into_inner);
        let mut book = Book::default();
        if let Ok((state, (counters, io))) = &answer {
            *answered = Some(self.clock.unix_milliseconds() / 1_000);
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.look_at(state, self.clock);
            tell_all(&mut book, &self.interface, state, counters, *io, self.clock, &told);
            if self.handshake_delay {
                tell_delays(&mut book, &self.interface, state, self.clock.now());
            }
        }
        let own = [("interface", self.interface.as_str())];
        book.gauge(
            "wgd_data_thread_up",
            "Whether the data thread answered this scrape in time; else its figures are missing.",
            &own,
            flag(answer.is_ok()),
        );
        if let Some(at) = *answered {
            book.gauge(
                "wgd_data_thread_answered_timestamp_seconds",
                "When the data thread last answered a scrape, in seconds since 1970-01-01 UTC.",
                &own,
                precise(at),
            );
        }
        book.finish()
    }
}

/// The ages of handshakes, under the name that prometheus_wireguard_exporter has for them.
fn tell_delays(book: &mut Book, interface: &str, state: &DeviceState, now: Instant) {
    for peer in &state.peers {
        let Some(at) = peer.last_handshake else { continue };
        let key = peer.public_key.to_base64();
        let allowed: Vec<String> = peer.allowed_ips.iter().map(ToString::to_string).collect();
        let allowed = allowed.join(",");
        let labels = [
            ("interface", interface),
            ("public_key", key.as_str()),
            ("allowed_ips", allowed.as_str()),
            ("friendly_name", peer.friendly_name.as_deref().unwrap_or_default()),
        ];
        book.gauge(
            "wireguard_latest_handshake_delay_seconds",
            "The age of the last handshake.",
            &labels,
            now.saturating_duration_since(at).as_secs_f64(),
        );
    }
}

impl Told {
    /// A first key that came by `wg set` is as old as the first look at it.
    fn look_at(&mut self, state: &DeviceState, clock: Clock) {
        self.handshakes.forget_others(state);
        if self.key != state.public_key {
            let is_the_first = self.key.is_none() && self.key_created_unix.is_some();
            if !is_the_first {
                self.key_created_unix = state.public_key.map(|_| clock.unix_milliseconds() / 1_000);
            }
            self.key = state.public_key;
        }
    }
}

fn tell_all(
    book: &mut Book,
    interface: &str,
    state: &DeviceState,
    counters: &Counters,
    io: IoCounters,
    clock: Clock,
    told: &Told,
) {
    let now = clock.now();
    let wall = clock.wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    for peer in &state.peers {
        tell_peer(book, interface, peer, now, wall);
        tell_handshakes(book, interface, peer, &told.handshakes);
    }
    let own = [("interface", interface)];
    for (reason, count) in counters.drops.iter() {
        let labels = [("interface", interface), ("reason", reason.label())];
        book.counter(
            "wgd_packets_dropped_total",
            "Packets and datagrams that went no further.",
            &labels,
            count,
        );
    }
    book.counter(
        "wgd_cookie_replies_sent_total",
        "Cookie replies sent while under load.",
        &own,
        counters.cookie_replies_sent,
    );
    book.gauge(
        "wgd_under_load",
        "Whether senders of handshakes are asked to prove their address.",
        &own,
        flag(state.under_load),
    );
    let staged: usize = state.peers.iter().map(|peer| peer.staged_packets).sum();
    for (queue, length) in [("handshake", staged), ("events", io.events_waiting)] {
        let labels = [("interface", interface), ("queue", queue)];
        book.gauge("wgd_queue_length", "What waits.", &labels, precise(length as u64));
    }
    if let Some(created) = told.key_created_unix.filter(|_| state.public_key.is_some()) {
        book.gauge(
            "wgd_private_key_created_timestamp_seconds",
            "When the private key was written or set, in seconds since 1970-01-01 UTC.",
            &own,
            precise(created),
        );
    }
    book.counter("wgd_events_lost_total", "Events that found their queue full.", &own, io.events_lost);
    let is_up = f64::from(u8::from(io.link_is_up));
    book.gauge(
        "wgd_interface_up",
        "Whether the interface is set up; down, nothing is sent or answered.",
        &own,
        is_up,
    );
    book.gauge("wgd_interface_mtu_bytes", "The interface's MTU.", &own, f64::from(io.mtu));
    let Offloaded { tun, udp_send, udp_receive } = io.offloaded;
    let offloads = [
        ("tun_tcp", tun.is_some()),
        ("tun_udp", tun.is_some_and(|offloads| offloads.udp)),
        ("udp_send", udp_send),
        ("udp_receive", udp_receive),
    ];
    for (offload, is_on) in offloads {
        let labels = [("interface", interface), ("offload", offload)];
        let help = "Whether packets are moved in one piece, by direction and kind.";
        book.gauge("wgd_offload_enabled", help, &labels, flag(is_on));
    }
}

fn tell_peer(book: &mut Book, interface: &str, peer: &PeerState, now: Instant, wall: f64) {
    let key = peer.public_key.to_base64();
    let name = peer.friendly_name.as_deref().unwrap_or_default();
    let allowed: Vec<String> = peer.allowed_ips.iter().map(ToString::to_string).collect();
    let allowed = allowed.join(",");
    let exporter = [
        ("interface", interface),
        ("public_key", key.as_str()),
        ("allowed_ips", allowed.as_str()),
        ("friendly_name", name),
    ];
    let own = [("interface", interface), ("public_key", key.as_str()), ("friendly_name", name)];
    book.counter("wireguard_sent_bytes_total", "Wire bytes sent to the peer.", &exporter, peer.tx_bytes);
    book.counter(
        "wireguard_received_bytes_total",
        "Wire bytes received from the peer.",
        &exporter,
        peer.rx_bytes,
    );
    let age = peer.last_handshake.map(|at| now.saturating_duration_since(at));
    book.gauge(
        "wireguard_latest_handshake_seconds",
        "The last handshake, in seconds since 1970-01-01 UTC; 0 for never.",
        &exporter,
        age.map_or(0.0, |age| wall - age.as_secs_f64()),
    );
    book.gauge(
        "wgd_peer_up",
        "Whether the last handshake is younger than 180 seconds.",
        &own,
        flag(age.is_some_and(|age| age < limits::PEER_UP)),
    );
    for (direction, count) in [("sent", peer.tx_packets), ("received", peer.rx_packets)] {
        let labels = [own[0], own[1], own[2], ("direction", direction)];
        book.counter("wgd_peer_packets_total", "Datagrams of the peer.", &labels, count);
    }
    let handshakes = peer.handshakes;
    for (role, result, count) in [
        ("initiator", "completed", handshakes.initiator_completed),
        ("initiator", "failed", handshakes.initiator_failed),
        ("responder", "completed", handshakes.responder_completed),
        ("responder", "failed", handshakes.responder_failed),
    ] {
        let labels = [own[0], own[1], own[2], ("role", role), ("result", result)];
        book.counter("wgd_peer_handshakes_total", "Handshakes with the peer.", &labels, count);
    }
    let keepalive = f64::from(peer.persistent_keepalive);
    book.gauge(
        "wgd_peer_persistent_keepalive_seconds",
        "The keepalive interval; 0 for off.",
        &own,
        keepalive,
    );
    let preshared = flag(peer.preshared_key.is_some());
    book.gauge("wgd_peer_preshared_key", "Whether the peer has a pre-shared key.", &own, preshared);
    book.counter(
        "wgd_peer_endpoint_changes_total",
        "How often the peer's outer address moved.",
        &own,
        peer.endpoint_changes,
    );
    book.counter_seconds(
        "wgd_tunnel_up_seconds_total",
        "How long the peer has been up, all its times together.",
        &own,
        peer.up_total.as_secs_f64(),
    );
    if let Some(rtt) = peer.rtt {
        book.gauge(
            "wgd_peer_rtt_seconds",
            "Round trip of the last probe in the tunnel, else of the last handshake we began.",
            &own,
            rtt.as_secs_f64(),
        );
    }
    for (result, count) in [("answered", peer.probes.answered), ("lost", peer.probes.lost)] {
        let labels = [own[0], own[1], own[2], ("result", result)];
        book.counter("wgd_peer_probes_total", "Probes in the tunnel whose fate is known.", &labels, count);
    }
    book.counter(
        "wgd_peer_rx_expected_packets_total",
        "Datagrams the peer sent, by its transport counters.",
        &own,
        peer.numbers.expected,
    );
    book.counter("wgd_peer_rx_lost_packets_total", "Those of them that never came.", &own, peer.numbers.lost);
    if let Some(loss) = peer.loss {
        book.gauge(
            "wgd_peer_packet_loss_ratio",
            "Share of the peer's recent datagrams that never came, from gaps in its counters.",
            &own,
            f64::from(loss),
        );
    }
}

fn tell_handshakes(book: &mut Book, interface: &str, peer: &PeerState, handshakes: &Durations) {
    let Some(histogram) = handshakes.of(&peer.public_key) else { return };
    let key = peer.public_key.to_base64();
    let name = peer.friendly_name.as_deref().unwrap_or_default();
    let labels = [("interface", interface), ("public_key", key.as_str()), ("friendly_name", name)];
    book.histogram(
        "wgd_peer_handshake_duration_seconds",
        "From our initiation to the response.",
        &labels,
        histogram,
    );
}

fn flag(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

/// Metric families in the order of their first mention.
#[derive(Default)]
struct Book {
    families: Vec<(MetricFamily, Vec<Metric>)>,
    places: HashMap<&'static str, usize>,
}

impl Book {
    fn counter(&mut self, name: &'static str, help: &str, labels: &[(&str, &str)], value: u64) {
        self.counter_seconds(name, help, labels, precise(value));
    }

    fn counter_seconds(&mut self, name: &'static str, help: &str, labels: &[(&str, &str)], value: f64) {
        let mut metric = labelled(labels);
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
        self.add(name, help, MetricType::COUNTER, metric);
    }

    fn gauge(&mut self, name: &'static str, help: &str, labels: &[(&str, &str)], value: f64) {
        let mut metric = labelled(labels);
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
        self.add(name, help, MetricType::GAUGE, metric);
    }

    fn histogram(&mut self, name: &'static str, help: &str, labels: &[(&str, &str)], value: Histogram) {
        let mut metric = labelled(labels);
        metric.set_histogram(value);
        self.add(name, help, MetricType::HISTOGRAM, metric);
    }

    fn add(&mut self, name: &'static str, help: &str, kind: MetricType, metric: Metric) {
        let families = &mut self.families;
        let place = *self.places.entry(name).or_insert_with(|| {
            let mut family = MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_help(help.to_owned());
            family.set_field_type(kind);
            families.push((family, Vec::new()));
            families.len() - 1
        });
        families[place].1.push(metric);
    }

    fn finish(self) -> Vec<MetricFamily> {
        let close = |(mut family, metrics): (MetricFamily, Vec<Metric>)| {
            family.set_metric(metrics);
            family
        };
        self.families.into_iter().map(close).collect()
    }
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    let mut metric = Metric::default();
    metric.set_label(labels.iter().map(pair).collect());
    metric
}

/// Metrics are floating point; a byte count loses precision beyond 2^53, which is 9 PB.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn precise(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::TextEncoder;
    use wg_proto::{Device, DeviceUpdate, Endpoint, Output, PeerUpdate, PublicKey};

    struct Nowhere;
    impl Output for Nowhere {
        fn transmit(&mut self, _: Endpoint, _: &[u8]) {}
        fn event(&mut self, _: wg_proto::DeviceEvent) {}
    }

    #[test]
    fn a_peer_is_told_by_name_and_key_but_not_by_outer_address() {
        let mut device = Device::new();
        let mut peer = PeerUpdate::of(PublicKey::from_bytes([7; 32]));
        peer.friendly_name = Some("web1".into());
        peer.endpoint = Some(std::net::SocketAddr::from(([192, 0, 2, 1], 51820)));
        let update = DeviceUpdate { peers: vec![peer], ..DeviceUpdate::default() };
        device.apply(update, Clock.now(), &mut Nowhere);
        let state = device.state(Clock.now());
        let io = IoCounters { mtu: 1420, ..IoCounters::default() };
        let mut told = Told::default();
        told.handshakes.observe(PublicKey::from_bytes([7; 32]), Duration::from_millis(3));
        let mut book = Book::default();
        tell_all(&mut book, "wg0", &state, device.counters(), io, Clock, &told);
        let text = TextEncoder::new().encode_to_string(&book.finish()).expect("text");
        assert!(text.contains("wireguard_sent_bytes_total{"), "{text}");
        assert!(text.contains("friendly_name=\"web1\"") && text.contains("wgd_peer_up{"), "{text}");
        assert!(text.contains("wgd_interface_mtu_bytes{interface=\"wg0\"} 1420"), "{text}");
        assert!(text.contains("reason=\"replay\"} 0"), "{text}");
        assert!(text.contains("wgd_queue_length{interface=\"wg0\",queue=\"handshake\"} 0"), "{text}");
        assert!(text.contains("wgd_peer_handshake_duration_seconds_count{"), "{text}");
        assert!(!text.contains("192.0.2.1"), "{text}");
    }

    #[test]
    fn a_data_thread_that_hangs_keeps_a_scrape_for_a_second_and_is_told_of() {
        let (data, hangs) = crate::io::channel().expect("eventfd");
        let registry = Registry::new();
        Metrics::register(&registry, "wg0", data, None, false).expect("registered");
        let asked = Clock.now();
        let text = TextEncoder::new().encode_to_string(&registry.gather()).expect("text");
        let took = Clock.now().saturating_duration_since(asked);
        assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(10), "{took:?}");
        assert!(text.contains("wgd_data_thread_up{interface=\"wg0\"} 0"), "{text}");
        assert!(!text.contains("wgd_packets_dropped_total") && !text.contains("answered_"), "{text}");
        // What it does answer is told as before, and when that was.
        let thread = std::thread::spawn(move || {
            let mut answered = 0;
            while answered < 2 {
                match hangs.next() {
                    Some(Command::State(reply)) => {
                        reply(Device::new().state(Clock.now()));
                        // The first question is that of the scrape before.
                        answered = 0;
                    }
                    Some(Command::Counters(reply)) => {
                        reply((Counters::default(), IoCounters::default()));
                        answered = 2;
                    }
                    Some(_) | None => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        let text = TextEncoder::new().encode_to_string(&registry.gather()).expect("text");
        thread.join().expect("it ends");
        assert!(text.contains("wgd_data_thread_up{interface=\"wg0\"} 1"), "{text}");
        assert!(text.contains("wgd_packets_dropped_total") && text.contains("answered_timestamp"), "{text}");
    }

    #[test]
    fn the_age_of_a_handshake_is_told_if_there_was_one() {
        let mut device = Device::new();
        let peers = vec![PeerUpdate::of(PublicKey::from_bytes([7; 32]))];
        device.apply(DeviceUpdate { peers, ..DeviceUpdate::default() }, Clock.now(), &mut Nowhere);
        let mut state = device.state(Clock.now());
        let text = |state: &DeviceState, now| {
            let mut book = Book::default();
            tell_delays(&mut book, "wg0", state, now);
            TextEncoder::new().encode_to_string(&book.finish()).expect("text")
        };
        assert_eq!(text(&state, Clock.now()), "");
        let now = Clock.now();
        state.peers[0].last_handshake = Some(now);
        let text = text(&state, now + Duration::from_secs(17));
        assert!(
            text.contains("wireguard_latest_handshake_delay_seconds{") && text.ends_with(" 17\n"),
            "{text}"
        );
    }

    #[test]
    fn a_key_is_as_old_as_its_file_until_another_is_set() {
        let mut device = Device::new();
        let mut set = |byte: u8| {
            let key = wg_proto::SecretKey::from_bytes(&[byte; 32]).expect("not zero");
            let update = DeviceUpdate { private_key: wg_proto::Change::Set(key), ..DeviceUpdate::default() };
            device.apply(update, Clock.now(), &mut Nowhere);
            device.state(Clock.now())
        };
        let mut told = Told { key_created_unix: Some(1_000), ..Told::default() };
        let first = set(1);
        told.look_at(&first, Clock);
        told.look_at(&first, Clock);
        assert_eq!(told.key_created_unix, Some(1_000));
        told.look_at(&set(2), Clock);
        assert!(told.key_created_unix.is_some_and(|created| created > 1_000_000_000));
    }

    #[test]
    fn every_metric_is_documented() {
        use crate::documented;
        // Some families exist only with a peer, or once something was measured: the source has all names.
        let real = |source: &'static str| source.split("#[cfg(test)]").next().unwrap_or_default();
        let sources =
            [include_str!("metrics.rs"), include_str!("clock_state.rs"), include_str!("control/path_mtu.rs")];
        let sources = sources.map(real).concat();
        let names = sources.split('"').skip(1).step_by(2).filter(|text| {
            ["wgd_", "wireguard_"].iter().any(|prefix| text.starts_with(prefix)) && !text.contains(' ')
        });
        let documented = documented::table(documented::section("wgd"), "metric");
        documented::compare(documented, names.map(str::to_owned).collect());
    }
}
