//! Writes the samples of every target to `corpus/<target>`, as seeds for the fuzzer.

use std::path::Path;
use std::{fs, io};

#[allow(dead_code, reason = "only the samples are used here")]
#[path = "../bodies/layer.rs"]
mod layer;
#[allow(dead_code, reason = "only the samples are used here")]
#[path = "../bodies/oci.rs"]
mod oci;
#[allow(dead_code, reason = "only the samples are used here")]
#[path = "../bodies/pack_index.rs"]
mod pack_index;
#[allow(dead_code, reason = "only the samples are used here")]
#[path = "../bodies/pack_manifest.rs"]
mod pack_manifest;
#[allow(dead_code, reason = "only the samples are used here")]
#[path = "../bodies/pack_open.rs"]
mod pack_open;
#[allow(dead_code, reason = "only the samples are used here")]
#[path = "../bodies/pack_samples.rs"]
mod pack_samples;
#[allow(dead_code, reason = "only the samples are used here")]
#[path = "../bodies/snapshot_state.rs"]
mod snapshot_state;
#[allow(dead_code, reason = "only the samples are used here")]
#[path = "../bodies/wire_agent.rs"]
mod wire_agent;
#[allow(dead_code, reason = "only the samples are used here")]
#[path = "../bodies/wire_host.rs"]
mod wire_host;

fn main() -> io::Result<()> {
    for (target, samples) in [
        ("layer", layer::samples()),
        ("oci", oci::samples()),
        ("pack_index", pack_index::samples()),
        ("pack_manifest", pack_manifest::samples()),
        ("pack_open", pack_open::samples()),
        ("snapshot_state", snapshot_state::samples()),
        ("wire_agent", wire_agent::samples()),
        ("wire_host", wire_host::samples()),
    ] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        fs::create_dir_all(&dir)?;
        for (number, sample) in samples.iter().enumerate() {
            fs::write(dir.join(format!("sample-{number}")), sample)?;
        }
    }
    Ok(())
}
