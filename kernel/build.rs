//! Names the builds of kernel and agent by digests of their inputs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

fn main() -> io::Result<()> {
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    println!("cargo::rerun-if-changed=build.rs");

    // The recipe covers this architecture; the other's facts are in a file of their own.
    for (name, facts) in [("x86_64", None), ("aarch64", Some("src/arch.rs"))] {
        let mut kernel = Inputs::new(name);
        kernel.file(Path::new("src/recipe.rs"))?;
        kernel.file(Path::new("config/common.config"))?;
        kernel.file(&PathBuf::from(format!("config/{name}.config")))?;
        kernel.file(Path::new("layout/as"))?;
        kernel.file(Path::new("layout/hot-functions"))?;
        kernel.file(Path::new("layout/hot-data"))?;
        facts.map_or(Ok(()), |facts| kernel.file(Path::new(facts)))?;
        let variable = name.to_uppercase();
        println!("cargo::rustc-env=KERNEL_INPUTS_{variable}={}", kernel.name());
        println!("cargo::rustc-env=AGENT_INPUTS_{variable}={}", agent(name)?);
    }
    println!("cargo::rustc-env=GUEST_ARCH={arch}");
    Ok(())
}

fn agent(arch: &str) -> io::Result<String> {
    let mut agent = Inputs::new(arch);
    for root in ["../init", "../formats/src", "../formats/Cargo.toml"] {
        agent.tree(Path::new(root))?;
    }
    // The dependencies, the profile and the compiler.
    for file in ["../Cargo.lock", "../Cargo.toml", "../rust-toolchain.toml"] {
        agent.file(Path::new(file))?;
    }
    Ok(agent.name())
}

/// A digest of words and files. Each goes in with its length, so that boundaries count.
struct Inputs(Sha256);

impl Inputs {
    fn new(arch: &str) -> Self {
        let mut inputs = Self(Sha256::new());
        inputs.word(arch);
        inputs
    }

    fn word(&mut self, word: &str) {
        self.bytes(word.as_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn file(&mut self, path: &Path) -> io::Result<()> {
        println!("cargo::rerun-if-changed={}", path.display());
        self.word(&path.to_string_lossy());
        self.bytes(&fs::read(path)?);
        Ok(())
    }

    /// Every file below `path`, sorted by name, without tests and build output.
    fn tree(&mut self, path: &Path) -> io::Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') && name != ".." || name == "target" || name == "tests" {
            return Ok(());
        }
        if !path.is_dir() {
            return self.file(path);
        }
        println!("cargo::rerun-if-changed={}", path.display());
        let mut entries = fs::read_dir(path)?
            .map(|entry| entry.map(|e| e.path()))
            .collect::<io::Result<Vec<_>>>()?;
        entries.sort();
        entries.iter().try_for_each(|entry| self.tree(entry))
    }

    /// The first 16 hexadecimal digits: enough to distinguish builds, and short in a path.
    fn name(self) -> String {
        self.0.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}
