//! Finds paths that swallow long packets: a *black hole* drops them, and the ICMP message that would say so is lost.
//!
//! Each peer is asked now and then for an echo of the interface's MTU. Where that finds no answer and a short one
//! does, the longest that comes back is searched for.
//!
//! Invariant: only a peer that answers short packets is said to be behind a black hole; silence alone says nothing.
use super::Control;
use crate::io::Command;
use crate::limits;
use daemon::Clock;
use prometheus::{IntGaugeVec, Opts, Registry};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;
use tokio::time::MissedTickBehavior;
use wg_proto::{Probed, Probes, PublicKey};

/// The metric.
#[derive(Clone)]
pub(super) struct PathMtu(IntGaugeVec);

impl PathMtu {
    /// Registers it.
    ///
    /// # Errors
    /// When the name is registered twice.
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let help = "Longest packet that comes back from the peer's host; less than the MTU in a black hole.";
        let labels = ["interface", "public_key", "friendly_name"];
        let gauge = IntGaugeVec::new(Opts::new("wgd_path_mtu_bytes", help), &labels)?;
        registry.register(Box::new(gauge.clone()))?;
        Ok(Self(gauge))
    }
}

/// Searches until the data thread is gone.
pub(super) async fn follow(control: Arc<Control>, metric: PathMtu) {
    let clock = Clock;
    let mut searches: HashMap<PublicKey, Search> = HashMap::new();
    let mut ticks = tokio::time::interval(limits::PATH_STEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Ok((_, io)) = control.data.ask(Command::Counters).await else { return };
        let Ok(probes) = control.data.ask(Command::PathProbes).await else { return };
        searches.retain(|key, _| probes.iter().any(|(peer, _)| peer == key));
        let mut steps = 0;
        for (peer, seen) in probes {
            let now = clock.now();
            let search = searches.entry(peer).or_insert_with(|| Search::new(io.mtu, now));
            let before = search.found;
            let ask = search.step(io.mtu, seen, now);
            if search.found != before {
                tell(&control, &metric, peer, search.found, io.mtu).await;
            }
            let Some(bytes) = ask.filter(|_| steps < limits::PATH_STEPS) else { continue };
            steps += 1;
            let Ok(probed) = control.data.ask(|reply| Command::ProbePath { peer, bytes, reply }).await else {
                return;
            };
            match probed {
                Some(Probed::Sent) => search.asked = Some((bytes, seen.answered)),
                // Looked at again when there may be keys, or addresses.
                Some(Probed::NoSession | Probed::NoAddress) | None => {
                    search.begin_at(now + limits::PATH_LOOK)
                }
                Some(Probed::UnderWay) => {}
            }
        }
    }
}

async fn tell(control: &Control, metric: &PathMtu, key: PublicKey, found: Option<u16>, mtu: u16) {
    let Some(found) = found else { return };
    let Ok(state) = control.state().await else { return };
    let Some(peer) = state.peers.iter().find(|peer| peer.public_key == key) else { return };
    let name = peer.friendly_name.as_deref().unwrap_or_default();
    metric
        .0
        .with_label_values(&[control.config.interface.as_str(), &key.to_base64(), name])
        .set(found.into());
    if found < mtu {
        tracing::warn!(
            peer = name,
            public_key = %key,
            mtu,
            path_mtu = found,
            "longer packets do not come back from this peer and nobody says why: lower MTU in both interfaces' files"
        );
    } else {
        tracing::info!(peer = name, public_key = %key, mtu, "packets as long as the MTU come back from this peer");
    }
}

/// The search for one peer: the lengths between `good` and `bad` are not known yet.
#[derive(Debug)]
struct Search {
    mtu: u16,
    good: u16,
    bad: u32,
    misses: u8,
    /// The length under way, and how many questions were answered before it.
    asked: Option<(u16, u64)>,
    again_at: Instant,
    /// The last result.
    found: Option<u16>,
}

impl Search {
    fn new(mtu: u16, now: Instant) -> Self {
        Self { mtu, good: 0, bad: u32::from(mtu) + 1, misses: 0, asked: None, again_at: now, found: None }
    }

    /// Looks what came of the last question. Gives the length of the next, if it is time for one.
    fn step(&mut self, mtu: u16, seen: Probes, now: Instant) -> Option<u16> {
        if mtu != self.mtu {
            *self = Self { found: self.found, ..Self::new(mtu, now) };
        }
        if let Some((bytes, answered_before)) = self.asked.take() {
            if seen.answered > answered_before {
                self.answered(bytes, now);
            } else {
                self.missed(bytes, now);
            }
        }
        (now >= self.again_at).then(|| self.next())
    }

