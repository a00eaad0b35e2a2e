//! Watches storaged: sends health requests, ticks the circuit, and acts on its changes.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use daemon::readiness::Condition;
use store_proto::ProblemKind;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::circuit::{Change, Circuit};
use crate::limits::{PROBE_INTERVAL, PROBES, PROOF_OF_LIFE, TICK};
use crate::request::Edge;
use crate::store::Health;
use crate::witness::Witness;

/// Runs until the runtime ends. `store_well` follows what the health requests say; `events` asks
/// for one at once.
pub async fn watch(edge: Arc<Edge>, store_well: Condition, events: Arc<Notify>) -> io::Result<()> {
    let mut circuit = Circuit::new(edge.clock.now());
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut probe = interval(PROBE_INTERVAL);
    probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let probing = Arc::new(AtomicUsize::new(0));
    let mut hello = pin!(sleep(PROOF_OF_LIFE));
    let mut first = true;
    let said = Arc::new(AtomicBool::new(false));
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let change = circuit.tick(edge.clock.now(), edge.store.client.signs());
                act(&edge, change);
            }
            () = hello.as_mut(), if first => {
                first = false;
                if !edge.tunnel.holds() {
                    tracing::info!("storaged does not answer yet; requests are refused until it does");
                }
            }
            _ = probe.tick() => start_probe(&edge, &store_well, &probing, &said),
            () = events.notified() => start_probe(&edge, &store_well, &probing, &said),
        }
    }
}

fn act(edge: &Edge, change: Change) {
    match change {
        Change::None => {}
        Change::Opened => {
            edge.tunnel.set(false);
            edge.metrics.upstream_up.set(0);
            edge.store.client.abort_all();
            tracing::warn!("no sign of life from storaged: refusing requests, streams aborted");
        }
        Change::Closed => {
            edge.tunnel.set(true);
            edge.metrics.upstream_up.set(1);
            tracing::info!("storaged answers");
        }
    }
}

/// `said`: whether it is known to the log that storaged is not well.
fn start_probe(edge: &Arc<Edge>, store_well: &Condition, probing: &Arc<AtomicUsize>, said: &Arc<AtomicBool>) {
    if probing.fetch_add(1, Ordering::AcqRel) >= PROBES {
        probing.fetch_sub(1, Ordering::AcqRel);
        return;
    }
    let (edge, store_well, probing, said) =
        (Arc::clone(edge), store_well.clone(), Arc::clone(probing), Arc::clone(said));
    tokio::spawn(async move {
        let health = edge.store.health().await;
        probing.fetch_sub(1, Ordering::AcqRel);
        store_well.set(health == Health::Well);
        if health == Health::Well {
            Witness::look(&edge).await;
        }
        match health {
            Health::Well if said.swap(false, Ordering::AcqRel) => tracing::info!("storaged is well"),
            Health::Unwell { status, problem } if !said.swap(true, Ordering::AcqRel) => {
                let problem = problem.map_or("unknown", ProblemKind::name);
                tracing::warn!(status, problem, "storaged answers, but is not well");
            }
            Health::Well | Health::Unwell { .. } | Health::Away => {}
        }
    });
}
