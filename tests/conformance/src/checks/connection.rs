//! How connections to the configuration socket behave (§1.2, connection rules).

use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_netns::wait;

use crate::check::{Check, Section};
use crate::keys::{OTHER, OWN};
use crate::stage::{INTERFACE, SOON, Stage};

pub(super) const CHECKS: &[Check] = &[
    check("several_operations_work_on_one_connection", |stage| {
        let daemon = stage.start()?;
        let mut uapi = daemon.connect()?;
        for port in [41820, 41821, 41822] {
            let number = uapi.set(&format!("listen_port={port}\n"))?;
            ensure!(number == 0, "errno={number}");
            let shown = uapi.get()?;
            ensure!(shown.device("listen_port") == Some(&port.to_string()), "{shown:?}");
        }
        Ok(())
    }),
    check("operations_may_come_in_one_write", |stage| {
        let daemon = stage.start()?;
        let mut uapi = daemon.connect()?;
        uapi.send("set=1\nlisten_port=41820\n\nset=1\nlisten_port=41821\n\nget=1\n\n")?;
        let mut said = String::new();
        while said.matches("errno=").count() < 3 {
            said += &uapi.answer()?;
        }
        ensure!(said == "errno=0\n\nerrno=0\n\nlisten_port=41821\nerrno=0\n\n", "{said:?}");
        Ok(())
    }),
    check("request_may_come_byte_by_byte", |stage| {
        let daemon = stage.start()?;
        let mut uapi = daemon.connect()?;
        for byte in "set=1\nlisten_port=41820\n\n".bytes() {
            uapi.send([byte])?;
            std::thread::sleep(Duration::from_millis(1));
        }
        ensure!(uapi.answer()? == "errno=0\n\n", "refused");
        Ok(())
    }),
    check("empty_set_succeeds", |stage| {
        let daemon = stage.start()?;
        daemon.set("")
    }),
    check("connection_without_data_leaves_no_trace", |stage| {
        let daemon = stage.start_with(stage.foreground().variable("LOG_LEVEL", "debug"))?;
        std::thread::sleep(Duration::from_millis(150));
        let before = daemon.said().len();
        for _ in 0..20 {
            drop(daemon.connect()?);
        }
        std::thread::sleep(Duration::from_millis(150));
        let said = daemon.said();
        ensure!(said.len() == before, "{:?}", &said[before..]);
        daemon.get().map(drop)
    }),
    check("idle_clients_block_nobody", |stage| {
        let daemon = stage.start()?;
        let idle: Vec<_> = (0..100).map(|_| daemon.connect()).collect::<Result<_>>()?;
        let began = wait::now();
        daemon.set("listen_port=41820\n")?;
        ensure!(wait::now().duration_since(began) < Duration::from_secs(2), "it took seconds");
        drop(idle);
        Ok(())
    }),
    check("client_that_does_not_read_its_answer_blocks_nobody", |stage| {
        let daemon = stage.start()?;
        let mut body = format!("public_key={}\n", OTHER.public);
        for index in 0..20_000 {
            body += &format!("allowed_ip=10.{}.{}.0/24\n", index >> 8, index & 255);
        }
        daemon.set(&body)?;
        // Some 500 KB: more than a socket holds.
        let mut deaf = daemon.connect()?;
        deaf.send("get=1\n\n")?;
        std::thread::sleep(Duration::from_millis(200));
        let mut other = daemon.connect()?;
        other.within(Duration::from_secs(3))?;
        let number = other.set("listen_port=41820\n")?;
        ensure!(number == 0, "errno={number}");
        ensure!(other.get()?.device("listen_port") == Some("41820"), "not configured");
        ensure!(deaf.answer()?.ends_with("errno=0\n\n"), "the late reader's answer is cut off");
        Ok(())
    }),
    check("half_a_request_blocks_nobody", |stage| {
        let daemon = stage.start()?;
        let mut half = daemon.connect()?;
        half.send("set=1\nlisten_port=41820\n")?;
        std::thread::sleep(Duration::from_millis(100));
        let mut other = daemon.connect()?;
        other.send("get=1\n\n")?;
        other.within(Duration::from_secs(2))?;
        other.answer()?;
        half.send("\n")?;
        ensure!(half.answer()? == "errno=0\n\n", "the half request was lost");
        Ok(())
    }),
    check("half_a_request_that_ends_applies_nothing", |stage| {
        let daemon = stage.start()?;
        let before = daemon.get()?;
        let mut half = daemon.connect()?;
        half.send(format!("set=1\nprivate_key={}\npublic_key={}\n", OWN.private, OTHER.public))?;
        half.finish()?;
        // Answered or not; it has to be over.
        let _ = half.read_once(64);
        drop(half);
        ensure!(daemon.get()? == before, "{:?}", daemon.get()?);
        Ok(())
    }),
    check("answer_to_a_set_is_one_read_of_at_most_32_bytes", |stage| {
        // wgctrl-go reads once, into 32 bytes.
        let daemon = stage.start()?;
        for (body, expected) in [
            ("listen_port=41820\n", "errno=0\n\n"),
            ("listen_port=x\n", "errno=-22\n\n"),
            ("listen_port\n", "errno=-71\n\n"),
        ] {
            let mut uapi = daemon.connect()?;
            uapi.send(format!("set=1\n{body}\n"))?;
            let answer = String::from_utf8(uapi.read_once(32)?)?;
            ensure!(answer == expected, "{answer:?} for {body:?}");
        }
        Ok(())
    }),
    check("unknown_operation_closes_the_connection", |stage| {
        let daemon = stage.start()?;
        for line in ["put=1\n", "get=2\n", "set=0\n", "\n", "nonsense\n"] {
            let mut uapi = daemon.connect()?;
            uapi.send(line)?;
            // A client may still get the news that its line was bad; then the end.
            uapi.is_closed(SOON)?;
        }
        daemon.get().map(drop)
    }),
    check("line_of_many_thousand_bytes_is_read_and_refused", |stage| {
        let daemon = stage.start()?;
        daemon.refuses(&format!("listen_port={}\n", "1".repeat(60_000)), -22)?;
        daemon.get().map(drop)
    }),
    check("endless_line_harms_nobody", |stage| {
        let mut daemon = stage.start()?;
        let mut uapi = daemon.connect()?;
        uapi.send("set=1\nlisten_port=")?;
        let chunk = vec![b'1'; 1 << 16];
        // It may hang up at any moment, or swallow it.
        for _ in 0..64 {
            if uapi.send(&chunk).is_err() {
                break;
            }
        }
        daemon.get()?;
        daemon.running.still_runs()
    }),
    check("bytes_that_are_no_text_harm_nobody", |stage| {
        let mut daemon = stage.start()?;
        for bytes in
            [&b"\xff\xfe\x00\n"[..], b"set=1\n\xff=\xff\n\n", b"set=1\nprivate_key=\x00\n\n", b"\0\0\0\0"]
        {
            let mut uapi = daemon.connect()?;
            uapi.send(bytes)?;
            uapi.finish()?;
            let _ = uapi.read_once(64);
        }
        daemon.get()?;
        daemon.running.still_runs()
    }),
    check("lines_of_a_big_answer_are_short", |stage| {
        // wgctrl-go's scanner refuses lines of 64 KiB.
        let daemon = stage.start()?;
        let mut body = format!("public_key={}\n", OTHER.public);
        for index in 0..5_000 {
            body += &format!("allowed_ip=10.{}.{}.0/24\n", index >> 8, index & 255);
        }
        daemon.set(&body)?;
        let answer = daemon.get()?;
        let longest = answer.lines().iter().map(|(key, value)| key.len() + value.len() + 2).max();
        ensure!(longest.is_some_and(|length| length < 200), "{longest:?} bytes");
        Ok(())
    }),
    check("many_operations_of_the_stock_tool_at_once", |stage| {
        let daemon = stage.start()?;
        daemon.set(&format!("public_key={}\n", OTHER.public))?;
        let command = format!(
            "for i in $(seq 20); do wg show {INTERFACE} dump >/dev/null & p=\"$p $!\"; done; \
             for i in $p; do wait $i || exit 1; done"
        );
        stage.run(&["sh", "-c", &command])?.success().map(drop)
    }),
];

const fn check(name: &'static str, run: fn(&Stage<'_>) -> Result<()>) -> Check {
    Check::new(Section::Connection, name, run)
}
