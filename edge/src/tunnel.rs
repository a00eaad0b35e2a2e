//! Watches each storaged: sends health requests, ticks its circuit, and acts on the changes.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use store_proto::ProblemKind;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::circuit::{Change, Circuit};
use crate::limits::{PROBE_INTERVAL, PROBES, PROOF_OF_LIFE, TICK};
use crate::request::Edge;
use crate::store::Health;
use crate::upstream::Upstream;
use crate::witness::Witness;

/// Watches one of them until the runtime ends; `events` asks for a health request at once.
pub async fn watch(edge: Arc<Edge>, upstream: Arc<Upstream>, events: Arc<Notify>) -> io::Result<()> {
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
                let change = circuit.tick(edge.clock.now(), upstream.store.client.signs());
                act(&edge, &upstream, change);
            }
            () = hello.as_mut(), if first => {
                first = false;
                if !upstream.is_up() {
                    tracing::info!(upstream = upstream.name, "storaged does not answer yet; requests are refused until it does");
                }
            }
            _ = probe.tick() => start_probe(&edge, &upstream, &probing, &said),
            () = events.notified() => start_probe(&edge, &upstream, &probing, &said),
        }
    }
}

fn act(edge: &Edge, upstream: &Upstream, change: Change) {
    match change {
        Change::None => {}
        Change::Opened => {
            edge.upstreams.set_up(upstream, false);
            upstream.store.counts.up.set(0);
            upstream.store.client.abort_all();
            tracing::warn!(
                upstream = upstream.name,
                "no sign of life from storaged: refusing requests, streams aborted"
            );
        }
        Change::Closed => {
            edge.upstreams.set_up(upstream, true);
            upstream.store.counts.up.set(1);
            tracing::info!(upstream = upstream.name, "storaged answers");
        }
    }
}

/// `said`: whether it is known to the log that storaged is not well.
fn start_probe(
    edge: &Arc<Edge>,
    upstream: &Arc<Upstream>,
    probing: &Arc<AtomicUsize>,
    said: &Arc<AtomicBool>,
) {
    if probing.fetch_add(1, Ordering::AcqRel) >= PROBES {
        probing.fetch_sub(1, Ordering::AcqRel);
        return;
    }
    let (edge, upstream) = (Arc::clone(edge), Arc::clone(upstream));
    let (probing, said) = (Arc::clone(probing), Arc::clone(said));
    tokio::spawn(async move {
        let health = upstream.store.health().await;
        probing.fetch_sub(1, Ordering::AcqRel);
        edge.upstreams.set_well(&upstream, health == Health::Well);
        if health == Health::Well {
            Witness::look(&edge, &upstream).await;
        }
        match health {
            Health::Well if said.swap(false, Ordering::AcqRel) => {
                tracing::info!(upstream = upstream.name, "storaged is well")
            }
            Health::Unwell { status, problem } if !said.swap(true, Ordering::AcqRel) => {
                let problem = problem.map_or("unknown", ProblemKind::name);
                tracing::warn!(
                    upstream = upstream.name,
                    status,
                    problem,
                    "storaged answers, but is not well"
                );
            }
            Health::Well | Health::Unwell { .. } | Health::Away => {}
        }
    });
}
