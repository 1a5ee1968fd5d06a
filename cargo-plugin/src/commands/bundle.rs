//! `cargo supermachine bundle`: packages a program with its snapshots.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

use cargo_metadata::Artifact;
use cargo_metadata::camino::Utf8Path;
use supermachine::worker::PROGRAM;
use supermachine_baker::BuildEnv;

use super::codesign::SigningArgs;
use crate::bundle::{self, Contents, Format, Settings};
use crate::error::{Error, PackageError};
use crate::globals::Globals;
use crate::package::{self, Arguments, BuildOutput, Packs};
use crate::report;

const EXAMPLES: &str = "\
Examples:
  cargo supermachine bundle                                  target/bundle/NAME/
  cargo supermachine bundle --format tar --bin server
  cargo supermachine bundle --target aarch64-apple-darwin --identity 'Developer ID Application: Me'

An app bundle for macOS keeps its snapshots in Contents/Resources, a folder in `snapshots`.
`snapshot_path!` and `AssetPaths::discover` look there. Embedded snapshots need no file:
`snapshots = []` in [package.metadata.supermachine.bundle] leaves all files out.";

/// The library that runs machines.
const RUNTIME: &str = "supermachine";
/// Arguments of cargo that apply to every build.
const FOR_ALL: [&str; 3] = ["--offline", "--locked", "--frozen"];

/// Bundle a program with its snapshots
///
/// Builds the program and bundles it with the snapshots that its build script makes or that Cargo.toml
/// declares. Replaces an older bundle, and prints the path.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Choose the layout [default: app for macOS, otherwise dir]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Create the bundle in this folder [default: `bundle` in cargo's target folder]
    #[arg(short, long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    output: Option<PathBuf>,
    /// Leave programs for macOS unsigned
    #[arg(long, conflicts_with_all = ["identity", "ad_hoc", "entitlements"])]
    unsigned: bool,
    #[command(flatten)]
    signing: SigningArgs,
    #[command(flatten)]
    build: BuildArgs,
}

/// What to build.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Build options")]
struct BuildArgs {
    /// Build this package
    #[arg(short, long, value_name = "NAME")]
    package: Option<String>,
    /// Bundle this program; further programs go beside the first
    #[arg(long, value_name = "NAME")]
    bin: Vec<String>,
    /// Bundle this example
    #[arg(long, value_name = "NAME", conflicts_with = "bin")]
    example: Option<String>,
    /// Build with this profile
    #[arg(long, value_name = "NAME", default_value = "release")]
    profile: String,
    /// Build for this platform
    #[arg(long, value_name = "TRIPLE")]
    target: Option<String>,
    /// Use this target folder
    #[arg(long, value_name = "DIR")]
    target_dir: Option<PathBuf>,
    /// Use this Cargo.toml
    #[arg(long, value_name = "FILE")]
    manifest_path: Option<PathBuf>,
    /// More arguments for `cargo build`
    #[arg(last = true, value_name = "ARGUMENT")]
    further: Vec<OsString>,
}

/// Builds the program and makes the bundle. If cargo fails, returns its status.
pub(crate) fn exec(args: &Args, globals: &Globals) -> Result<u8, Error> {
    let mut signing = args.signing.read()?;
    let built = package::build_as("build", args.build.arguments(globals.quiet))?;
    if !built.status.success() {
        return Ok(package::status(built.status));
    }
    let (contents, target_dir) = contents(args, &built, globals)?;
    let is_for_macos = contents.target.ends_with("apple-darwin");
    let format = args.format.unwrap_or(if is_for_macos { Format::App } else { Format::Dir });
    signing.entitlements = signing.entitlements.or(contents.settings.entitlements.clone());
    let signing = (!args.unsigned).then_some(&signing);
    let output = args.output.clone().unwrap_or_else(|| target_dir.join("bundle"));
    let place = bundle::make(&contents, format, &output, signing)?;
    writeln!(io::stdout(), "{}", place.display()).map_err(|source| Error::Output { source })?;
    if !globals.quiet {
        let names: Vec<_> = contents.packs.keys().map(String::as_str).collect();
        let with = if names.is_empty() { "no snapshots".to_owned() } else { names.join(", ") };
        report::note(&format!("bundled {} with {with}", contents.settings.name));
    }
    Ok(0)
}

