//! When the data thread lets packets gather, as network cards do (interrupt moderation), instead of being woken for each.
//!
//! Invariant: nobody waits for the first packet after a silence. The thread pauses only when it has just found many
//! packets that came one by one and has left none, and goes on doing so only while there are enough of them that the
//! pause saves more than it costs: being woken takes longer than sealing a small packet, on both sides.
use crate::limits;
use std::time::Duration;

/// What a turn took from the TUN device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Packets.
    pub(super) packets: usize,
    /// Some brought many in one piece, so they gather by themselves.
    pub(super) joined: bool,
    /// The turn ended before the device had no more.
    pub(super) more: bool,
}

/// Whether it is pausing between turns.
#[derive(Default)]
pub(super) struct Pause {
    pausing: bool,
}

impl Pause {
    /// How long to let packets gather after this turn.
    #[inline]
    pub(super) fn after(&mut self, turn: Taken) -> Option<Duration> {
        let enough = if self.pausing { limits::PAUSE_STAY } else { limits::PAUSE_FROM };
        self.pausing = turn.packets >= enough && !turn.joined;
        (self.pausing && !turn.more).then_some(limits::PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lone(packets: usize) -> Taken {
        Taken { packets, joined: false, more: false }
    }

    #[test]
    fn few_packets_are_never_kept_waiting() {
        let mut pause = Pause::default();
        for packets in [0, 1, limits::PAUSE_FROM - 1, 1, 0] {
            assert_eq!(pause.after(lone(packets)), None, "{packets}");
        }
    }

    #[test]
    fn a_flood_of_lone_packets_is_let_gather_until_it_ebbs() {
        let mut pause = Pause::default();
        assert_eq!(pause.after(lone(limits::PAUSE_FROM)), Some(limits::PAUSE));
        assert_eq!(pause.after(lone(limits::PAUSE_STAY)), Some(limits::PAUSE), "it takes fewer to go on");
        assert_eq!(pause.after(lone(limits::PAUSE_STAY - 1)), None);
        assert_eq!(pause.after(lone(limits::PAUSE_STAY)), None, "and more to begin again");
    }

    #[test]
    fn what_is_already_waiting_waits_no_longer() {
        let mut pause = Pause::default();
        let more = Taken { more: true, ..lone(limits::PACKETS_PER_TURN) };
        assert_eq!(pause.after(more), None);
        assert_eq!(pause.after(lone(limits::PAUSE_STAY)), Some(limits::PAUSE), "the flood goes on");
    }

    #[test]
    fn a_stream_that_comes_in_large_pieces_is_not_slowed_down() {
        let mut pause = Pause::default();
        for _ in 0..2 {
            let joined = Taken { joined: true, ..lone(limits::PACKETS_PER_TURN - 1) };
            assert_eq!(pause.after(joined), None);
        }
    }
}
