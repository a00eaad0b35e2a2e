//! A user outside of the hosts: ada, with her token, the command and curl.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::host::run;
use super::pair::WEB;
use crate::steps;

/// Who sends and fetches files; `data` holds the token and the authority's certificate.
pub(super) struct Client {
    pub(super) data: PathBuf,
}

impl Client {
    fn program() -> PathBuf {
        steps::target_directory().join("debug/culvert")
    }

    /// `culvert`, from outside of both hosts, with ada's token.
    pub(super) fn culvert(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments).output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "culvert {}: {error}", arguments.join(" "));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The same, to be started and waited for.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(Self::program());
        command.args(arguments).env("CULVERT_SERVER", format!("https://{WEB}:8000"));
        command
            .env("CULVERT_TOKEN_FILE", self.data.join("token"))
            .env("CULVERT_CA_FILE", self.data.join("ca.pem"))
            .env("XDG_STATE_HOME", &self.data)
            .stdin(Stdio::null());
        command
    }

    /// Keeps ada's token out of what `culvert init storaged` printed.
    pub(super) fn keep_token(&self, printed: &str) -> Result<()> {
        let token = printed
            .lines()
            .find_map(|line| line.strip_prefix("ada"))
            .and_then(|line| line.split_whitespace().last());
        let file = self.data.join("token");
        fs::write(&file, token.context("init printed no token for ada")?)?;
        run(&format!("chmod 600 {}", file.display())).map(drop)
    }

    /// A PUT in one piece, which nothing tries again, at a bounded rate so that there is time to disturb it.
    pub(super) fn begin_put(&self, file: &Path, name: &str, rate: &str) -> Result<Child> {
        let token = fs::read_to_string(self.data.join("token"))?;
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--fail-with-body",
            "--limit-rate",
            rate,
            "--output",
            "/dev/null",
        ]);
        curl.args(["--write-out", "%{http_code}", "--max-time", "240"])
            .arg("--cacert")
            .arg(self.data.join("ca.pem"));
        curl.arg("--header")
            .arg(format!("Authorization: Bearer {}", token.trim()))
            .arg("--upload-file")
            .arg(file);
        curl.arg(format!("https://{WEB}:8000/v1/cohorts/c5/files/{name}"));
        curl.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("start curl")
    }

    /// Begins an upload by tus, and sends nothing of it.
    pub(super) fn begin_upload(&self, name: &str) -> Result<()> {
        run(&format!(
            "cd {} && curl --silent --show-error --fail --cacert ca.pem --request POST --header \"Authorization: Bearer $(cat token)\" \
             --header 'Tus-Resumable: 1.0.0' --header 'Upload-Length: 1000' \
             --header \"Upload-Metadata: path $(printf %s {name} | base64)\" https://{WEB}:8000/v1/cohorts/c5/uploads",
            self.data.display()
        ))
        .map(drop)
    }

    /// A file of that many MiB, which does not repeat.
    pub(super) fn file(&self, name: &str, mebibytes: u32) -> Result<PathBuf> {
        let path = self.data.join(name);
        run(&format!("head -c {} /dev/urandom > {}", u64::from(mebibytes) << 20, path.display()))?;
        Ok(path)
    }

    /// Fetches it and compares.
    pub(super) fn fetch_and_compare(&self, name: &str, file: &Path) -> Result<()> {
        let back = self.data.join("back");
        let _ = fs::remove_file(&back);
        self.culvert(&["get", name, &back.display().to_string()])?;
        run(&format!("cmp {} {}", file.display(), back.display())).map(drop)
    }

    /// An authority, and a certificate of it for the web host.
    pub(super) fn certificate(&self) -> Result<()> {
        certificate(&self.data)
    }
}

/// An authority, and a certificate of it for the web host, in a directory.
pub(crate) fn certificate(data: &Path) -> Result<()> {
    run(&format!(
        "cd {}
         new='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
         openssl req -x509 $new -days 30 -subj /CN=authority -keyout ca.key -out ca.pem 2>/dev/null
         openssl req $new -subj /CN=web1 -keyout tls.key -out tls.csr 2>/dev/null
         printf 'subjectAltName=DNS:web1,IP:{WEB}\\nbasicConstraints=CA:FALSE\\n' > extensions
         openssl x509 -req -in tls.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile extensions \
         -out chain.pem 2>/dev/null",
        data.display()
    ))
    .map(drop)
}

/// The end of [`Client::begin_put`]: stored.
pub(super) fn stored(curl: Child) -> Result<()> {
    let output = curl.wait_with_output()?;
    let (code, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success() && code == "201", "the upload ended with {code:?}: {error}");
    Ok(())
}
