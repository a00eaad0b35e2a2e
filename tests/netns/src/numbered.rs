//! Numbered datagrams from one host to another, and an account of what became of each.
//!
//! Invariant: a loss is laid to where it happened. What the kernel dropped because this receiver did not read in time is
//! a failure of its own and never passes for the tunnel's; everything else that did not come was lost in the tunnel,
//! and the counters of its devices and sockets say where.

use std::net::UdpSocket;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::Value;

use crate::host::{Host, Place};
use crate::wait;

/// Length of one.
const NUMBER_BYTES: usize = 200;
/// Nothing has come for so long: nothing more will.
const SILENCE: Duration = Duration::from_secs(1);

/// What was sent, what came, and what the kernel says that it dropped.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// How many were sent, from 0 on.
    pub sent: u32,
    /// How often each number came.
    pub seen: Vec<u8>,
    /// What the receiver's own socket dropped, because its buffer was full.
    pub dropped_by_the_receiver: u64,
    /// What devices and other sockets on the way dropped: what it is, and how many.
    pub dropped_on_the_way: Vec<(String, u64)>,
}

impl Account {
    /// How many never came.
    pub fn lost(&self) -> u64 {
        let came = self.seen.iter().filter(|times| **times > 0).count() as u64;
        u64::from(self.sent).saturating_sub(came)
    }

    /// How many came more than once.
    pub fn doubled(&self) -> usize {
        self.seen.iter().filter(|times| **times > 1).count()
    }

    /// Succeeds if each came, once.
    pub fn expect_all_once(&self) -> Result<()> {
        let (sent, lost, doubled) = (self.sent, self.lost(), self.doubled());
        ensure!(doubled == 0, "of {sent} datagrams {doubled} came twice");
        let here = self.dropped_by_the_receiver;
        let in_the_tunnel = lost.saturating_sub(here);
        if in_the_tunnel > 0 {
            let first = self.seen.iter().position(|times| *times == 0);
            let last = self.seen.iter().rposition(|times| *times == 0);
            bail!(
                "the tunnel lost {in_the_tunnel} of {sent} datagrams (between {first:?} and {last:?}, or at the end); \
                 dropped on the way: {:?}; by the receiver's socket: {here}",
                self.dropped_on_the_way
            );
        }
        ensure!(
            here == 0,
            "the receiver's socket dropped {here} of {sent} datagrams: it was not read in time, so nothing is \
             known of the tunnel"
        );
        Ok(())
    }
}

/// Where to look for drops: links and sockets of a host's network.
#[derive(Clone, Copy, Debug)]
pub struct Watched<'a> {
    /// The host.
    pub host: &'a Host,
    /// Which of its networks.
    pub place: Place,
}

/// Both ends of the numbers, connected.
#[derive(Debug)]
pub struct Ends {
    /// Sends.
    pub from: UdpSocket,
    /// Receives.
    pub to: UdpSocket,
}

