use super::macho::{MachoError, check, is_signed_with, looks_like_one};
use super::*;

#[path = "../../tests/support/macho.rs"]
mod samples;

use samples::{ARM64, X86_64, program, universal};

fn entitlements_of(text: &[u8]) -> Result<Entitlements, CodesignError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    Entitlements::read(Some(file.path()))
}

fn plist_of(inner: &str) -> Vec<u8> {
    format!(r#"<?xml version="1.0"?><plist version="1.0">{inner}</plist>"#).into_bytes()
}

#[test]
fn program_with_any_number_of_architectures_passes() {
    let (arm, intel) = (program(ARM64), program(X86_64));
    let both = universal(&[(X86_64, intel.clone()), (ARM64, arm.clone())]);
    for file in [arm, intel, both] {
        assert_eq!(check(&file), Ok(()));
        assert!(looks_like_one(&file[..8]));
        assert!(!is_signed_with(&file, b""));
    }
}

#[test]
fn other_files_are_refused() {
    assert_eq!(check(b"\x7fELF and more"), Err(MachoError::NoHeader));
    assert_eq!(check(b""), Err(MachoError::NoHeader));
    let class = b"\xca\xfe\xba\xbe\0\0\0\x41and more";
    assert_eq!(check(class), Err(MachoError::Slices { found: 65 }));
    for start in [&class[..8], b"\x7fELF\x02\x01\x01\0", b"#!/bin/s", b"\xca\xfe", b""] {
        assert!(!looks_like_one(start), "{start:?}");
    }
    let mut file = program(ARM64);
    file[..4].copy_from_slice(&0xfeed_face_u32.to_le_bytes());
    assert_eq!(check(&file), Err(MachoError::Narrow));
    let mut file = program(ARM64);
    file[12] = 1;
    assert_eq!(check(&file), Err(MachoError::Kind { kind: 1 }));
}

#[test]
fn truncated_program_is_refused_at_every_length() {
    let file = program(ARM64);
    for size in 0..file.len() {
        assert!(check(&file[..size]).is_err(), "{size} bytes");
    }
    let file = universal(&[(ARM64, file)]);
    for size in 0..file.len() {
        assert!(check(&file[..size]).is_err(), "{size} bytes");
    }
}

#[test]
fn program_with_trailing_bytes_is_refused() {
    let mut file = program(ARM64);
    file.push(0);
    assert_eq!(check(&file), Err(MachoError::LinkeditNotLast));
}

#[test]
fn entitlements_get_the_hypervisor_unless_they_set_it() {
    let hypervisor = |entitlements: Entitlements| {
        let value: plist::Dictionary = plist::from_bytes(&entitlements.xml().unwrap()).unwrap();
        (value[entitlements::HYPERVISOR].as_boolean(), value.len())
    };
    assert_eq!(hypervisor(Entitlements::read(None).unwrap()), (Some(true), 1));
    let more =
        plist_of("<dict><key>x</key><array><string>y</string><integer>1</integer></array></dict>");
    assert_eq!(hypervisor(entitlements_of(&more).unwrap()), (Some(true), 2));
    let denied = plist_of("<dict><key>com.apple.security.hypervisor</key><false/></dict>");
    assert_eq!(hypervisor(entitlements_of(&denied).unwrap()), (Some(false), 1));
}

#[test]
fn malformed_entitlements_are_refused() {
    type Is = fn(&CodesignError) -> bool;
    let cases: [(Vec<u8>, Is); 7] = [
        (b"{}".to_vec(), |e| matches!(e, CodesignError::Entitlements { .. })),
        (Vec::new(), |e| matches!(e, CodesignError::Entitlements { .. })),
        (plist_of("<dict><key>x</key>"), |e| matches!(e, CodesignError::Entitlements { .. })),
        (plist_of("<array/>"), |e| matches!(e, CodesignError::NotADictionary { .. })),
        (
            plist_of("<dict><key>x</key><real>1.5</real></dict>"),
            |e| matches!(e, CodesignError::Value { key, .. } if key == "x"),
        ),
        (
            plist_of("<dict><key>x</key><array><data>AA==</data></array></dict>"),
            |e| matches!(e, CodesignError::Value { key, .. } if key == "x"),
        ),
        (vec![b' '; (1 << 20) + 1], |e| matches!(e, CodesignError::TooLarge { .. })),
    ];
    for (text, is_expected) in cases {
        let error = entitlements_of(&text).unwrap_err();
        assert!(is_expected(&error), "{error:?}");
    }
    let missing = Entitlements::read(Some(Path::new("/nosuch"))).unwrap_err();
    assert!(matches!(missing, CodesignError::File { op: "read", .. }), "{missing:?}");
}

/// A fake of the system's tool that records its arguments.
fn tool(dir: &Path, script: &str) -> std::path::PathBuf {
    let tool = dir.join("codesign");
    let text = format!("#!/bin/sh\ncd \"${{0%/*}}\"\n{script}\n");
    // Another process writes the file. If this process had it open for writing, a child of a parallel
    // test could inherit the descriptor, and the file could not be executed.
    let mut write = std::process::Command::new("sh");
    write.args(["-c", "printf %s \"$1\" > \"$0\" && chmod +x \"$0\""]).arg(&tool).arg(text);
    assert!(write.status().unwrap().success());
    tool
}

#[cfg(not(target_os = "macos"))]
#[test]
fn system_tool_signs_and_then_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let tool = tool(
        dir.path(),
        "for word; do echo \"$word\"; case $word in *.plist) cat \"$word\";; esac; done >> recorded",
    );
    let recorded = |identity: Identity, timestamp, identifier| {
        let _ = fs::remove_file(dir.path().join("recorded"));
        let request =
            Request { identity: &identity, identifier: "", entitlements: b"PLIST\n", timestamp };
        system::sign_with(&tool, Path::new("/the/app"), &request, identifier).unwrap();
        let text = fs::read_to_string(dir.path().join("recorded")).unwrap();
        let is_fixed = |line: &&str| !line.ends_with(".plist");
        text.lines().filter(is_fixed).collect::<Vec<_>>().join(" ")
    };
    let me = || Identity::Named { name: "Me Inc.".into(), password: String::new() };
    assert_eq!(
        recorded(Identity::AdHoc, true, Some("app")),
        "--force --sign - --entitlements PLIST --identifier app /the/app \
         --verify --strict /the/app"
    );
    assert_eq!(
        recorded(me(), true, None),
        "--force --sign Me Inc. --entitlements PLIST --options runtime --timestamp /the/app \
         --verify --strict /the/app"
    );
    assert!(recorded(me(), false, None).contains("--options runtime --timestamp=none"));
}

