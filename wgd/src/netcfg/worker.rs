//! Carries out requests, one at a time.
use super::interface::{Interface, Refused};
use super::permitted::Permitted;
use super::resolver::Resolver;
use super::{Answer, Request, save_key};
use crate::conf;
use ipnet::IpNet;
use linux::descriptors::MAX_DESCRIPTORS;
use linux::udp::UdpSockets;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// The state of netcfg: one interface, one configuration file.
pub(super) struct Worker {
    pub(super) interface: Interface,
    pub(super) config_path: PathBuf,
    /// The device and the socket that hears of it, until wgd has fetched them.
    pub(super) device: Vec<OwnedFd>,
    /// By the configuration that was last read.
    pub(super) permitted: Permitted,
    pub(super) resolver: Option<Resolver>,
    /// A key that others can read is refused.
    pub(super) strict: bool,
    /// The interface has a namespace of its own.
    pub(super) endpoints_are_elsewhere: bool,
    /// `net.ipv4.conf.all.src_valid_mark`, open for writing where that is possible.
    pub(super) valid_mark: Option<File>,
    /// Unlinked at farewell.
    pub(super) socket_files: Vec<PathBuf>,
    /// Parts of a route list whose last has not come yet.
    pub(super) routes: Vec<IpNet>,
}

type Outcome = Result<(Answer, Vec<OwnedFd>), Refused>;

impl Worker {
    /// Does what is asked; what goes wrong is an answer too.
    pub(super) async fn handle(
        &mut self,
        request: Request,
        descriptors: Vec<OwnedFd>,
    ) -> (Answer, Vec<OwnedFd>) {
        self.try_handle(request, descriptors).await.unwrap_or_else(|refused| {
            let errno = refused.error.raw_os_error().unwrap_or(libc::EIO);
            (Answer::Failed { errno, what: refused.what }, Vec::new())
        })
    }

    async fn try_handle(&mut self, request: Request, descriptors: Vec<OwnedFd>) -> Outcome {
        match request {
            Request::Configure { addresses, mtu, up } => {
                self.permitted
                    .configuration(&addresses, &mtu, up)
                    .map_err(|what| self.not_permitted(&what))?;
                let (mtu, index) = self.interface.configure(&addresses, &mtu, up).await?;
                Ok((Answer::Configured { mtu, index }, Vec::new()))
            }
            Request::Bind { port, mark, joined } => {
                let sockets =
                    UdpSockets::bind(port, mark, joined).map_err(|error| bind_refused(port, error))?;
                let mut opened = vec![OwnedFd::from(sockets.v4)];
                opened.extend(sockets.v6.map(OwnedFd::from));
                Ok((Answer::Done, opened))
            }
            Request::Mark { mark } => {
                let mark_them = || UdpSockets::from_descriptors(descriptors)?.set_mark(mark);
                mark_them().map_err(|error| Refused { what: format!("set firewall mark {mark}"), error })?;
                Ok((Answer::Done, Vec::new()))
            }
            Request::SetRoutes { prefixes, table, last } => {
                if let Err(what) = self.permitted.routes(self.routes.len(), &prefixes, table) {
                    self.routes = Vec::new();
                    return Err(self.not_permitted(&what));
                }
                self.routes.extend(prefixes);
                if last {
                    let routes = std::mem::take(&mut self.routes);
                    self.interface.set_routes(&routes, table).await?;
                }
                Ok((Answer::Done, Vec::new()))
            }
            Request::SetPolicy { policy } => {
                self.permitted.policy(policy).map_err(|what| self.not_permitted(&what))?;
                self.interface.set_policy(policy).await?;
                if policy.is_some_and(|policy| policy.v4) {
                    self.validate_by_mark();
                }
                Ok((Answer::Done, Vec::new()))
            }
            Request::Device => match std::mem::take(&mut self.device) {
                device if device.is_empty() => {
                    let what = "hand over the device once more".to_owned();
                    Err(Refused { what, error: io::Error::from_raw_os_error(libc::EPERM) })
                }
                device => Ok((Answer::Done, device)),
            },
            Request::ReadConfig => self.read_config(),
            Request::SaveKey { key, rehearsal } => {
                let saved = save_key::save(&self.config_path, &key, rehearsal).map_err(|error| {
                    let what = format!("{}: write a new key: {error}", self.config_path.display());
                    Refused { what, error }
                })?;
                Ok((Answer::Saved(saved), Vec::new()))
            }
            Request::Resolve { host } => self.resolve(&host).await,
            Request::RemoveSockets => {
                for path in &self.socket_files {
                    if let Err(error) = std::fs::remove_file(path)
                        && error.kind() != io::ErrorKind::NotFound
                    {
                        tracing::warn!(path = %path.display(), %error, "remove the socket file");
                    }
                }
                Ok((Answer::Done, Vec::new()))
            }
        }
    }

