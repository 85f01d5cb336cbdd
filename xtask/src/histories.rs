//! `cargo xtask histories`: records the histories that are kept as test data.
//!
//! It is the tests `histories::today` of the integration tests, which run what is kept on
//! both engines and replay it; here they keep what they recorded.

use crate::process::{self, Project, timed};
use crate::{temporal, test};

/// Builds everything and records the histories of this driver's revision.
pub fn run(project: &Project) -> anyhow::Result<()> {
    test::build(project)?;
    temporal::install(project)?;
    timed("recording histories", || {
        let mut command = project.cargo(["test", "--workspace", "--test", "integration", "--"]);
        command
            .arg("histories::today")
            .env("HEYDAY_RECORD_HISTORIES", "1");
        process::run(&mut command)
    })
}
