//! Endpoints that the configuration gives by host name: looked up by `wgd-resolve` until each is known, and again
//! when its peer stops answering.
//!
//! Invariant: a name that cannot be looked up is tried again, ever more seldom, and delays nobody but other names;
//! the peer can still be reached when it speaks first. A peer that answers keeps the endpoint that it has.
use super::Control;
use crate::conf::HostName;
use crate::limits;
use crate::netcfg::{Answer, NetcfgError, Request};
use daemon::Clock;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use wg_proto::{DeviceUpdate, PeerUpdate, PublicKey};

/// Sets the endpoints of `names` as they become known. The list changes with the configuration; `unanswered` says
/// whose peer does not answer.
pub(super) async fn follow(
    control: Arc<Control>,
    mut names: watch::Receiver<Vec<HostName>>,
    mut unanswered: mpsc::Receiver<PublicKey>,
) {
    let clock = Clock;
    let mut book = Book::default();
    book.replace(names.borrow_and_update().clone(), clock.now());
    loop {
        while let Some(entry) = book.due(clock.now()) {
            let outcome = look_up(&control, &entry.name, entry.turn).await;
            entry.note(outcome, clock.now());
        }
        let sleep = book.next().map(|at| at.saturating_duration_since(clock.now()));
        tokio::select! {
            () = tokio::time::sleep(sleep.unwrap_or(Duration::MAX)) => {}
            changed = names.changed() => {
                if changed.is_err() {
                    return;
                }
                book.replace(names.borrow_and_update().clone(), clock.now());
            }
            Some(peer) = unanswered.recv() => book.unanswered(peer, clock.now()),
        }
    }
}

/// What is known of each name.
#[derive(Default)]
struct Book(Vec<Entry>);

struct Entry {
    name: HostName,
    /// When it is to be looked up; `None` while nobody needs it.
    due: Option<Instant>,
    looked_up: Option<Instant>,
    pause: Duration,
    /// Which of several addresses to take: the next, if its predecessor did not answer.
    turn: usize,
}

/// How a look-up went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Found,
    TryAgain,
    /// There is nobody who could look it up.
    Impossible,
}

impl Book {
    /// Names that are new are looked up at once; the others are as they were.
    fn replace(&mut self, names: Vec<HostName>, now: Instant) {
        let mut old = std::mem::take(&mut self.0);
        let take = |name: HostName| {
            let known = old.iter().position(|entry| entry.name == name).map(|at| old.swap_remove(at));
            known.unwrap_or(Entry {
                name,
                due: Some(now),
                looked_up: None,
                pause: limits::RESOLVE_RETRY,
                turn: 0,
            })
        };
        self.0 = names.into_iter().map(take).collect();
    }

    fn due(&mut self, now: Instant) -> Option<&mut Entry> {
        self.0.iter_mut().find(|entry| entry.due.is_some_and(|at| at <= now))
    }

    fn next(&self) -> Option<Instant> {
        self.0.iter().filter_map(|entry| entry.due).min()
    }

    /// The peer's name is looked up again, but not more often than is good for the name server.
    fn unanswered(&mut self, peer: PublicKey, now: Instant) {
        for entry in self.0.iter_mut().filter(|entry| entry.name.peer == peer && entry.due.is_none()) {
            let earliest = entry.looked_up.map_or(now, |at| at + limits::RESOLVE_AGAIN);
            entry.due = Some(earliest.max(now));
            entry.turn = entry.turn.wrapping_add(1);
        }
    }
}

impl Entry {
    fn note(&mut self, outcome: Outcome, now: Instant) {
        self.looked_up = Some(now);
        match outcome {
            Outcome::Found => {
                self.due = None;
                self.pause = limits::RESOLVE_RETRY;
            }
            Outcome::TryAgain => {
                self.due = Some(now + self.pause);
                self.pause = (self.pause * 2).min(limits::RESOLVE_RETRY_MAX);
            }
            Outcome::Impossible => self.due = None,
        }
    }
}

