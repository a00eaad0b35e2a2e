//! A store on loopback: made by `init`, served from this process in role `testing`, with a responder that
//! plays wgd's part of whois.
#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use daemon::notify::{Heartbeat, Notify};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use linux::unix_datagram::DatagramSocket;
use sha2::{Digest as _, Sha256};
use storaged::config::{Config, Environment, Profile};
use storaged::init::{InitOptions, NewEdge, NewUser, NewVolume};
use storaged::ledger::access::Wish;
use storaged::ledger::{Action, Ending, Origin, Record};
use storaged::store::Store;
use store_proto::{
    Cohort, ContentDigest, EdgeName, Proof, RequestContext, RequestId, Role, ServerRole, Token, UserName,
    headers, routes,
};
use tunnel_events::{Answer, Message, PeerIdentity};

pub(crate) type Peers = Arc<Mutex<HashMap<IpAddr, String>>>;

pub(crate) struct Lab {
    pub(crate) store: Arc<Store>,
    pub(crate) address: SocketAddr,
    pub(crate) key: String,
    pub(crate) tokens: HashMap<String, Token>,
    pub(crate) peers: Peers,
    /// wgd answers while this is set.
    pub(crate) wgd_answers: Arc<AtomicBool>,
    pub(crate) folder: Arc<tempfile::TempDir>,
    serving: tokio::task::JoinHandle<()>,
    hearing: tokio::task::JoinHandle<()>,
}

/// Changes to what `init` made, before the store opens.
pub(crate) type Edit<'a> = &'a dyn Fn(String) -> String;

impl Lab {
    pub(crate) async fn start() -> Lab {
        Lab::start_edited(&|text| text).await
    }

    pub(crate) async fn start_edited(edit: Edit<'_>) -> Lab {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        Lab::start_in(folder, None, edit).await
    }

    pub(crate) async fn start_in(
        folder: Arc<tempfile::TempDir>,
        volume: Option<PathBuf>,
        edit: Edit<'_>,
    ) -> Lab {
        let path = folder.path().to_owned();
        let report = storaged::init::run(options(&path, volume)).unwrap();
        let text = std::fs::read_to_string(&report.config_path).unwrap();
        std::fs::write(&report.config_path, edit(text)).unwrap();
        let tokens =
            report.tokens.into_iter().map(|issued| (issued.user.to_string(), issued.token)).collect();
        Lab::open(folder, tokens).await
    }

    /// Opens what is in the folder, as after a restart.
    pub(crate) async fn open(folder: Arc<tempfile::TempDir>, tokens: HashMap<String, Token>) -> Lab {
        Lab::open_changed(folder, tokens, |_| ()).await
    }

    /// As [`Self::open`], with a change to the store before it serves.
    pub(crate) async fn open_changed(
        folder: Arc<tempfile::TempDir>,
        tokens: HashMap<String, Token>,
        change: impl FnOnce(&mut Store),
    ) -> Lab {
        let path = folder.path().to_owned();
        let (config, _) = Config::load(&path.join("storaged.toml"), &Environment::default()).unwrap();
        let Config { fixed, mut rules } = config;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        rules.allowed_hosts = vec![address.to_string()];
        let (peers, wgd_answers) = fake_wgd(&fixed.wgd_socket);
        let events = DatagramSocket::bind(&fixed.events_socket, 0o600, None).unwrap();
        let registry = prometheus::Registry::new();
        // Opening waits for the ledger's thread, which a runtime's own thread must not.
        let handle = tokio::runtime::Handle::current();
        let store = std::thread::spawn(move || {
            let _entered = handle.enter();
            let host = storaged::host::describe(fixed.role);
            let root_key = storaged::keys::RootKey::read(&fixed.root_key_file).unwrap();
            storaged::run::assemble(&fixed, rules, root_key, events, &registry, host).unwrap().0
        });
        let mut store = tokio::task::spawn_blocking(move || store.join().unwrap()).await.unwrap();
        change(Arc::get_mut(&mut store).unwrap());
        let whois = Arc::clone(&store.whois);
        let hearing = tokio::spawn(async move { whois.listen(|_| ()).await.unwrap() });
        let serving = tokio::spawn(storaged::serve::serve(
            listener,
            Arc::clone(&store),
            64,
            Heartbeat::new(Arc::new(Notify::nobody())),
        ));
        let key = std::fs::read_to_string(path.join("internal.key")).unwrap().trim().to_owned();
        Lab { store, address, key, tokens, peers, wgd_answers, folder, serving, hearing }
    }

