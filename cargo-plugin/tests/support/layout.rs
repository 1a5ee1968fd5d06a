//! An OCI layout made from an image of the test registry, with another config.

use std::fs;
use std::path::Path;

use serde_json::Value;
use supermachine_formats::Digest;
use supermachine_test_support::registry::skopeo;

/// Copies an image into a layout, changes its config, and returns the layout as an image source.
pub(crate) fn with_config(image: &str, dir: &Path, change: impl FnOnce(&mut Value)) -> String {
    let layout = format!("oci:{}:latest", dir.display());
    skopeo(&["--src-tls-verify=false", &format!("docker://{image}"), &layout]);
    let path = dir.join("index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    rewrite(dir, &mut index["manifests"][0], |manifest| {
        rewrite(dir, &mut manifest["config"], |config| change(&mut config["config"]));
    });
    fs::write(&path, index.to_string()).unwrap();
    layout
}

/// Changes a blob of an OCI layout, and its descriptor.
fn rewrite(layout: &Path, descriptor: &mut Value, change: impl FnOnce(&mut Value)) {
    let path = |digest: &str| layout.join(format!("blobs/{}", digest.replace(':', "/")));
    let bytes = fs::read(path(descriptor["digest"].as_str().unwrap())).unwrap();
    let mut value = serde_json::from_slice(&bytes).unwrap();
    change(&mut value);
    let bytes = serde_json::to_vec(&value).unwrap();
    let digest = Digest::of(&bytes).to_string();
    fs::write(path(&digest), &bytes).unwrap();
    (descriptor["digest"], descriptor["size"]) = (digest.into(), bytes.len().into());
}