    fn next(&self) -> u16 {
        let least = limits::PATH_LEAST.min(self.mtu);
        match self.good {
            0 if self.bad > u32::from(self.mtu) => self.mtu,
            0 => least,
            good => u16::try_from(u32::midpoint(good.into(), self.bad)).unwrap_or(good),
        }
    }

    fn answered(&mut self, bytes: u16, now: Instant) {
        self.misses = 0;
        self.good = self.good.max(bytes);
        if u32::from(self.good) + u32::from(limits::PATH_RESOLUTION) >= self.bad || self.good >= self.mtu {
            self.found = Some(self.good);
            self.rest(now);
        }
    }

    fn missed(&mut self, bytes: u16, now: Instant) {
        self.misses += 1;
        if self.misses < limits::PATH_MISSES {
            return;
        }
        self.misses = 0;
        self.bad = self.bad.min(bytes.into());
        if self.good == 0 && bytes <= limits::PATH_LEAST {
            // The peer is away, or its host answers no echo.
            self.rest(now);
        } else if self.good > 0 && u32::from(self.good) + u32::from(limits::PATH_RESOLUTION) >= self.bad {
            self.found = Some(self.good);
            self.rest(now);
        }
    }

    /// From the beginning, later.
    fn rest(&mut self, now: Instant) {
        self.begin_at(now + limits::PATH_PERIOD);
    }

    fn begin_at(&mut self, again_at: Instant) {
        *self = Self { found: self.found, ..Self::new(self.mtu, again_at) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps through a path that carries `carries` bytes until the search rests; how many packets that took.
    fn search(search: &mut Search, carries: u16, now: Instant) -> u32 {
        let mut seen = Probes::default();
        let mut packets = 0;
        while let Some(bytes) = search.step(search.mtu, seen, now) {
            search.asked = Some((bytes, seen.answered));
            packets += 1;
            assert!(packets < 100, "{search:?}");
            seen.answered += u64::from(bytes <= carries);
        }
        packets
    }

    #[test]
    fn a_path_that_carries_everything_costs_one_packet() {
        let now = Clock.now();
        let mut fine = Search::new(1_420, now);
        assert_eq!(search(&mut fine, 9_000, now), 1);
        assert_eq!(fine.found, Some(1_420));
        assert_eq!(fine.step(1_420, Probes::default(), now), None, "it rests");
        assert!(fine.step(1_420, Probes::default(), now + limits::PATH_PERIOD).is_some());
    }

    #[test]
    fn the_longest_packet_that_a_black_hole_lets_through_is_found() {
        for carries in [576, 600, 1_000, 1_279, 1_320, 1_412, 1_419] {
            let now = Clock.now();
            let mut hole = Search::new(1_420, now);
            search(&mut hole, carries, now);
            let found = hole.found.expect("found");
            assert!(found <= carries && found + limits::PATH_RESOLUTION >= carries, "{carries}: {found}");
        }
    }

    #[test]
    fn silence_says_nothing() {
        let now = Clock.now();
        let mut silent = Search::new(1_420, now);
        search(&mut silent, 0, now);
        assert_eq!(silent.found, None);
        silent.found = Some(1_420);
        let later = now + limits::PATH_PERIOD;
        search(&mut silent, 0, later);
        assert_eq!(silent.found, Some(1_420), "what was known before stays");
    }

    #[test]
    fn two_lost_packets_are_no_black_hole() {
        let now = Clock.now();
        let mut lossy = Search::new(1_420, now);
        let mut seen = Probes::default();
        for answered in [0, 0, 1] {
            let bytes = lossy.step(1_420, seen, now).expect("asks");
            assert_eq!(bytes, 1_420);
            lossy.asked = Some((bytes, seen.answered));
            seen.answered += answered;
        }
        lossy.step(1_420, seen, now);
        assert_eq!(lossy.found, Some(1_420));
    }

    #[test]
    fn a_new_mtu_begins_anew() {
        let now = Clock.now();
        let mut path = Search::new(1_420, now);
        search(&mut path, 1_300, now);
        assert_eq!(path.step(1_280, Probes::default(), now), Some(1_280));
    }
}
