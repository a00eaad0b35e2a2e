//! A small machine with Debian's kernel: its own WireGuard is the other side of an interop scenario, and its power can
//! be cut.
//!
//! ```text
//!  host ── tap: guest0 ══ eth0 of the guest (qemu under TCG) ── wg0 of its kernel
//! ```
//!
//! The kernel's package is unpacked and not installed (`cargo xtask test slow` does that); the guest's file system is
//! made here, in memory: busybox, the programs asked for, and the modules. Commands go over its second serial port, one a line; the
//! answer ends with a line that holds their status.
//!
//! Invariant: the machine ends with the scenario, for qemu is one of the host's programs.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::cpio::Archive;
use crate::host::Host;
use crate::kernel_modules;
use crate::lab;
use crate::program::Running;
use crate::wireguard::{self, ShownPeer};

/// The guest's interface in the host.
const TAP: &str = "guest0";

/// Where the host and qemu meet.
const DIRECTORY: &str = "/run/guest";

/// Emulated, a boot takes some 5 s on an idle machine.
const BOOT_BOUND: Duration = Duration::from_secs(90);

/// Longest that one command in the guest may take.
const COMMAND_BOUND: Duration = Duration::from_secs(60);

/// Begins the last line of an answer.
const STATUS: &str = "@@ ";

/// What the guest's first process does.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod $module || echo "insmod $module failed"; done
ip link set lo up
stty -F /dev/ttyS1 raw -echo
exec < /dev/ttyS1 > /dev/ttyS1
echo "@@ 0"
while read -r command; do sh -c "$command" 2>&1; echo "@@ $?"; done
poweroff -f
"#;

/// A running guest.
#[derive(Debug)]
pub struct KernelVm {
    qemu: Running,
    serial: BufReader<UnixStream>,
}

