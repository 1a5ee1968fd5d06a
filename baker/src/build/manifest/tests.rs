use super::*;

fn parse(text: &str) -> Result<Metadata, ManifestError> {
    Metadata::parse(Path::new("Cargo.toml"), text)
}

fn snapshot(line: &str) -> Result<Metadata, ManifestError> {
    parse(&format!(
        "[[package.metadata.supermachine.snapshots]]\nname = \"a\"\nimage = \"redis:7\"\n{line}"
    ))
}

#[test]
fn every_key_is_read() {
    let text = r#"
        [package]
        name = "app"
        [package.metadata.supermachine]
        bundle = { identifier = "x" }
        [[package.metadata.supermachine.snapshots]]
        name = "python"
        image = "python:3.12-slim"
        memory = 512
        vcpus = 2
        ready = "tcp:80"
        ready_timeout = 30
        init = "image"
        after_restore = "exec:reseed now"
        after_restore_timeout = 5
        env = { B = "2", A = "1" }
        files = { "/opt/app" = "guest" }
        entrypoint = ["python3"]
        command = ["-m", "http.server"]
        user = "nobody"
        working_dir = "/opt"
        read_only = true
        tmpfs = ["/run:size=1m"]
        shm_size = 64
        ulimits = ["nofile=64"]
        warmup = [["true"], ["echo", "a b"]]
        [[package.metadata.supermachine.snapshots]]
        name = "cache"
        image = "redis"
    "#;
    let metadata = parse(text).unwrap();
    let strings = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let python = DeclaredSnapshot {
        name: "python".into(),
        image: "python:3.12-slim".into(),
        memory_mib: Some(512),
        vcpus: Some(2),
        ready: Some("tcp:80".into()),
        ready_timeout: Some(Duration::from_secs(30)),
        init: Some(Init::Image),
        after_restore: Some("exec:reseed now".into()),
        after_restore_timeout: Some(Duration::from_secs(5)),
        env: vec![("A".into(), "1".into()), ("B".into(), "2".into())],
        files: vec![("/opt/app".into(), "guest".into())],
        entrypoint: Some(strings(&["python3"])),
        command: Some(strings(&["-m", "http.server"])),
        user: Some("nobody".into()),
        working_dir: Some("/opt".into()),
        read_only: Some(true),
        tmpfs: strings(&["/run:size=1m"]),
        shm_size_mib: Some(64),
        ulimits: strings(&["nofile=64"]),
        warmup: vec![strings(&["true"]), strings(&["echo", "a b"])],
    };
    assert_eq!(metadata.snapshots[0], python);
    assert_eq!(metadata.snapshots[1].name, "cache");
    assert_eq!(metadata.snapshots[1].memory_mib, None);
    assert_eq!(metadata.bundle.unwrap()["identifier"].as_str(), Some("x"));
    python.builder(Path::new("/package")).unwrap();
}

#[test]
fn package_without_the_table_declares_nothing() {
    for text in ["", "[package]\nname = \"a\"", "[package.metadata.docs.rs]\nall = true"] {
        assert_eq!(parse(text).unwrap(), Metadata::default(), "{text:?}");
    }
}

#[test]
fn unknown_key_suggests_the_similar_one() {
    let cases = [
        ("memroy = 1", "memroy", Some("memory")),
        ("cpus = 1", "cpus", Some("vcpus")),
        ("environment = {}", "environment", Some("env")),
        ("readiness = \"exit\"", "readiness", Some("ready")),
        ("xyzzy = 1", "xyzzy", None),
    ];
    for (line, wrong, meant) in cases {
        let error = snapshot(line).unwrap_err();
        let ManifestError::UnknownKey { key, suggestion, place, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!((key.as_str(), *suggestion), (wrong, meant), "{line}");
        assert_eq!(place, "snapshot \"a\"");
    }
    let error = parse("[package.metadata.supermachine]\nsnapshot = []").unwrap_err();
    assert_eq!(
        error.to_string(),
        "Cargo.toml: package.metadata.supermachine has an unknown key \"snapshot\"; did you mean \
         \"snapshots\"?"
    );
}

#[test]
fn invalid_values_are_refused() {
    for line in [
        "memory = \"256\"",
        "memory = -1",
        "vcpus = 70000",
        "init = \"systemd\"",
        "env = { A = 1 }",
        "env = [\"A=1\"]",
        "files = [\"a\"]",
        "entrypoint = \"sh -c x\"",
        "warmup = [\"true\"]",
        "warmup = [[]]",
    ] {
        assert!(matches!(snapshot(line), Err(ManifestError::Type { .. })), "{line}");
    }
    let error = snapshot("ready = \"udp:53\"").unwrap_err();
    assert!(matches!(error, ManifestError::Value { key: "ready", .. }), "{error}");
    let error = snapshot("after_restore = \"signal:FOO\"").unwrap_err();
    assert!(matches!(error, ManifestError::Value { key: "after_restore", .. }), "{error}");
    let one = |fields: &str| {
        parse(&format!("[package.metadata.supermachine]\nsnapshots = [{fields}]")).unwrap_err()
    };
    let missing = one("{ name = \"a\" }");
    assert!(matches!(missing, ManifestError::MissingKey { key: "image", .. }), "{missing}");
    let missing = one("{ image = \"a\" }");
    assert!(missing.to_string().contains("snapshot number 1"), "{missing}");
    let name = one("{ name = \"a/b\", image = \"a\" }");
    assert!(matches!(name, ManifestError::Value { key: "name", .. }), "{name}");
    let image = one("{ name = \"a\", image = \"A B\" }");
    assert!(matches!(image, ManifestError::Value { key: "image", .. }), "{image}");
    let twice = one("{ name = \"a\", image = \"b\" }, { name = \"a\", image = \"c\" }");
    assert!(matches!(twice, ManifestError::Twice { .. }), "{twice}");
    let text = parse("[package.metadata]\nsupermachine = 1").unwrap_err();
    assert!(matches!(text, ManifestError::Type { .. }), "{text}");
    assert!(matches!(parse("["), Err(ManifestError::Toml { .. })));
}

#[test]
fn paths_are_relative_to_the_package() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("layout")).unwrap();
    fs::write(dir.path().join("layout/oci-layout"), "").unwrap();
    let source = |image: &str| {
        let text = format!(
            "[package.metadata.supermachine]\nsnapshots = [{{ name = \"a\", image = \"{image}\" }}]"
        );
        parse(&text).unwrap().snapshots[0].source(dir.path()).unwrap()
    };
    let path = dir.path().join("layout");
    assert_eq!(source("layout"), ImageSource::Layout { path: path.clone(), tag: None });
    let tagged = ImageSource::Layout { path, tag: Some("1".into()) };
    assert_eq!(source("oci:layout:1"), tagged);
    assert_eq!(source("a.tar"), ImageSource::Archive { path: dir.path().join("a.tar") });
    assert_eq!(source("redis").to_string(), "docker.io/library/redis:latest");
}
