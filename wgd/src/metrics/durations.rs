//! How long handshakes took, by peer.
use prometheus::proto::{Bucket, Histogram};
use std::collections::HashMap;
use std::time::Duration;
use wg_proto::{DeviceState, PublicKey};

/// From a local network to a satellite; beyond 5 s an initiation is sent anew.
const BOUNDS_SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

/// Of those that this end began.
#[derive(Default)]
pub(super) struct Durations(HashMap<PublicKey, Taken>);

#[derive(Default)]
struct Taken {
    /// Not cumulative; what is above all bounds is in `count` alone.
    within: [u64; BOUNDS_SECONDS.len()],
    count: u64,
    sum_seconds: f64,
}

impl Durations {
    pub(super) fn observe(&mut self, peer: PublicKey, took: Duration) {
        let seconds = took.as_secs_f64();
        let taken = self.0.entry(peer).or_default();
        if let Some(place) = BOUNDS_SECONDS.iter().position(|bound| seconds <= *bound) {
            taken.within[place] += 1;
        }
        taken.count += 1;
        taken.sum_seconds += seconds;
    }

    /// Peers that are gone take their figures with them.
    pub(super) fn forget_others(&mut self, state: &DeviceState) {
        if self.0.len() > state.peers.len() {
            let there: std::collections::HashSet<_> =
                state.peers.iter().map(|peer| peer.public_key).collect();
            self.0.retain(|peer, _| there.contains(peer));
        }
    }

    /// `None` as long as there was none.
    pub(super) fn of(&self, peer: &PublicKey) -> Option<Histogram> {
        let taken = self.0.get(peer)?;
        let mut cumulative = 0;
        let bucket = |(bound, within): (&f64, &u64)| {
            cumulative += within;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(cumulative);
            bucket
        };
        let mut histogram = Histogram::default();
        histogram.set_bucket(BOUNDS_SECONDS.iter().zip(&taken.within).map(bucket).collect());
        histogram.set_sample_count(taken.count);
        histogram.set_sample_sum(taken.sum_seconds);
        Some(histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_the_last_is_the_count() {
        let mut durations = Durations::default();
        let peer = PublicKey::from_bytes([1; 32]);
        for milliseconds in [1, 7, 8, 9_000] {
            durations.observe(peer, Duration::from_millis(milliseconds));
        }
        let histogram = durations.of(&peer).expect("observed");
        let counts: Vec<_> = histogram.get_bucket().iter().map(Bucket::cumulative_count).collect();
        assert_eq!(counts, [1, 1, 1, 3, 3, 3, 3, 3, 3, 3]);
        assert_eq!((histogram.get_sample_count(), histogram.get_sample_sum()), (4, 9.016));
        assert!(durations.of(&PublicKey::from_bytes([2; 32])).is_none());
    }
}