#[cfg(not(target_os = "macos"))]
#[test]
fn error_of_the_system_tool_is_quoted() {
    let dir = tempfile::tempdir().unwrap();
    let tool = tool(dir.path(), "echo 'no identity found' >&2; exit 3");
    let request =
        Request { identity: &Identity::AdHoc, identifier: "", entitlements: b"", timestamp: false };
    let sign = |tool: &Path| system::sign_with(tool, Path::new("/app"), &request, None);
    let text = sign(&tool).unwrap_err().to_string();
    assert!(text.ends_with("failed with exit status: 3: no identity found"), "{text}");
    let missing = sign(&dir.path().join("nosuch")).unwrap_err();
    assert!(matches!(missing, CodesignError::NoTool { .. }), "{missing:?}");
}

/// The checks cover everything that a signer relies on. With any other byte changed, the signer may
/// refuse the program, but must not panic.
#[cfg(all(not(target_os = "macos"), feature = "codesign"))]
#[test]
fn damaged_program_is_refused_or_signed() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let entitlements = Entitlements::read(None).unwrap().xml().unwrap();
    let request = Request {
        identity: &Identity::AdHoc,
        identifier: "app",
        entitlements: &entitlements,
        timestamp: false,
    };
    let sign = |bytes: &[u8]| {
        fs::write(file.path(), bytes).unwrap();
        signer::sign_file(file.path(), &request)
    };
    sign(&program(ARM64)).unwrap();
    let signed = fs::read(file.path()).unwrap();
    assert!(is_signed_with(&signed, &entitlements) && !is_signed_with(&signed, b"other"));
    let mut refused = 0;
    for whole in [program(ARM64), universal(&[(X86_64, program(X86_64))]), signed] {
        // All offsets and sizes are at the start.
        for at in (0..0x400).chain(samples::CODE..whole.len().min(samples::CODE + 0x400)) {
            for change in [0xff, 0x01] {
                let mut damaged = whole.clone();
                damaged[at] ^= change;
                if check(&damaged).is_err() || sign(&damaged).is_err() {
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 100, "{refused}");
}
