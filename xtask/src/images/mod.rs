//! Test images: real OCI images made from Debian packages, and their registry's content.
//!
//! Owns the recipes (`xtask/images/`) and a cache of finished OCI layouts, each named by
//! a digest of its recipe. An image is made once, and pushed once into the storage that
//! the test registry serves. Recipes in Python make images of either architecture. Recipes in shell
//! start the programs that they install. For another architecture packages are only unpacked, which
//! is enough for few images.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};
use supermachine_kernel::Arch;

use crate::assets;
use crate::cache;
use crate::command;
use crate::error::Error;
use crate::host;
use crate::packages;
use crate::progress::Step;
use crate::registry;

/// What an image is made with.
#[derive(Clone, Copy, Debug)]
enum Tool {
    /// Writes the layout by hand; needs no rights.
    Python,
    /// Installs packages in a changed root; needs root.
    Shell,
}

#[derive(Debug)]
struct Recipe {
    name: &'static str,
    tool: Tool,
    text: &'static str,
    /// What it includes.
    shared: &'static [(&'static str, &'static str)],
    base: Option<&'static Recipe>,
    /// Whether its packages work if they are only unpacked, as those of another architecture are.
    is_unpackable: bool,
    /// Whether only full runs need it.
    is_for_full_runs: bool,
}

const OCI: (&str, &str) = ("oci.py", include_str!("../../images/oci.py"));
const DEBIAN: (&str, &str) = ("debian.sh", include_str!("../../images/debian.sh"));
/// Takes the place of [`DEBIAN`] for another architecture.
const UNPACKED: (&str, &str) = (DEBIAN.0, include_str!("../../images/unpacked.sh"));
const ZOO: (&str, &str) = ("zoo.sh", include_str!("../../images/zoo.sh"));

static BASE: Recipe = Recipe {
    name: "debian-base",
    tool: Tool::Shell,
    text: include_str!("../../images/debian-base.sh"),
    shared: &[DEBIAN],
    base: None,
    is_unpackable: false,
    is_for_full_runs: false,
};

static RECIPES: [Recipe; 23] = [
    by_hand("busybox", include_str!("../../images/busybox.py")),
    by_hand("layers", include_str!("../../images/layers.py")),
    by_hand("etc-links", include_str!("../../images/etc-links.py")),
    by_hand("volumes", include_str!("../../images/volumes.py")),
    anywhere(on_debian("nginx", include_str!("../../images/nginx.sh"))),
    anywhere(on_debian("redis", include_str!("../../images/redis.sh"))),
    anywhere(on_debian("python3", include_str!("../../images/python3.sh"))),
    on_debian("httpd", include_str!("../../images/httpd.sh")),
    on_debian("memcached", include_str!("../../images/memcached.sh")),
    on_debian("node", include_str!("../../images/node.sh")),
    on_debian("postgres", include_str!("../../images/postgres.sh")),
    Recipe { base: None, ..in_zoo("busybox32", include_str!("../../images/busybox32.sh")) },
    in_zoo("gdb", include_str!("../../images/gdb.sh")),
    in_zoo("s6", include_str!("../../images/s6.sh")),
    rarely(in_zoo("docker", include_str!("../../images/docker.sh"))),
    rarely(in_zoo("gcc", include_str!("../../images/gcc.sh"))),
    rarely(in_zoo("golang", include_str!("../../images/golang.sh"))),
    rarely(in_zoo("mariadb", include_str!("../../images/mariadb.sh"))),
    rarely(in_zoo("openjdk", include_str!("../../images/openjdk.sh"))),
    rarely(in_zoo("php-apache", include_str!("../../images/php-apache.sh"))),
    rarely(in_zoo("podman", include_str!("../../images/podman.sh"))),
    rarely(in_zoo("ruby", include_str!("../../images/ruby.sh"))),
    rarely(in_zoo("systemd", include_str!("../../images/systemd.sh"))),
];

const fn by_hand(name: &'static str, text: &'static str) -> Recipe {
    Recipe {
        name,
        tool: Tool::Python,
        text,
        shared: &[OCI],
        base: None,
        is_unpackable: false,
        is_for_full_runs: false,
    }
}

const fn on_debian(name: &'static str, text: &'static str) -> Recipe {
    Recipe { tool: Tool::Shell, shared: &[DEBIAN], base: Some(&BASE), ..by_hand(name, text) }
}

/// An image that is made for every architecture.
const fn anywhere(recipe: Recipe) -> Recipe {
    Recipe { is_unpackable: true, ..recipe }
}

/// An image that is compared with a chroot of it.
const fn in_zoo(name: &'static str, text: &'static str) -> Recipe {
    Recipe { shared: &[DEBIAN, ZOO], ..on_debian(name, text) }
}

/// An image that only full runs need.
const fn rarely(recipe: Recipe) -> Recipe {
    Recipe { is_for_full_runs: true, ..recipe }
}

/// `cargo xtask images [NAME…]`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Architecture of their programs [default: the machine's own]
    #[arg(long, value_name = "ARCH", value_parser = assets::arch)]
    arch: Option<Arch>,
    /// Images to make [default: all]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// Makes the images and says where they are.
pub(crate) fn exec(args: &Args) -> Result<u8, Error> {
    let names: Vec<&str> = args.names.iter().map(String::as_str).collect();
    let arch = args.arch.unwrap_or(Arch::host());
    let made = match names.is_empty() {
        true => ensure_for_tests(arch, true)?,
        false => ensure(arch, &names)?,
    };
    for (name, layout) in made {
        println!("{name}: {}", layout.display());
    }
    println!("registry storage: {}", registry::storage(arch).display());
    Ok(0)
}

