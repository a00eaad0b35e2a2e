//! `cargo xtask netns`: the scenarios with real daemons in network namespaces, without the unit tests.

use anyhow::Result;

use crate::results::Results;
use crate::{packages, test};

pub(crate) fn run(filter: Option<&str>) -> Result<()> {
    let path = packages::provide()?;
    test::build_programs()?;
    let mut results = Results::default();
    test::scenarios(&mut results, &path, filter.as_slice(), &[])?;
    test::conclude(&results)
}
