//! The lab: its hosts and links.
//!
//! ```text
//!  client ──203.0.113.0/24── web ──192.0.2.0/24── wan ──198.51.100.0/24── services
//!    .2                   .1    .1             .2     .2               .1
//! ```
//!
//! `wan` routes between `web` and `services`, and stops doing so when it is cut.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};

use crate::capture::Capture;
use crate::culvert::has_many_users;
use crate::host::{Host, TOOLS};
use crate::link::{End, Link};
use crate::log::Level;
use crate::program::Started;
use crate::world::World;

/// The addresses of the standard topology.
pub mod address {
    use std::net::Ipv4Addr;

    /// The client.
    pub const CLIENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
    /// web, as the client sees it.
    pub const WEB_PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
    /// web, on the WAN.
    pub const WEB_WAN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    /// services, on the WAN.
    pub const SERVICES_WAN: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
    /// web, in the tunnel.
    pub const WEB_TUNNEL: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 10);
    /// services, in the tunnel.
    pub const SERVICES_TUNNEL: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 11);
}

/// MTU of the outer links.
const MTU: u32 = 1500;

/// The standard topology.
#[derive(Debug)]
pub struct Lab {
    /// Where uploads come from.
    pub client: Host,
    /// The public host.
    pub web: Host,
    /// The network between the hosts.
    pub wan: Wan,
    /// The host of the secure zone.
    pub services: Host,
    links: Vec<Link>,
    started: Arc<Mutex<Vec<Started>>>,
    data: PathBuf,
    programs: PathBuf,
    outer_pid: u32,
    own_users: bool,
}

impl Lab {
    /// Builds the topology inside `world`. `programs` is the directory of the daemons under test.
    pub fn build(world: &World, programs: &Path) -> Result<Lab> {
        let started = Arc::new(Mutex::new(Vec::new()));
        let boot = |name: &str| Host::boot(name, &world.data().join(name), programs, Arc::clone(&started));
        let (client, web, wan, services) = (boot("client")?, boot("web")?, boot("wan")?, boot("services")?);
        let end = |host, name, address| End { host, name, address, prefix: 24 };
        let links = vec![
            Link::connect(
                end(&client, "web0", address::CLIENT),
                end(&web, "public0", address::WEB_PUBLIC),
                MTU,
            )?,
            Link::connect(
                end(&web, "wan0", address::WEB_WAN),
                end(&wan, "web0", Ipv4Addr::new(192, 0, 2, 2)),
                MTU,
            )?,
            Link::connect(
                end(&wan, "services0", Ipv4Addr::new(198, 51, 100, 2)),
                end(&services, "wan0", address::SERVICES_WAN),
                MTU,
            )?,
        ];
        web.route([198, 51, 100, 0], 24, [192, 0, 2, 2])?;
        services.route([192, 0, 2, 0], 24, [198, 51, 100, 2])?;
        let lab = Lab {
            client,
            web,
            wan: Wan { host: wan },
            services,
            links,
            started,
            data: world.data().to_owned(),
            programs: programs.to_owned(),
            outer_pid: world.outer_pid(),
            own_users: world.has_own_users(),
        };
        lab.wan.restore()?;
        Ok(lab)
    }

    /// One more host, not linked to any other; its programs are judged and shown with those of the lab.
    pub fn another_host(&self, name: &str) -> Result<Host> {
        Host::boot(name, &self.data.join(name), &self.programs, Arc::clone(&self.started))
    }

    /// All hosts of the standard topology.
    pub fn hosts(&self) -> [&Host; 4] {
        [&self.client, &self.web, &self.wan.host, &self.services]
    }

    /// How many links there are.
    pub fn links(&self) -> usize {
        self.links.len()
    }

    /// A command line that puts its caller, outside of the world, into a host.
    pub fn how_to_enter(&self, host: &Host) -> String {
        // Entering one's own user namespace is an error.
        let user = if self.own_users { " --user --preserve-credentials" } else { "" };
        format!(
            "nsenter --target {}{user} --pid --mount --net nsenter --target {} --mount --net --uts bash",
            self.outer_pid,
            host.pid()
        )
    }

