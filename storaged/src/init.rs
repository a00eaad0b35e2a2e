//! The first start: what `culvert init storaged` does.
//!
//! **Invariant:** nothing that exists is overwritten; the error names it. Everything is looked at before
//! the first thing is made.

mod keys;

pub use self::keys::{RecoveryFile, RecoveryOptions};

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ipnet::IpNet;
use store_proto::{Cohort, EdgeName, FileId, Role, ServerRole, Token, UserName};

use crate::config::{self, Profile};
use crate::ledger::access::{self, Book, CohortRules, Wish};
use crate::ledger::{self, Action, Ending, Ledger, Origin, Phase, Record, StoreId};
use crate::metrics::LedgerTime;
use crate::objects::network_fs::network_file_system;
use crate::objects::volume::{self, NasVolume};

/// What to make. `Default` is the production layout without edges, cohorts and users.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// The configuration file to write.
    pub config_path: PathBuf,
    /// The internal key file to write; edge needs a copy of it.
    pub internal_key_path: PathBuf,
    /// The root key file to write; none: `root.key` beside the internal key.
    pub root_key_path: Option<PathBuf>,
    /// What is made so that a lost root key comes back.
    pub recovery: RecoveryOptions,
    /// What the server is.
    pub role: ServerRole,
    /// Whether a missing layer of the lock-down is an error.
    pub profile: Profile,
    /// An address of the tunnel, and the port.
    pub bind_address: SocketAddr,
    /// The interface that has it.
    pub tunnel_interface: String,
    /// The prefix that holds it.
    pub tunnel_prefix: IpNet,
    /// Where the ledger goes; on a local file system.
    pub state_dir: PathBuf,
    /// Where objects go.
    pub volumes: Vec<NewVolume>,
    /// The edges to register.
    pub edges: Vec<NewEdge>,
    /// The cohorts to make.
    pub cohorts: Vec<Cohort>,
    /// Users beside the first admin, each with a fresh token.
    pub users: Vec<NewUser>,
    /// Who runs storaged: owns what it must write, and `run_as` in the configuration.
    pub owner: Option<linux::User>,
    /// Who runs wgd, if neither root nor `owner`.
    pub wgd_user: Option<linux::User>,
    /// Where metrics are served.
    pub metrics_listen: SocketAddr,
    /// The admin socket.
    pub admin_socket: PathBuf,
    /// The socket for wgd's events and answers.
    pub events_socket: PathBuf,
    /// wgd's socket.
    pub wgd_socket: PathBuf,
}

/// A volume to make.
#[derive(Debug, Clone)]
pub struct NewVolume {
    /// Its name in messages.
    pub name: String,
    /// Its directory; made if it is not there, otherwise it must be empty.
    pub path: PathBuf,
}

/// An edge to register.
#[derive(Debug, Clone)]
pub struct NewEdge {
    /// The friendly name of its WireGuard peer.
    pub name: EdgeName,
    /// The cohorts it may ask for; empty: all of [`InitOptions::cohorts`].
    pub cohorts: Vec<Cohort>,
}

/// A user to make.
#[derive(Debug, Clone)]
pub struct NewUser {
    /// The name in records.
    pub name: UserName,
    /// What they are.
    pub role: Role,
    /// The cohorts that are open to them; empty: all of [`InitOptions::cohorts`].
    pub cohorts: Vec<Cohort>,
}

