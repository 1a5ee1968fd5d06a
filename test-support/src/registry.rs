//! Debian's registry, and skopeo, which copies images.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// The output of `htpasswd -B` for the user `user` and the password `secret`.
pub const USER_SECRET: &str = "user:$2y$05$Zb77GIM4HZITJmBshlQyqOyWlW5tINWcnzF5qt/l2xSaZ9DUpmzMG";

/// A command of this program. Panics with the name of its package if it is not installed.
pub fn tool(name: &str, package: &str) -> Command {
    let found = Command::new(name).arg("--version").output();
    assert!(found.is_ok(), "{name} is not installed: apt-get install {package}");
    Command::new(name)
}

/// Copies an image with skopeo.
pub fn skopeo(arguments: &[&str]) {
    let output = tool("skopeo", "skopeo")
        .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Debian's registry on a free port, stopped when dropped.
#[derive(Debug)]
pub struct DockerRegistry {
    process: Child,
    /// `127.0.0.1:PORT`
    pub address: String,
    _dir: tempfile::TempDir,
}

impl DockerRegistry {
    /// Starts a registry, with this file of users and passwords if one is given.
    pub fn start(htpasswd: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let auth = htpasswd.map_or(String::new(), |text| {
            let path = dir.path().join("htpasswd");
            std::fs::write(&path, text).unwrap();
            format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", path.display())
        });
        let config = format!(
            "version: 0.1\nlog:\n  level: info\n  formatter: text\nstorage:\n  filesystem:\n    \
             rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n{auth}",
            dir.path().join("data").display()
        );
        let path = dir.path().join("config.yml");
        std::fs::write(&path, config).unwrap();
        let mut process = tool("docker-registry", "docker-registry")
            .arg("serve")
            .arg(path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .env("OTEL_TRACES_EXPORTER", "none")
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = log
            .find_map(|line| {
                let line = line.unwrap();
                let (_, rest) = line.split_once("listening on ")?;
                Some(rest.split(['"', ' ', ',']).next()?.to_owned())
            })
            .expect("the registry exited without listening");
        // The registry must not block on a full pipe.
        std::thread::spawn(move || log.for_each(drop));
        Self { process, address, _dir: dir }
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}
