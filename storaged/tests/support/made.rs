//! A store in a folder, and the real daemon that serves it as a user of its own.
#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use store_proto::headers;

use crate::support;

/// A number from the range that Debian gives to nobody.
pub(crate) const SERVICE_USER: linux::User = linux::User { uid: 64_123, gid: 64_123 };

pub(crate) fn head(address: SocketAddr, key: &str, token: store_proto::Token) -> String {
    let context = support::context(token).encode();
    format!(
        "host: {address}\r\n{}: {key}\r\n{}: {context}\r\n{}: c1\r\n",
        headers::X_INTERNAL_KEY,
        headers::CULVERT_CONTEXT,
        headers::CULVERT_COHORT,
    )
}

pub(crate) struct Made {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) address: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) head: String,
}

impl Made {
    pub(crate) fn new() -> Made {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests start a daemon that becomes another user: run as root"
        );
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (address, metrics) = (free(), free());
        let options = storaged::init::InitOptions {
            bind_address: address,
            metrics_listen: metrics,
            owner: Some(SERVICE_USER),
            ..support::options(folder.path(), None)
        };
        let report = storaged::init::run(options).unwrap();
        let token = report.tokens.iter().find(|issued| issued.user.as_str() == "ada").unwrap().token.clone();
        let key = std::fs::read_to_string(&report.internal_key_path).unwrap();
        let head = head(address, key.trim(), token);
        support::fake_wgd(&folder.path().join("wgd.events"));
        let wgd = folder.path().join("wgd.events");
        std::os::unix::fs::chown(wgd, Some(SERVICE_USER.uid), None).unwrap();
        Made { folder, address, metrics, head }
    }

    /// Asks with another token from now on.
    pub(crate) fn with_token(mut self, token: &str) -> Made {
        let key = std::fs::read_to_string(self.path("internal.key")).unwrap();
        self.head = head(self.address, key.trim(), store_proto::Token::parse(token).unwrap());
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn start(&self) -> Running {
        let child = Command::new(env!("CARGO_BIN_EXE_storaged"))
            .args(["--config", self.path("storaged.toml").to_str().unwrap(), "--log-format", "text"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let running = Running::of(child);
        wait("storaged is healthy", || self.is_healthy());
        running
    }

    pub(crate) fn get_metrics(&self) -> String {
        let mut stream = TcpStream::connect(self.metrics).unwrap();
        let request = format!("GET /metrics HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.metrics);
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    pub(crate) fn is_healthy(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(self.address) else { return false };
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let request = format!(
            "GET /internal/storage/health HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
            self.address
        );
        let mut answer = String::new();
        stream.write_all(request.as_bytes()).is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.starts_with("HTTP/1.1 200")
    }

    pub(crate) fn send_head(&self, path: &str, length: usize) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let head = format!(
            "POST /internal/storage/upload HTTP/1.1\r\n{}culvert-path: {path}\r\ncontent-length: {length}\r\n\r\n",
            self.head
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream
    }

    pub(crate) fn upload(&self, bytes: &[u8]) -> String {
        let mut stream = self.send_head("f", bytes.len());
        stream.write_all(bytes).unwrap();
        read_answer(stream)
    }

    pub(crate) fn items(&self, verb: &str) -> Vec<Value> {
        let mut items = Vec::new();
        let keep = |item: Value| items.push(item);
        daemon::admin::call(&self.path("admin.sock"), verb, Value::Null, &[], keep).unwrap();
        items
    }

    pub(crate) fn call(&self, verb: &str, args: Value) -> Result<Value, daemon::admin::CallError> {
        daemon::admin::call(&self.path("admin.sock"), verb, args, &[], |_| ())
    }

    pub(crate) fn reload(&self, text: &str) -> Result<Value, daemon::admin::CallError> {
        let file = self.path("new.toml");
        std::fs::write(&file, text).unwrap();
        let (config, key) =
            (std::fs::File::open(&file).unwrap(), std::fs::File::open(self.path("internal.key")).unwrap());
        let files = json!({"files": [
            {"key": "config", "reference": "new.toml", "path": "new.toml"},
            {"key": "internal_api_key_file", "reference": self.path("internal.key"), "path": self.path("internal.key")},
        ]});
        daemon::admin::call(&self.path("admin.sock"), "reload", files, &[config.as_fd(), key.as_fd()], |_| ())
    }
}

pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) log: std::thread::JoinHandle<String>,
}

impl Running {
    pub(crate) fn of(mut child: Child) -> Running {
        let log = child.stderr.take().unwrap();
        let log = std::thread::spawn(move || {
            let mut text = String::new();
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                text.push_str(&line);
                text.push('\n');
            }
            text
        });
        Running { child, log }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    pub(crate) fn end(self, signal: Signal, code: Option<i32>) -> String {
        kill(self.pid(), signal).unwrap();
        self.wait(code)
    }

    pub(crate) fn wait(mut self, code: Option<i32>) -> String {
        let status = self.child.wait().unwrap();
        let log = self.log.join().unwrap();
        assert_eq!(status.code(), code, "{log}");
        log
    }
}

pub(crate) fn read_answer(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&answer).contains('}') {
        let length = stream.read(&mut buffer).unwrap();
        assert_ne!(length, 0, "the connection ended: {answer:?}");
        answer.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

pub(crate) fn http_get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

pub(crate) fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what} did not come true within 10 s");
}
