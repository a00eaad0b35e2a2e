//! The running agent: hears, looks, fetches, tells, until it is ended.
//!
//! Invariant: the board has one owner, this loop; what waits for others (looks, fetches, deliveries) does so in tasks of
//! its own and brings its result here.

use std::sync::Arc;
use std::time::Duration;

use daemon::Clock;
use daemon::notify::{Heartbeat, Notify};
use daemon::signals::{Signal, Signals};
use jiff::Timestamp;
use linux::Sealed;
use linux::unix_datagram::DatagramSocket;
use tokio::sync::mpsc::{self, Sender};
use tunnel_events::{Event, Listener, What};

use super::alert::{Board, Kind, Matter, Moment};
use super::config::{Config, Issuer, LOOK_EVERY, Watch};
use super::deliver::{Delivery, Sink};
use super::keys::{self, Fetched};
use super::watch::{self, Conditions};

/// After a fetch that failed; the old keys go on.
const FETCH_AGAIN: Duration = Duration::from_secs(60);
/// Results that wait for the loop, which never waits for anybody.
const RESULTS: usize = 64;

/// What the tasks bring.
enum Found {
    Event(Event),
    Conditions { daemon: String, conditions: Conditions },
    Keys { issuer: String, fetched: bool },
}

/// Runs until SIGTERM. `Sealed` shows that the filter is on.
pub(super) async fn run(
    _sealed: &Sealed,
    config: Config,
    sinks: Vec<Sink>,
    events: Option<DatagramSocket>,
    mut signals: Signals,
    notify: Arc<Notify>,
) -> anyhow::Result<()> {
    let Config { host, wgd, patience, keys_directory, keys_every, watch, issuers, .. } = config;
    let told = sinks.len();
    let delivery = Delivery::start(sinks, &host);
    let (sender, mut found) = mpsc::channel(RESULTS);
    if let Some(events) = events {
        tokio::spawn(hear(events, wgd.map(|wgd| wgd.uid), sender.clone()));
    }
    tracing::info!(watched = watch.len(), told, issuers = issuers.len(), "agent is ready");
    for one in watch {
        tokio::spawn(look(one, sender.clone()));
    }
    if let Some(directory) = keys_directory {
        for issuer in issuers {
            tokio::spawn(fetch(issuer, directory.clone(), keys_every, sender.clone()));
        }
    }
    notify.ready();
    let mut heartbeat = Heartbeat::new(Arc::clone(&notify));
    let mut board = Board::default();
    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Terminate => {
                    notify.stopping();
                    tracing::info!("ended");
                    return Ok(());
                }
                Signal::Hangup => tracing::info!("the agent reads its configuration at a start alone: restart it"),
            },
            // The loop keeps a sender, so there is always a next one.
            Some(found) = found.recv() => {
                let moment = Moment { now: Clock.now(), date: wall() };
                for alert in take(&mut board, found, moment, patience) {
                    delivery.tell(alert);
                }
            }
            () = heartbeat.beat() => {}
        }
    }
}

fn wall() -> Timestamp {
    let milliseconds = i64::try_from(Clock.unix_milliseconds()).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(milliseconds).unwrap_or(Timestamp::MAX)
}

/// What is to be told of it.
fn take(board: &mut Board, found: Found, moment: Moment, patience: Duration) -> Vec<super::alert::Alert> {
    match found {
        Found::Event(event) => {
            let subject = if event.peer.is_empty() { event.public_key } else { event.peer };
            let matter = Matter { kind: Kind::TunnelDown, subject };
            match event.what {
                // wgd has waited for three minutes.
                What::Down => board.wrong(&matter, moment, Duration::ZERO).into_iter().collect(),
                What::Up | What::Handshake => board.right(&matter, moment).into_iter().collect(),
                What::Roamed | What::KeyChanged => Vec::new(),
            }
        }
        Found::Conditions { daemon, conditions } => {
            let beginning = format!("{daemon}: ");
            let matter =
                |name: &str| Matter { kind: Kind::DaemonNotReady, subject: format!("{beginning}{name}") };
            let answers = conditions.get(watch::ANSWERS).copied().unwrap_or(false);
            let mut alerts = Vec::new();
            for (name, holds) in &conditions {
                alerts.extend(if *holds {
                    board.right(&matter(name), moment)
                } else {
                    board.wrong(&matter(name), moment, patience)
                });
            }
            // One that does not answer says nothing of its other conditions; one that does has all of them.
            if answers {
                let gone = board.of(Kind::DaemonNotReady, &beginning);
                let gone =
                    gone.into_iter().filter(|it| !conditions.contains_key(&it.subject[beginning.len()..]));
                let gone: Vec<Matter> = gone.collect();
                alerts.extend(gone.iter().filter_map(|matter| board.right(matter, moment)));
            }
            alerts
        }
        Found::Keys { issuer, fetched } => {
            let matter = Matter { kind: Kind::KeysNotFetched, subject: issuer };
            let alert =
                if fetched { board.right(&matter, moment) } else { board.wrong(&matter, moment, patience) };
            alert.into_iter().collect()
        }
    }
}

