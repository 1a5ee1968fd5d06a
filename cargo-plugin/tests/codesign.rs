//! `supermachine codesign` on programs for macOS that are made here, on any system.
//!
//! With the feature `codesign`, signatures are read back by `apple-codesign` and by a reader of
//! our own. Needs the package `openssl` then.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/macho.rs"]
mod macho;
#[cfg(feature = "codesign")]
#[path = "support/package.rs"]
mod package;
#[cfg(feature = "codesign")]
#[path = "support/signature.rs"]
mod signature;
mod support;

use std::fs;
use std::path::{Path, PathBuf};

use macho::{ARM64, program};
use support::{Done, Home, files};

/// A program of one architecture in a folder of its own.
fn app(home: &Home) -> PathBuf {
    let folder = home.path("out");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("app"), program(ARM64)).unwrap();
    folder.join("app")
}

fn codesign(home: &Home, arguments: &[&str], path: &Path) -> Done {
    home.run(&[&["codesign"], arguments, &[path.to_str().unwrap()]].concat())
}

#[test]
fn file_that_cannot_be_signed_is_named_and_unchanged() {
    let home = Home::new();
    let app = app(&home);
    let folder = app.parent().unwrap();
    let cut_off = &program(ARM64)[..5000];
    for (content, said) in [
        (&b"#!/bin/sh\n"[..], "it does not start with a Mach-O header"),
        (b"", "it does not start with a Mach-O header"),
        (b"\x7fELF\x02\x01\x01", "it does not start with a Mach-O header"),
        (cut_off, "a segment ends at byte 16384, after the end of the file at 5000"),
    ] {
        fs::write(&app, content).unwrap();
        codesign(&home, &[], &app).fails(1, &["not a Mach-O program", said]);
        assert!(fs::read(&app).unwrap() == content);
    }
    codesign(&home, &[], &folder.join("nosuch")).fails(1, &["nosuch cannot be found", "No such"]);
    codesign(&home, &[], folder).fails(1, &["a folder but not an app bundle"]);
    codesign(&home, &[], Path::new("/dev/null")).fails(1, &["neither a file nor an app bundle"]);
    assert_eq!(files(folder), ["app"]);
}

#[test]
fn read_only_program_is_left_alone() {
    let home = Home::new();
    let app = app(&home);
    let mut permissions = fs::metadata(&app).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&app, permissions).unwrap();
    codesign(&home, &[], &app).fails(1, &["app is read-only", "chmod u+w"]);
    assert!(fs::read(&app).unwrap() == program(ARM64));
}

#[test]
fn entitlements_are_checked_before_the_program_is_touched() {
    let home = Home::new();
    let app = app(&home);
    let file = home.path("bad.plist");
    fs::write(&file, "{").unwrap();
    let named = ["--entitlements", file.to_str().unwrap()];
    codesign(&home, &named, &app).fails(1, &["bad.plist are not a property list"]);
    codesign(&home, &["--entitlements", "/nosuch"], &app).fails(1, &["/nosuch cannot be read"]);
    assert!(fs::read(&app).unwrap() == program(ARM64));
    assert_eq!(files(app.parent().unwrap()), ["app"]);
}

#[test]
fn arguments_that_contradict_each_other_are_refused() {
    let home = Home::new();
    let app = app(&home);
    codesign(&home, &["--ad-hoc", "--identity", "x"], &app).fails(2, &["cannot be used with"]);
    codesign(&home, &["--no-timestamp"], &app).fails(2, &["--identity"]);
    codesign(&home, &["--password-stdin"], &app).fails(2, &["--identity"]);
    home.run(&["codesign"]).fails(2, &["<PATH>"]);
}

#[cfg(all(not(target_os = "macos"), not(feature = "codesign")))]
#[test]
fn without_a_signer_that_is_said_and_nothing_changes() {
    let home = Home::new();
    let app = app(&home);
    codesign(&home, &[], &app).fails(1, &["outside macOS", "--features codesign"]);
    assert!(fs::read(&app).unwrap() == program(ARM64));
    assert_eq!(files(app.parent().unwrap()), ["app"]);
}

#[cfg(feature = "codesign")]
mod signing {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::process::Command;

    use apple_codesign::{MachFile, verify_macho_data};

