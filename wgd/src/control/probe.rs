//! Round trips: asked for at their interval, or by an operator.
//!
//! Invariant: an operator's question is answered within [`limits::PROBE_ANSWER`] and a moment, whoever is silent.
use super::Control;
use crate::io::{Command, Handle};
use crate::limits;
use daemon::Clock;
use daemon::admin::AdminError;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::MissedTickBehavior;
use wg_proto::{Probed, Probes, PublicKey};

/// Probes every peer that there are keys with, again and again.
pub(super) async fn periodically(data: Handle, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = data.ask(Command::ProbeAll).await {
            tracing::debug!(%error, "probe");
        }
    }
}

/// One probe now to the peer that `args` name, else to each peer.
pub(super) async fn once(control: &Control, args: &Value) -> Result<Value, AdminError> {
    let gone = |error| AdminError::new("unavailable", error);
    let names: Vec<(PublicKey, Option<String>)> = control
        .state()
        .await
        .map_err(gone)?
        .peers
        .iter()
        .map(|peer| (peer.public_key, peer.friendly_name.as_deref().map(str::to_owned)))
        .collect();
    let mut asked = match args["peer"].as_str() {
        None => control.data.ask(Command::ProbeAll).await.map_err(gone)?,
        Some(wanted) => {
            let is = |(key, name): &&(PublicKey, Option<String>)| {
                name.as_deref() == Some(wanted) || key.to_base64() == wanted
            };
            let (peer, _) = names.iter().find(is).ok_or_else(|| {
                AdminError::new(
                    "no-such-peer",
                    format!("{wanted:?} is no peer's name and no peer's public key"),
                )
            })?;
            vec![(*peer, Probed::NoSession)]
        }
    };
    let one = args["peer"].is_string();
    let deadline = Clock.now() + limits::PROBE_ANSWER;
    let seen = loop {
        if one && let [(peer, probed @ Probed::NoSession)] = asked.as_mut_slice() {
            let peer = *peer;
            let answer = control.data.ask(|reply| Command::Probe { peer, reply }).await.map_err(gone)?;
            *probed = answer.unwrap_or(Probed::NoAddress);
        }
        let seen: HashMap<PublicKey, Probes> =
            control.data.ask(Command::Probes).await.map_err(gone)?.into_iter().collect();
        let waits = |(peer, probed): &(PublicKey, Probed)| match probed {
            Probed::Sent | Probed::UnderWay => seen.get(peer).is_some_and(|it| it.open_for.is_some()),
            // A handshake is under way.
            Probed::NoSession => one,
            Probed::NoAddress => false,
        };
        if Clock.now() >= deadline || !asked.iter().any(waits) {
            break seen;
        }
        tokio::time::sleep(limits::PROBE_LOOK).await;
    };
    let names: HashMap<PublicKey, Option<String>> = names.into_iter().collect();
    let peers: Vec<Value> = asked
        .iter()
        .map(|(peer, probed)| {
            let (result, round_trip) = outcome(*probed, seen.get(peer).copied().unwrap_or_default());
            json!({
                "name": names.get(peer),
                "public_key": peer.to_base64(),
                "result": result,
                "rtt_ms": round_trip.map(|time| time.as_secs_f64() * 1_000.0),
            })
        })
        .collect();
    Ok(json!({ "interface": control.config.interface, "peers": peers }))
}

fn outcome(probed: Probed, seen: Probes) -> (&'static str, Option<Duration>) {
    match probed {
        Probed::Sent | Probed::UnderWay => match seen.open_for {
            None => ("answered", seen.round_trip),
            Some(_) => ("no answer", None),
        },
        Probed::NoSession => ("no session", None),
        Probed::NoAddress => ("no address", None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_trip_is_told_only_with_its_own_answer() {
        let before = Probes { round_trip: Some(Duration::from_millis(3)), ..Probes::default() };
        assert_eq!(outcome(Probed::Sent, before), ("answered", before.round_trip));
        let silent = Probes { open_for: Some(Duration::from_millis(900)), ..before };
        assert_eq!(outcome(Probed::UnderWay, silent), ("no answer", None));
        assert_eq!(outcome(Probed::NoSession, before), ("no session", None));
    }
}
