//! `cargo supermachine bundle`, `bake` and `update` on packages that are made here.
//!
//! Needs the packages `docker-registry` and `skopeo`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/macho.rs"]
mod macho;
#[path = "support/package.rs"]
mod package;
mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use package::Package;
use serde_json::json;
use supermachine_formats::Digest;
use supermachine_test_support::registry::{DockerRegistry, skopeo};
use support::{Done, files};

const BUNDLE: &str = "\n[package.metadata.supermachine.bundle]\n";

/// A program that prints what is beside it.
const LISTING: &str = r#"fn main() {
    let program = std::env::current_exe().unwrap();
    let dir = program.parent().unwrap().join("snapshots");
    for name in ["python", "redis"] {
        let pack = std::fs::read_to_string(dir.join(format!("{name}.tar")));
        println!("{name}: {}", pack.as_deref().unwrap_or("none"));
    }
}"#;

fn package() -> Package {
    let package = Package::new();
    package.write("src/main.rs", LISTING);
    package.make_packs(&[("python", "pack one"), ("redis", "pack two")]);
    package
}

/// What the program prints where it is run alone.
fn run(program: &Path) -> String {
    let output = Command::new(program).env_clear().output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn folder_has_the_program_its_snapshots_and_resources() {
    let package = package();
    package.declare(&format!("{BUNDLE}name = \"My App\"\nresources = [\"data\", \"README\"]\n"));
    package.write("data/deep/file", "x");
    package.write("README", "read me");
    let done = package.run(&["bundle"]);
    let place = package.path("target/bundle/My App");
    assert_eq!(done.succeeds(), format!("{}\n", place.display()));
    assert!(done.stderr.ends_with("bundled My App with python, redis\n"), "{done:?}");
    assert_eq!(files(&place), ["README", "app", "data", "snapshots"]);
    assert_eq!(files(&place.join("snapshots")), ["python.tar", "redis.tar"]);
    assert_eq!(fs::read_to_string(place.join("data/deep/file")).unwrap(), "x");
    // Moved elsewhere, and with what cargo made gone, it still runs.
    let elsewhere = package.path("elsewhere");
    fs::rename(&place, &elsewhere).unwrap();
    fs::remove_dir_all(package.path("target")).unwrap();
    assert_eq!(run(&elsewhere.join("app")), "python: pack one\nredis: pack two\n");
}

#[test]
fn bundle_takes_the_place_of_the_one_before() {
    let package = package();
    let output = package.path("out");
    let arguments = ["bundle", "-q", "--output", output.to_str().unwrap(), "--profile", "dev"];
    package.run(&arguments).succeeds();
    fs::write(output.join("app/stale"), "").unwrap();
    package.declare(&format!("{BUNDLE}snapshots = [\"redis\"]\n"));
    let again = package.run(&arguments);
    assert_eq!(again.stderr, "", "{again:?}");
    assert_eq!(files(&output), ["app"]);
    assert_eq!(files(&output.join("app")), ["app", "snapshots"]);
    assert_eq!(run(&output.join("app/app")), "python: none\nredis: pack two\n");
    package.write("src/main.rs", "fn main() { nonsense }");
    let failed = package.run(&arguments);
    assert_eq!((failed.status, &*failed.stdout), (101, ""), "{failed:?}");
    assert_eq!(run(&output.join("app/app")), "python: none\nredis: pack two\n");
}

#[test]
fn folder_that_is_no_bundle_is_left_as_it_is() {
    let package = package();
    // Its own sources among them, where the package has the bundle's name.
    let above = package.path("..");
    let name = package.path("").file_name().unwrap().to_str().unwrap().to_owned();
    package.declare(&format!("{BUNDLE}name = {name:?}\n"));
    let output = above.to_str().unwrap();
    let done = package.run(&["bundle", "-q", "--profile=dev", "--output", output]);
    done.fails(1, &["is not a bundle of this program", &name]);
    assert_eq!(fs::read_to_string(package.path("src/main.rs")).unwrap(), LISTING);

    let output = package.path("out");
    fs::create_dir_all(output.join(&name)).unwrap();
    fs::write(output.join(&name).join("work"), "mine").unwrap();
    let done = package.run(&["bundle", "-q", "--profile=dev", "--output=out"]);
    done.fails(1, &["is not a bundle of this program"]);
    assert_eq!(files(&output), [&*name]);
    assert_eq!(fs::read_to_string(output.join(&name).join("work")).unwrap(), "mine");
}

#[test]
fn archive_is_the_folder_and_the_same_each_time() {
    let package = package();
    let arguments = ["bundle", "--format=tar", "--profile=dev", "--output=out"];
    let done = package.run(&arguments);
    let place = format!("out/app-1.2.3-{}.tar", Package::host());
    assert_eq!(done.succeeds(), format!("{place}\n"));
    let first = fs::read(package.path(&place)).unwrap();
    // Times in an archive have seconds: a time of the second build would show.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    package.run(&arguments).succeeds();
    assert!(fs::read(package.path(&place)).unwrap() == first);
    assert_eq!(files(&package.path("out")).len(), 1);
    let mut unpack = Command::new("tar");
    unpack.arg("-xf").arg(package.path(&place)).arg("-C").arg(package.path("cache/.."));
    fs::create_dir_all(package.path("cache")).unwrap();
    assert!(unpack.status().unwrap().success());
    assert_eq!(run(&package.path("app/app")), "python: pack one\nredis: pack two\n");
}

#[test]
fn app_has_resources_and_a_property_list() {
    let package = package();
    let program = package.path("mach-o");
    fs::write(&program, macho::program(macho::ARM64)).unwrap();
    package.link_to(&program);
    // The build script has to be a program of this host.
    package.run(&["build"]);
    let icon =
        "icon = \"art/app.icns\"\ninfo-plist = \"more.plist\"\nidentifier = \"org.example.app\"\n";
    package.declare(&format!("{BUNDLE}{icon}"));
    package.write("art/app.icns", "icon");
    package.write(
        "more.plist",
        "<plist version=\"1.0\"><dict><key>LSMinimumSystemVersion</key><string>15.0</string>\
         <key>LSUIElement</key><true/></dict></plist>",
    );
    fs::remove_file(package.path("build.rs")).unwrap();
    let done = package.run(&["bundle", "--format", "app", "--unsigned", "--output", "out"]);
    assert_eq!(done.succeeds(), "out/app.app\n");
    let inside = package.path("out/app.app/Contents");
    assert_eq!(files(&inside), ["Info.plist", "MacOS", "Resources"]);
    assert_eq!(files(&inside.join("Resources")), ["app.icns"]);
    assert!(fs::read(inside.join("MacOS/app")).unwrap() == macho::program(macho::ARM64));
    let info = plist::Value::from_file(inside.join("Info.plist")).unwrap();
    let info = info.as_dictionary().unwrap();
    for (key, value) in [
        ("CFBundleExecutable", "app"),
        ("CFBundleIdentifier", "org.example.app"),
        ("CFBundleName", "app"),
        ("CFBundlePackageType", "APPL"),
        ("CFBundleShortVersionString", "1.2.3"),
        ("CFBundleIconFile", "app.icns"),
        ("LSMinimumSystemVersion", "15.0"),
    ] {
        assert_eq!(info[key].as_string(), Some(value), "{key}");
    }
    assert_eq!(info["LSUIElement"].as_boolean(), Some(true));
}

#[test]
fn app_finds_its_snapshots_in_its_resources() {
    let package = package();
    package.run(&["bundle", "--format", "app", "--unsigned", "--output", "out"]).succeeds();
    let resources = package.path("out/app.app/Contents/Resources");
    assert_eq!(files(&resources), ["python.tar", "redis.tar"]);
    assert_eq!(fs::read_to_string(resources.join("python.tar")).unwrap(), "pack one");
}

#[test]
fn program_must_be_named_if_there_are_several() {
    let package = package();
    package.write("src/bin/worker.rs", "fn main() { println!(\"worker\"); }");
    package.write("examples/other.rs", "fn main() { println!(\"other\"); }");
    let several = package.run(&["bundle", "-q", "--profile", "dev"]);
    several.fails(1, &["a bundle has one program", "app", "worker", "--bin"]);
    assert!(!package.path("target/bundle").exists());
    let both = ["bundle", "--profile=dev", "--bin=app", "--bin=worker", "--output=out"];
    package.run(&both).succeeds();
    assert_eq!(files(&package.path("out/app")), ["app", "snapshots", "worker"]);
    assert_eq!(run(&package.path("out/app/worker")), "worker\n");
    let example = ["bundle", "--profile=dev", "--example=other", "--output=example"];
    package.run(&example).succeeds();
    assert_eq!(run(&package.path("example/app/other")), "other\n");
}

#[test]
fn target_and_further_arguments_are_cargos() {
    let package = package();
    let host = Package::host();
    let arguments = ["bundle", "--target", &host, "--target-dir", "made", "--", "--config"];
    let done = package.run(&[&arguments[..], &["profile.release.debug=1", "-v"]].concat());
    assert!(done.succeeds().ends_with("bundle/app\n"), "{done:?}");
    assert!(done.stderr.contains("debuginfo=1"), "{done:?}");
    assert!(package.path("made").join(&host).join("release/app").is_file());
    assert_eq!(run(&package.path("made/bundle/app/app")), "python: pack one\nredis: pack two\n");
}

#[test]
fn member_of_a_workspace_is_bundled_from_anywhere_in_it() {
    let package = package();
    let manifest = "[package]\nname = \"member\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";
    package.write("member/Cargo.toml", format!("{manifest}{BUNDLE}name = \"Member\"\n"));
    package.write("member/src/main.rs", "fn main() { println!(\"member\"); }");
    let text = fs::read_to_string(package.path("Cargo.toml")).unwrap();
    package.write("Cargo.toml", text.replace("[workspace]", "[workspace]\nmembers = [\"member\"]"));
    package.run(&["bundle", "--profile=dev", "-p", "member", "--output=out"]).succeeds();
    assert_eq!(run(&package.path("out/Member/member")), "member\n");
}

/// A package that depends on a library called as ours, with a program called as its worker; and that
/// library, which must live on.
fn package_that_runs_machines() -> (Package, Package) {
    let (package, library) = (package(), Package::new());
    let manifest = "[package]\nname = \"supermachine\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";
    library.write("Cargo.toml", format!("{manifest}[workspace]\n"));
    library.write("src/lib.rs", "");
    let worker = "fn main() { println!(\"holds\"); }";
    library.write("src/bin/supermachine-worker.rs", worker);
    let path = library.path("");
    package.declare(&format!("\n[dependencies]\nsupermachine = {{ path = {path:?} }}\n"));
    (package, library)
}

#[test]
fn program_that_runs_machines_has_the_worker_of_its_library_beside_it() {
    let (package, _library) = package_that_runs_machines();
    package.run(&["bundle", "--profile=dev", "--bin=app", "--", "--offline"]).succeeds();
    let place = package.path("target/bundle/app");
    assert_eq!(files(&place), ["app", "snapshots", "supermachine-worker"]);
    assert_eq!(run(&place.join("supermachine-worker")), "holds\n");

    package.run(&["bundle", "--profile=dev", "--format=app", "--unsigned"]).succeeds();
    let inside = package.path("target/bundle/app.app/Contents/MacOS");
    assert_eq!(files(&inside), ["app", "supermachine-worker"]);
}

#[test]
fn worker_is_left_out_and_put_in_as_the_package_says() {
    let (package, _library) = package_that_runs_machines();
    package.declare(&format!("{BUNDLE}worker = false\n"));
    package.run(&["bundle", "--profile=dev"]).succeeds();
    assert_eq!(files(&package.path("target/bundle/app")), ["app", "snapshots"]);

    let other = crate::package();
    other.declare(&format!("{BUNDLE}worker = true\n"));
    // There is none to be put in: cargo knows no such package.
    other.run(&["bundle", "--profile=dev"]).fails(1, &["supermachine-worker", "supermachine"]);
    assert_eq!(files(&other.path("target/bundle")), [""; 0]);
}

#[test]
fn declared_snapshot_that_was_baked_elsewhere_is_taken() {
    let package = package();
    package.declare(
        "\n[package.metadata.supermachine]\nsnapshots = [{ name = \"web\", image = \"x\" }]\n",
    );
    let bundle = || {
        let mut command = package.command(&["bundle", "-q", "--profile=dev"]);
        command.env("SUPERMACHINE_PREBAKED", package.path("prebaked"));
        Done::of(&command.output().unwrap())
    };
    bundle().fails(1, &["prebaked/web.tar"]);
    let pack = Path::new("../runtime/snapshots/tests/golden/pack-v1.tar");
    package.write("prebaked/web.tar", fs::read(pack).unwrap());
    bundle().succeeds();
    let shipped = package.path("target/bundle/app/snapshots");
    assert_eq!(files(&shipped), ["python.tar", "redis.tar", "web.tar"]);
    assert!(fs::read(shipped.join("web.tar")).unwrap() == fs::read(pack).unwrap());
}

#[test]
fn bundle_that_fails_says_why_and_leaves_nothing() {
    for (lines, said) in [
        ("nmae = \"x\"\n", &["cannot read [package.metadata.supermachine.bundle]", "nmae"][..]),
        ("name = \"a/b\"\n", &["\"a/b\" cannot be a bundle's name"]),
        ("snapshots = [\"nosuch\"]\n", &["lists the snapshot \"nosuch\""]),
        ("resources = [\"nosuch\"]\n", &["cannot read", "nosuch", "No such file"]),
        ("resources = [\"a/x\", \"b/x\"]\n", &["already has a file named like", "b/x"]),
        ("resources = [\"a/app\"]\n", &["already has a file named like", "a/app"]),
    ] {
        let package = package();
        package.write("a/x", "");
        package.write("a/app", "");
        package.write("b/x", "");
        package.declare(&format!("{BUNDLE}{lines}"));
        package.run(&["bundle", "-q", "--profile=dev"]).fails(1, said);
        assert_eq!(files(&package.path("target/bundle")), [""; 0]);
    }
    let package = package();
    package.write("target/bundle", "a file");
    let done = package.run(&["bundle", "-q", "--profile=dev"]);
    done.fails(1, &["cannot create", "target/bundle"]);
}

#[test]
fn snapshots_of_one_name_that_differ_are_refused() {
    let package = package();
    let library = package.add_library(&[("python", "pack three")]);
    let arguments = ["bundle", "-q", "--profile=dev"];
    package.run(&arguments).fails(1, &["two packages make a snapshot \"python\"", "rename"]);
    library.make_packs(&[("node", "pack three")]);
    package.run(&arguments).succeeds();
    let shipped = files(&package.path("target/bundle/app/snapshots"));
    assert_eq!(shipped, ["node.tar", "python.tar", "redis.tar"]);
}

#[test]
fn bundle_without_the_snapshots_that_a_build_left_out_is_refused() {
    let package = package();
    package.make_packs(&[("python", "pack one"), ("redis", "")]);
    let arguments = ["bundle", "-q", "--profile=dev"];
    package.run(&arguments).fails(1, &["skips the snapshot \"redis\"", "unset"]);
    // One that is part of the program would be missing there.
    package.declare(&format!("{BUNDLE}snapshots = []\n"));
    package.run(&arguments).fails(1, &["skips the snapshot \"redis\""]);
    assert_eq!(files(&package.path("target/bundle")), [""; 0]);
    package.make_packs(&[("python", "pack one"), ("redis", "pack two")]);
    package.run(&arguments).succeeds();
}

#[test]
fn environment_is_heard_for_declared_snapshots_too() {
    let package = Package::new();
    package.declare(
        "\n[package.metadata.supermachine]\nsnapshots = [{ name = \"web\", image = \"x.invalid/y\" }]\n",
    );
    let with = |variable: &str, words: &[&str]| {
        let mut command = package.command(words);
        Done::of(&command.env(variable, "1").output().unwrap())
    };
    for words in [&["bake"][..], &["bundle", "-q", "--profile=dev"]] {
        with("SUPERMACHINE_NO_BAKE", words).fails(1, &["skips the snapshot \"web\""]);
        with("SUPERMACHINE_LOCKED", words).fails(1, &["does not pin x.invalid/y:latest"]);
        with("SUPERMACHINE_OFFLINE", words)
            .fails(1, &["x.invalid/y:latest cannot be fetched offline"]);
    }
    assert!(!package.path("supermachine.lock").exists());
}

#[test]
fn bake_names_what_it_cannot_find_or_read() {
    let package = Package::new();
    let nothing = package.run(&["bake"]);
    assert_eq!((nothing.succeeds(), &*nothing.stderr), ("", "app declares no snapshots\n"));
    package.run(&["bake", "-p", "nosuch"]).fails(1, &["no package nosuch"]);
    package.declare(
        "\n[[package.metadata.supermachine.snapshots]]\nname = \"x\"\nimage = \"oci:nosuch\"\nvcpu = 1\n",
    );
    package.run(&["bake"]).fails(1, &["unknown key \"vcpu\"", "did you mean \"vcpus\"?"]);
    let text = fs::read_to_string(package.path("Cargo.toml")).unwrap();
    package.write("Cargo.toml", text.replace("vcpu = 1\n", ""));
    package.run(&["bake"]).fails(1, &["nosuch"]);
    let elsewhere = Package::new();
    fs::remove_file(elsewhere.path("Cargo.toml")).unwrap();
    elsewhere.run(&["bake"]).fails(1, &["cannot read the package's metadata"]);
}

#[test]
fn bake_has_the_build_script_run_and_names_its_snapshots() {
    let package = package();
    // Only its name says that the build script bakes.
    package.write(
        "baker/Cargo.toml",
        "[package]\nname = \"supermachine-baker\"\nversion = \"0.1.0\"\n",
    );
    package.write("baker/src/lib.rs", "");
    package.declare("\n[build-dependencies]\nsupermachine-baker = { path = \"baker\" }\n");
    let done = package.run(&["bake", "-q"]);
    assert_eq!(done.succeeds(), "python\nredis\n", "{done:?}");
    assert!(!files(&package.path("target/debug")).contains(&"app".to_owned()));
    package.write("build.rs", "fn main() { panic!(\"no hypervisor\") }");
    let done = package.run(&["bake", "-q"]);
    assert_eq!((done.status, &*done.stdout), (101, ""), "{done:?}");
    assert!(done.stderr.contains("no hypervisor"), "{done:?}");
}

/// Puts an image into a registry that differs from others by a word, and returns its digest.
fn push_image(package: &Package, word: &str, image: &str) -> Digest {
    let describe = |kind: &str, content: &str| {
        let kind = format!("application/vnd.oci.image.{kind}.v1+json");
        let digest = Digest::of(content.as_bytes()).to_string();
        json!({"mediaType": kind, "digest": digest, "size": content.len()})
    };
    let config = json!({"os": "linux", "architecture": "amd64", "config": {"Cmd": [word]},
        "rootfs": {"type": "layers", "diff_ids": []}})
    .to_string();
    let manifest = json!({"schemaVersion": 2, "layers": [], "config": describe("config", &config),
        "mediaType": "application/vnd.oci.image.manifest.v1+json"})
    .to_string();
    for blob in [&config, &manifest] {
        let digest = Digest::of(blob.as_bytes()).hex();
        package.write(&format!("{word}/blobs/sha256/{digest}"), blob);
    }
    let index = json!({"schemaVersion": 2, "manifests": [describe("manifest", &manifest)]});
    package.write(&format!("{word}/index.json"), index.to_string());
    package.write(&format!("{word}/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#);
    let layout = format!("oci:{}", package.path(word).display());
    skopeo(&["--preserve-digests", &layout, &format!("docker://{image}")]);
    Digest::of(manifest.as_bytes())
}

#[test]
fn update_moves_pins_to_what_tags_stand_for() {
    let package = Package::new();
    let none = package.run(&["update"]);
    assert_eq!(
        (none.succeeds(), &*none.stderr),
        ("", "no tags to update: none are pinned or declared\n")
    );
    let registry = DockerRegistry::start(None);
    let image = format!("{}/apps/a:v1", registry.address);
    let one = push_image(&package, "one", &image);
    let short = |digest: Digest| digest.hex()[..12].to_owned();
    let lock = || fs::read_to_string(package.path("supermachine.lock")).unwrap();
    package.declare(&format!(
        "\n[[package.metadata.supermachine.snapshots]]\nname = \"x\"\nimage = {image:?}\n"
    ));
    let dry = package.run(&["update", "--dry-run"]);
    assert_eq!(dry.succeeds(), format!("{image} is pinned to {}\n", short(one)));
    assert!(!package.path("supermachine.lock").exists());
    package.run(&["update"]).succeeds();
    assert!(lock().contains(&one.to_string()), "{}", lock());
    let same = package.run(&["update"]);
    assert_eq!(same.succeeds(), format!("{image} stays {}\n", short(one)));

    let two = push_image(&package, "two", &image);
    package.run(&["update", "redis"]).fails(1, &["redis is neither pinned"]);
    let moved = package.run(&["update", &image]);
    assert_eq!(moved.succeeds(), format!("{image} moves from {} to {}\n", short(one), short(two)));
    assert!(lock().contains(&two.to_string()) && !lock().contains(&one.to_string()));

    // What cannot be asked leaves everything as it was.
    let before = lock();
    drop(registry);
    package.run(&["update"]).fails(1, &["image cannot be fetched"]);
    assert_eq!(lock(), before);
}