    use super::*;
    use crate::macho::{X86_64, universal};
    use crate::package::Package;
    use crate::signature::{AD_HOC, HARDENED, Signature};

    const HYPERVISOR: &str = "com.apple.security.hypervisor";

    /// The signature as read by a reader of ours; that of `apple-codesign` must agree.
    #[track_caller]
    fn signature(file: &[u8]) -> Signature {
        let ours = crate::signature::read(file).unwrap();
        let parsed = MachFile::parse(file).unwrap();
        let theirs = parsed.nth_macho(0).unwrap().code_signature().unwrap().unwrap();
        let directory = theirs.code_directory().unwrap().unwrap();
        assert_eq!(directory.flags.bits(), ours.flags);
        assert_eq!(directory.ident, ours.identifier);
        let entitlements = theirs.entitlements().unwrap().unwrap();
        let entitlements: plist::Dictionary =
            plist::from_bytes(entitlements.as_str().as_bytes()).unwrap();
        assert_eq!(entitlements, ours.entitlements);
        ours
    }

    fn allows_hypervisor(signature: &Signature) -> bool {
        signature.entitlements.get(HYPERVISOR).and_then(plist::Value::as_boolean) == Some(true)
    }

    #[test]
    fn ad_hoc_signature_has_the_entitlement_and_every_page_of_the_program() {
        let home = Home::new();
        let app = app(&home);
        fs::set_permissions(&app, fs::Permissions::from_mode(0o750)).unwrap();
        let done = codesign(&home, &[], &app);
        assert_eq!(done.succeeds(), "");
        assert!(done.stderr.starts_with("signed /"), "{done:?}");
        let file = fs::read(&app).unwrap();
        let found = signature(&file);
        assert_eq!((found.flags, found.identifier.as_str()), (AD_HOC, "app"));
        assert!(allows_hypervisor(&found) && found.entitlements.len() == 1, "{found:?}");
        assert_eq!(found.cms, b"");
        // The code itself is as it was.
        let code = crate::macho::CODE - 16..crate::macho::CODE;
        assert_eq!(file[code.clone()], program(ARM64)[code]);
        assert_eq!(fs::metadata(&app).unwrap().permissions().mode() & 0o777, 0o750);
        assert_eq!(files(app.parent().unwrap()), ["app"]);
    }

    #[test]
    fn signature_that_is_there_is_replaced() {
        let home = Home::new();
        let app = app(&home);
        codesign(&home, &[], &app).succeeds();
        let once = fs::read(&app).unwrap();
        codesign(&home, &["-q", "--ad-hoc"], &app).succeeds();
        assert!(fs::read(&app).unwrap() == once);
        let more = home.path("more.plist");
        let text = "<plist version=\"1.0\"><dict><key>com.apple.security.network.client</key><true/></dict></plist>";
        fs::write(&more, text).unwrap();
        codesign(&home, &["--entitlements", more.to_str().unwrap()], &app).succeeds();
        let found = signature(&fs::read(&app).unwrap());
        assert!(allows_hypervisor(&found) && found.entitlements.len() == 2, "{found:?}");
    }

    #[test]
    fn changed_byte_is_found_by_the_reader() {
        let home = Home::new();
        let app = app(&home);
        codesign(&home, &[], &app).succeeds();
        let mut file = fs::read(&app).unwrap();
        file[crate::macho::CODE - 16] ^= 1;
        assert!(std::panic::catch_unwind(|| crate::signature::read(&file)).is_err());
    }

    #[test]
    fn program_behind_a_link_is_signed_and_the_link_stays() {
        let home = Home::new();
        let app = app(&home);
        let link = home.path("link");
        std::os::unix::fs::symlink(&app, &link).unwrap();
        let hard = home.path("hard");
        fs::hard_link(&app, &hard).unwrap();
        codesign(&home, &[], &link).succeeds();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(signature(&fs::read(&app).unwrap()).identifier, "app");
        // Another name of the file keeps what it was.
        assert!(fs::read(&hard).unwrap() == program(ARM64));
        assert_ne!(fs::metadata(&hard).unwrap().ino(), fs::metadata(&app).unwrap().ino());
    }