    /// Ends, and waits until the ledger is free.
    pub(crate) async fn stop(self) -> (Arc<tempfile::TempDir>, HashMap<String, Token>) {
        let Lab { store, tokens, folder, serving, hearing, .. } = self;
        hearing.abort();
        let _ = hearing.await;
        store.drain.begin();
        serving.await.unwrap();
        drop(store);
        // The ledger's thread has both of them too, and a file is free when it is closed, not when its owner goes.
        for file in ["keys.redb", "ledger.redb"] {
            while redb::Database::open(folder.path().join("state").join(file)).is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        // The last handle is gone before its file is closed. A lab whose root key is another by now goes on.
        for _ in 0..200 {
            let root_key = storaged::keys::RootKey::read(folder.path().join("root.key").to_str().unwrap());
            let opened =
                root_key.map(|key| storaged::keys::Keys::open(&folder.path().join("state"), key).is_ok());
            if opened.unwrap_or(true) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        (folder, tokens)
    }

    /// What a crash leaves at this moment, as the folder of another lab.
    pub(crate) fn copy_of_disk(&self) -> Arc<tempfile::TempDir> {
        let crashed = tempfile::tempdir().unwrap();
        // At one moment the mirror is never ahead of the ledger, nor the ledger of its keys and objects.
        let in_order =
            "cp -a --parents $(find . -name .journal) $(find . -name ledger.redb) $0 && cp -an . $0";
        let mut copy = std::process::Command::new("sh");
        copy.args(["-c", in_order]).arg(crashed.path()).current_dir(self.folder.path());
        // While no group is committed: the copy takes time, and an object whose intent came after the ledger was copied
        // would be nobody's.
        assert!(self.store.ledger.reader().between_groups(|| copy.status()).unwrap().success());
        let config = crashed.path().join("storaged.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        let (old, new) = (self.folder.path().display().to_string(), crashed.path().display().to_string());
        std::fs::write(&config, text.replace(&old, &new)).unwrap();
        Arc::new(crashed)
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> Asking<'_> {
        Asking {
            lab: self,
            method,
            path: path.to_owned(),
            headers: self.good_headers("ada"),
            body: Bytes::new(),
        }
    }

    pub(crate) fn good_headers(&self, user: &str) -> HeaderMap {
        let mut fields = HeaderMap::new();
        fields.insert("host", self.address.to_string().parse().unwrap());
        fields.insert(headers::X_INTERNAL_KEY, self.key.parse().unwrap());
        fields.insert(headers::CULVERT_CONTEXT, self.context(user).encode().parse().unwrap());
        fields
    }

    pub(crate) fn context(&self, user: &str) -> RequestContext {
        context(self.tokens[user].clone())
    }

    pub(crate) fn upload(&self, path: &str, body: impl Into<Bytes>) -> Asking<'_> {
        let mut asking = self.request(Method::POST, routes::UPLOAD);
        asking.body = body.into();
        asking.with(headers::CULVERT_COHORT, "c1").with(headers::CULVERT_PATH, path)
    }

    /// All records but those of changes of access, of which `init` leaves some.
    pub(crate) fn records(&self) -> Vec<Record> {
        let mut records = self.store.ledger.reader().records(0, 100_000).unwrap();
        records.retain(|record| record.access.is_none());
        records
    }

    /// Changes who may do what.
    pub(crate) async fn change(&self, wish: Wish) {
        self.store.change_access(Origin::default(), wish).await.unwrap().unwrap();
    }

    /// (action, ending) of all records after the first, which is `admin.init`.
    pub(crate) fn trail(&self) -> Vec<(Action, Option<Ending>)> {
        self.records().into_iter().skip(1).map(|record| (record.action, record.ending)).collect()
    }

    /// Objects and temporary files on the volume.
    pub(crate) fn on_volume(&self) -> Vec<PathBuf> {
        files_below(&self.volume().join("objects"))
            .into_iter()
            .chain(files_below(&self.volume().join("tmp")))
            .collect()
    }

    pub(crate) fn volume(&self) -> PathBuf {
        self.folder.path().join("volume")
    }
}

/// What a store says that does not start.
pub(crate) async fn refusal_to_start(folder: &Path) -> String {
    let (config, _) = Config::load(&folder.join("storaged.toml"), &Environment::default()).unwrap();
    let Config { fixed, rules } = config;
    let events = DatagramSocket::bind(&fixed.events_socket, 0o600, None).unwrap();
    let handle = tokio::runtime::Handle::current();
    let opening = std::thread::spawn(move || {
        let _entered = handle.enter();
        let host = storaged::host::describe(fixed.role);
        let root_key = storaged::keys::RootKey::read(&fixed.root_key_file).unwrap();
        let registry = prometheus::Registry::new();
        let opened = storaged::run::assemble(&fixed, rules, root_key, events, &registry, host);
        format!("{:#}", opened.map(drop).unwrap_err())
    });
    tokio::task::spawn_blocking(move || opening.join().unwrap()).await.unwrap()
}

pub(crate) struct Asking<'a> {
    lab: &'a Lab,
    method: Method,
    path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Asking<'_> {
    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, value.parse().unwrap());
        self
    }

    pub(crate) fn without(mut self, name: &'static str) -> Self {
        self.headers.remove(name);
        self
    }

    pub(crate) fn of_user(self, user: &str) -> Self {
        let context = self.lab.context(user).encode();
        self.with(headers::CULVERT_CONTEXT, &context)
    }

    pub(crate) fn with_proof(self, proof: Proof) -> Self {
        let context = RequestContext { proof, ..self.lab.context("ada") }.encode();
        self.with(headers::CULVERT_CONTEXT, &context)
    }

    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) async fn send(self) -> Told {
        let body = Full::new(self.body.clone());
        let response = self.send_body(body).await;
        Told::read(response).await
    }

    pub(crate) async fn send_body<B>(self, body: B) -> Response<Incoming>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        let stream = tokio::net::TcpStream::connect(self.lab.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().method(self.method).uri(self.path).body(body).unwrap();
        *request.headers_mut() = self.headers;
        sender.send_request(request).await.unwrap()
    }
}

