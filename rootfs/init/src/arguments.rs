//! What the kernel's command line says to us.
//!
//! Invariant: what is not said is an error, and so is what is said twice: nothing about the verification has a default.
//! The names are our own, for systemd would act on `roothash=` again in the running system.

use anyhow::{Context as _, Result, bail, ensure};

/// A block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Device {
    /// By the kernel's name, without `/dev/`.
    Name(String),
    /// By the name that its partition table gives it.
    Label(String),
}

/// Where the image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Root {
    /// There.
    On(Device),
    /// In whichever of the two partitions `culvert-a` and `culvert-b` holds the image of the root hash.
    Slots,
}

/// Where `/etc/culvert`, keys and files are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Data {
    /// There.
    On(Device),
    /// In memory: gone with the next restart.
    InMemory,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) root: Root,
    /// Of the hash tree, 64 digits.
    pub(crate) root_hash: String,
    /// How many blocks of data the image has; its tree comes behind them.
    pub(crate) blocks: u64,
    pub(crate) data: Data,
    /// Read the whole image before it is used.
    pub(crate) verify_all: bool,
}

/// An image has at most so many blocks (16 GiB): a bound for arithmetic.
const BLOCKS_AT_MOST: u64 = 1 << 22;

impl Arguments {
    pub(crate) fn parse(line: &str) -> Result<Arguments> {
        let need =
            |name| one(line, name)?.with_context(|| format!("the kernel's command line has no {name}"));
        let root_hash = need("culvert.roothash")?;
        ensure!(
            root_hash.len() == 64 && root_hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')),
            "culvert.roothash has to be 64 small hexadecimal digits"
        );
        let blocks = need("culvert.blocks")?.parse().context("culvert.blocks")?;
        ensure!((1..=BLOCKS_AT_MOST).contains(&blocks), "culvert.blocks: 1 to {BLOCKS_AT_MOST}");
        let data = match need("culvert.data")? {
            "memory" => Data::InMemory,
            device => Data::On(Device::parse(device).context("culvert.data")?),
        };
        let verify_all = match one(line, "culvert.verify")? {
            None => false,
            Some("all") => true,
            Some(other) => bail!("culvert.verify={other}: `all` is the one thing to say"),
        };
        let root = match need("culvert.root")? {
            "slots" => Root::Slots,
            device => Root::On(Device::parse(device).context("culvert.root")?),
        };
        Ok(Arguments { root, root_hash: root_hash.to_owned(), blocks, data, verify_all })
    }
}

impl Device {
    fn parse(text: &str) -> Result<Device> {
        let is_plain = |name: &str| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        match (text.strip_prefix("/dev/"), text.strip_prefix("PARTLABEL=")) {
            (Some(name), _) if is_plain(name) => Ok(Device::Name(name.to_owned())),
            (_, Some(label)) if is_plain(label) => Ok(Device::Label(label.to_owned())),
            _ => bail!("{text:?} is neither /dev/NAME nor PARTLABEL=NAME"),
        }
    }
}

/// The value of a word NAME=VALUE.
fn one<'line>(line: &'line str, name: &str) -> Result<Option<&'line str>> {
    let mut values =
        line.split_ascii_whitespace().filter_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let value = values.next();
    ensure!(values.next().is_none(), "the kernel's command line has {name} twice");
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn line(more: &str) -> String {
        format!("quiet culvert.roothash={HASH} culvert.blocks=7 culvert.root=/dev/vda {more}\n")
    }

    #[test]
    fn everything_is_said_or_refused() {
        let arguments = Arguments::parse(&line("culvert.data=PARTLABEL=culvert-data")).unwrap();
        assert_eq!(arguments.root, Root::On(Device::Name("vda".into())));
        let slots = line("culvert.data=memory").replace("/dev/vda", "slots");
        assert_eq!(Arguments::parse(&slots).unwrap().root, Root::Slots);
        assert_eq!(arguments.data, Data::On(Device::Label("culvert-data".into())));
        assert_eq!((arguments.blocks, arguments.verify_all), (7, false));
        let complete = line("culvert.data=memory culvert.verify=all");
        assert!(Arguments::parse(&complete).unwrap().verify_all);
        for name in ["culvert.roothash", "culvert.blocks", "culvert.root", "culvert.data"] {
            let without: Vec<&str> =
                complete.split_whitespace().filter(|word| !word.starts_with(&format!("{name}="))).collect();
            let error = Arguments::parse(&without.join(" ")).unwrap_err().to_string();
            assert!(error.contains(name), "{name}: {error}");
        }
    }

    #[test]
    fn a_second_root_hash_is_no_choice() {
        let twice = line(&format!("culvert.data=memory culvert.roothash={HASH}"));
        assert!(Arguments::parse(&twice).unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn what_is_not_plain_is_refused() {
        for bad in [
            "culvert.data=vdb",
            "culvert.data=/dev/",
            "culvert.data=/dev/../etc/passwd",
            "culvert.data=PARTLABEL=",
            "culvert.data=memory culvert.verify=some",
        ] {
            assert!(Arguments::parse(&line(bad)).is_err(), "{bad}");
        }
        for bad in ["culvert.roothash=00", &format!("culvert.roothash={}", HASH.to_uppercase())] {
            let line = format!("{bad} culvert.blocks=7 culvert.root=/dev/vda culvert.data=memory");
            assert!(Arguments::parse(&line).is_err(), "{bad}");
        }
        for bad in ["0", "-1", "4194305", "x"] {
            let line = format!(
                "culvert.roothash={HASH} culvert.blocks={bad} culvert.root=/dev/vda culvert.data=memory"
            );
            assert!(Arguments::parse(&line).is_err(), "{bad}");
        }
    }
}