    #[test]
    fn every_architecture_is_signed() {
        let home = Home::new();
        let app = app(&home);
        let both = universal(&[(X86_64, program(X86_64)), (ARM64, program(ARM64))]);
        fs::write(&app, both).unwrap();
        codesign(&home, &[], &app).succeeds();
        let file = fs::read(&app).unwrap();
        let big = |at: usize| u32::from_be_bytes(file[at..at + 4].try_into().unwrap()) as usize;
        assert_eq!(big(4), 2);
        for entry in [8, 28] {
            let slice = &file[big(entry + 8)..][..big(entry + 12)];
            let found = signature(slice);
            assert!(allows_hypervisor(&found) && found.flags == AD_HOC, "{found:?}");
        }
    }

    /// A key with a certificate that nobody vouches for, as a PKCS#12 file.
    fn identity(home: &Home, password: &str) -> PathBuf {
        let file = home.path("me.p12");
        let script = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj '/CN=Me' \
            -addext extendedKeyUsage=critical,codeSigning -keyout key.pem -out cert.pem && \
            openssl pkcs12 -export -inkey key.pem -in cert.pem -out me.p12 -passout \"pass:$0\" \
            -keypbe PBE-SHA1-3DES -certpbe PBE-SHA1-3DES -macalg sha1";
        let mut make = Command::new("sh");
        make.args(["-c", script, password]).current_dir(file.parent().unwrap());
        let output = make.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        file
    }

