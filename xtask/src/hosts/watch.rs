//! Debian's Prometheus and Alertmanager, configured by the role: alerts fire, arrive and clear.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::fleet::Fleet;

/// A scrape, the rule's half minute, Alertmanager's gathering; on a busy machine.
const BOUND: Duration = Duration::from_secs(240);
/// Overdue by its figure, for no test can wait until a deadline of two hours is past: what is tested is the rule's way into
/// Alertmanager, and back.
const STAND_IN: &str = "import http.server, os
class Metrics(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        overdue = 3 if os.path.exists('/run/overdue') else 0
        self.send_response(200)
        self.send_header('Content-Type', 'text/plain; version=0.0.4')
        self.end_headers()
        self.wfile.write(f'storaged_cleanups_overdue {overdue}\\n'.encode())
    def log_message(self, *arguments):
        pass
http.server.ThreadingHTTPServer(('127.0.0.1', 9599), Metrics).serve_forever()
";

fn prometheus(fleet: &Fleet, query: &str) -> Result<Vec<Value>> {
    let said = fleet
        .watch
        .run(&format!("curl -fsG http://127.0.0.1:9090/api/v1/query --data-urlencode 'query={query}'"))?;
    let answer: Value = serde_json::from_str(&said)?;
    Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
}

/// Until Alertmanager has it, or has it no more.
fn alertmanager(fleet: &Fleet, alert: &str, firing: bool) -> Result<()> {
    let has = format!("curl -fs http://127.0.0.1:9093/api/v2/alerts | grep -q '\"alertname\":\"{alert}\"'");
    let script = if firing { has } else { format!("! {has}") };
    fleet.watch.until(&format!("{alert} in Alertmanager: {firing}"), BOUND, &script)
}

pub(super) fn alerts(fleet: &mut Fleet) -> Result<()> {
    let all =
        "curl -fsG http://127.0.0.1:9090/api/v1/query --data-urlencode 'query=sum(up)' | grep -q '\"4\"'";
    fleet.watch.until("all daemons are scraped", BOUND, all)?;
    let mut up: Vec<String> = prometheus(fleet, "up == 1")?
        .iter()
        .map(|it| {
            format!(
                "{} {}",
                it["metric"]["instance"].as_str().unwrap_or("?"),
                it["metric"]["job"].as_str().unwrap_or("?")
            )
        })
        .collect();
    up.sort();
    ensure!(up == ["svc1 storaged", "svc1 wgd", "web1 edge", "web1 wgd"], "{up:?}");
    let rules: Value =
        serde_json::from_str(&fleet.watch.run("curl -fs http://127.0.0.1:9090/api/v1/rules")?)?;
    let rules: usize = rules["data"]["groups"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|it| it["rules"].as_array())
        .map(Vec::len)
        .sum();
    ensure!(rules > 30, "{rules} rules are loaded");
    // Nobody else may ask.
    ensure!(
        !fleet.spare.succeeds("curl -sm 3 http://192.0.2.10:9587/metrics")?,
        "anybody reaches the metrics"
    );
    cut_tunnel(fleet)?;
    overdue_cleanup(fleet)
}

fn cut_tunnel(fleet: &Fleet) -> Result<()> {
    fleet.services.run("nft insert rule inet culvert input udp dport 51820 drop")?;
    alertmanager(fleet, "EdgeTunnelDown", true)?;
    fleet.services.run("systemctl reload nftables")?;
    alertmanager(fleet, "EdgeTunnelDown", false)?;
    fleet.web.until("edge is ready", BOUND, "curl -fs http://192.0.2.10:9587/readyz").map(drop)
}

/// The quarter of an hour that the rule waits is fifteen seconds here; everything else of it is what is shipped.
fn overdue_cleanup(fleet: &Fleet) -> Result<()> {
    fleet.watch.write("/root/stand-in.py", 0o644, STAND_IN)?;
    fleet.watch.run(
        "systemd-run --unit=stand-in python3 /root/stand-in.py
         cp /etc/prometheus/rules/culvert.rules.yml /root/rules.kept
         cp /etc/prometheus/file_sd/storaged.yml /root/targets.kept
         sed -i 's/for: 15m/for: 15s/' /etc/prometheus/rules/culvert.rules.yml
         printf '%s\\n' '- targets: [\"127.0.0.1:9599\"]' '  labels: {instance: stand-in}' >> /etc/prometheus/file_sd/storaged.yml
         touch /run/overdue
         systemctl reload prometheus",
    )?;
    alertmanager(fleet, "StoragedCleanupOverdue", true)?;
    fleet.watch.run("rm /run/overdue")?;
    alertmanager(fleet, "StoragedCleanupOverdue", false)?;
    fleet
        .watch
        .run(
            "systemctl stop stand-in
         mv /root/rules.kept /etc/prometheus/rules/culvert.rules.yml
         mv /root/targets.kept /etc/prometheus/file_sd/storaged.yml
         systemctl reload prometheus",
        )
        .map(drop)
}
