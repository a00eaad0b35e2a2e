//! An edge before a store, on the same loopback.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{Daemon, EDGE, Store, connection, free_address};
use crate::wait;

/// A running edge.
#[derive(Debug)]
pub struct Edge {
    daemon: Daemon,
    public: SocketAddr,
}

impl Store {
    /// Starts an edge, and waits until it is ready. `name` tells several apart; to storaged they are one.
    pub fn start_edge(&self, name: &str, limits: &str) -> Result<Edge> {
        self.start_edge_with(name, "plain_http = true\n", limits)
    }

    /// The same with its lines of TLS, whose files are there.
    pub fn start_edge_with(&self, name: &str, encryption: &str, limits: &str) -> Result<Edge> {
        let (public, metrics) = (free_address()?, free_address()?);
        let folder = self.layout.folder.display();
        let text = format!(
            "name = \"{EDGE}\"\nrole = \"testing\"\nprofile = \"lab\"\n{encryption}listen = \"{public}\"\n\
             services_url = \"http://{}\"\ninternal_api_key_file = \"{folder}/internal.key\"\n\
             metrics_listen = \"{metrics}\"\nadmin_socket = \"{folder}/{name}.sock\"\n\
             events_socket = \"{folder}/{name}.events\"\n[limits]\n{limits}\n",
            self.address,
        );
        let path = self.layout.folder.join(format!("{name}.toml"));
        fs::write(&path, text).context("write edge.toml")?;
        let mut command = Command::new(self.programs.join("edge"));
        command.arg("--config").arg(&path).args(["--log-format", "text"]);
        let daemon = Daemon::launch(command)?;
        let is_ready = || connection::plain_get(metrics, "/readyz").is_ok_and(|answer| answer.status == 200);
        wait::until_true("edge to be ready", std::time::Duration::from_secs(20), is_ready)
            .with_context(|| daemon.log())?;
        Ok(Edge { daemon, public })
    }

    /// The token of the user of the labs.
    pub fn token(&self) -> &str {
        self.token.expose()
    }
}

impl Edge {
    /// Where clients reach it.
    pub fn public(&self) -> SocketAddr {
        self.public
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// `kill -9`.
    pub fn kill(self) -> Result<()> {
        self.daemon.kill().map(drop)
    }

    /// Asks it to end; fails unless it ends well and never warned.
    pub fn stop(self) -> Result<()> {
        let log = self.daemon.stop()?;
        ensure!(!log.contains(" ERROR "), "edge complained:\n{log}");
        Ok(())
    }
}