/// The contents of the bundle, and cargo's target folder.
fn contents(
    args: &Args,
    built: &BuildOutput,
    globals: &Globals,
) -> Result<(Contents, PathBuf), Error> {
    let no_program = || PackageError::NotOneProgram { found: names(built) };
    let programs = args.build.programs(built)?;
    let main = programs.first().ok_or_else(no_program)?;
    let metadata = package::metadata(Some(main.manifest_path.as_std_path()))?;
    let package = metadata.packages.iter().find(|package| package.id == main.package_id);
    let package = package.ok_or_else(no_program)?;
    let folder = package::folder(package);
    let settings = Settings::of(&package::declared(package)?, &package.name, &folder)?;
    let target_dir = args.build.target_dir.clone();
    let target_dir = target_dir.unwrap_or_else(|| metadata.target_directory.clone().into());
    if let Some((name, [one, other])) = built.conflicts().pop_first() {
        return Err(PackageError::DuplicateSnapshot { name, one, other }.into());
    }
    if let Some(name) = built.skipped() {
        return Err(PackageError::BakeSkipped { name }.into());
    }
    let target = package::target(args.build.target.as_deref())?;
    let mut packs = built.packs();
    if !package::bakes_in_its_build(package) {
        let mut env = BuildEnv::read();
        env.offline |= args.build.arguments(globals.quiet).is_offline();
        packs.extend(package::packs(package, &target, &target_dir, &env, globals.quiet)?);
    }
    let packs = chosen(packs, settings.snapshots.as_deref())?;
    let paths = programs.iter().filter_map(|one| one.executable.clone());
    let mut programs: Vec<PathBuf> = paths.map(Into::into).collect();
    if settings.worker.unwrap_or_else(|| package::runs_machines(package)) {
        programs.push(args.build.worker(&main.manifest_path, globals.quiet)?);
    }
    let contents =
        Contents { settings, version: package.version.to_string(), target, programs, packs };
    Ok((contents, target_dir))
}

/// The packs that ship as files.
fn chosen(mut packs: Packs, wanted: Option<&[String]>) -> Result<Packs, Error> {
    let Some(wanted) = wanted else { return Ok(packs) };
    if let Some(name) = wanted.iter().find(|name| !packs.contains_key(*name)) {
        return Err(PackageError::UnknownSnapshot { name: name.clone() }.into());
    }
    packs.retain(|name, _| wanted.contains(name));
    Ok(packs)
}

impl BuildArgs {
    fn arguments(&self, quiet: bool) -> Arguments {
        let mut words = self.common(quiet);
        let mut add = |option: &str, value: OsString| words.extend([option.into(), value]);
        if let Some(name) = &self.package {
            add("--package", name.into());
        }
        for name in &self.bin {
            add("--bin", name.into());
        }
        if let Some(name) = &self.example {
            add("--example", name.into());
        }
        if let Some(path) = &self.manifest_path {
            add("--manifest-path", path.into());
        }
        words.extend(self.further.iter().cloned());
        Arguments::new(words)
    }

    /// Arguments for every build of the bundle.
    fn common(&self, quiet: bool) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["--profile".into(), self.profile.clone().into()];
        let mut add = |option: &str, value: OsString| words.extend([option.into(), value]);
        if let Some(target) = &self.target {
            add("--target", target.into());
        }
        if let Some(dir) = &self.target_dir {
            add("--target-dir", dir.into());
        }
        words.extend(quiet.then(|| "--quiet".into()));
        words
    }

    /// Builds the worker, the program that holds isolated machines. It comes from the library that
    /// the package depends on, since both must have the same version.
    fn worker(&self, manifest: &Utf8Path, quiet: bool) -> Result<PathBuf, Error> {
        let mut words = self.common(quiet);
        let selection = ["--package", RUNTIME, "--bin", PROGRAM, "--manifest-path"];
        words.extend(selection.map(Into::into));
        words.push(manifest.as_os_str().to_owned());
        // Other arguments are about the package, not the worker.
        let is_for_all = |word: &&OsString| FOR_ALL.iter().any(|one| *word == one);
        words.extend(self.further.iter().filter(is_for_all).cloned());
        let built = package::build_as("build", Arguments::new(words))?;
        let path = built.artifacts.iter().find(|one| one.target.name == PROGRAM);
        let path = path.and_then(|one| one.executable.clone());
        Ok(path.map(Into::into).ok_or(PackageError::WorkerNotBuilt)?)
    }

    /// The requested programs, in that order. Without a request, the only program.
    fn programs<'a>(&self, built: &'a BuildOutput) -> Result<Vec<&'a Artifact>, Error> {
        let all = || built.artifacts.iter().filter(|one| one.executable.is_some());
        let wanted: Vec<&String> = self.bin.iter().chain(&self.example).collect();
        if wanted.is_empty() {
            let all: Vec<_> = all().collect();
            return match all.len() {
                1 => Ok(all),
                _ => Err(PackageError::NotOneProgram { found: names(built) }.into()),
            };
        }
        Ok(wanted.iter().filter_map(|name| all().find(|one| one.target.name == **name)).collect())
    }
}

fn names(built: &BuildOutput) -> String {
    let programs = built.artifacts.iter().filter(|one| one.executable.is_some());
    programs.map(|one| one.target.name.as_str()).collect::<Vec<_>>().join(", ")
}
