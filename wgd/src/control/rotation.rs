//! Rotations of keys, as far as the device cannot do them: writing keys down, and telling operators.
//!
//! Invariant: a key is written while the configuration is locked, and the device hears of it before the lock
//! is given back; so a reload never finds a file that is ahead of the device.
use super::Control;
use crate::conf::Tunnel;
use crate::io::Command;
use crate::limits;
use crate::netcfg::{NetcfgError, Request, SavedKey};
use daemon::admin::{AdminError, Replies};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc::Receiver;
use tokio::time::Instant;
use wg_proto::{
    Kept, KeptKey, PeerIdentity, PublicKey, Refusal, RotationKind, RotationOutcome, RotationOutput,
    RotationRequest, RotationStep, Ticket, Verdict,
};

/// Does what the device's rotations ask for, until the device is gone.
pub(super) async fn follow(control: Arc<Control>, mut outputs: Receiver<RotationOutput>) {
    while let Some(output) = outputs.recv().await {
        match output {
            RotationOutput::Keep { ticket, key } => control.keep(ticket, &key).await,
            RotationOutput::Step { peer, step } => {
                if step == RotationStep::Stalled {
                    let peer = peer.public_key.to_base64();
                    tracing::warn!(
                        peer,
                        "a rotation of keys is not over: the peer does not answer it; both keys serve until it does"
                    );
                }
                // Nobody may be listening.
                let _ = control.rotations.send(json!({ "item": {
                    "peer": peer.friendly_name.as_deref(),
                    "public_key": peer.public_key.to_base64(),
                    "step": step_name(step),
                } }));
            }
            RotationOutput::Finished(verdict) => control.tell_verdict(&verdict),
        }
    }
}

/// The verb: begins a rotation, tells how it goes on, and gives the verdict.
pub(super) async fn rotate(control: &Control, args: &Value, out: &mut Replies) -> Result<Value, AdminError> {
    let kind = match args["kind"].as_str() {
        Some("static") => RotationKind::Static,
        Some("psk") => RotationKind::Preshared,
        Some(_) | None => return Err(AdminError::new("usage", "kind is \"static\" or \"psk\"")),
    };
    if let Some(interface) = args["interface"].as_str()
        && interface != control.config.interface
    {
        let what = format!("this daemon's interface is {}, not {interface}", control.config.interface);
        return Err(AdminError::new("usage", what));
    }
    let peer = match args["peer"].as_str() {
        Some(named) => Some(find(control, named).await?),
        None => None,
    };
    let request = RotationRequest { kind, peer, compromised: args["compromised"].as_bool().unwrap_or(false) };
    let mut told = control.rotations.subscribe();
    let begun = control.data.ask(|reply| Command::Rotate { request, reply }).await;
    begun
        .map_err(|error| AdminError::new("unavailable", error))?
        .map_err(|error| AdminError::new("refused", error))?;
    let end = Instant::now() + limits::ROTATION_TIME;
    loop {
        match tokio::time::timeout_at(end, told.recv()).await {
            Ok(Ok(mut value)) if value.get("verdict").is_some() => return Ok(value["verdict"].take()),
            Ok(Ok(mut value)) => {
                out.item(value["item"].take()).await.map_err(|error| AdminError::new("gone", error))?;
            }
            Ok(Err(RecvError::Lagged(_))) => {}
            Ok(Err(RecvError::Closed)) => return Err(AdminError::new("unavailable", "the daemon is ending")),
            Err(_) => {
                let message = "not finished yet: both keys are in force, and the rotation goes on by itself \
                               as soon as the peer answers";
                return Ok(json!({ "result": "pending", "message": message }));
            }
        }
    }
}

async fn find(control: &Control, named: &str) -> Result<PublicKey, AdminError> {
    let state = control.state().await.map_err(|error| AdminError::new("unavailable", error))?;
    let is_it = |peer: &&wg_proto::PeerState| {
        peer.friendly_name.as_deref() == Some(named) || peer.public_key.to_base64() == named
    };
    let found = state.peers.iter().find(is_it).map(|peer| peer.public_key);
    found.ok_or_else(|| AdminError::new("no-such-peer", format!("no peer is called {named:?}")))
}

impl Control {
    async fn keep(&self, ticket: Ticket, key: &KeptKey) {
        let mut current = self.current.lock().await;
        let request = Request::SaveKey { key: SavedKey::from(key), rehearsal: ticket.rehearsal };
        let kept = match self.netcfg.ask(request, &[]).await {
            Ok((crate::netcfg::Answer::Saved(true), _)) => Kept::OnDisk,
            Ok(_) => Kept::NoFile,
            Err(NetcfgError::Off) => {
                Kept::Failed("netcfg = false: nobody may write the configuration".into())
            }
            Err(error) => Kept::Failed(error.to_string()),
        };
        if let Kept::Failed(why) = &kept {
            tracing::error!(error = why, "a new key cannot be kept; the old one stays");
        }
        if kept == Kept::OnDisk && !ticket.rehearsal {
            match self.read_tunnel().await {
                Ok(tunnel) => {
                    self.names.send_replace(tunnel.names.clone());
                    current.tunnel = tunnel;
                }
                Err(error) => {
                    tracing::warn!(%error, "the configuration cannot be read after a key was written")
                }
            }
        }
        let answered = self.data.ask(|done| Command::Kept { ticket, kept, done }).await;
        if let Err(error) = answered {
            tracing::error!(%error, "a kept key was not taken over");
        }
    }

