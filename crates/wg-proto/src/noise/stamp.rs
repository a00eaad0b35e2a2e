//! The date in an initiation (paper §5.4.2): TAI64N.
//!
//! **Invariant:** a date is later than the one before it, also after the host's clock was set back: peers refuse any other.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::initiation::Timestamp;

/// 2⁶², where TAI64 has 1970, and the ten seconds by which TAI was ahead then.
const TAI_1970: u64 = (1 << 62) + 10;
/// Dates are told to some 17 ms, as the kernel does: nobody is to read our clock more closely. But the first one is exact, or a
/// daemon that starts a moment after another would date before it.
const COARSE_NANOS: u64 = 1 << 24;

/// Dates of one device.
#[derive(Debug, Default)]
pub(crate) struct Stamper {
    /// Nanoseconds since 1970.
    last: u64,
}

impl Stamper {
    /// Now, or a little later.
    #[expect(
        clippy::disallowed_methods,
        reason = "the peer compares dates over restarts, so it must be the world's clock"
    )]
    pub(crate) fn stamp(&mut self) -> Timestamp {
        self.stamp_at(SystemTime::now())
    }

    fn stamp_at(&mut self, now: SystemTime) -> Timestamp {
        let since_1970 = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let nanos = u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX);
        let told = if self.last == 0 { nanos } else { nanos & !(COARSE_NANOS - 1) };
        self.last = told.max(self.last.saturating_add(1));
        let date = Duration::from_nanos(self.last);
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&(TAI_1970 + date.as_secs()).to_be_bytes());
        bytes[8..].copy_from_slice(&date.subsec_nanos().to_be_bytes());
        Timestamp(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_grow_whatever_the_clock_does() {
        let mut stamper = Stamper::default();
        let noon = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let clocks = [0, 1, 1, 3_600, 3_599, 0, 3_601].map(|seconds| noon + Duration::from_secs(seconds));
        let dates: Vec<Timestamp> = clocks.iter().map(|clock| stamper.stamp_at(*clock)).collect();
        assert!(dates.windows(2).all(|pair| pair[0] < pair[1]), "{dates:?}");
        assert_eq!(dates[6].0[..8], (TAI_1970 + 1_800_003_601 - 1).to_be_bytes(), "to 17 ms");
        let later = noon + Duration::from_secs(3_601) + Duration::from_millis(1);
        assert!(Stamper::default().stamp_at(later) > stamper.stamp_at(later), "whoever comes after us");
        // Before 1970 there are no dates, but still an order.
        let mut stamper = Stamper::default();
        let ancient = UNIX_EPOCH - Duration::from_secs(1);
        assert!(stamper.stamp_at(ancient) < stamper.stamp_at(ancient));
    }
}
