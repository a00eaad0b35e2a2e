//! The program under test and Debian's wireguard-go, configured for each other.
//!
//! The reference is always the same program, so that a check tells about one side only.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_netns::host::{Host, Place};
use culvert_netns::wait;
use culvert_netns::wireguard;

use crate::daemon::Daemon;
use crate::keys::{OTHER, OWN};
use crate::stage::{INTERFACE, SOON, Stage};

/// The port of both sides.
pub(crate) const PORT: u16 = 51820;

/// The address of the program under test in the tunnel.
pub(crate) const INNER: &str = "10.100.0.10";

/// The address of the reference in the tunnel.
pub(crate) const OTHER_INNER: &str = "10.100.0.11";

/// Where the program under test is.
pub(crate) const OUTER: &str = "192.0.2.1";

/// Where the reference is.
pub(crate) const OTHER_OUTER: &str = "198.51.100.1";

/// Both sides.
pub(crate) struct Pair<'a> {
    /// The program under test.
    pub(crate) subject: Daemon<'a>,
    /// wireguard-go.
    pub(crate) reference: Daemon<'a>,
    stage: &'a Stage<'a>,
}

impl<'a> Pair<'a> {
    /// Both up, without a handshake so far. Each knows where the other is.
    pub(crate) fn start(stage: &'a Stage<'a>) -> Result<Pair<'a>> {
        Pair::with_addresses(stage, OUTER)
    }

    /// The same, with the reference told that the program under test is at `outer`.
    pub(crate) fn with_addresses(stage: &'a Stage<'a>, outer: &str) -> Result<Pair<'a>> {
        let subject = stage.start()?;
        let go = stage.other_host().program("wireguard-go").arguments(&["-f", INTERFACE]);
        let mut reference = Daemon::begin(stage.other_host(), go.variable("WG_PROCESS_FOREGROUND", "1"))?;
        reference.until_it_answers().context("the reference")?;
        reference.set(&format!(
            "private_key={}\nlisten_port={PORT}\npublic_key={}\nendpoint={outer}:{PORT}\nallowed_ip={INNER}/32\n",
            OTHER.private, OWN.public
        ))?;
        subject.set(&format!("private_key={}\nlisten_port={PORT}\n{}", OWN.private, Pair::peer_lines()))?;
        reference.up(&format!("{OTHER_INNER}/24"))?;
        subject.up(&format!("{INNER}/24"))?;
        Ok(Pair { subject, reference, stage })
    }

    /// The reference as a peer, in a `set`.
    pub(crate) fn peer_lines() -> String {
        format!("public_key={}\nendpoint={OTHER_OUTER}:{PORT}\nallowed_ip={OTHER_INNER}/32\n", OTHER.public)
    }

    /// Both up, with a session that the program under test began.
    pub(crate) fn with_session(stage: &'a Stage<'a>) -> Result<Pair<'a>> {
        let pair = Pair::start(stage)?;
        pair.ping_out()?;
        Ok(pair)
    }

    /// One answered ping from the program under test.
    pub(crate) fn ping_out(&self) -> Result<()> {
        wireguard::ping(self.stage.host(), Place::Outer, OTHER_INNER, SOON)
    }

    /// One ping whose answer has to come within a second: no time for a handshake that is tried again.
    pub(crate) fn ping_at_once(&self) -> Result<()> {
        wireguard::ping(self.stage.host(), Place::Outer, OTHER_INNER, Duration::from_secs(1))
    }

    /// Ten answered pings from a host.
    pub(crate) fn ten_pings(host: &Host, to: &str) -> Result<()> {
        let said = host.run(&["ping", "-c", "10", "-i", "0.05", "-W", "3", to])?.success()?;
        ensure!(said.contains("10 received"), "{said}");
        Ok(())
    }

    /// Received and sent bytes of the program under test, once they are no longer changing.
    pub(crate) fn transfer(&self) -> Result<(u64, u64)> {
        let read = || -> Result<(u64, u64)> {
            let answer = self.subject.get()?;
            let peer = answer.peer(OTHER.public)?;
            Ok((peer.number("rx_bytes")?, peer.number("tx_bytes")?))
        };
        let mut last = read()?;
        wait::until("the counters to stand still", SOON, || {
            std::thread::sleep(Duration::from_millis(50));
            let now = read()?;
            let still = now == last;
            last = now;
            ensure!(still, "they move");
            Ok(now)
        })
    }
}
