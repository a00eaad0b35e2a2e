//! The tunnel's own file, `/etc/wireguard/IF.conf`, as this daemon uses it.
//!
//! Invariant: a [`Tunnel`] is complete: keys that are kept elsewhere have been read. Only host names are open;
//! those are looked up while the tunnel runs.
use crate::netcfg::policy::{Policy, is_default};
use crate::netcfg::{MtuChoice, Request, routes};
use crate::{limits, wiped};
use ipnet::IpNet;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use wg_proto::conf::{ConfErrors, EndpointConf, KeyPlace, KeySource, Table, TunnelConf};
use wg_proto::{DeviceState, DeviceUpdate, PublicKey};
use zeroize::Zeroizing;

/// The main routing table (linux/rtnetlink.h, RT_TABLE_MAIN).
pub const MAIN_TABLE: u32 = 254;

/// What the tunnel shall be.
#[derive(Clone)]
pub struct Tunnel {
    /// `None` without a file: `wg set` will say.
    conf: Option<TunnelConf>,
    /// Endpoints by host name, in the order of the file.
    pub names: Vec<HostName>,
    /// The rules that its default route needs.
    pub policy: Option<Policy>,
    /// When the file with the private key was last written; of a file that was opened by somebody else, unknown.
    pub key_created: Option<SystemTime>,
    /// The private key is in a file of its own.
    has_key_file: bool,
    /// A key stood in the file itself.
    holds_keys: bool,
    /// Keys that are never to be a peer's again.
    pub denied: Vec<PublicKey>,
}

/// An endpoint by host name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName {
    /// Whose.
    pub peer: PublicKey,
    /// The host.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Why a tunnel's file is not good.
#[derive(Debug, thiserror::Error)]
pub enum ConfError {
    /// It cannot be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
    /// Lines, keys and values that are wrong.
    #[error(transparent)]
    Content(#[from] ConfErrors),
}

impl Tunnel {
    /// What it is without a file.
    #[must_use]
    pub fn unconfigured() -> Self {
        Self {
            conf: None,
            names: Vec::new(),
            policy: None,
            key_created: None,
            has_key_file: false,
            holds_keys: false,
            denied: Vec::new(),
        }
    }