    #[test]
    fn identity_signs_with_the_hardened_runtime() {
        let home = Home::new();
        let app = app(&home);
        let file = identity(&home, "secret");
        let arguments =
            ["codesign", "--no-timestamp", "--password-stdin", "--identity", "FILE", "APP"].map(
                |word| match word {
                    "FILE" => file.to_str().unwrap(),
                    "APP" => app.to_str().unwrap(),
                    word => word,
                },
            );
        let refused = home.run_with_input(&arguments, "wrong\n");
        refused.fails(1, &["the password does not open ", "me.p12"]);
        assert!(fs::read(&app).unwrap() == program(ARM64));
        home.run_with_input(&arguments, "secret\n").succeeds();
        let bytes = fs::read(&app).unwrap();
        let found = signature(&bytes);
        assert_eq!(found.flags, HARDENED);
        assert!(allows_hypervisor(&found));
        fs::write(home.path("cms"), &found.cms).unwrap();
        fs::write(home.path("directory"), &found.directory).unwrap();
        let mut verify = Command::new("openssl");
        verify.args(["cms", "-verify", "-binary", "-inform", "DER", "-in", "cms", "-noverify"]);
        verify.args(["-content", "directory", "-out", "verified"]);
        let output = verify.current_dir(home.path("")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(fs::read(home.path("verified")).unwrap() == found.directory);
        let problems = verify_macho_data(&bytes);
        assert!(problems.is_empty(), "{problems:?}");
    }

    #[test]
    fn identity_that_is_no_identity_is_refused() {
        let home = Home::new();
        let app = app(&home);
        codesign(&home, &["--identity", "/nosuch"], &app).fails(1, &["/nosuch cannot be read"]);
        let app_itself = app.to_str().unwrap();
        codesign(&home, &["--identity", app_itself], &app)
            .fails(1, &["cannot use the identity", ".p12"]);
        assert!(fs::read(&app).unwrap() == program(ARM64));
    }

    #[test]
    fn bundle_is_signed_with_its_program_and_what_is_beside_it() {
        let home = Home::new();
        let bundle = home.path("out/App.app");
        for folder in ["MacOS", "Resources"] {
            fs::create_dir_all(bundle.join("Contents").join(folder)).unwrap();
        }
        let app = bundle.join("Contents/MacOS/app");
        fs::write(&app, program(ARM64)).unwrap();
        fs::set_permissions(&app, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(bundle.join("Contents/Resources/data"), "data").unwrap();
        let info = "<plist version=\"1.0\"><dict><key>CFBundleExecutable</key><string>app</string>\
            <key>CFBundleIdentifier</key><string>org.example.app</string>\
            <key>CFBundlePackageType</key><string>APPL</string></dict></plist>";
        fs::write(bundle.join("Contents/Info.plist"), info).unwrap();
        codesign(&home, &[], &bundle).succeeds();
        let found = signature(&fs::read(&app).unwrap());
        assert_eq!(found.identifier, "org.example.app");
        assert!(allows_hypervisor(&found));
        // The property list and the list of resources are part of what is signed.
        assert!([1, 3].iter().all(|slot| found.special.contains(slot)), "{found:?}");
        let sealed = bundle.join("Contents/_CodeSignature/CodeResources");
        let sealed: plist::Dictionary = plist::from_file(sealed).unwrap();
        let sealed = sealed["files2"].as_dictionary().unwrap();
        assert!(sealed.contains_key("Resources/data"), "{sealed:?}");
    }

    #[test]
    fn build_signs_every_program_that_it_makes() {
        let home = Home::new();
        let package = Package::new();
        package.link_to(&app(&home));
        package.run(&["build", "--bins"]).succeeds();
        let made = package.path("target/debug/app");
        let found = signature(&fs::read(&made).unwrap());
        assert!(allows_hypervisor(&found) && found.flags == AD_HOC, "{found:?}");
        let before = fs::metadata(&made).unwrap().ino();
        package.run(&["build", "--bins"]).succeeds();
        assert!(allows_hypervisor(&signature(&fs::read(&made).unwrap())), "{before}");
    }

    #[test]
    fn program_and_tests_are_signed_before_they_start() {
        let home = Home::new();
        let package = Package::new();
        package.link_to(&app(&home));
        let runner =
            package.script("runner", "cp \"$1\" \"$(dirname \"$0\")/started\"; shift; echo \"$@\"");
        let config = fs::read_to_string(package.path(".cargo/config.toml")).unwrap();
        package.write(".cargo/config.toml", format!("{config}runner = [{runner:?}]\n"));
        for arguments in [["run", "-q", "--", "x"], ["test", "-q", "--", "x"]] {
            let done = package.run(&arguments);
            assert!(done.succeeds().starts_with('x'), "{done:?}");
            let started = fs::read(package.path("started")).unwrap();
            assert!(allows_hypervisor(&signature(&started)), "{arguments:?}");
            fs::remove_file(package.path("started")).unwrap();
        }
    }

    #[test]
    fn program_that_is_signed_so_already_is_left_alone() {
        let home = Home::new();
        let app = app(&home);
        let package = Package::new();
        let start = || package.run(&["runner", "--then=echo", "--", app.to_str().unwrap()]);
        start().succeeds();
        let first = fs::metadata(&app).unwrap().ino();
        assert!(allows_hypervisor(&signature(&fs::read(&app).unwrap())));
        start().succeeds();
        assert_eq!(fs::metadata(&app).unwrap().ino(), first);
    }

    #[test]
    fn app_is_bundled_with_all_its_programs_signed() {
        let home = Home::new();
        let package = Package::new();
        package.write("src/bin/worker.rs", "fn main() {}");
        package
            .write("more.plist", "<plist version=\"1.0\"><dict><key>x</key><true/></dict></plist>");
        package.declare(
            "\n[package.metadata.supermachine.bundle]\nidentifier = \"org.example.app\"\n\
             entitlements = \"more.plist\"\nresources = [\"more.plist\"]\n",
        );
        package.link_to(&app(&home));
        let bundle = ["bundle", "--format", "app", "--bin", "app", "--bin", "worker", "-o", "out"];
        package.run(&bundle).succeeds();
        let inside = package.path("out/app.app/Contents");
        for (program, identifier) in [("app", "org.example.app"), ("worker", "worker")] {
            let found = signature(&fs::read(inside.join("MacOS").join(program)).unwrap());
            assert_eq!(found.identifier, identifier);
            assert!(allows_hypervisor(&found) && found.entitlements.len() == 2, "{found:?}");
        }
        let sealed: plist::Dictionary =
            plist::from_file(inside.join("_CodeSignature/CodeResources")).unwrap();
        let sealed = sealed["files2"].as_dictionary().unwrap();
        assert!(sealed.contains_key("Resources/more.plist"), "{sealed:?}");
        // What is built to be run has the same entitlements.
        package.run(&["build", "--bin", "app"]).succeeds();
        let built = signature(&fs::read(package.path("target/debug/app")).unwrap());
        assert_eq!(built.entitlements.len(), 2);
    }
}
