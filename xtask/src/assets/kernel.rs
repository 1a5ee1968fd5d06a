//! Builds the guest kernel from Debian's source, as `supermachine_kernel::recipe` says.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use supermachine_kernel::{Arch, COMMON_CONFIG, recipe};

use crate::cache;
use crate::command;
use crate::error::Error;
use crate::packages;
use crate::progress::Step;

/// The approximate number of steps that make prints; only the scale of the bar depends on it.
const STEPS: u64 = 2350;

/// Builds the kernel into `folder`, with the version of its source.
pub(super) fn build(arch: Arch, folder: &Path) -> Result<(), Error> {
    packages::ensure(packages::KERNEL)?;
    if arch != Arch::host() {
        packages::ensure(packages::CROSS)?;
    }
    let source = folder.join("source");
    fs::create_dir(&source).map_err(Error::file("create", &source))?;
    unpack(&source)?;
    configure(arch, &source)?;
    let layout = folder.join("layout");
    lay_out(arch, &layout)?;
    compile(arch, &source, &layout)?;
    let kernel = folder.join(arch.kernel_file());
    let product = source.join(arch.product());
    if arch == Arch::X86_64 {
        let mut strip = Command::new("strip");
        command::output(strip.arg("--strip-debug").arg("-o").args([&kernel, &product]))?;
    } else {
        fs::copy(&product, &kernel).map_err(Error::file("copy", &product))?;
    }
    cache::sync(&kernel)?;
    let version = folder.join("version");
    fs::write(&version, source_version()?).map_err(Error::file("write", &version))?;
    [source, layout]
        .iter()
        .try_for_each(|done| fs::remove_dir_all(done).map_err(Error::file("remove", done)))
}

/// The exact version of the source, which the licence requires us to name.
fn source_version() -> Result<String, Error> {
    let format = "${Package} ${Version}\n";
    command::output(Command::new("dpkg-query").args(["-W", "-f", format, recipe::SOURCE_PACKAGE]))
}

fn unpack(source: &Path) -> Result<(), Error> {
    let step = Step::new("unpacking the kernel's source", 0);
    let archive = format!("/usr/src/{}.tar.xz", recipe::SOURCE_PACKAGE);
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--strip-components=1", "--file", &archive, "--directory"]).arg(source);
    command::output(&mut tar)?;
    step.finish();
    Ok(())
}

fn configure(arch: Arch, source: &Path) -> Result<(), Error> {
    command::output(make(arch, source).arg("tinyconfig"))?;
    let fragments = [COMMON_CONFIG, arch.config()];
    for (name, text) in ["common.config", "arch.config"].into_iter().zip(fragments) {
        let path = source.join(name);
        fs::write(&path, text).map_err(Error::file("write", &path))?;
    }
    let mut merge = Command::new("scripts/kconfig/merge_config.sh");
    merge.args(["-m", ".config", "common.config", "arch.config"]).current_dir(source);
    command::output(&mut merge)?;
    command::output(make(arch, source).arg("olddefconfig"))?;
    let path = source.join(".config");
    let made = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
    let unmet = unmet(&fragments, &made);
    if unmet.is_empty() {
        return Ok(());
    }
    Err(Error::Unexpected {
        what: "the guest kernel's configuration",
        expected: "every option of the fragments to be met".into(),
        found: unmet.join(", "),
    })
}

/// The options of the fragments that the configuration made of them does not have. A
/// later fragment overrides an earlier one; an option that is off is not listed.
fn unmet(fragments: &[&str], made: &str) -> Vec<String> {
    let wanted: BTreeMap<_, _> = fragments.iter().flat_map(|f| f.lines()).filter_map(set).collect();
    let made: BTreeMap<_, _> = made.lines().filter_map(set).collect();
    let differs = |(name, value): &(&str, &str)| made.get(name).unwrap_or(&"n") != value;
    wanted.into_iter().filter(differs).map(|(name, value)| format!("{name}={value}")).collect()
}

fn set(line: &str) -> Option<(&str, &str)> {
    line.split_once('=').filter(|(name, _)| name.starts_with("CONFIG_"))
}

/// Writes the assembler wrapper that orders the kernel's functions, for the compiler to find.
fn lay_out(arch: Arch, folder: &Path) -> Result<(), Error> {
    fs::create_dir(folder).map_err(Error::file("create", folder))?;
    let edits = arch.layout_edits(tool_prefix(arch));
    for (name, text) in recipe::LAYOUT {
        let path = folder.join(name);
        let text = edits.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
        fs::write(&path, text).map_err(Error::file("write", &path))?;
        fs::set_permissions(&path, Permissions::from_mode(0o755))
            .map_err(Error::file("change the mode of", &path))?;
    }
    Ok(())
}

fn compile(arch: Arch, source: &Path, layout: &Path) -> Result<(), Error> {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut make = make(arch, source);
    make.arg(format!("-j{jobs}")).arg(arch.goal()).args(recipe::REPRODUCIBLE);
    make.arg(format!("KCFLAGS={}{}/", recipe::LAYOUT_FLAGS, layout.display()));
    let log = source.join("build.log");
    let errors = fs::File::create(&log).map_err(Error::file("create", &log))?;
    make.stdout(Stdio::piped()).stderr(errors);
    let mut step = Step::new("compiling the guest kernel", STEPS);
    let mut child = make.spawn().map_err(|e| command::start(&make, e))?;
    let output = child.stdout.take().map(BufReader::new);
    for line in output.into_iter().flat_map(BufRead::lines).map_while(Result::ok) {
        // make prints a step as two spaces and the name of a tool in capitals.
        if line.starts_with("  ") {
            step.advance();
        }
    }
    let status = child.wait().map_err(Error::system("wait for make"))?;
    if status.success() {
        step.finish();
        return Ok(());
    }
    let text = fs::read(&log).unwrap_or_default();
    eprintln!("{}", command::tail(&String::from_utf8_lossy(&text)));
    Err(Error::Command { command: "make".into(), status: status.to_string() })
}

/// What the names of an architecture's compiler and assembler begin with here.
fn tool_prefix(arch: Arch) -> &'static str {
    if arch == Arch::host() { "" } else { packages::CROSS_PREFIX }
}

fn make(arch: Arch, source: &Path) -> Command {
    let mut make = Command::new("make");
    make.arg(format!("ARCH={}", arch.make_name()));
    make.arg(format!("CROSS_COMPILE={}", tool_prefix(arch)));
    make.arg("-C").arg(source).env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
    make.stdin(Stdio::null());
    make
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_off_or_absent_is_unmet_unless_asked_off() {
        let made = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_S=\"x=y\"\nCONFIG_E=y\n";
        let wanted = "CONFIG_A=y\nCONFIG_B=y\nCONFIG_C=n\nCONFIG_D=4\nCONFIG_S=\"x=y\"\n";
        assert_eq!(
            unmet(&[wanted, "CONFIG_E=n\n"], made),
            ["CONFIG_B=y", "CONFIG_D=4", "CONFIG_E=n"]
        );
    }

    #[test]
    fn later_fragment_overrides_an_earlier_one() {
        assert!(unmet(&["CONFIG_A=y\n", "CONFIG_A=n\n"], "").is_empty());
    }
}
