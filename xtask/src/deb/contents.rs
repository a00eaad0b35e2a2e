//! What is in which package.

/// Who answers for the packages.
pub(super) const MAINTAINER: &str = "The Culvert authors <culvert@example.org>";

/// A program that is built.
pub(super) struct Binary(pub(super) &'static str);

/// Where a file comes from.
pub(super) enum Source {
    /// The build.
    Binary(Binary),
    /// `deploy/`.
    Deploy(&'static str),
    /// The repository.
    Root(&'static str),
    /// The command trees.
    Generated(&'static str),
}

/// A package.
pub(super) struct Package {
    pub(super) name: &'static str,
    pub(super) section: &'static str,
    pub(super) depends: Vec<&'static str>,
    pub(super) recommends: Vec<&'static str>,
    pub(super) suggests: Vec<&'static str>,
    pub(super) summary: &'static str,
    /// A paragraph a line.
    pub(super) description: &'static str,
    /// From where, and to where; below `etc` it is a conffile.
    pub(super) files: Vec<(Source, String)>,
}

const UNITS: &str = "usr/lib/systemd/system";

/// All of them.
pub(super) fn packages() -> Vec<Package> {
    vec![culvert(), wgd(), edge(), storaged(), agent()]
}

fn culvert() -> Package {
    let mut files = vec![(Source::Binary(Binary("culvert")), "usr/bin/culvert".to_owned())];
    files.extend(common("culvert"));
    files.extend(completions([
        ("culvert", Source::Generated("completions/bash/culvert.bash")),
        ("_culvert", Source::Generated("completions/zsh/_culvert")),
        ("culvert.fish", Source::Generated("completions/fish/culvert.fish")),
    ]));
    for document in ["operations.md", "install.md", "http-api.md"] {
        let source = match document {
            "operations.md" => "docs/operations.md",
            "install.md" => "docs/install.md",
            _ => "docs/http-api.md",
        };
        files.push((Source::Root(source), format!("usr/share/doc/culvert/{document}")));
    }
    Package {
        name: "culvert",
        section: "net",
        depends: Vec::new(),
        recommends: Vec::new(),
        suggests: vec!["age"],
        summary: "command of users and operators of a Culvert appliance",
        description: "Culvert carries regulated files from a public zone through WireGuard into a secure zone \
                      and keeps a record of each step.\nThis is the command: it sends and fetches files, and \
                      looks after the daemons wgd, edge and storaged.",
        files,
    }
}

fn wgd() -> Package {
    let mut files = daemon("wgd");
    for (source, unit) in [
        ("systemd/run-netns-culvert.mount", "run-netns-culvert.mount"),
        ("systemd/culvert-netns@.service", "culvert-netns@.service"),
        ("systemd/wgd@.service", "wgd@.service"),
        ("systemd/wgd-netcfg@.service", "wgd-netcfg@.service"),
        ("systemd/wgd-netcfg@.socket", "wgd-netcfg@.socket"),
        ("systemd/wgd-inside@.service", "wgd-inside@.service"),
        ("systemd/wgd-inside@.socket", "wgd-inside@.socket"),
        ("systemd/wgd-admin@.socket", "wgd-admin@.socket"),
        ("systemd/wgd-events@.socket", "wgd-events@.socket"),
    ] {
        files.push((Source::Deploy(source), format!("{UNITS}/{unit}")));
    }
    files.extend([
        (Source::Deploy("sysusers.d/culvert-wgd.conf"), "usr/lib/sysusers.d/culvert-wgd.conf".to_owned()),
        (Source::Deploy("tmpfiles.d/culvert-wgd.conf"), "usr/lib/tmpfiles.d/culvert-wgd.conf".to_owned()),
        (
            Source::Deploy("network/10-culvert.network"),
            "usr/lib/systemd/network/10-culvert.network".to_owned(),
        ),
        (
            Source::Deploy("network/10-culvert-networkmanager.conf"),
            "usr/lib/NetworkManager/conf.d/10-culvert.conf".to_owned(),
        ),
        (Source::Deploy("examples/wgd.toml"), "etc/culvert/wgd.toml".to_owned()),
        (Source::Deploy("examples/wg0.conf"), "usr/share/doc/wgd/examples/wg0.conf".to_owned()),
    ]);
    files.extend(completions([
        ("wgd", Source::Generated("completions/bash/wgd.bash")),
        ("_wgd", Source::Generated("completions/zsh/_wgd")),
        ("wgd.fish", Source::Generated("completions/fish/wgd.fish")),
    ]));
    Package {
        name: "wgd",
        section: "net",
        depends: vec!["culvert (= #VERSION#)", "iproute2", "systemd"],
        recommends: vec!["wireguard-tools"],
        suggests: Vec::new(),
        summary: "WireGuard tunnel in user space that ends up without a privilege",
        description: "wgd speaks WireGuard on a TUN device, in the place of any userspace WireGuard: wg and \
                      wg-quick work with it. Before the first packet it gives up every capability and most \
                      system calls.\nWith its units the tunnel stands in a network namespace of its own, which \
                      is all the network that edge and storaged have.",
        files,
    }
}

/// The program is `culvert`'s.
fn agent() -> Package {
    let mut files = Vec::from(common("culvert-agent"));
    for (source, unit) in [
        ("systemd/culvert-agent.service", "culvert-agent.service"),
        ("systemd/culvert-agent-events.socket", "culvert-agent-events.socket"),
        ("systemd/culvert-agent-keys.path", "culvert-agent-keys.path"),
        ("systemd/culvert-agent-keys.service", "culvert-agent-keys.service"),
    ] {
        files.push((Source::Deploy(source), format!("{UNITS}/{unit}")));
    }
    files.extend([
        (Source::Deploy("sysusers.d/culvert-agent.conf"), "usr/lib/sysusers.d/culvert-agent.conf".to_owned()),
        (Source::Deploy("tmpfiles.d/culvert-agent.conf"), "usr/lib/tmpfiles.d/culvert-agent.conf".to_owned()),
        (Source::Deploy("examples/agent.toml"), "usr/share/doc/culvert-agent/examples/agent.toml".to_owned()),
    ]);
    Package {
        name: "culvert-agent",
        section: "net",
        depends: vec!["culvert (= #VERSION#)", "wgd (= #VERSION#)", "systemd"],
        recommends: vec!["ca-certificates"],
        suggests: Vec::new(),
        summary: "alerts of a Culvert appliance, and keys of identity providers",
        description: "The daemons of a Culvert appliance have the tunnel for a network. This runs `culvert \
                      agent` beside them, in the host's network: it tells webhooks and log servers of what is \
                      wrong, and fetches the keys of identity providers.",
        files,
    }
}

fn edge() -> Package {
    let mut files = daemon("edge");
    for (source, unit) in [
        ("systemd/edge.service", "edge.service"),
        ("systemd/edge.socket", "edge.socket"),
        ("systemd/edge-metrics.socket", "edge-metrics.socket"),
        ("systemd/edge-admin.socket", "edge-admin.socket"),
        ("systemd/edge-events.socket", "edge-events.socket"),
    ] {
        files.push((Source::Deploy(source), format!("{UNITS}/{unit}")));
    }
    files.extend([
        (Source::Deploy("sysusers.d/culvert-edge.conf"), "usr/lib/sysusers.d/culvert-edge.conf".to_owned()),
        (Source::Deploy("tmpfiles.d/culvert-edge.conf"), "usr/lib/tmpfiles.d/culvert-edge.conf".to_owned()),
        (Source::Deploy("examples/edge.toml"), "usr/share/doc/edge/examples/edge.toml".to_owned()),
    ]);
    files.extend(completions([
        ("edge", Source::Generated("completions/bash/edge.bash")),
        ("_edge", Source::Generated("completions/zsh/_edge")),
        ("edge.fish", Source::Generated("completions/fish/edge.fish")),
    ]));
    Package {
        name: "edge",
        section: "httpd",
        depends: vec!["culvert (= #VERSION#)", "wgd (= #VERSION#)", "systemd"],
        recommends: Vec::new(),
        suggests: Vec::new(),
        summary: "public HTTP side of a Culvert appliance, which stores nothing",
        description: "edge takes requests for files, asks storaged through the tunnel whether they may, and \
                      streams. It can write to no file and reach nothing but the tunnel.",
        files,
    }
}

fn storaged() -> Package {
    let mut files = daemon("storaged");
    for (source, unit) in [
        ("systemd/storaged.service", "storaged.service"),
        ("systemd/storaged.socket", "storaged.socket"),
        ("systemd/storaged-metrics.socket", "storaged-metrics.socket"),
        ("systemd/storaged-events.socket", "storaged-events.socket"),
    ] {
        files.push((Source::Deploy(source), format!("{UNITS}/{unit}")));
    }
    files.extend([
        (
            Source::Deploy("sysusers.d/culvert-storaged.conf"),
            "usr/lib/sysusers.d/culvert-storaged.conf".to_owned(),
        ),
        (
            Source::Deploy("tmpfiles.d/culvert-storaged.conf"),
            "usr/lib/tmpfiles.d/culvert-storaged.conf".to_owned(),
        ),
    ]);
    files.extend(completions([
        ("storaged", Source::Generated("completions/bash/storaged.bash")),
        ("_storaged", Source::Generated("completions/zsh/_storaged")),
        ("storaged.fish", Source::Generated("completions/fish/storaged.fish")),
    ]));
    Package {
        name: "storaged",
        section: "net",
        depends: vec!["culvert (= #VERSION#)", "wgd (= #VERSION#)", "systemd"],
        recommends: Vec::new(),
        suggests: Vec::new(),
        summary: "store of a Culvert appliance, with a record of every operation",
        description: "storaged is reached through the tunnel only. It hashes and seals files, stores them \
                      durably, and refuses what it cannot record.",
        files,
    }
}

fn daemon(name: &'static str) -> Vec<(Source, String)> {
    let mut files = vec![(Source::Binary(Binary(name)), format!("usr/sbin/{name}"))];
    files.extend(common(name));
    files
}

fn common(name: &str) -> [(Source, String); 1] {
    [(Source::Deploy("debian/copyright"), format!("usr/share/doc/{name}/copyright"))]
}

/// Of bash, zsh and fish, in this order.
fn completions([bash, zsh, fish]: [(&'static str, Source); 3]) -> [(Source, String); 3] {
    [
        (bash.1, format!("usr/share/bash-completion/completions/{}", bash.0)),
        (zsh.1, format!("usr/share/zsh/vendor-completions/{}", zsh.0)),
        (fish.1, format!("usr/share/fish/vendor_completions.d/{}", fish.0)),
    ]
}