    /// Reads the file and the keys it points to; unconfigured if there is no file. With `strict`, a file with a
    /// key in it that others can read is an error, else a warning.
    ///
    /// # Errors
    /// Naming file, line and key.
    pub fn load(path: &Path, strict: bool, endpoints_are_elsewhere: bool) -> Result<Self, ConfError> {
        let read = |error| ConfError::Read { path: path.to_owned(), error };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::unconfigured()),
            Err(error) => return Err(read(error)),
        };
        let text = read_text(&file).map_err(read)?;
        let written = |file: &File| file.metadata().and_then(|data| data.modified()).ok();
        let mut first_key_file = None;
        let mut tunnel = Self::parse(path, &text, |place| {
            let opened = open_private_key(place, strict)?;
            first_key_file.get_or_insert(written(&opened));
            Ok(opened)
        })?;
        // The private key is read before all others.
        tunnel.key_created = if tunnel.has_key_file { first_key_file.flatten() } else { written(&file) };
        if tunnel.holds_keys {
            keep_private(&file, path, strict).map_err(read)?;
        }
        Ok(tunnel.routed_by_policy(endpoints_are_elsewhere))
    }

    /// Understands what `wgd-netcfg` has opened: the file, and after it the keys that are kept elsewhere.
    ///
    /// # Errors
    /// Naming file, line and key.
    pub fn opened(
        path: &Path,
        opened: impl IntoIterator<Item = impl Into<File>>,
        endpoints_are_elsewhere: bool,
    ) -> Result<Self, ConfError> {
        let mut files = opened.into_iter().map(Into::into);
        let missing = || io::Error::from_raw_os_error(libc::EBADF);
        let read = |error| ConfError::Read { path: path.to_owned(), error };
        let text = files.next().ok_or_else(missing).and_then(|file| read_text(&file)).map_err(read)?;
        let tunnel = Self::parse(path, &text, |_| files.next().ok_or_else(missing))?;
        Ok(tunnel.routed_by_policy(endpoints_are_elsewhere))
    }

    /// Notes when its files were last written, in the order in which they are read.
    #[must_use]
    pub fn last_written(mut self, files: Vec<Option<SystemTime>>) -> Self {
        let at = usize::from(self.has_key_file);
        self.key_created = files.into_iter().nth(at).flatten();
        self
    }

    /// With the rules that a default route needs, and with the mark that goes with them.
    #[must_use]
    pub fn routed_by_policy(mut self, endpoints_are_elsewhere: bool) -> Self {
        self.policy = self.conf.as_ref().and_then(|conf| Policy::of(conf, endpoints_are_elsewhere));
        if let (Some(policy), Some(conf)) = (self.policy, &mut self.conf) {
            conf.fwmark = policy.mark;
        }
        self
    }

    /// Understands the file's text; `open` gives the keys that are kept elsewhere, in their order.
    ///
    /// # Errors
    /// Naming file, line and key.
    pub fn parse(
        path: &Path,
        text: &str,
        mut open: impl FnMut(&KeyPlace) -> io::Result<File>,
    ) -> Result<Self, ConfError> {
        let mut conf = wg_proto::conf::parse(&path.display().to_string(), text)?;
        let holds_keys = holds_keys(&conf);
        let denied = crate::netcfg::denied(text);
        let has_key_file = matches!(conf.private_key, KeySource::Elsewhere { .. });
        conf.read_keys(|place| read_text(&open(place)?))?;
        let names = host_names(&conf);
        Ok(Self {
            conf: Some(conf),
            names,
            policy: None,
            key_created: None,
            has_key_file,
            holds_keys,
            denied,
        })
    }

    /// For a device that has just been made.
    #[must_use]
    pub fn first_update(&self) -> DeviceUpdate {
        let Some(conf) = &self.conf else { return DeviceUpdate::default() };
        DeviceUpdate { denied: Some(self.denied.clone()), ..conf.to_update() }
    }

    /// For a running device: peers that stay keep their sessions; without a `ListenPort` the port stays.
    #[must_use]
    pub fn synchronising(&self, state: &DeviceState) -> DeviceUpdate {
        let Some(conf) = &self.conf else { return DeviceUpdate::default() };
        let present: Vec<PublicKey> = state.peers.iter().map(|peer| peer.public_key).collect();
        let denied = Some(self.denied.clone());
        DeviceUpdate { listen_port: conf.listen_port, denied, ..conf.to_sync_update(&present) }
    }

    /// The port to bind; 0 for any.
    #[must_use]
    pub fn listen_port(&self) -> u16 {
        self.conf.as_ref().and_then(|conf| conf.listen_port).unwrap_or(0)
    }

    /// The interface's own addresses inside the tunnel.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.conf.iter().flat_map(|conf| &conf.addresses).map(IpNet::addr).collect()
    }

    /// The firewall mark; 0 for none.
    #[must_use]
    pub fn fwmark(&self) -> u32 {
        self.conf.as_ref().map_or(0, |conf| conf.fwmark)
    }

    /// The request that gives the interface addresses and MTU. Without a file the link stays down, as with
    /// every implementation.
    #[must_use]
    pub fn configure_request(&self) -> Request {
        let Some(conf) = &self.conf else {
            return Request::Configure {
                addresses: Vec::new(),
                mtu: MtuChoice::Automatic(Vec::new()),
                up: false,
            };
        };
        let mtu = conf.mtu.map_or_else(|| MtuChoice::Automatic(self.endpoints()), MtuChoice::Fixed);
        Request::Configure { addresses: conf.addresses.clone(), mtu, up: true }
    }

    /// The routes to make and their table; `None` for `Table = off` or no file. A default route is not among them
    /// where it is made by policy; in the main table it is made only if the endpoints are reached from another
    /// namespace than the tunnel's, for it would swallow them.
    #[must_use]
    pub fn routes(&self, endpoints_are_elsewhere: bool) -> Option<(Vec<IpNet>, u32)> {
        let conf = self.conf.as_ref()?;
        let table = table(conf)?;
        // The address's own route is in the main table, so it covers nothing in another.
        let addresses = if conf.table == Table::Auto { conf.addresses.as_slice() } else { &[] };
        let allowed: Vec<IpNet> =
            conf.peers.iter().flat_map(|peer| peer.allowed_ips.iter().copied()).collect();
        let elsewhere = endpoints_are_elsewhere || table != MAIN_TABLE;
        let by_policy = |net: &IpNet| self.policy.is_some() && is_default(net);
        let allowed: Vec<IpNet> = allowed.into_iter().filter(|net| !by_policy(net)).collect();
        let plan = routes::plan(&allowed, addresses, elsewhere);
        for prefix in plan.left_out {
            tracing::warn!(%prefix, "no route made: it would swallow the tunnel's own datagrams");
        }
        Some((plan.install, table))
    }

    /// A peer without a pre-shared key, which the production profile does not allow.
    #[must_use]
    pub fn first_without_preshared_key(&self) -> Option<PublicKey> {
        let peers = &self.conf.as_ref()?.peers;
        peers.iter().find(|peer| peer.preshared_key.is_none()).map(|peer| peer.public_key)
    }

    fn endpoints(&self) -> Vec<IpAddr> {
        let peers = self.conf.iter().flat_map(|conf| &conf.peers);
        peers
            .filter_map(|peer| match &peer.endpoint {
                Some(EndpointConf::Address(address)) => Some(address.ip()),
                Some(EndpointConf::Name { .. }) | None => None,
            })
            .collect()
    }
}