async fn look_up(control: &Control, name: &HostName, turn: usize) -> Outcome {
    match ask(control, &name.host).await {
        Ok(addresses) if !addresses.is_empty() => {
            set_endpoint(control, name, addresses[turn % addresses.len()]).await;
            Outcome::Found
        }
        Ok(_) => {
            tracing::warn!(host = name.host, "endpoint: no such host; trying again");
            Outcome::TryAgain
        }
        Err(NetcfgError::Off) => {
            tracing::warn!(host = name.host, "endpoint: host names need netcfg = true");
            Outcome::Impossible
        }
        Err(NetcfgError::Gone) => Outcome::Impossible,
        Err(error) => {
            tracing::warn!(host = name.host, %error, "endpoint: look-up failed; trying again");
            Outcome::TryAgain
        }
    }
}

async fn ask(control: &Control, host: &str) -> Result<Vec<IpAddr>, NetcfgError> {
    let request = Request::Resolve { host: host.to_owned() };
    match control.netcfg.ask(request, &[]).await?.0 {
        Answer::Resolved(addresses) => Ok(addresses),
        Answer::Done | Answer::Configured { .. } | Answer::Saved(_) | Answer::Failed { .. } => Ok(Vec::new()),
    }
}

async fn set_endpoint(control: &Control, name: &HostName, address: IpAddr) {
    let mut peer = PeerUpdate::of(name.peer);
    peer.update_only = true;
    peer.endpoint = Some(SocketAddr::new(address, name.port));
    let update = DeviceUpdate { peers: vec![peer], ..DeviceUpdate::default() };
    match control.apply(update).await {
        Ok(()) => tracing::debug!(host = name.host, %address, "endpoint looked up"),
        Err(error) => tracing::warn!(host = name.host, %error, "endpoint not set"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(key: u8, host: &str) -> HostName {
        HostName { peer: PublicKey::from_bytes([key; 32]), host: host.into(), port: 51_820 }
    }

    fn book(names: &[HostName], now: Instant) -> Book {
        let mut book = Book::default();
        book.replace(names.to_vec(), now);
        book
    }

    #[test]
    fn a_name_is_tried_ever_more_seldom_until_it_is_known() {
        let mut now = Clock.now();
        let mut book = book(&[name(1, "a")], now);
        for expected in [2, 4, 8, 16, 32, 60, 60] {
            book.due(now).expect("due").note(Outcome::TryAgain, now);
            assert_eq!(book.next(), Some(now + Duration::from_secs(expected)));
            now += Duration::from_secs(expected);
        }
        book.due(now).expect("due").note(Outcome::Found, now);
        assert_eq!(book.next(), None);
    }

    #[test]
    fn only_the_name_of_a_peer_that_does_not_answer_is_looked_up_again() {
        let now = Clock.now();
        let mut book = book(&[name(1, "a"), name(2, "b")], now);
        while let Some(entry) = book.due(now) {
            entry.note(Outcome::Found, now);
        }
        book.unanswered(PublicKey::from_bytes([2; 32]), now + Duration::from_secs(100));
        let again = book.due(now + Duration::from_secs(100)).expect("due");
        assert_eq!((again.name.host.as_str(), again.turn), ("b", 1));
    }

    #[test]
    fn the_name_server_is_not_asked_too_often() {
        let now = Clock.now();
        let mut book = book(&[name(1, "a")], now);
        book.due(now).expect("due").note(Outcome::Found, now);
        book.unanswered(PublicKey::from_bytes([1; 32]), now + Duration::from_secs(1));
        assert_eq!(book.next(), Some(now + limits::RESOLVE_AGAIN));
    }

    #[test]
    fn a_name_that_stays_in_the_configuration_is_not_looked_up_by_a_reload() {
        let now = Clock.now();
        let mut book = book(&[name(1, "a")], now);
        book.due(now).expect("due").note(Outcome::Found, now);
        book.replace(vec![name(1, "a"), name(2, "b")], now);
        assert_eq!(book.due(now).map(|entry| entry.name.host.as_str()), Some("b"));
    }
}