impl Default for InitOptions {
    fn default() -> Self {
        InitOptions {
            config_path: config::DEFAULT_PATH.into(),
            internal_key_path: "/etc/culvert/internal.key".into(),
            root_key_path: None,
            recovery: RecoveryOptions::default(),
            role: ServerRole::Services,
            profile: Profile::Production,
            bind_address: SocketAddr::from(([10, 100, 0, 11], 8001)),
            tunnel_interface: "wg0".into(),
            tunnel_prefix: IpNet::new([10, 100, 0, 0].into(), 24).expect("24 is a length of IPv4 prefixes"),
            state_dir: "/var/lib/culvert/storaged".into(),
            volumes: vec![NewVolume { name: "main".into(), path: "/var/lib/culvert/volumes/main".into() }],
            edges: Vec::new(),
            cohorts: Vec::new(),
            users: Vec::new(),
            owner: None,
            wgd_user: None,
            metrics_listen: config::DEFAULT_METRICS.parse().expect("a literal address"),
            admin_socket: config::DEFAULT_ADMIN.into(),
            events_socket: config::DEFAULT_EVENTS.into(),
            wgd_socket: config::DEFAULT_WGD.into(),
        }
    }
}

/// What was made. The tokens are nowhere else: show them once.
#[derive(Debug)]
pub struct InitReport {
    /// The store's id.
    pub store_id: StoreId,
    /// The configuration file.
    pub config_path: PathBuf,
    /// The internal key file.
    pub internal_key_path: PathBuf,
    /// The root key file.
    pub root_key_path: PathBuf,
    /// The root key encrypted to its recovery recipients, if there are any.
    pub recovery: Option<RecoveryFile>,
    /// The ledger.
    pub ledger_path: PathBuf,
    /// Each user's token, the admin's first.
    pub tokens: Vec<IssuedToken>,
}

/// A user's fresh token.
#[derive(Debug)]
pub struct IssuedToken {
    /// Whose.
    pub user: UserName,
    /// What they are.
    pub role: Role,
    /// The secret.
    pub token: Token,
}

