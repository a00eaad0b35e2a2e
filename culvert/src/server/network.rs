//! Which network a process has: the tunnel and nothing else, or the host's with rules that stand in for that.

use std::net::IpAddr;
use std::process::Command;

use super::configuration::Configured;
use super::finding::{Finding, State};
use super::process::{Process, Role};

/// How a process is kept to the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Construction {
    /// A namespace of its own that holds `lo` and the tunnel.
    Namespace,
    /// The host's network: the listener is bound to the device, nftables and strict reverse-path filtering do the rest.
    StandIn,
}

impl Construction {
    /// Of edge and storaged; the others belong into the host's network.
    pub(super) fn of(process: &Process, host: &str) -> Option<Construction> {
        matches!(process.role, Role::Edge | Role::Storaged)
            .then(|| if process.network == host { Construction::StandIn } else { Construction::Namespace })
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Construction::Namespace => "namespace",
            Construction::StandIn => "stand_in",
        }
    }
}

const USE_A_NAMESPACE: &str = "Run it in the namespace that culvert-netns@.service makes, which holds `lo` and the \
                               tunnel: then it reaches nothing else, whatever it does.";

pub(super) fn all(process: &Process, host: &str) -> Vec<Finding> {
    let configured = Configured::read(process);
    let mut findings = match Construction::of(process, host) {
        None => Vec::new(),
        Some(Construction::Namespace) => vec![devices(process), routes(process)],
        Some(Construction::StandIn) => {
            let mut findings = vec![Finding::bad(
                State::Warn,
                "network",
                &process.subject(),
                "the host's own network, with rules that stand in for a namespace",
                USE_A_NAMESPACE,
            )];
            findings.extend(stand_in(process, &configured, &Answers::ask()));
            findings
        }
    };
    findings.extend(listeners(process, &configured));
    findings
}

fn devices(process: &Process) -> Finding {
    let subject = process.subject();
    let others: Vec<&str> = process.devices.iter().map(String::as_str).filter(|name| *name != "lo").collect();
    match others[..] {
        [tunnel] => Finding::pass("network", &subject, format!("a namespace that holds lo and {tunnel}")),
        [] => Finding::bad(
            State::Fail,
            "network",
            &subject,
            "its namespace has no tunnel",
            "Start culvert-netns@.service and wgd first; the tunnel's device must be in the namespace that the daemon runs \
             in.",
        ),
        _ if process.role == Role::Storaged => Finding::bad(
            State::Warn,
            "network",
            &subject,
            format!("a namespace that holds {}", others.join(", ")),
            "Beside the tunnel there should be nothing, or one interface that leads to storage and nowhere else.",
        ),
        _ => Finding::bad(
            State::Fail,
            "network",
            &subject,
            format!("a namespace that holds {}", others.join(", ")),
            USE_A_NAMESPACE,
        ),
    }
}

fn routes(process: &Process) -> Finding {
    let subject = process.subject();
    match process.routes.iter().find(|route| route.is_default()) {
        None => {
            Finding::pass("routes", &subject, format!("{}, none of them a default", process.routes.len()))
        }
        Some(route) => Finding::bad(
            State::Fail,
            "routes",
            &subject,
            format!("a default route by {}", route.device),
            "Remove it: the tunnel's namespace has the tunnel's prefix and no way further. AllowedIPs of the other host \
             is its address alone.",
        ),
    }
}

/// storaged answers on the tunnel's address, and on loopback for its metrics.
fn listeners(process: &Process, configured: &Configured) -> Option<Finding> {
    if process.role != Role::Storaged {
        return None;
    }
    let subject = process.subject();
    let is_fine = |address: IpAddr| {
        address.is_loopback() || configured.bind_address.is_none_or(|own| own.ip() == address)
    };
    let wrong =
        process.listeners.iter().find(|one| one.address.ip().is_unspecified() || !is_fine(one.address.ip()));
    Some(match wrong {
        None => {
            let told: Vec<String> = process.listeners.iter().map(|one| one.address.to_string()).collect();
            Finding::pass("listeners", &subject, told.join(", "))
        }
        Some(one) => Finding::bad(
            State::Fail,
            "listeners",
            &subject,
            format!("listens on {}", one.address),
            "storaged is for the tunnel alone: set `bind_address` to its tunnel address. It refuses any other itself, so \
             look which process this is.",
        ),
    })
}