/// Only root's and wgd's datagrams count, by the kernel's word.
async fn hear(socket: DatagramSocket, wgd_uid: Option<u32>, found: Sender<Found>) {
    let mut listener = match Listener::new(socket, wgd_uid) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "wgd's events cannot be heard"),
    };
    while found.send(Found::Event(listener.next().await)).await.is_ok() {}
}

async fn look(watch: Watch, found: Sender<Found>) {
    loop {
        let conditions = watch::look(&watch).await;
        if found.send(Found::Conditions { daemon: watch.name.clone(), conditions }).await.is_err() {
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn fetch(issuer: Issuer, directory: std::path::PathBuf, every: Duration, found: Sender<Found>) {
    loop {
        let fetched = match keys::fetch(&issuer, &directory).await {
            Ok(Fetched::Changed) => {
                tracing::info!(issuer = issuer.name, "the provider has other keys; they are in its file");
                true
            }
            Ok(Fetched::Same) => true,
            Err(failure) => {
                tracing::warn!(
                    issuer = issuer.name,
                    error = failure.message(),
                    "keys not fetched; the old ones stay"
                );
                false
            }
        };
        if found.send(Found::Keys { issuer: issuer.name.clone(), fetched }).await.is_err() {
            return;
        }
        tokio::time::sleep(if fetched { every } else { FETCH_AGAIN.min(every) }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::alert::State;
    use super::*;

    fn moment() -> Moment {
        Moment { now: Clock.now(), date: Timestamp::UNIX_EPOCH }
    }

    fn event(what: What) -> Found {
        Found::Event(Event {
            what,
            interface: "wg0".into(),
            peer: "services".into(),
            public_key: "k".into(),
            at_unix_ms: 0,
        })
    }

    fn conditions(of: &[(&str, bool)]) -> Found {
        let conditions = of.iter().map(|(name, holds)| ((*name).to_owned(), *holds)).collect();
        Found::Conditions { daemon: "edge".into(), conditions }
    }

    fn told(board: &mut Board, found: Found) -> Vec<(State, String)> {
        let alerts = take(board, found, moment(), Duration::ZERO);
        alerts.into_iter().map(|alert| (alert.state, alert.matter.subject)).collect()
    }

    #[test]
    fn a_tunnel_that_goes_down_is_told_at_once_and_once() {
        let mut board = Board::default();
        let firing = vec![(State::Firing, "services".to_owned())];
        assert_eq!(told(&mut board, event(What::Down)), firing);
        assert!(told(&mut board, event(What::Down)).is_empty());
        assert!(told(&mut board, event(What::Roamed)).is_empty());
        assert_eq!(told(&mut board, event(What::Up)), [(State::Resolved, "services".to_owned())]);
        assert!(told(&mut board, event(What::Handshake)).is_empty());
    }

    #[test]
    fn a_daemon_that_does_not_answer_says_nothing_of_its_conditions() {
        let mut board = Board::default();
        let no_tunnel = told(&mut board, conditions(&[("tunnel", false), ("answers", true)]));
        assert_eq!(no_tunnel, [(State::Firing, "edge: tunnel".to_owned())]);
        let gone = told(&mut board, conditions(&[("answers", false)]));
        assert_eq!(gone, [(State::Firing, "edge: answers".to_owned())]);
        // It is another version now, which has no such condition.
        let back = told(&mut board, conditions(&[("answers", true)]));
        assert_eq!(
            back,
            [(State::Resolved, "edge: answers".to_owned()), (State::Resolved, "edge: tunnel".to_owned())]
        );
    }
}