/// The table that routes go to; `None` for `Table = off`.
#[must_use]
pub fn table(conf: &TunnelConf) -> Option<u32> {
    match conf.table {
        Table::Off => None,
        Table::Auto => Some(MAIN_TABLE),
        Table::Number(table) => Some(table),
    }
}

/// Endpoints by host name, in the order of the file.
#[must_use]
pub fn host_names(conf: &TunnelConf) -> Vec<HostName> {
    let name = |peer: &wg_proto::conf::PeerConf| match &peer.endpoint {
        Some(EndpointConf::Name { host, port }) => {
            Some(HostName { peer: peer.public_key, host: host.clone(), port: *port })
        }
        Some(EndpointConf::Address(_)) | None => None,
    };
    conf.peers.iter().filter_map(name).collect()
}

/// Where keys are kept outside of the file, in the order in which they are read.
#[must_use]
pub fn key_places(conf: &TunnelConf) -> Vec<KeyPlace> {
    let mut places = Vec::new();
    if let KeySource::Elsewhere { place, .. } = &conf.private_key {
        places.push(place.clone());
    }
    for peer in &conf.peers {
        if let Some(KeySource::Elsewhere { place, .. }) = &peer.preshared_key {
            places.push(place.clone());
        }
    }
    places
}

/// Opens a key that is kept outside of the file.
///
/// # Errors
/// When it is not there, there is no credentials directory, or (with `strict`) others can read it.
pub fn open_private_key(place: &KeyPlace, strict: bool) -> io::Result<File> {
    let path = key_path(place)?;
    let file = File::open(&path)?;
    match place {
        KeyPlace::File(_) => keep_private(&file, &path, strict)?,
        // The service manager sees to it; with an access list its group bits look open and are not.
        KeyPlace::Credential(_) => {}
    }
    Ok(file)
}

