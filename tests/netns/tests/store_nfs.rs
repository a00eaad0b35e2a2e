//! A volume on NFS 4: uploads, kills and what is owed, as on a local disk; and a state directory there is refused.
//!
//! ```text
//!  guest with Debian's kernel: storaged ─┬─ ledger, keys: ext4
//!                                        └─ volume: nfs ── loopback ── nfsd ── ext4
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use culvert_netns::kernel_vm::{KernelVm, Machine};
use culvert_netns::lab;
use culvert_netns::runner::{self, Scenario, Scene};
use culvert_netns::store::load::{Load, Told, until_acknowledged};
use culvert_netns::store::{Layout, Store, exports};

const DISK_BYTES: u64 = 1 << 30;
const KILLS: u64 = 3;
const BOUND: Duration = Duration::from_secs(120);
/// This program in the guest.
const GUEST: &str = "guest";

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|first| first == GUEST) {
        return match in_guest() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                runner::say(&format!("{error:#}"));
                ExitCode::FAILURE
            }
        };
    }
    runner::main(&[Scenario::new("a_volume_on_nfs_keeps_what_was_acknowledged_through_kills", nfs)
        .needs(&["storaged", "culvert"])
        .slow()])
}

fn nfs(scene: &Scene) -> Result<()> {
    let services = &scene.lab.services;
    let disk = services.path("/srv").join("disk");
    fs::File::create(&disk)?.set_len(DISK_BYTES).context("make a disk")?;
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk).output().context("run mkfs.ext4")?;
    ensure!(made.status.success(), "mkfs.ext4: {}", String::from_utf8_lossy(&made.stderr));
    let programs = lab::programs()?;
    let own: PathBuf = fs::read_link("/proc/self/exe").context("find the own executable")?;
    let drive = [
        "-blockdev",
        "driver=file,node-name=disk,filename=/srv/disk",
        "-device",
        "virtio-blk-pci,drive=disk",
    ];
    let machine = Machine {
        mebibytes: 512,
        modules: vec!["virtio_pci", "virtio_blk", "nfsd", "nfsv4"],
        programs: vec![
            ("storaged", programs.join("storaged")),
            ("culvert", programs.join("culvert")),
            ("store_nfs", own),
        ],
        files: Vec::new(),
        arguments: drive.map(str::to_owned).to_vec(),
    };
    let mut guest = KernelVm::boot_machine(services, &machine)?;
    guest.run("mkdir /disk /nas && mount -t ext4 /dev/vda /disk && mount -t nfsd nfsd /proc/fs/nfsd")?;
    guest.bound(Duration::from_secs(300))?;
    let said = guest.run(&format!("CULVERT_BIN_DIR=/bin /bin/store_nfs {GUEST}"))?;
    runner::say(said.trim());
    guest.cut_power()
}

fn in_guest() -> Result<()> {
    fs::create_dir("/disk/exported").context("make what is exported")?;
    exports::serve(Path::new("/disk/exported"))?;
    let options = "vers=4.2,addr=127.0.0.1,clientaddr=127.0.0.1,hard,sec=sys";
    nix::mount::mount(Some("127.0.0.1:/"), "/nas", Some("nfs4"), nix::mount::MsFlags::empty(), Some(options))
        .context("mount the export")?;

    let mut layout = Layout::below(Path::new("/disk/store"))?;
    layout.volume = "/nas/volume".into();
    let mut elsewhere = Layout::below(Path::new("/disk/refused"))?;
    elsewhere.state = "/nas/state".into();
    match Store::init(elsewhere) {
        Ok(_) => bail!("a ledger on NFS was taken"),
        Err(error) => ensure!(format!("{error:#}").contains("network file system"), "{error:#}"),
    }

    let store = Arc::new(Store::init(layout)?);
    let mut told = Told::default();
    for kill in 0..KILLS {
        let daemon = store.start()?;
        store.keep_promises(&mut told).with_context(|| format!("storaged said:\n{}", daemon.log()))?;
        let load = Load::start(&store, 4, &format!("k{kill}"), kill + 1);
        until_acknowledged(&load, 12, BOUND).with_context(|| format!("storaged said:\n{}", daemon.log()))?;
        daemon.kill()?;
        told.extend(load.finish());
    }
    let daemon = store.start()?;
    told.looked_at.clear();
    store.keep_promises(&mut told).with_context(|| format!("storaged said:\n{}", daemon.log()))?;
    daemon.stop()?;
    runner::say(&format!("{} acknowledged uploads are whole after {KILLS} kills", told.acknowledged.len()));
    Ok(())
}