/// Sends numbers at this rate while `work` runs and for at least `time`, and accounts for them.
pub fn under_traffic(
    ends: &Ends,
    receiver: Watched<'_>,
    way: &[Watched<'_>],
    per_second: u32,
    time: Duration,
    work: impl FnOnce() -> Result<()>,
) -> Result<Account> {
    let inode = inode(&ends.to)?;
    let before = drops_on_the_way(way, inode)?;
    let (stop, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    let start = wait::now();
    let (sent, seen) = thread::scope(|scope| -> Result<(u32, Vec<u8>)> {
        let sender = scope.spawn(|| send(&ends.from, per_second, &stop));
        let receiver = scope.spawn(|| receive(&ends.to, &ended));
        let worked = work();
        if worked.is_ok() {
            thread::sleep(time.saturating_sub(start.elapsed()));
        }
        stop.store(true, Ordering::Relaxed);
        let sent = sender.join().map_err(|_| anyhow!("the sender panicked"))?;
        ended.store(true, Ordering::Relaxed);
        let seen = receiver.join().map_err(|_| anyhow!("the receiver panicked"))?;
        worked?;
        Ok((sent?, seen?))
    })?;
    let table = receiver.host.run_at(receiver.place, &["cat", "/proc/net/udp"])?.success()?;
    let dropped_by_the_receiver =
        socket_drops(&table, inode).context("the receiver's socket is not listed")?;
    let mut dropped_on_the_way = drops_on_the_way(way, inode)?;
    for (what, drops) in &mut dropped_on_the_way {
        let earlier = before.iter().find(|(name, _)| name == what).map_or(0, |(_, drops)| *drops);
        *drops = drops.saturating_sub(earlier);
    }
    dropped_on_the_way.retain(|(_, drops)| *drops > 0);
    Ok(Account { sent, seen, dropped_by_the_receiver, dropped_on_the_way })
}

/// Sends numbers at this rate until `stop`; gives how many.
fn send(socket: &UdpSocket, per_second: u32, stop: &AtomicBool) -> Result<u32> {
    let start = wait::now();
    let mut sent: u32 = 0;
    let mut packet = [0; NUMBER_BYTES];
    while !stop.load(Ordering::Relaxed) {
        let due = u64::from(per_second) * u64::try_from(start.elapsed().as_micros())? / 1_000_000;
        while u64::from(sent) < due {
            packet[..4].copy_from_slice(&sent.to_be_bytes());
            socket.send(&packet).with_context(|| format!("send number {sent}"))?;
            sent += 1;
        }
        thread::sleep(Duration::from_micros(500));
    }
    Ok(sent)
}

/// Receives until nothing has come for a while after `ended`; gives how often each number came.
fn receive(socket: &UdpSocket, ended: &AtomicBool) -> Result<Vec<u8>> {
    socket.set_read_timeout(Some(SILENCE))?;
    let mut seen: Vec<u8> = Vec::new();
    let mut packet = [0; NUMBER_BYTES + 1];
    loop {
        match socket.recv(&mut packet) {
            Ok(length) => {
                ensure!(length == NUMBER_BYTES, "{length} bytes came");
                let number =
                    usize::try_from(u32::from_be_bytes([packet[0], packet[1], packet[2], packet[3]]))?;
                if seen.len() <= number {
                    seen.resize(number + 1, 0);
                }
                seen[number] = seen[number].saturating_add(1);
            }
            Err(_) if ended.load(Ordering::Relaxed) => return Ok(seen),
            Err(_) => {}
        }
    }
}

fn inode(socket: &UdpSocket) -> Result<u64> {
    Ok(nix::sys::stat::fstat(socket.as_fd())?.st_ino)
}

/// The drops of the socket with this inode, of `/proc/net/udp`.
fn socket_drops(table: &str, inode: u64) -> Option<u64> {
    let mut rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| row.get(9).and_then(|it| it.parse::<u64>().ok()) == Some(inode))?;
    row.get(12)?.parse().ok()
}

/// Every device's dropped packets and every other UDP socket's, by name.
fn drops_on_the_way(way: &[Watched<'_>], but: u64) -> Result<Vec<(String, u64)>> {
    let mut all = Vec::new();
    for Watched { host, place } in way {
        let name = format!("{} {place:?}", host.name());
        let links = host.run_at(*place, &["ip", "-json", "-stats", "link", "show"])?.success()?;
        all.extend(link_drops(&links)?.into_iter().map(|(link, drops)| (format!("{name} {link}"), drops)));
        for table in ["/proc/net/udp", "/proc/net/udp6"] {
            let text = host.run_at(*place, &["cat", table])?.success()?;
            for row in text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>()) {
                let (Some(local), Some(inode), Some(drops)) = (row.get(1), row.get(9), row.get(12)) else {
                    continue;
                };
                if inode.parse::<u64>() != Ok(but) {
                    all.push((format!("{name} {table} {local}"), drops.parse()?));
                }
            }
        }
    }
    Ok(all)
}

/// What `ip -json -stats link` counts as dropped, by link and direction.
fn link_drops(json: &str) -> Result<Vec<(String, u64)>> {
    let links: Value = serde_json::from_str(json).context("read the links")?;
    let mut all = Vec::new();
    for link in links.as_array().context("no list of links")? {
        let name = link["ifname"].as_str().context("a link without a name")?;
        for direction in ["rx", "tx"] {
            let drops = link["stats64"][direction]["dropped"].as_u64().context("a link without counters")?;
            all.push((format!("{name} {direction}"), drops));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_of(sent: u32) -> Account {
        let seen = vec![1; usize::try_from(sent).unwrap()];
        Account { sent, seen, ..Account::default() }
    }

    fn said(account: &Account) -> String {
        account.expect_all_once().unwrap_err().to_string()
    }

    #[test]
    fn what_a_full_receive_buffer_drops_is_counted_and_laid_to_the_receiver() {
        let to = UdpSocket::bind("127.0.0.1:0").unwrap();
        nix::sys::socket::setsockopt(&to, nix::sys::socket::sockopt::RcvBuf, &4096).unwrap();
        let from = UdpSocket::bind("127.0.0.1:0").unwrap();
        from.connect(to.local_addr().unwrap()).unwrap();
        let sent = 500;
        for number in 0..sent {
            let mut packet = [0; NUMBER_BYTES];
            packet[..4].copy_from_slice(&u32::to_be_bytes(number));
            from.send(&packet).unwrap();
        }
        let seen = receive(&to, &AtomicBool::new(true)).unwrap();
        let table = std::fs::read_to_string("/proc/thread-self/net/udp").unwrap();
        let dropped_by_the_receiver = socket_drops(&table, inode(&to).unwrap()).unwrap();
        let account = Account { sent, seen, dropped_by_the_receiver, ..Account::default() };
        assert!(account.lost() > 0, "the buffer held all of them");
        assert_eq!(account.lost(), dropped_by_the_receiver, "each loss has its place");
        let said = said(&account);
        assert!(
            said.contains("the receiver's socket dropped") && !said.contains("the tunnel lost"),
            "{said}"
        );
    }

    #[test]
    fn a_loss_is_the_tunnels_unless_the_receiver_dropped_it() {
        all_of(10).expect_all_once().unwrap();
        let mut account = all_of(10);
        account.seen[3] = 0;
        account.dropped_on_the_way = vec![("web Tunnel wg0 tx".to_owned(), 1)];
        let words = said(&account);
        assert!(words.contains("the tunnel lost 1 of 10") && words.contains("wg0 tx"), "{words}");
        account.dropped_by_the_receiver = 1;
        assert!(said(&account).starts_with("the receiver's socket dropped 1"), "{}", said(&account));
        account.seen[4] = 0;
        assert!(said(&account).contains("the tunnel lost 1 of 10"), "{}", said(&account));
        // The end can be missing without a gap.
        assert!(said(&Account { sent: 11, ..all_of(10) }).contains("the tunnel lost 1 of 11"));
    }

    #[test]
    fn a_datagram_that_comes_twice_is_a_failure() {
        let mut account = all_of(10);
        account.seen[3] = 2;
        assert!(said(&account).contains("came twice"));
    }

    #[test]
    fn drops_of_links_are_read() {
        let json = r#"[{"ifname":"wg0","stats64":{"rx":{"dropped":2},"tx":{"dropped":3}}}]"#;
        let read = link_drops(json).unwrap();
        assert_eq!(read, [("wg0 rx".to_owned(), 2), ("wg0 tx".to_owned(), 3)]);
        assert!(link_drops(r#"[{"ifname":"wg0"}]"#).is_err());
    }
}