/// What other programs say of the host's network.
pub(super) struct Answers {
    /// `nft list ruleset`.
    rules: Result<String, String>,
    /// `ss -Htln`.
    sockets: Result<String, String>,
    /// `rp_filter` of each interface, `all` among them.
    reverse_path: Vec<(String, u8)>,
}

impl Answers {
    fn ask() -> Answers {
        Answers {
            rules: output("nft", &["list", "ruleset"]),
            sockets: output("ss", &["-Htln"]),
            reverse_path: reverse_path().unwrap_or_default(),
        }
    }
}

fn stand_in(process: &Process, configured: &Configured, answers: &Answers) -> Vec<Finding> {
    let subject = process.subject();
    let mut findings = Vec::new();
    if process.role == Role::Storaged {
        findings.push(device_of_listener(&subject, configured, answers));
    }
    findings.push(rules(process, &subject, configured, answers));
    findings.push(strict_paths(&subject, answers));
    findings
}

fn device_of_listener(subject: &str, configured: &Configured, answers: &Answers) -> Finding {
    const ADVICE: &str = "Without SO_BINDTODEVICE a packet for the tunnel's address is taken from any interface. \
                          storaged binds its listener to `tunnel_interface`; one that was handed in must be bound by \
                          the unit (BindToDevice=).";
    let text = match &answers.sockets {
        Ok(text) => text,
        Err(why) => return Finding::bad(State::CannotTell, "device", subject, why.as_str(), ADVICE),
    };
    let Some(address) = configured.bind_address else {
        return Finding::bad(State::CannotTell, "device", subject, "no bind_address is configured", ADVICE);
    };
    // `10.100.0.11%wg0:8001`
    let bound = format!("{}%", address.ip());
    let port = format!(":{}", address.port());
    let is_own = |word: &&str| word.starts_with(&bound) && word.ends_with(&port);
    match text.split_whitespace().find(is_own) {
        Some(word) => Finding::pass("device", subject, format!("listens on {word}")),
        None => {
            Finding::bad(State::Fail, "device", subject, format!("{address} is bound to no device"), ADVICE)
        }
    }
}

fn rules(process: &Process, subject: &str, configured: &Configured, answers: &Answers) -> Finding {
    const ADVICE: &str = "In the host's network nftables has to keep the daemon to the tunnel: for storaged an input \
                          rule that takes its port from the tunnel's interface alone, for edge an output rule for its \
                          user (`meta skuid`). The Ansible role writes both.";
    let text = match &answers.rules {
        Ok(text) => text,
        Err(why) => return Finding::bad(State::CannotTell, "nftables", subject, why.as_str(), ADVICE),
    };
    let (hook, wanted) = match process.role {
        Role::Storaged => {
            let port = configured.bind_address.map_or(0, |address| address.port());
            ("hook input", format!("dport {port}"))
        }
        Role::Edge | Role::Wgd | Role::Netcfg | Role::Resolver | Role::Agent => {
            ("hook output", "skuid".to_owned())
        }
    };
    if text.contains(hook) && text.contains(&wanted) {
        return Finding::pass("nftables", subject, format!("a rule with `{wanted}` at {hook}"));
    }
    Finding::bad(State::Fail, "nftables", subject, format!("no rule with `{wanted}` at {hook}"), ADVICE)
}

fn strict_paths(subject: &str, answers: &Answers) -> Finding {
    const ADVICE: &str = "Set net.ipv4.conf.all.rp_filter = 1: a packet with a tunnel address as its source must not be \
                          taken from another interface.";
    let of =
        |name: &str| answers.reverse_path.iter().find(|(other, _)| other == name).map(|(_, value)| *value);
    match of("all") {
        None => Finding::bad(State::CannotTell, "rp_filter", subject, "it cannot be read", ADVICE),
        // The kernel takes the larger of `all` and the interface's own; 2 is the loose one.
        Some(1) if answers.reverse_path.iter().all(|(_, value)| *value < 2) => {
            Finding::pass("rp_filter", subject, "strict on every interface")
        }
        Some(value) => {
            let loose = answers.reverse_path.iter().find(|(_, value)| *value == 2);
            let detail = loose.map_or(format!("all = {value}"), |(name, _)| format!("{name} = 2 (loose)"));
            Finding::bad(State::Fail, "rp_filter", subject, detail, ADVICE)
        }
    }
}