/// Makes the images that an ordinary run of the tests needs, or a full one.
pub(crate) fn ensure_for_tests(
    arch: Arch,
    is_full: bool,
) -> Result<Vec<(&'static str, PathBuf)>, Error> {
    let needed = RECIPES.iter().filter(|recipe| is_full || !recipe.is_for_full_runs);
    let needed = needed.filter(|recipe| recipe.is_made_for(arch));
    ensure(arch, &needed.map(|recipe| recipe.name).collect::<Vec<_>>())
}

/// Makes the named images, and has the registry's storage hold them.
pub(crate) fn ensure(arch: Arch, names: &[&str]) -> Result<Vec<(&'static str, PathBuf)>, Error> {
    assets::require_buildable(arch)?;
    let is_wanted = |r: &&Recipe| names.contains(&r.name);
    if let Some(unknown) = names.iter().find(|n| RECIPES.iter().all(|r| r.name != **n)) {
        return Err(Error::Unexpected {
            what: "name of an image",
            expected: RECIPES.each_ref().map(|r| r.name).join(", "),
            found: (*unknown).to_owned(),
        });
    }
    packages::ensure(packages::IMAGES)?;
    let mut made = Vec::new();
    for recipe in RECIPES.iter().filter(is_wanted) {
        made.push((recipe.name, recipe.make(arch)?));
    }
    registry::fill(arch, &made)?;
    Ok(made)
}

impl Recipe {
    /// A digest of everything that the image is made from, save the packages' versions.
    fn digest(&self, arch: Arch) -> String {
        let mut digest = Sha256::new();
        for text in [self.text].into_iter().chain(self.includes(arch).iter().map(|(_, text)| *text))
        {
            digest.update((text.len() as u64).to_le_bytes());
            digest.update(text);
        }
        if let Some(base) = self.base(arch) {
            digest.update(base.digest(arch));
        }
        cache::short_name(&digest.finalize())
    }

    /// Whether it makes images of an architecture.
    fn is_made_for(&self, arch: Arch) -> bool {
        arch == Arch::host() || matches!(self.tool, Tool::Python) || self.is_unpackable
    }

    /// Whether its packages are unpacked, and not installed.
    fn is_unpacked(&self, arch: Arch) -> bool {
        arch != Arch::host() && matches!(self.tool, Tool::Shell)
    }

    fn includes(&self, arch: Arch) -> &'static [(&'static str, &'static str)] {
        if self.is_unpacked(arch) { &[UNPACKED] } else { self.shared }
    }

    /// The image that it starts from.
    fn base(&self, arch: Arch) -> Option<&'static Self> {
        self.base.filter(|_| !self.is_unpacked(arch))
    }

    /// Returns the image's OCI layout, made if it is not there yet.
    fn make(&self, arch: Arch) -> Result<PathBuf, Error> {
        if !self.is_made_for(arch) {
            return Err(Error::Unexpected {
                what: "--arch",
                expected: format!("{} for the image {}", Arch::host().name(), self.name),
                found: arch.name().into(),
            });
        }
        let name = format!("{}-{}", cache::name_for(arch, self.name), self.digest(arch));
        let folder = cache::dev().join("images").join(name);
        let layout = folder.join("layout");
        if folder.is_dir() {
            return Ok(layout);
        }
        let base = self.base(arch).map(|base| base.make(arch)).transpose()?;
        cache::folder(&folder, |scratch| self.run(arch, scratch, base.as_deref()))?;
        Ok(layout)
    }

    fn run(&self, arch: Arch, scratch: &Path, base: Option<&Path>) -> Result<(), Error> {
        let step = Step::new(&format!("making the image {}", self.name), 0);
        let work = scratch.join("work");
        fs::create_dir(&work).map_err(Error::file("create", &work))?;
        for (name, text) in self.includes(arch).iter().chain([&("recipe", self.text)]) {
            let path = work.join(name);
            fs::write(&path, text).map_err(Error::file("write", &path))?;
        }
        let layout = scratch.join("layout");
        let mut command = match self.tool {
            Tool::Python => {
                let mut python = Command::new("python3");
                python.arg("recipe").env("OUT", &layout).env("PYTHONDONTWRITEBYTECODE", "1");
                python.env("PYTHONPATH", &work).env("ARCHITECTURE", host::debian_name(arch));
                python.env("BUSYBOX", busybox(arch)?);
                python
            }
            Tool::Shell => {
                let mut shell = command::as_root("env");
                shell.arg(format!("OUT={}", layout.display()));
                shell.arg(format!("ARCHITECTURE={}", host::debian_name(arch)));
                shell.args(base.map(|b| format!("BASE={}", b.display())));
                shell.args(["bash", "-euo", "pipefail", "recipe"]);
                shell
            }
        };
        let done = command::output(command.current_dir(&work));
        // What a shell recipe leaves behind belongs to root.
        command::output(command::as_root("rm").arg("-rf").arg(&work))?;
        done?;
        if matches!(self.tool, Tool::Shell) {
            let mut chown = command::as_root("chown");
            chown.arg("-R").arg("--reference").arg(scratch).arg(&layout);
            command::output(&mut chown)?;
        }
        step.finish();
        Ok(())
    }
}

/// Busybox for guests of an architecture.
fn busybox(arch: Arch) -> Result<PathBuf, Error> {
    let root = match arch == Arch::host() {
        true => PathBuf::from("/"),
        false => host::root::ensure(arch)?,
    };
    Ok(root.join("bin/busybox"))
}