    async fn read_tunnel(&self) -> Result<Tunnel, super::ApplyError> {
        let (_, opened) = self.netcfg.ask(Request::ReadConfig, &[]).await?;
        Ok(Tunnel::opened(&self.config.tunnel_file(), opened, self.config.tun_netns.is_some())?)
    }

    fn tell_verdict(&self, verdict: &Verdict) {
        let complete = verdict.is_complete();
        let result = match (complete, &verdict.kept) {
            (true, _) => "rotated",
            (false, Some(Kept::OnDisk | Kept::NoFile)) => "degraded",
            (false, Some(Kept::Failed(_)) | None) => "unchanged",
        };
        let kind = kind_name(verdict.kind);
        self.metrics.rotated(kind, result);
        tracing::info!(kind, result, compromised = verdict.compromised, "rotation of a key is over");
        let peers: Vec<Value> = verdict
            .peers
            .iter()
            .map(|(peer, outcome)| {
                json!({
                    "peer": peer.friendly_name.as_deref(),
                    "public_key": peer.public_key.to_base64(),
                    "outcome": outcome_name(outcome),
                    "message": advice(verdict, peer, outcome, &self.config.interface),
                })
            })
            .collect();
        let kept = match &verdict.kept {
            Some(Kept::OnDisk) => json!("on disk"),
            Some(Kept::NoFile) => json!("not: there is no configuration file"),
            Some(Kept::Failed(why)) => json!(format!("not: {why}")),
            None => Value::Null,
        };
        // Nobody may be listening.
        let _ = self.rotations.send(json!({ "verdict": {
            "result": result,
            "kind": kind,
            "compromised": verdict.compromised,
            "interface": self.config.interface,
            "public_key": verdict.public_key.map(PublicKey::to_base64),
            "kept": kept,
            "peers": peers,
        } }));
    }
}

/// What the operator has to know or to do.
fn advice(verdict: &Verdict, peer: &PeerIdentity, outcome: &RotationOutcome, interface: &str) -> String {
    let key = peer.public_key.to_base64();
    match (outcome, verdict.kind, verdict.public_key) {
        (RotationOutcome::Rotated { kept_there: true }, ..) => "the new key is in force on both sides".into(),
        (RotationOutcome::Rotated { kept_there: false }, ..) => {
            "the new key is in force, but the peer has no configuration file to keep it in: after its next \
             start it must be told again"
                .into()
        }
        (RotationOutcome::NotWgd, RotationKind::Static, Some(new)) if verdict.compromised => {
            format!("the peer is no wgd and could not be told: it is cut off until it has our public key {new}")
        }
        (RotationOutcome::NotWgd, RotationKind::Static, Some(new)) => format!(
            "the peer is no wgd, and WireGuard has no way to tell it a key: give it our public key {new}. Until \
             then, or until wgd is restarted, the old key serves it"
        ),
        (RotationOutcome::NotWgd, RotationKind::Preshared, _) if verdict.compromised => {
            "the peer is no wgd and could not be told: it is cut off until it has the new pre-shared key, which \
             the configuration file here holds"
                .into()
        }
        (RotationOutcome::NotWgd, ..) => format!(
            "the peer is no wgd, and WireGuard has no way to tell it a key: nothing was changed. Set a new key on \
             both sides (wg set {interface} peer {key} preshared-key FILE); wgd takes both until the peer uses \
             the new one"
        ),
        (RotationOutcome::Unreachable, ..) if verdict.compromised => {
            "the peer did not answer: it has to be told by hand".into()
        }
        (RotationOutcome::Unreachable, ..) => "the peer did not answer; the old key stays in force".into(),
        (RotationOutcome::Refused(Refusal::Busy), ..) => {
            "the peer is busy with another change of keys; the old key stays in force".into()
        }
        (RotationOutcome::Refused(Refusal::CannotKeep), ..) => {
            "the peer cannot write its configuration; the old key stays in force".into()
        }
        (RotationOutcome::Refused(Refusal::BadKey), ..) => {
            "the peer does not take the key; the old one stays in force".into()
        }
        (RotationOutcome::Abandoned, ..) => "given up; the old key stays in force".into(),
    }
}

pub(super) fn kind_name(kind: RotationKind) -> &'static str {
    match kind {
        RotationKind::Static => "static",
        RotationKind::Preshared => "psk",
    }
}

fn outcome_name(outcome: &RotationOutcome) -> &'static str {
    match outcome {
        RotationOutcome::Rotated { .. } => "rotated",
        RotationOutcome::NotWgd => "not-wgd",
        RotationOutcome::Unreachable => "unreachable",
        RotationOutcome::Refused(_) => "refused",
        RotationOutcome::Abandoned => "abandoned",
    }
}

pub(super) fn step_name(step: RotationStep) -> &'static str {
    match step {
        RotationStep::Greeting => "greeting",
        RotationStep::Announced => "announced",
        RotationStep::Accepted => "accepted",
        RotationStep::Waiting => "waiting",
        RotationStep::Kept => "kept",
        RotationStep::Switching => "switching",
        RotationStep::Done => "done",
        RotationStep::Stalled => "stalled",
    }
}
