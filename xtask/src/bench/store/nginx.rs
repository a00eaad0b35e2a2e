//! Debian's nginx as a WebDAV server: what a user could take who wants files in and out and nothing else. It hashes
//! nothing, seals nothing, syncs nothing and records nothing.

use std::fs;
use std::io::{BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_netns::http::{self, Response};
use culvert_netns::store::{connect, read_sized};
use culvert_netns::wait;

use crate::packages;

/// A running nginx; killed when dropped.
pub(super) struct Nginx {
    child: Child,
    address: SocketAddr,
}

/// Fetches the program; it is not installed.
pub(in crate::bench) fn provide() -> Result<()> {
    let unpacked = packages::tools_directory().join("nginx");
    if !program().is_file() {
        println!("Unpacking Debian's nginx into {} (not installed)", unpacked.display());
        packages::unpack("nginx", &unpacked)?;
    }
    let works = Command::new(program()).arg("-v").stderr(Stdio::null()).status();
    ensure!(works.is_ok_and(|status| status.success()), "{} does not run", program().display());
    Ok(())
}

fn program() -> PathBuf {
    packages::tools_directory().join("nginx/usr/sbin/nginx")
}

impl Nginx {
    pub(super) fn start(folder: &Path) -> Result<Nginx> {
        for directory in ["files", "temporary"] {
            fs::create_dir_all(folder.join(directory)).context("make a directory for nginx")?;
        }
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let path = |name: &str| folder.join(name).display().to_string();
        let unused = ["proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {};", path("temporary")))
            .join(" ");
        let text = format!(
            "daemon off; worker_processes auto; user root root; pid {}; error_log stderr;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; client_max_body_size 0; keepalive_requests 1000000; sendfile on;\n\
             client_body_temp_path {}; {unused}\n\
             server {{ listen {address}; root {}; dav_methods PUT; }} }}\n",
            path("pid"),
            path("temporary"),
            path("files")
        );
        fs::write(folder.join("nginx.conf"), text).context("configure nginx")?;
        let mut command = Command::new(program());
        command.args(["-e", "stderr", "-p"]).arg(folder).arg("-c").arg(folder.join("nginx.conf"));
        let child = command.stdin(Stdio::null()).spawn().context("start nginx")?;
        let nginx = Nginx { child, address };
        wait::until("nginx to listen", Duration::from_secs(10), || connect(address))?;
        Ok(nginx)
    }

    /// The processes: master and workers.
    pub(super) fn pids(&self) -> Result<Vec<u32>> {
        let pid = self.child.id();
        // The master listens before it has workers.
        let children = wait::until("nginx's workers", Duration::from_secs(10), || {
            let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
            ensure!(!listed.trim().is_empty(), "none yet");
            Ok(listed)
        })?;
        let workers = children.split_whitespace().map(|pid| pid.parse().context("a process number"));
        std::iter::once(Ok(pid)).chain(workers).collect()
    }

    pub(super) fn connect(&self) -> Result<Client> {
        Ok(Client { stream: connect(self.address)?, address: self.address })
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        // The master tells its workers; killed outright it would leave them behind.
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// A connection to it.
pub(super) struct Client {
    stream: BufReader<TcpStream>,
    address: SocketAddr,
}

impl Client {
    pub(super) fn put(&mut self, name: &str, bytes: &[u8], times: u64) -> Result<()> {
        let length = bytes.len() as u64 * times;
        self.send_head("PUT", name, &format!("content-length: {length}\r\n"))?;
        for _ in 0..times {
            self.stream.get_mut().write_all(bytes).context("send to nginx")?;
        }
        let answer: Response = http::read_response(&mut self.stream, false)?;
        ensure!(answer.status == 201 || answer.status == 204, "nginx answered {}", answer.status);
        Ok(())
    }

    pub(super) fn get(&mut self, name: &str, take: &mut dyn FnMut(&[u8])) -> Result<()> {
        self.send_head("GET", name, "")?;
        let answer = http::read_head(&mut self.stream)?;
        ensure!(answer.status == 200, "nginx answered {}", answer.status);
        read_sized(&mut self.stream, &answer, take)
    }

    fn send_head(&mut self, method: &str, name: &str, more: &str) -> Result<()> {
        let head = format!("{method} /{name} HTTP/1.1\r\nhost: {}\r\n{more}\r\n", self.address);
        self.stream.get_mut().write_all(head.as_bytes()).context("send to nginx")
    }
}