#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Told {
    pub(crate) async fn read(response: Response<Incoming>) -> Told {
        let (parts, body) = response.into_parts();
        Told { status: parts.status, headers: parts.headers, body: body.collect().await.unwrap().to_bytes() }
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    /// The last part of the problem's type.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.headers["content-type"], headers::PROBLEM_JSON, "{self:?}");
        let json = self.json();
        assert_eq!(json["status"], self.status.as_u16());
        json["type"].as_str().unwrap().strip_prefix("urn:culvert:problem:").unwrap().to_owned()
    }
}

pub(crate) fn context(token: Token) -> RequestContext {
    RequestContext {
        edge: EdgeName::parse("web1").unwrap(),
        role: ServerRole::Web,
        process_id: 7,
        timestamp_ms: daemon::Clock.unix_milliseconds(),
        request_id: RequestId::parse("r-1").unwrap(),
        client_address: "192.0.2.9".parse().unwrap(),
        certificate: None,
        proof: Proof::Token(token),
    }
}

pub(crate) fn digest(bytes: &[u8]) -> ContentDigest {
    ContentDigest::from_bytes(Sha256::digest(bytes).into())
}

pub(crate) fn files_below(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found
}

pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..4000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what} did not come true within 20 s");
}

pub(crate) fn options(folder: &Path, volume: Option<PathBuf>) -> InitOptions {
    let cohort = |name: &str| Cohort::parse(name).unwrap();
    let user = |name: &str, role, of: &str| NewUser {
        name: UserName::parse(name).unwrap(),
        role,
        cohorts: vec![cohort(of)],
    };
    InitOptions {
        config_path: folder.join("storaged.toml"),
        internal_key_path: folder.join("internal.key"),
        role: ServerRole::Testing,
        profile: Profile::Lab,
        bind_address: "127.0.0.1:8001".parse().unwrap(),
        state_dir: folder.join("state"),
        volumes: vec![NewVolume {
            name: "main".into(),
            path: volume.unwrap_or_else(|| folder.join("volume")),
        }],
        edges: vec![
            NewEdge { name: EdgeName::parse("web1").unwrap(), cohorts: vec![cohort("c1"), cohort("c2")] },
            NewEdge { name: EdgeName::parse("web2").unwrap(), cohorts: vec![cohort("c2")] },
        ],
        cohorts: vec![cohort("c1"), cohort("c2")],
        users: vec![
            user("ada", Role::User, "c1"),
            user("vic", Role::Viewer, "c1"),
            user("adm", Role::Admin, "c1"),
            user("aud", Role::Auditor, "c1"),
            user("bob", Role::User, "c2"),
        ],
        admin_socket: folder.join("admin.sock"),
        events_socket: folder.join("storaged.events"),
        wgd_socket: folder.join("wgd.events"),
        ..InitOptions::default()
    }
}

/// Answers whois as wgd would: `127.0.0.1` is `web1` unless a test says otherwise.
pub(crate) fn fake_wgd(path: &Path) -> (Peers, Arc<AtomicBool>) {
    let _ = std::fs::remove_file(path);
    let socket = UnixDatagram::bind(path).unwrap();
    let peers: Peers =
        Arc::new(Mutex::new(HashMap::from([(IpAddr::from([127, 0, 0, 1]), "web1".to_owned())])));
    let answers = Arc::new(AtomicBool::new(true));
    let (known, alive) = (Arc::clone(&peers), Arc::clone(&answers));
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let Ok(Message::Question(question)) = Message::decode(&buffer[..length]) else { continue };
            if !alive.load(Ordering::Relaxed) {
                continue;
            }
            let found = known.lock().unwrap().get(&question.source).map(|peer| PeerIdentity {
                peer: peer.clone(),
                public_key: "bmFtZWQ=".into(),
                since_unix_ms: 0,
            });
            let answer = Message::Answer(Answer { id: question.id, found }).encode();
            let _ = socket.send_to(&answer, from.as_pathname().unwrap());
        }
    });
    (peers, answers)
}
