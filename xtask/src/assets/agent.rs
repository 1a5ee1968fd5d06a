//! Builds the agent with the workspace's own toolchain, or for arm64 with Debian's.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use supermachine_kernel::{AGENT_FILE, Arch};

use crate::cache;
use crate::command;
use crate::cross::{LINUX_ARM, Toolchain};
use crate::error::Error;
use crate::progress::Step;
use crate::workspace;

const PACKAGE: &str = "supermachine-init";
const PROFILE: &str = "agent";

/// Builds the agent into `folder`.
pub(super) fn build(arch: Arch, folder: &Path) -> Result<(), Error> {
    let step = Step::new("building the agent", 0);
    // The caller's flags would build a different program. Each workspace has its own target folder:
    // cargo cannot tell two clones apart, and would not rebuild files of one that are older than
    // the other's build.
    let mut root = DefaultHasher::new();
    workspace::root().canonicalize().unwrap_or_else(|_| workspace::root()).hash(&mut root);
    let target = cache::dev().join("agent-target").join(format!("{:016x}", root.finish()));
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--quiet", "--package", PACKAGE, "--profile", PROFILE, "--target-dir"]);
    cargo.arg(&target).env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    let mut built = target;
    if arch != Arch::host() {
        Toolchain::ensure()?.build_for_arm(&mut cargo)?;
        built.push(LINUX_ARM);
    }
    command::output(&mut cargo)?;
    let built = built.join(PROFILE).join(PACKAGE);
    fs::copy(&built, folder.join(AGENT_FILE)).map_err(Error::file("copy", &built))?;
    cache::sync(&folder.join(AGENT_FILE))?;
    step.finish();
    Ok(())
}
