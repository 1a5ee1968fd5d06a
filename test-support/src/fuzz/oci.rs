//! Image configurations and references.

use supermachine_baker::oci::{ImageConfig, ImageSource};
use supermachine_formats::Digest;

/// Parses a configuration and a reference. Returns whether either is accepted.
pub fn run(data: &[u8]) -> bool {
    let config = ImageConfig::parse(data, Digest::of(data)).is_ok();
    let source = str::from_utf8(data).is_ok_and(|text| text.parse::<ImageSource>().is_ok());
    config || source
}

/// A valid configuration, and valid references.
pub fn samples() -> Vec<Vec<u8>> {
    let digest = Digest::of(b"layer");
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"User":"101:101","Env":["PATH=/bin"],
        "Entrypoint":["nginx"],"Cmd":["-g"],"WorkingDir":"/srv","ExposedPorts":{{"80/tcp":{{}}}},
        "StopSignal":"SIGQUIT"}},"rootfs":{{"type":"layers","diff_ids":["{digest}"]}}}}"#
    );
    let by_digest = format!("registry.example:5000/a/b@{digest}");
    ["nginx", "registry.example/a/b:1.2", &by_digest, "oci:/srv/layout:tag", &config]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
}