    /// Everything started so far.
    pub fn started(&self) -> Vec<Started> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fails if a daemon wrote a line at WARN or above which holds none of `expected`.
    pub fn fail_on_unexpected_lines(&self, expected: &[&str]) -> Result<()> {
        // The client stands in the same lab.
        let mut always = vec!["plain HTTP, as configured"];
        if !has_many_users()? {
            // There is no other user than root here, and a daemon rightly complains that it has none to become.
            always.extend(["no user is configured", "run_as is not set"]);
        }
        let mut found = String::new();
        for started in self.started().iter().filter(|started| started.judged) {
            for line in started.log.at_least(Level::Warning) {
                if !expected.iter().chain(&always).any(|&known| line.contains(known)) {
                    writeln!(found, "{}: {line}", started.label).context("write to a string")?;
                }
            }
        }
        ensure!(found.is_empty(), "unexpected warnings or errors in the daemons' logs:\n{found}");
        Ok(())
    }

    /// All logs, for a scenario that failed.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for started in self.started() {
            let lines = started.log.lines();
            if lines.is_empty() && !started.judged {
                continue;
            }
            text.push_str(&format!("---- {} ----\n", started.label));
            if started.log.forgotten() > 0 {
                text.push_str(&format!("({} older lines are gone)\n", started.log.forgotten()));
            }
            for line in lines {
                text.push_str(&line);
                text.push('\n');
            }
        }
        text
    }
}

/// The network between the hosts: a router.
#[derive(Debug)]
pub struct Wan {
    /// The router itself.
    pub host: Host,
}

impl Wan {
    /// From now on packets vanish: the links stay up and nobody is told (a kernel that does not forward drops without
    /// an ICMP message).
    pub fn cut(&self) -> Result<()> {
        self.host.sysctl("ipv4/ip_forward", "0")
    }

    /// Packets pass again.
    pub fn restore(&self) -> Result<()> {
        self.host.sysctl("ipv4/ip_forward", "1")
    }

    /// Looks at every frame from now on, until [`Capture::finish`].
    pub fn capture(&self, marker: &[u8]) -> Result<Capture> {
        Capture::start(&self.host, marker)
    }
}

/// Where the daemons under test are: `CULVERT_BIN_DIR`, or the directory above the test executable's `deps`.
pub fn programs() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("CULVERT_BIN_DIR") {
        return Ok(PathBuf::from(given));
    }
    let own = std::env::current_exe().context("find the own executable")?;
    let directory = own.parent().context("the own executable lies nowhere")?;
    let up = if directory.ends_with("deps") { directory.parent() } else { Some(directory) };
    Ok(up.context("the own executable lies nowhere")?.to_owned())
}

/// Where the programs lie that the slow scenarios bring along: `CULVERT_TOOLS`, or `target/tools`.
pub fn tools() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("CULVERT_TOOLS") {
        return Ok(PathBuf::from(given));
    }
    Ok(programs()?.parent().context("the programs lie nowhere")?.join("tools"))
}

/// Where the daemons lie that were built to attack their host (the feature `probe`): among the tools, as no program.
pub fn probes() -> Result<PathBuf> {
    Ok(tools()?.join("probe"))
}

/// The path at which a host finds the probe of a daemon.
pub fn probe_of_host(name: &str) -> Result<String> {
    tool_of_host(&probes()?.join(name))
}

/// The path at which a host finds a file of [`tools`].
pub fn tool_of_host(file: &Path) -> Result<String> {
    let tools = tools()?;
    let below = file
        .strip_prefix(&tools)
        .with_context(|| format!("{} lies outside {}", file.display(), tools.display()))?;
    let path = Path::new(TOOLS).join(below);
    Ok(path.to_str().context("the path of a tool is not UTF-8")?.to_owned())
}

/// Looks for a program of the machine in `PATH`.
pub fn find_program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
        .with_context(|| format!("no program {name} in {}", path.display()))
}

/// Fails unless all of `names` have been built.
pub fn require_programs(directory: &Path, names: &[&str]) -> Result<()> {
    let missing: Vec<_> = names.iter().filter(|name| !directory.join(name).is_file()).copied().collect();
    ensure!(
        missing.is_empty(),
        "{} lacks {}: build with `cargo build {}` (add --release for target/release), or set CULVERT_BIN_DIR",
        directory.display(),
        missing.join(", "),
        missing.iter().map(|name| format!("-p {name}")).collect::<Vec<_>>().join(" ")
    );
    Ok(())
}

/// An address with a port.
pub fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}
