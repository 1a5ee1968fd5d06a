//! Credential helpers. The only test of its program, as it changes `PATH`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod oci_support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use oci_support::server::Server;
use oci_support::{Cache, Image, options, record, source};
use supermachine_baker::oci::{Credentials, Error, fetch, find_credentials};

#[test]
fn helper_programs_are_run_and_their_output_parsed() {
    let dir = tempfile::tempdir().unwrap();
    let script = |name: &str, text: &str| {
        let path = dir.path().join(format!("docker-credential-{name}"));
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    };
    script(
        "good",
        r#"read -r server; echo "{\"ServerURL\":\"$server\",\"Username\":\"$server\",\"Secret\":\"s\"}""#,
    );
    script("token", r#"echo '{"Username":"<token>","Secret":"t"}'"#);
    script("empty", "echo 'credentials not found in native keychain'; exit 1");
    script("broken", "echo 'the keyring is locked'; exit 3");
    script("odd", "echo nonsense");
    script("hang", "exec sleep 1000");
    let answer = r#"echo '{"Username":"u","Secret":"s"}'"#;
    script("daemon", &format!("sleep 1000 & {answer}"));
    script("endless", "exec yes");
    script("deaf", &format!("exec <&-; {answer}"));
    let config = r#"{"auths":{"fallback.example":{"auth":"YTpi"}},"credsStore":"good","credHelpers":
        {"token.example":"token","fallback.example":"empty","broken.example":"broken",
        "odd.example":"odd"}}"#;
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    let path = std::env::var("PATH").unwrap();
    // SAFETY: no other thread of this program reads the environment meanwhile.
    unsafe { std::env::set_var("PATH", format!("{}:{path}", dir.path().display())) };
    let find = |registry| find_credentials(dir.path(), registry);
    let password = |user: &str, password: &str| Credentials::Password {
        user: user.to_owned(),
        password: password.to_owned(),
    };
    assert_eq!(find("docker.io").unwrap(), Some(password("https://index.docker.io/v1/", "s")));
    assert_eq!(find("other.example:5000").unwrap(), Some(password("other.example:5000", "s")));
    assert_eq!(
        find("token.example").unwrap(),
        Some(Credentials::IdentityToken { token: "t".to_owned() })
    );
    assert_eq!(find("fallback.example").unwrap(), Some(password("fallback.example", "s")));
    let error = find("broken.example").unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(error.to_string().contains("docker-credential-broken"), "{error}");
    assert!(source.contains("the keyring is locked"), "{source}");
    assert!(matches!(find("odd.example"), Err(Error::CredentialHelper { .. })));
    let start = Instant::now();
    for helper in ["daemon", "deaf"] {
        write_store(dir.path(), helper);
        assert_eq!(find("x.example").unwrap(), Some(password("u", "s")), "{helper}");
    }
    write_store(dir.path(), "endless");
    assert!(matches!(find("x.example"), Err(Error::CredentialHelper { .. })));
    assert!(start.elapsed() < Duration::from_secs(25), "{:?}", start.elapsed());
    pulls_continue_without_their_helpers(dir.path());
}

fn write_store(dir: &Path, helper: &str) {
    let config = format!(r#"{{"credsStore":"{helper}"}}"#);
    std::fs::write(dir.join("config.json"), config).unwrap();
}

fn pulls_continue_without_their_helpers(dir: &Path) {
    let image = Image::new("amd64");
    let server = Server::serving(&image);
    let start = Instant::now();
    for (helper, expected) in [
        ("broken", "the keyring is locked"),
        ("odd", "nonsense"),
        ("hang", "TimedOut"),
        ("none", "docker-credential-none"),
    ] {
        write_store(dir, helper);
        let mut options = options();
        options.docker_config = Some(dir.to_owned());
        options.timeouts.helper = Duration::from_secs(2);
        let events = record(&mut options);
        fetch(&source(&server.reference()), &Cache::new().blobs, &options).unwrap();
        let events = events.lock().unwrap();
        let is_told = |e: &String| e.contains("HelperFailed") && e.contains(expected);
        assert!(events.iter().any(is_told), "{helper}: {events:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(60));
}