    /// The configuration and the key files it points to, in their order. Read by position, so that the caller
    /// finds them as if they had just been opened.
    fn read_config(&mut self) -> Outcome {
        let at = |what: String| move |error| Refused { what, error };
        let path = self.config_path.display().to_string();
        let file = File::open(&self.config_path).map_err(at(format!("{path}: open")))?;
        let text = conf::read_text(&file).map_err(at(format!("{path}: read")))?;
        let mut opened = vec![file];
        // What does not parse is the caller's to report: it sees the same text.
        if let Ok(conf) = wg_proto::conf::parse(&path, &text) {
            if conf::holds_keys(&conf) {
                conf::keep_private(&opened[0], &self.config_path, self.strict).map_err(at(path.clone()))?;
            }
            for place in conf::key_places(&conf) {
                let key = conf::open_private_key(&place, self.strict);
                opened.push(key.map_err(at(format!("{path}: {place}")))?);
            }
            self.permitted = Permitted::by(&conf, self.endpoints_are_elsewhere);
        }
        if opened.len() > MAX_DESCRIPTORS {
            let what = format!("{path}: more than {} key files; write the keys into it", MAX_DESCRIPTORS - 1);
            return Err(Refused { what, error: io::Error::from_raw_os_error(libc::E2BIG) });
        }
        Ok((Answer::Done, opened.into_iter().map(OwnedFd::from).collect()))
    }

    /// Lets reverse-path filtering look at the mark, as wg-quick does; else it takes answers to the tunnel's own
    /// datagrams for forged ones.
    fn validate_by_mark(&mut self) {
        let written = match &mut self.valid_mark {
            Some(file) => file.write_all(b"1"),
            None => Err(io::Error::from_raw_os_error(libc::EROFS)),
        };
        if let Err(error) = written {
            tracing::warn!(%error, "set net.ipv4.conf.all.src_valid_mark=1 where rp_filter is 1: wgd cannot");
        }
    }

    async fn resolve(&mut self, name: &str) -> Outcome {
        self.permitted.name(name).map_err(|what| self.not_permitted(&what))?;
        let Some(resolver) = &mut self.resolver else {
            let what = format!("look up {name:?}: no resolver runs");
            return Err(Refused { what, error: io::Error::from_raw_os_error(libc::EPERM) });
        };
        let addresses = resolver.look_up(name).await;
        let addresses = addresses.map_err(|error| Refused { what: format!("look up {name:?}"), error })?;
        Ok((Answer::Resolved(addresses), Vec::new()))
    }

    fn not_permitted(&self, what: &str) -> Refused {
        tracing::warn!(what, "refused: the interface's file does not say so");
        let what = format!("{what}: {} does not say so", self.config_path.display());
        Refused { what, error: io::Error::from_raw_os_error(libc::EPERM) }
    }
}

fn bind_refused(port: u16, error: io::Error) -> Refused {
    let hint = if error.raw_os_error() == Some(libc::EACCES) {
        " (ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE, which is not kept)"
    } else {
        ""
    };
    Refused { what: format!("bind UDP port {port}{hint}"), error }
}
