//! The real program, in a folder of its own.

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::certificate::Certificate;
use super::{Client, Fake, KEY};

pub struct Program {
    pub child: Child,
    folder: TempDir,
    pub public: SocketAddr,
    metrics: SocketAddr,
    /// All that it wrote to its standard error.
    pub log: Arc<Mutex<String>>,
}

pub fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub fn write(path: &Path, text: &str) {
    File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
}

pub fn command(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edge"));
    command.arg("--config").arg(config).stderr(Stdio::piped()).kill_on_drop(true).env_clear();
    command
}

impl Program {
    pub async fn start(fake: &Fake) -> Program {
        Self::start_as(fake, None).await
    }

    /// With TLS; the lines go into its configuration.
    pub async fn start_tls(fake: &Fake, lines: &str) -> Program {
        let folder = tempfile::tempdir().unwrap();
        Certificate::made().put(folder.path());
        let path = folder.path().display();
        let encryption = format!(
            "tls_certificate_file = \"{path}/chain.pem\"\ntls_key_file = \"{path}/key.pem\"\n{lines}"
        );
        Self::start_in(folder, &encryption, fake, None, &[]).await
    }

    /// With a listener, it is handed in as systemd does it, and the configured address is not bound.
    pub async fn start_as(fake: &Fake, handed_in: Option<std::net::TcpListener>) -> Program {
        Self::start_in(tempfile::tempdir().unwrap(), "plain_http = true\n", fake, handed_in, &[]).await
    }

    /// With these lines at the top of its configuration.
    pub async fn start_configured(fake: &Fake, lines: &str) -> Program {
        let lines = format!("plain_http = true\n{lines}");
        Self::start_in(tempfile::tempdir().unwrap(), &lines, fake, None, &[]).await
    }

    /// With these arguments beside the configuration.
    pub async fn start_logging(fake: &Fake, arguments: &[&str]) -> Program {
        Self::start_in(tempfile::tempdir().unwrap(), "plain_http = true\n", fake, None, arguments).await
    }

    async fn start_in(
        folder: TempDir,
        lines: &str,
        fake: &Fake,
        handed_in: Option<std::net::TcpListener>,
        arguments: &[&str],
    ) -> Program {
        let (public, metrics) = (free_port(), free_port());
        write(&folder.path().join("key"), KEY);
        let path = folder.path().display();
        let text = format!(
            "name = \"web1\"\nrole = \"testing\"\nprofile = \"lab\"\n{lines}listen = \"{public}\"\n\
             services_url = \"http://{}\"\ninternal_api_key_file = \"{path}/key\"\nmetrics_listen = \"{metrics}\"\n\
             admin_socket = \"{path}/edge.sock\"\nevents_socket = \"{path}/edge.events\"\n",
            fake.address
        );
        write(&folder.path().join("edge.toml"), &text);
        let config = folder.path().join("edge.toml");
        let mut child = match handed_in {
            None => {
                let mut plain = command(&config);
                plain.args(arguments);
                plain
            }
            Some(listener) => {
                let script = "export LISTEN_PID=$$; exec \"$0\" --config \"$1\" 3<&0 0</dev/null";
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", script, env!("CARGO_BIN_EXE_edge")]).arg(&config).env_clear();
                shell.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "public");
                shell.stdin(std::os::fd::OwnedFd::from(listener)).stderr(Stdio::piped()).kill_on_drop(true);
                shell
            }
        }
        .spawn()
        .unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let log: Arc<Mutex<String>> = Arc::default();
        let kept = Arc::clone(&log);
        // Its lines appear with those of the test that they belong to, unless they are what the test is about.
        let shown = arguments.is_empty();
        tokio::spawn(async move {
            let (mut text, mut whole) = (vec![0; 4096], Vec::new());
            while let Ok(length @ 1..) = stderr.read(&mut text).await {
                if shown {
                    eprint!("{}", String::from_utf8_lossy(&text[..length]));
                }
                whole.extend_from_slice(&text[..length]);
                *kept.lock().unwrap() = String::from_utf8_lossy(&whole).into_owned();
            }
        });
        let program = Program { child, folder, public, metrics, log };
        for _ in 0..500 {
            if TcpStream::connect(metrics).await.is_ok()
                && program.scrape("/readyz").await.starts_with("HTTP/1.1 200")
            {
                return program;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("edge is not ready after 10 s");
    }

    pub async fn scrape(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.metrics).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: e\r\nConnection: close\r\n\r\n");
        tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    pub async fn connect(&self) -> Client {
        Client { stream: TcpStream::connect(self.public).await.unwrap() }
    }

    pub fn proc(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.child.id().expect("it runs")))
    }

    pub fn status_field(&self, file: &str, key: &str) -> String {
        let text = std::fs::read_to_string(self.proc(file)).unwrap();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.split_whitespace().nth(1).unwrap_or_default().to_owned()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub async fn reload(&self) -> Result<serde_json::Value, String> {
        let socket = self.file("edge.sock");
        let files = [
            ("config", "edge.toml"),
            ("internal_api_key_file", "key"),
            ("tls_certificate_file", "chain.pem"),
            ("tls_key_file", "key.pem"),
        ];
        let there = files.map(|(key, name)| (key, self.file(name))).into_iter().filter(|(_, it)| it.exists());
        let there: Vec<_> = there.collect();
        let call = move || {
            let files: Vec<_> = there.iter().map(|(_, path)| File::open(path).unwrap()).collect();
            let named: Vec<_> = there.iter().map(|(key, path)| json!({"key": key, "path": path})).collect();
            let fds: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
            daemon::admin::call(&socket, "reload", json!({ "files": named }), &fds, |_| {})
                .map_err(|e| e.to_string())
        };
        tokio::task::spawn_blocking(call).await.unwrap()
    }

    pub fn terminate(&self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().unwrap().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    }

    pub async fn stop(mut self) -> i32 {
        self.terminate();
        let status = tokio::time::timeout(Duration::from_secs(10), self.child.wait()).await.unwrap().unwrap();
        status.code().unwrap_or(-1)
    }
}
