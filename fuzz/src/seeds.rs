//! Writes the samples of every target to `corpus/<target>`, as seeds for the fuzzer.

use std::path::Path;
use std::{fs, io};

use supermachine_test_support::fuzz::{
    fs as share, layer, net, oci, pack_index, pack_manifest, pack_open, snapshot_state, volume,
    wire_agent, wire_host,
};

fn main() -> io::Result<()> {
    for (target, samples) in [
        ("fs", share::samples()),
        ("layer", layer::samples()),
        ("net", net::samples()),
        ("oci", oci::samples()),
        ("pack_index", pack_index::samples()),
        ("pack_manifest", pack_manifest::samples()),
        ("pack_open", pack_open::samples()),
        ("snapshot_state", snapshot_state::samples()),
        ("volume", volume::samples()),
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