/// What a guest is made of.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// Its memory beside what the files take.
    pub mebibytes: u32,
    /// Modules of its kernel, beside those that they need.
    pub modules: Vec<&'static str>,
    /// Programs, put into `/bin` under these names with the libraries that they load.
    pub programs: Vec<(&'static str, PathBuf)>,
    /// Files by their path.
    pub files: Vec<(&'static str, Vec<u8>)>,
    /// More arguments of qemu.
    pub arguments: Vec<String>,
}

impl KernelVm {
    /// Boots a guest on a link of its own: `near` is the host's address on it, `far` the guest's, both in a /24.
    pub fn boot(host: &Host, near: Ipv4Addr, far: Ipv4Addr) -> Result<KernelVm> {
        for command in [
            &["ip", "tuntap", "add", TAP, "mode", "tap"][..],
            &["ip", "address", "add", &format!("{near}/24"), "dev", TAP],
            &["ip", "link", "set", TAP, "up"],
        ] {
            host.run(command)?.success()?;
        }
        let network = [
            "-netdev",
            &format!("tap,id=n,ifname={TAP},script=no,downscript=no"),
            "-device",
            "virtio-net-pci,netdev=n,romfile=",
        ]
        .map(str::to_owned);
        let mut guest = KernelVm::boot_machine(
            host,
            &Machine {
                mebibytes: 192,
                modules: vec!["virtio_pci", "virtio_net", "wireguard"],
                programs: vec![("wg", lab::find_program("wg")?)],
                files: Vec::new(),
                arguments: network.to_vec(),
            },
        )?;
        guest.run(&format!("ip address add {far}/24 dev eth0"))?;
        guest.run("ip link set eth0 up")?;
        guest.run(&format!("ip route add default via {near}"))?;
        Ok(guest)
    }

    /// Boots a guest of any kind.
    pub fn boot_machine(host: &Host, machine: &Machine) -> Result<KernelVm> {
        let kernel = Kernel::find(&lab::tools()?)?;
        let initrd = initrd(&kernel, machine)?;
        // It lies in memory twice while it is unpacked.
        let memory = u64::from(machine.mebibytes) + (initrd.len() as u64 >> 19);
        host.write(&format!("{DIRECTORY}/initrd"), initrd)?;
        let image = lab::tool_of_host(&kernel.image)?;
        let socket = format!("{DIRECTORY}/serial");
        let _ = fs::remove_file(host.path(&socket));
        let more: Vec<&str> = machine.arguments.iter().map(String::as_str).collect();
        let qemu = host
            .program("qemu-system-x86_64")
            .arguments(&["-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", &memory.to_string(), "-smp", "1"])
            .arguments(&["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .arguments(&["-kernel", &image, "-initrd", &format!("{DIRECTORY}/initrd")])
            .arguments(&["-append", "console=ttyS0 quiet panic=-1 tsc=reliable mitigations=off"])
            .arguments(&more)
            // What the guest's console says is the program's output.
            .arguments(&["-serial", "stdio"])
            // It waits for us before it starts, so the first word of the guest is heard.
            .arguments(&["-chardev", &format!("socket,id=c,path={socket},server=on,wait=on")])
            .arguments(&["-serial", "chardev:c"])
            .start()?;
        let mut qemu = qemu;
        let path = host.path(&socket);
        let serial = qemu.until("listen", Duration::from_secs(10), || {
            UnixStream::connect(&path).context("connect to the guest's serial port")
        })?;
        serial.set_read_timeout(Some(BOOT_BOUND)).context("bound reads")?;
        let mut guest = KernelVm { qemu, serial: BufReader::new(serial) };
        let (status, _) = guest.answer().context("wait for the guest's first word")?;
        ensure!(status == 0, "the guest began with status {status}");
        guest.serial.get_ref().set_read_timeout(Some(COMMAND_BOUND)).context("bound reads")?;
        Ok(guest)
    }

    /// Begins a line of shell in the guest, whose output is read with [`next_line`](Self::next_line).
    pub fn begin(&mut self, command: &str) -> Result<()> {
        ensure!(!command.contains('\n'), "one line is one command");
        self.serial.get_mut().write_all(format!("{command}\n").as_bytes()).context("write to the guest")
    }

    /// The next line that a command printed; none when it has ended.
    pub fn next_line(&mut self) -> Result<Option<String>> {
        let mut line = String::new();
        let length = self.serial.read_line(&mut line).context("read from the guest")?;
        ensure!(length > 0, "the guest hung up; its console:\n{}", self.qemu.output().lines().join("\n"));
        if line.starts_with(STATUS) { Ok(None) } else { Ok(Some(line.trim_end().to_owned())) }
    }

    /// Waits at most `bound` for each line from now on.
    pub fn bound(&mut self, bound: Duration) -> Result<()> {
        self.serial.get_ref().set_read_timeout(Some(bound)).context("bound reads")
    }

    /// Its power fails.
    pub fn cut_power(mut self) -> Result<()> {
        self.qemu.kill()
    }

    /// Runs a line of shell in the guest and gives what it printed; fails if that fails.
    pub fn run(&mut self, command: &str) -> Result<String> {
        let (status, output) = self.try_run(command)?;
        ensure!(status == 0, "`{command}` ended with {status} in the guest:\n{output}");
        Ok(output)
    }

    /// The same, with its status.
    pub fn try_run(&mut self, command: &str) -> Result<(u8, String)> {
        ensure!(!command.contains('\n'), "one line is one command");
        self.qemu.still_runs()?;
        let line = format!("{command}\n");
        self.serial.get_mut().write_all(line.as_bytes()).context("write to the guest")?;
        self.answer().with_context(|| format!("run `{command}` in the guest"))
    }

    /// Puts a secret into a file of the guest's memory.
    pub fn write_secret(&mut self, path: &str, content: &str) -> Result<()> {
        self.run(&format!("umask 077; printf '%s\\n' '{content}' > {path}")).map(drop)
    }

    /// The peers of the guest's interface.
    pub fn show(&mut self, interface: &str) -> Result<Vec<ShownPeer>> {
        wireguard::parse_dump(&self.run(&format!("wg show {interface} dump"))?)
    }

    /// Which kernel it is.
    pub fn release(&mut self) -> Result<String> {
        Ok(self.run("uname -r")?.trim().to_owned())
    }

    fn answer(&mut self) -> Result<(u8, String)> {
        let mut output = String::new();
        loop {
            let mut line = String::new();
            let length = self.serial.read_line(&mut line).context("read from the guest")?;
            if length == 0 {
                bail!("the guest hung up; its console:\n{}", self.qemu.output().lines().join("\n"));
            }
            match line.strip_prefix(STATUS) {
                Some(status) => return Ok((status.trim().parse().context("a status")?, output)),
                None => output.push_str(line.trim_end_matches('\r')),
            }
        }
    }
}

/// An unpacked kernel package.
struct Kernel {
    image: PathBuf,
    modules: PathBuf,
}

impl Kernel {
    fn find(tools: &Path) -> Result<Kernel> {
        let unpacked = tools.join("linux");
        let missing = || {
            format!("no kernel for the guest in {}: `cargo xtask test slow` unpacks one", unpacked.display())
        };
        let images = fs::read_dir(unpacked.join("boot")).with_context(missing)?;
        for entry in images {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if let Some(release) = name.strip_prefix("vmlinuz-") {
                let modules = unpacked.join("lib/modules").join(release);
                return Ok(Kernel { image: path, modules });
            }
        }
        bail!(missing())
    }
}

/// The guest's file system.
fn initrd(kernel: &Kernel, machine: &Machine) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "proc", "sys", "run", "tmp", "etc"] {
        archive.directory(directory)?;
    }
    // devtmpfs comes later than the first process's standard output.
    archive.device("dev/console", 5, 1)?;
    archive.file("init", INIT.as_bytes())?;
    let busybox = [("busybox", lab::find_program("busybox")?)];
    for (name, path) in busybox.iter().chain(&machine.programs) {
        archive.file(&format!("bin/{name}"), &read(path)?)?;
        for library in libraries(path)? {
            let inside = library.to_str().context("a library's path is not UTF-8")?;
            if !archive.has(inside) {
                archive.file(inside, &read(&library)?)?;
            }
        }
    }
    for (path, content) in &machine.files {
        archive.file(path, content)?;
    }
    let modules = kernel_modules::in_order(&kernel.modules, &machine.modules)?;
    for (index, module) in modules.iter().enumerate() {
        archive.file(&format!("modules/{index:02}-{}.ko", module.name), &module.content)?;
    }
    archive.finish()
}

/// The shared libraries that a program loads, its loader included; none for a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // `name => /path (address)`, or `/path (address)` for the loader.
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}