fn output(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output =
        Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn reverse_path() -> std::io::Result<Vec<(String, u8)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/sys/net/ipv4/conf")?.flatten() {
        let value = std::fs::read_to_string(entry.path().join("rp_filter"))?;
        found.push((entry.file_name().to_string_lossy().into_owned(), value.trim().parse().unwrap_or(0)));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::proc_net::{Listener, Route};
    use super::super::sample::{self, HOST};
    use super::*;

    fn configured() -> Configured {
        Configured::of(Role::Storaged, "bind_address = \"10.100.0.11:8001\"")
    }

    fn answers() -> Answers {
        Answers {
            rules: Ok("chain input { type filter hook input priority 0; iifname != \"wg0\" tcp dport 8001 drop }\n\
                       chain output { type filter hook output priority 0; meta skuid edge oifname != \"wg0\" drop }"
                .into()),
            sockets: Ok("LISTEN 0 4096 10.100.0.11%wg0:8001 0.0.0.0:*".into()),
            reverse_path: vec![("all".into(), 1), ("eth0".into(), 0)],
        }
    }

    fn states(findings: &[Finding]) -> Vec<(&'static str, State)> {
        findings.iter().map(|finding| (finding.check, finding.state)).collect()
    }

    #[test]
    fn the_construction_is_told() {
        let mut edge = sample::process(Role::Edge);
        assert_eq!(Construction::of(&edge, HOST), Some(Construction::Namespace));
        edge.network = HOST.into();
        assert_eq!(Construction::of(&edge, HOST), Some(Construction::StandIn));
        assert_eq!(Construction::of(&sample::process(Role::Wgd), HOST), None);
        assert!(states(&all(&edge, HOST)).contains(&("network", State::Warn)));
    }

    #[test]
    fn a_namespace_holds_the_tunnel_and_no_way_out() {
        let edge = sample::process(Role::Edge);
        assert_eq!(states(&all(&edge, HOST)), [("network", State::Pass), ("routes", State::Pass)]);
        let mut open = edge.clone();
        open.devices.push("eth0".into());
        open.routes.push(Route { device: "eth0".into(), destination: [0, 0, 0, 0].into(), prefix: 0 });
        assert_eq!(states(&all(&open, HOST)), [("network", State::Fail), ("routes", State::Fail)]);
        let mut without = edge;
        without.devices = vec!["lo".into()];
        assert_eq!(states(&all(&without, HOST))[0], ("network", State::Fail));
        let mut storage = sample::process(Role::Storaged);
        storage.devices.push("san0".into());
        assert_eq!(states(&all(&storage, HOST))[0], ("network", State::Warn));
    }

    #[test]
    fn storaged_listens_on_the_tunnel_alone() {
        let mut storaged = sample::process(Role::Storaged);
        let listener = |address: &str| Listener { address: address.parse().unwrap(), inode: 1 };
        storaged.listeners = vec![listener("10.100.0.11:8001"), listener("127.0.0.1:9588")];
        let state = |process: &Process| listeners(process, &configured()).map(|finding| finding.state);
        assert_eq!(state(&storaged), Some(State::Pass));
        for address in ["0.0.0.0:8001", "192.0.2.1:8001", "[::]:8001"] {
            storaged.listeners[1] = listener(address);
            assert_eq!(state(&storaged), Some(State::Fail), "{address}");
        }
    }

    #[test]
    fn each_part_of_the_stand_in_is_looked_at() {
        let storaged = sample::process(Role::Storaged);
        let judge = |answers: &Answers| states(&stand_in(&storaged, &configured(), answers));
        use State::{CannotTell, Fail, Pass};
        assert_eq!(judge(&answers()), [("device", Pass), ("nftables", Pass), ("rp_filter", Pass)]);
        let unbound = Answers { sockets: Ok("LISTEN 0 4096 10.100.0.11:8001 0.0.0.0:*".into()), ..answers() };
        assert_eq!(judge(&unbound)[0], ("device", Fail));
        let open = Answers { rules: Ok(String::new()), ..answers() };
        assert_eq!(judge(&open)[1], ("nftables", Fail));
        let loose = Answers { reverse_path: vec![("all".into(), 1), ("eth0".into(), 2)], ..answers() };
        assert_eq!(judge(&loose)[2], ("rp_filter", Fail));
        let off = Answers { reverse_path: vec![("all".into(), 0)], ..answers() };
        assert_eq!(judge(&off)[2], ("rp_filter", Fail));
        let unknown = Answers { rules: Err("nft: not found".into()), ..answers() };
        assert_eq!(judge(&unknown)[1], ("nftables", CannotTell));
        let edge = stand_in(&sample::process(Role::Edge), &configured(), &answers());
        assert_eq!(states(&edge), [("nftables", Pass), ("rp_filter", Pass)]);
    }
}
