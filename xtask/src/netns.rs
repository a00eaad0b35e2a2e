//! `cargo xtask netns`: the scenarios with real daemons in network namespaces, without the unit tests.

use std::process::ExitCode;

use anyhow::Result;

use crate::results::Results;
use crate::{packages, slow_tools, test};

pub(crate) fn run(filter: Option<&str>) -> Result<ExitCode> {
    let path = packages::provide()?;
    if test::is_slow() {
        slow_tools::provide()?;
    }
    let mut results = Results::default();
    test::scenarios(&mut results, &path, filter.as_slice(), &[])?;
    Ok(test::conclude(&results))
}