/// Why nothing, or not everything, was made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Something is there already.
    #[error("{path} exists already; nothing is overwritten", path = .0.display())]
    Exists(PathBuf),
    /// A name stands twice, or a cohort is named that is not made.
    #[error("{0}")]
    Options(String),
    /// The ledger must be on a local file system.
    #[error("{path} is on a network file system ({kind}); the ledger must be on a local one", path = .path.display())]
    Network {
        /// The directory.
        path: PathBuf,
        /// The file system.
        kind: &'static str,
    },
    /// A step failed.
    #[error("{step} {path}: {error}", path = .path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// No randomness.
    #[error("draw random bytes: {0}")]
    Random(#[from] getrandom::Error),
    /// A volume could not be made.
    #[error(transparent)]
    Volume(#[from] volume::VolumeError),
    /// No root key could be drawn.
    #[error(transparent)]
    RootKey(#[from] crate::keys::RootKeyError),
    /// The root key could not be wrapped, or it was not proven that it comes back.
    #[error(transparent)]
    Recovery(#[from] crate::keys::recovery::RecoveryError),
    /// The keys could not be made.
    #[error(transparent)]
    Keys(#[from] crate::keys::OpenKeysError),
    /// The ledger could not be made.
    #[error(transparent)]
    Ledger(#[from] ledger::OpenError),
    /// What was made is refused by storaged itself: the options contradict each other.
    #[error(transparent)]
    Config(#[from] daemon::config::ConfigError),
}

/// Files of the configuration: readable for the group, writable for root alone.
const CONFIG_MODE: u32 = 0o640;
/// The ledger's name in the state directory.
pub const LEDGER_FILE: &str = "ledger.redb";

/// Makes a store: configuration, internal key, ledger with its first record, volumes, users.
pub fn run(options: InitOptions) -> Result<InitReport, InitError> {
    let ledger_path = options.state_dir.join(LEDGER_FILE);
    refuse_existing(&options, &ledger_path)?;

    let mut key = zeroize_on_drop([0; 32]);
    getrandom::fill(key.as_mut())?;
    let key_text = daemon::secret::SecretString::new(URL_SAFE_NO_PAD.encode(key.as_ref()));
    let tokens = issue_tokens(&options)?;
    let wishes = people(&options, &tokens)?;
    let text = configuration(&options);
    // Storaged's own eyes, before anything is written.
    check(&options, &text, key_text.clone())?;

    let recipients = keys::recipients(&options)?;

    let store_id = StoreId::random()?;
    make_directory(&options.state_dir, 0o700)?;
    match network_file_system(&options.state_dir) {
        Ok(None) => {}
        Ok(Some(kind)) => return Err(InitError::Network { path: options.state_dir.clone(), kind }),
        Err(error) => return Err(io_error("look at", &options.state_dir)(error)),
    }
    for volume in &options.volumes {
        make_volume(volume, store_id, options.owner)?;
    }
    let (keys, recovery) = keys::make(&options, store_id, recipients.as_ref())?;
    let keys: Arc<dyn crate::keys::KeyStore> = Arc::new(keys);
    make_ledger(&ledger_path, store_id, &keys, options.role)?;
    seed(&ledger_path, &keys, options.role, wishes)?;
    for path in [&options.state_dir, &ledger_path, &ledger_path.with_file_name(ledger::AHEAD_FILE)] {
        give(path, options.owner)?;
    }
    if let Some(parent) = options.internal_key_path.parent() {
        make_directory(parent, 0o755)?;
    }
    write_new(&options.internal_key_path, key_text.expose(), CONFIG_MODE, options.owner)?;
    if let Some(parent) = options.config_path.parent() {
        make_directory(parent, 0o755)?;
    }
    write_new(&options.config_path, &text, CONFIG_MODE, options.owner)?;
    let root_key_path = keys::root_key_path(&options);
    Ok(InitReport {
        store_id,
        config_path: options.config_path,
        internal_key_path: options.internal_key_path,
        root_key_path,
        recovery,
        ledger_path,
        tokens,
    })
}

fn refuse_existing(options: &InitOptions, ledger: &Path) -> Result<(), InitError> {
    let markers = options.volumes.iter().map(|new| new.path.join(volume::MARKER));
    let files = [&options.config_path, &options.internal_key_path].into_iter().cloned();
    let ledger = [ledger.to_owned(), ledger.with_file_name(ledger::AHEAD_FILE)];
    for path in files.chain(keys::files(options)).chain(ledger).chain(markers) {
        if path.symlink_metadata().is_ok() {
            return Err(InitError::Exists(path));
        }
    }
    Ok(())
}

fn issue_tokens(options: &InitOptions) -> Result<Vec<IssuedToken>, InitError> {
    let admin = UserName::parse("admin").expect("a literal name");
    let users = options.users.iter().map(|user| (user.name.clone(), user.role));
    let mut issued: Vec<IssuedToken> = Vec::new();
    for (user, role) in std::iter::once((admin, Role::Admin)).chain(users) {
        if issued.iter().any(|other| other.user == user) {
            return Err(InitError::Options(format!(
                "user {user} stands twice (the first is always `admin`)"
            )));
        }
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        issued.push(IssuedToken { user, role, token: Token::from_bytes(bytes) });
    }
    Ok(issued)
}

/// What the ledger is asked for, in an order in which it can be granted. Tried on an empty book.
fn people(options: &InitOptions, tokens: &[IssuedToken]) -> Result<Vec<Wish>, InitError> {
    let or_all = |cohorts: &[Cohort]| -> BTreeSet<Cohort> {
        if cohorts.is_empty() { options.cohorts.iter() } else { cohorts.iter() }.cloned().collect()
    };
    let mut wishes = Vec::new();
    for cohort in &options.cohorts {
        wishes.push(Wish::AddCohort { cohort: cohort.clone(), rules: CohortRules::default() });
    }
    for edge in &options.edges {
        wishes.push(Wish::AddEdge { edge: edge.name.clone(), cohorts: or_all(&edge.cohorts) });
    }
    for issued in tokens {
        let user = options.users.iter().find(|user| user.name == issued.user);
        let cohorts = or_all(user.map_or(&[], |user| &user.cohorts));
        wishes.push(Wish::AddUser { user: issued.user.clone(), role: issued.role, cohorts });
        wishes.push(Wish::IssueToken {
            token: ledger::tables::random_id()?,
            user: issued.user.clone(),
            sha256: issued.token.digest(),
            expires_ms: None,
            label: Some("init".to_owned()),
        });
    }
    let mut book = Book::default();
    for wish in &wishes {
        let changes = wish.decide(&book, 0).map_err(|refusal| InitError::Options(refusal.to_string()))?;
        for change in changes {
            book.take(&change).map_err(|misfit| InitError::Options(misfit.to_string()))?;
        }
    }
    Ok(wishes)
}

/// Has the new ledger record who may do what.
fn seed(
    path: &Path,
    keys: &Arc<dyn crate::keys::KeyStore>,
    role: ServerRole,
    wishes: Vec<Wish>,
) -> Result<(), InitError> {
    struct Unwatched;
    impl ledger::writer::Observer for Unwatched {
        fn committed(&self, _commands: usize, _seconds: f64) {}
        fn failed(&self, _commands: usize) {}
    }
    let opened = ledger::open(path)?;
    let failed =
        |error: &dyn std::fmt::Display| io_error("record in", path)(io::Error::other(error.to_string()));
    let time = LedgerTime::new(daemon::Clock);
    // The mirror gets all of this at the first start.
    let host = crate::host::describe(role);
    let (ledger, writer) = Ledger::start(opened, Arc::clone(keys), None, host, time, Unwatched)
        .map_err(|error| failed(&error))?;
    // In a thread of its own: whoever calls may be a runtime's thread, which must not wait.
    let asking = std::thread::spawn(move || {
        wishes.into_iter().try_for_each(|wish| {
            let command = access::Command::Change { origin: caller(), wish: Box::new(wish) };
            match ledger.submit_blocking(command) {
                Ok(access::Outcome::Changed(_)) => Ok(()),
                Ok(outcome) => Err(format!("{outcome:?}")),
                Err(unavailable) => Err(unavailable.to_string()),
            }
        })
    });
    let asked = asking.join().unwrap_or_else(|_| Err("a thread panicked".to_owned()));
    let ended = writer.join().map_err(|_| "the ledger's thread panicked".to_owned());
    asked.and(ended).map_err(|error| failed(&error))
}

fn caller() -> Origin {
    Origin { caller: Some(format!("uid={}", linux::User::current().uid)), ..Origin::default() }
}

fn check(options: &InitOptions, text: &str, key: daemon::secret::SecretString) -> Result<(), InitError> {
    struct FreshKey(daemon::secret::SecretString);
    impl config::KeySource for FreshKey {
        fn read(&mut self, _reference: &str) -> Result<daemon::secret::SecretString, String> {
            Ok(self.0.clone())
        }

        fn read_public(&mut self, reference: &str, _most: u64) -> Result<String, String> {
            Err(format!("{reference}: the first configuration names no such file"))
        }
    }
    let name = options.config_path.display().to_string();
    let raw: config::Raw = daemon::config::parse(&name, text)?;
    config::Config::understand(&name, &raw, &config::Environment::default(), &mut FreshKey(key))?;
    Ok(())
}

fn configuration(options: &InitOptions) -> String {
    let mut text = String::from(
        "# storaged's configuration, made by `culvert init storaged`.\n\
         # Limits and keys: `culvert reload storaged`. The rest: restart.\n\
         # Users, cohorts and edges are in the ledger: `culvert user`, `culvert cohort`, `culvert edge`.\n\n",
    );
    let mut line = |key: &str, value: &str| {
        text.push_str(&format!("{key} = {}\n", quote(value)));
    };
    line("role", options.role.name());
    line("profile", options.profile.name());
    line("bind_address", &options.bind_address.to_string());
    line("tunnel_interface", &options.tunnel_interface);
    line("tunnel_prefix", &options.tunnel_prefix.to_string());
    line("internal_api_key_file", &options.internal_key_path.display().to_string());
    line("root_key_file", &keys::root_key_path(options).display().to_string());
    line("state_dir", &options.state_dir.display().to_string());
    line("metrics_listen", &options.metrics_listen.to_string());
    line("admin_socket", &options.admin_socket.display().to_string());
    line("events_socket", &options.events_socket.display().to_string());
    line("wgd_socket", &options.wgd_socket.display().to_string());
    if let Some(user) = options.wgd_user {
        line("wgd_user", &format!("{}:{}", user.uid, user.gid));
    }
    if let Some(user) = options.owner {
        line("run_as", &format!("{}:{}", user.uid, user.gid));
    }
    for volume in &options.volumes {
        let path = volume.path.display().to_string();
        text.push_str(&format!("\n[[volume]]\nname = {}\npath = {}\n", quote(&volume.name), quote(&path)));
    }
    text
}

fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn make_volume(new: &NewVolume, store: StoreId, owner: Option<linux::User>) -> Result<(), InitError> {
    let volume_id: FileId = ledger::tables::random_id()?;
    NasVolume::create(&new.name, &new.path, store, volume_id)?;
    for part in ["", "objects", "tmp", volume::MARKER] {
        let path = if part.is_empty() { new.path.clone() } else { new.path.join(part) };
        if part != volume::MARKER {
            set_mode(&path, 0o700)?;
        }
        give(&path, owner)?;
    }
    Ok(())
}

fn make_ledger(
    path: &Path,
    store: StoreId,
    keys: &Arc<dyn crate::keys::KeyStore>,
    role: ServerRole,
) -> Result<(), InitError> {
    let mut first = Record::new(Action::AdminInit, Phase::Outcome, crate::host::describe(role), caller());
    first.ending = Some(Ending::Succeeded);
    first.detail = Some(format!("store {store}"));
    first.time_ms = daemon::Clock.unix_milliseconds();
    ledger::create(path, store, keys, first)?;
    set_mode(path, 0o600)
}

fn make_directory(path: &Path, mode: u32) -> Result<(), InitError> {
    if path.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(path).map_err(io_error("make", path))?;
    set_mode(path, mode)
}

fn write_new(path: &Path, text: &str, mode: u32, owner: Option<linux::User>) -> Result<(), InitError> {
    let mut file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(io_error("make", path))?;
    file.write_all(text.as_bytes()).map_err(io_error("write", path))?;
    file.sync_all().map_err(io_error("sync", path))?;
    if let Some(owner) = owner {
        // Readable for the group, writable for root alone: the daemon must not change its own rules.
        chown(path, None, Some(owner.gid)).map_err(io_error("change the group of", path))?;
    }
    Ok(())
}

fn give(path: &Path, owner: Option<linux::User>) -> Result<(), InitError> {
    let Some(owner) = owner else { return Ok(()) };
    chown(path, Some(owner.uid), Some(owner.gid)).map_err(io_error("change the owner of", path))
}

fn set_mode(path: &Path, mode: u32) -> Result<(), InitError> {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode))
        .map_err(io_error("change the mode of", path))
}

fn io_error(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InitError {
    let path = path.to_owned();
    move |error| InitError::Io { step, path, error }
}

fn zeroize_on_drop(bytes: [u8; 32]) -> zeroize::Zeroizing<[u8; 32]> {
    zeroize::Zeroizing::new(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Environment};
    use crate::ledger::Reader;
    use crate::policy::Policy;
    use std::sync::Arc;

    #[test]
    fn what_is_made_is_what_storaged_reads() {
        let folder = tempfile::tempdir().unwrap();
        let report = run(options(folder.path())).unwrap();
        let (config, _) = Config::load(&report.config_path, &Environment::default()).unwrap();
        let root = crate::keys::RootKey::read(&config.fixed.root_key_file).unwrap();
        let keys = Arc::new(crate::keys::Keys::open(&config.fixed.state_dir, root).unwrap());
        let ledger::Opened { database, store, ahead: _ahead } = ledger::open(&report.ledger_path).unwrap();
        assert_eq!(store, report.store_id);
        let reader = Reader::new(database, keys);
        assert_eq!(reader.record(0).unwrap().unwrap().action, Action::AdminInit);
        let book = Book::read(&reader.snapshot().unwrap()).unwrap();
        assert_eq!(book, Book::at(&reader, u64::MAX).unwrap(), "the records tell the same");
        let policy = Policy::new(Arc::new(config.rules), Arc::new(book));
        assert_eq!((policy.book().users.len(), report.tokens[0].user.as_str()), (2, "admin"));
        for issued in &report.tokens {
            let user = policy.user(&issued.token.digest(), 0).unwrap();
            assert_eq!((&user.name, user.role), (&issued.user, issued.role));
        }
        assert_eq!(policy.edge("web1").unwrap().cohorts.len(), 1);
        let key = std::fs::read_to_string(&report.internal_key_path).unwrap();
        assert!(policy.is_internal_key(key.trim().as_bytes()));
        NasVolume::open("main", &config.fixed.volumes[0].path, store).unwrap();
    }

    #[test]
    fn secrets_are_in_no_file_but_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let report = run(options(folder.path())).unwrap();
        let text = std::fs::read_to_string(&report.config_path).unwrap();
        for issued in &report.tokens {
            assert!(!text.contains(&issued.token.expose()[4..]));
        }
        for path in [&report.config_path, &report.internal_key_path] {
            assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o640);
        }
    }

    #[test]
    fn a_second_run_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let report = run(options(folder.path())).unwrap();
        let before = std::fs::read(&report.config_path).unwrap();
        let error = run(options(folder.path())).unwrap_err().to_string();
        assert!(error.contains("storaged.toml exists already"), "{error}");
        std::fs::remove_file(&report.config_path).unwrap();
        let error = run(options(folder.path())).unwrap_err().to_string();
        assert!(error.contains("internal.key exists already"), "{error}");
        std::fs::write(&report.config_path, &before).unwrap();
        std::fs::remove_file(&report.internal_key_path).unwrap();
        std::fs::remove_file(&report.config_path).unwrap();
        let others = [&report.root_key_path, &folder.path().join("state/keys.redb"), &report.ledger_path];
        for path in others {
            let error = run(options(folder.path())).unwrap_err().to_string();
            assert!(error.contains(&format!("{} exists already", path.display())), "{error}");
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn options_that_storaged_would_refuse_make_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let wrong = InitOptions { bind_address: "0.0.0.0:8001".parse().unwrap(), ..options(folder.path()) };
        let error = run(wrong).unwrap_err().to_string();
        assert!(error.contains("bind_address"), "{error}");
        let dangling = InitOptions { cohorts: Vec::new(), ..options(folder.path()) };
        let error = run(dangling).unwrap_err().to_string();
        assert!(error.contains("there is no cohort c1"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    fn options(folder: &Path) -> InitOptions {
        InitOptions {
            config_path: folder.join("storaged.toml"),
            internal_key_path: folder.join("internal.key"),
            state_dir: folder.join("state"),
            volumes: vec![NewVolume { name: "main".into(), path: folder.join("volume \"1\"") }],
            edges: vec![NewEdge { name: EdgeName::parse("web1").unwrap(), cohorts: vec![] }],
            cohorts: vec![Cohort::parse("c1").unwrap()],
            users: vec![NewUser {
                name: UserName::parse("ada").unwrap(),
                role: Role::User,
                cohorts: vec![Cohort::parse("c1").unwrap()],
            }],
            ..InitOptions::default()
        }
    }
}
