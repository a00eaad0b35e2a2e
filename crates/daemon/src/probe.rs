//! A daemon that does on request what it must not: for tests of the lock-down, and in no release.
//!
//! Verbs `probe.NAME` of the admin socket, with `thread` (`worker` or `blocking`) and `target`. Whoever lives to answer has
//! not been stopped, and says what the call gave.

#[cfg(not(debug_assertions))]
compile_error!("the feature `probe` makes a daemon attack its host: it is for debug builds of tests alone");

use linux::probe::{Attempt, MARKER};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admin::AdminError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    thread: Thread,
    #[serde(default)]
    target: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Thread {
    Worker,
    Blocking,
}

/// Carries out `probe.…`; `None` for any other verb.
pub(crate) async fn attempt(verb: &str, args: &Value) -> Option<Result<Value, AdminError>> {
    let name = verb.strip_prefix("probe.")?;
    Some(carry_out(name, args).await)
}

async fn carry_out(name: &str, args: &Value) -> Result<Value, AdminError> {
    let malformed = |error: &dyn std::fmt::Display| AdminError::new("malformed", error);
    let arguments: Arguments = serde_json::from_value(args.clone()).map_err(|error| malformed(&error))?;
    let attempt = Attempt::parse(name, &arguments.target).map_err(|error| malformed(&error))?;
    let made = match arguments.thread {
        Thread::Worker => attempt.make(),
        Thread::Blocking => {
            let made = tokio::task::spawn_blocking(move || attempt.make()).await;
            made.map_err(|error| AdminError::new("unavailable", error))?
        }
    };
    let outcome = match made {
        Ok(()) => "done".to_owned(),
        Err(error) => error.to_string(),
    };
    Ok(json!({ "probe": MARKER, "survived": outcome }))
}