/// Refuses a file with a key in it that others than its owner can read or write, or warns of it.
///
/// # Errors
/// With `strict`, when they can.
pub fn keep_private(file: &File, path: &Path, strict: bool) -> io::Result<()> {
    let mode = file.metadata()?.permissions().mode() & 0o7777;
    if mode & 0o066 == 0 {
        return Ok(());
    }
    if strict {
        let what = format!(
            "mode {mode:04o}: others can read or write a file with a key in it (chmod 600 {})",
            path.display()
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    }
    let mode = format!("{mode:04o}");
    tracing::warn!(path = %path.display(), mode, "others can read or write a file with a key in it (chmod 600)");
    Ok(())
}

/// Whether a key stands in the file itself; asked before keys that are kept elsewhere are fetched.
#[must_use]
pub fn holds_keys(conf: &TunnelConf) -> bool {
    matches!(conf.private_key, KeySource::Inline(_))
        || conf.peers.iter().any(|peer| matches!(peer.preshared_key, Some(KeySource::Inline(_))))
}

fn key_path(place: &KeyPlace) -> io::Result<PathBuf> {
    match place {
        KeyPlace::File(path) => Ok(PathBuf::from(path)),
        KeyPlace::Credential(name) => {
            daemon::secret::reference_path(&format!("credential:{name}")).map_err(io::Error::other)
        }
    }
}

/// The directories that key files are in.
#[must_use]
pub fn key_directories(conf: &TunnelConf) -> Vec<PathBuf> {
    let directory = |place: KeyPlace| key_path(&place).ok()?.parent().map(Path::to_owned);
    key_places(conf)
        .into_iter()
        .filter_map(directory)
        .chain(std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from))
        .collect()
}

