//! An NFS server out of the kernel's own parts: what `rpc.mountd` would answer it, for one directory and everybody.
//!
//! nfsd asks through files in `/proc/net/rpc`, a line for each question, and is told for how long the answer holds
//! (the kernel's net/sunrpc/cache.c; the lines are those of nfs-utils' support/export/cache.c).

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// Far from now, in seconds since 1970.
const EXPIRY: u64 = 4_000_000_000;

/// `NFSEXP_FSID | NFSEXP_NOSUBTREECHECK | NFSEXP_INSECURE_PORT` of the kernel's uapi/linux/nfsd/export.h; writes are
/// answered when they are on the disk, for `NFSEXP_ASYNC` is not there, and root stays root.
const FLAGS: u32 = 0x2000 | 0x0400 | 0x0002;

/// Serves `directory` over NFS 4 on port 2049, for as long as this process lives.
pub fn serve(directory: &Path) -> Result<()> {
    let path = directory.to_str().context("a path that is not UTF-8")?.to_owned();
    answer("auth.unix.ip", |words| Some(format!("{} {} {EXPIRY} all", words.first()?, words.get(1)?)))?;
    answer("auth.unix.gid", |words| Some(format!("{} {EXPIRY} 0", words.first()?)))?;
    let exported = path.clone();
    answer("nfsd.export", move |words| {
        let (domain, asked) = (words.first()?, words.get(1)?);
        // What is not exported is said too: else it is asked for again.
        let known = *asked == exported;
        let flags = if known { format!(" {FLAGS} 65534 65534 0") } else { String::new() };
        Some(format!("{domain} {asked} {EXPIRY}{flags}"))
    })?;
    answer("nfsd.fh", move |words| {
        let (domain, kind, id) = (words.first()?, words.get(1)?, words.get(2)?);
        // Kind 1 is a number, and ours is 0: the root of all that is exported.
        let known = *kind == "1" && *id == "\\x00000000";
        let place = if known { format!(" {path}") } else { String::new() };
        Some(format!("{domain} {kind} {id} {EXPIRY}{place}"))
    })?;
    for (file, text) in [
        ("versions", "-3 +4 +4.1 +4.2"),
        ("nfsv4gracetime", "10"),
        ("nfsv4leasetime", "10"),
        ("portlist", "tcp 2049"),
        ("threads", "8"),
    ] {
        let file = Path::new("/proc/fs/nfsd").join(file);
        fs::write(&file, format!("{text}\n"))
            .with_context(|| format!("write {text} to {}", file.display()))?;
    }
    Ok(())
}

/// Answers every question of one cache.
fn answer(cache: &str, reply: impl Fn(&[&str]) -> Option<String> + Send + 'static) -> Result<()> {
    let path = format!("/proc/net/rpc/{cache}/channel");
    let mut channel =
        OpenOptions::new().read(true).write(true).open(&path).with_context(|| format!("open {path}"))?;
    std::thread::spawn(move || {
        let mut buffer = vec![0; 8192];
        loop {
            match channel.read(&mut buffer) {
                Ok(length) if length > 0 => {
                    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                    let words: Vec<&str> = text.split_whitespace().collect();
                    if let Some(line) = reply(&words) {
                        // A question that was answered meanwhile is no loss.
                        let _ = channel.write_all(format!("{line}\n").as_bytes());
                    }
                }
                // Nothing is asked.
                Ok(_) | Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    });
    Ok(())
}