/// The whole text of a file, read by position: the descriptor can be handed on as if it had never been read.
///
/// # Errors
/// When it is longer than any configuration, or no text.
pub fn read_text(file: &File) -> io::Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::new());
    let mut part = Zeroizing::new([0; 4096]);
    let bad = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    loop {
        match file.read_at(&mut part[..], bytes.len() as u64) {
            Ok(0) => return wiped::into_text(bytes).ok_or_else(|| bad("not UTF-8 text")),
            Ok(length) => wiped::extend(&mut bytes, &part[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if bytes.len() as u64 > limits::CONFIG_BYTES {
            return Err(bad("longer than 16 MiB"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const KEY: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
    const PEER: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";

    fn tunnel(text: &str) -> Tunnel {
        let text = text.replace("KEY", KEY).replace("PEER", PEER);
        let none = |_: &KeyPlace| Err(io::Error::from(io::ErrorKind::NotFound));
        Tunnel::parse(Path::new("wg0.conf"), &text, none).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn what_netcfg_has_opened_is_read_as_the_file_is() {
        let key = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(key.path(), format!("{KEY}\n")).expect("write");
        let text = format!("[Interface]\nPrivateKeyFile = {}\nListenPort = 51820\n", key.path().display());
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), text).expect("write");
        let open = || [file.path(), key.path()].map(|path| File::open(path).expect("open"));
        let tunnel = Tunnel::opened(file.path(), open(), true).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(tunnel.listen_port(), 51820);
        assert!(tunnel.has_key_file && !tunnel.holds_keys);
        let (of_file, of_key) =
            (SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(7));
        let tunnel = tunnel.last_written(vec![Some(of_file), Some(of_key)]);
        assert_eq!(tunnel.key_created, Some(of_key), "the key has a file of its own");
        let [file_alone, _] = open();
        assert!(Tunnel::opened(file.path(), [file_alone], true).is_err(), "the key did not come");
    }

    #[test]
    fn a_missing_file_is_an_unconfigured_interface() {
        let tunnel =
            Tunnel::load(Path::new("/nonexistent/wg0.conf"), true, false).unwrap_or_else(|e| panic!("{e}"));
        assert!(matches!(tunnel.configure_request(), Request::Configure { up: false, .. }));
        assert!(tunnel.routes(false).is_none());
    }

    #[test]
    fn a_mistake_is_named_with_file_and_line() {
        let mut file = tempfile::NamedTempFile::new().expect("file");
        write!(file, "[Interface]\nPrivateKey = {KEY}\nMTU = big\n").expect("write");
        let error = Tunnel::load(file.path(), true, false).err().expect("a mistake").to_string();
        assert!(error.contains(&format!("{}:3", file.path().display())) && error.contains("MTU"), "{error}");
    }

    #[test]
    fn the_mtu_follows_the_endpoint_unless_it_is_given() {
        let text = "[Interface]\nPrivateKey = KEY\n[Peer]\nPublicKey = PEER\nEndpoint = 192.0.2.1:1\n";
        let expected = MtuChoice::Automatic(vec!["192.0.2.1".parse().expect("address")]);
        assert!(
            matches!(tunnel(text).configure_request(), Request::Configure { mtu, .. } if mtu == expected)
        );
        let text = "[Interface]\nPrivateKey = KEY\nMTU = 1400\n";
        let fixed = MtuChoice::Fixed(1400);
        assert!(matches!(tunnel(text).configure_request(), Request::Configure { mtu, .. } if mtu == fixed));
    }

    #[test]
    fn table_off_makes_no_routes() {
        let peer = "[Peer]\nPublicKey = PEER\nAllowedIPs = 10.1.0.0/16, 10.100.0.11/32\n";
        let interface = "[Interface]\nPrivateKey = KEY\nAddress = 10.100.0.10/24\n";
        let prefix = |text: &str| text.parse::<IpNet>().expect("prefix");
        let auto = tunnel(&format!("{interface}{peer}")).routes(false);
        assert_eq!(auto, Some((vec![prefix("10.1.0.0/16")], MAIN_TABLE)));
        assert_eq!(tunnel(&format!("{interface}Table = off\n{peer}")).routes(false), None);
        let own = tunnel(&format!("{interface}Table = 1000\n{peer}")).routes(false);
        assert_eq!(own, Some((vec![prefix("10.1.0.0/16"), prefix("10.100.0.11/32")], 1000)));
    }

    #[test]
    fn a_default_route_is_made_by_policy_and_marks_the_tunnels_own_datagrams() {
        let text =
            "[Interface]\nPrivateKey = KEY\n[Peer]\nPublicKey = PEER\nAllowedIPs = 0.0.0.0/0, 10.1.0.0/16\n";
        let here = tunnel(text).routed_by_policy(false);
        assert_eq!(here.policy.map(|policy| policy.table), Some(51_820));
        assert_eq!(here.fwmark(), 51_820);
        assert_eq!(here.first_update().fwmark, Some(51_820));
        let prefix = |text: &str| text.parse::<IpNet>().expect("prefix");
        assert_eq!(here.routes(false), Some((vec![prefix("10.1.0.0/16")], MAIN_TABLE)));
        let elsewhere = tunnel(text).routed_by_policy(true);
        assert_eq!((elsewhere.policy, elsewhere.fwmark()), (None, 0));
        assert_eq!(elsewhere.routes(true).map(|(routes, _)| routes.len()), Some(2));
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_or_warned_of() {
        let directory = tempfile::tempdir().expect("directory");
        let write = |name: &str, text: &str, mode: u32| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).expect("write");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode");
            path
        };
        let inline = format!("[Interface]\nPrivateKey = {KEY}\n");
        for (mode, good) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o620, false)] {
            let path = write("wg0.conf", &inline, mode);
            assert_eq!(Tunnel::load(&path, true, false).is_ok(), good, "{mode:o}");
            assert!(Tunnel::load(&path, false, false).is_ok());
        }
        // What holds no key may be read; the key it points to may not.
        let key = write("key", KEY, 0o600);
        let path = write("wg0.conf", &format!("[Interface]\nPrivateKeyFile = {}\n", key.display()), 0o644);
        assert!(Tunnel::load(&path, true, false).is_ok());
        write("key", KEY, 0o644);
        let error = Tunnel::load(&path, true, false).err().expect("refused").to_string();
        assert!(error.contains("wg0.conf:2: PrivateKeyFile") && error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn host_names_are_found_in_their_order() {
        let text = "[Interface]\nPrivateKey = KEY\n[Peer]\nPublicKey = PEER\nEndpoint = vpn.example:51820\n";
        let names = tunnel(text).names;
        assert_eq!((names.len(), names[0].host.as_str(), names[0].port), (1, "vpn.example", 51820));
    }

    #[test]
    fn a_text_is_read_without_moving_the_position() {
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(b"text").expect("write");
        assert_eq!(read_text(&file).expect("text").as_str(), "text");
        assert_eq!(read_text(&file).expect("text").as_str(), "text");
    }
}
