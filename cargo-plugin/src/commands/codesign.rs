//! `supermachine codesign`: signs a program so that macOS lets it use the hypervisor.

use std::path::PathBuf;

use clap::ValueHint;

use super::pull::read_password;
use crate::codesign::{self, Identity, Signing};
use crate::error::{Error, UsageError};
use crate::globals::Globals;
use crate::report;

const EXAMPLES: &str = "\
Examples:
  supermachine codesign target/release/app
  supermachine codesign --identity 'Developer ID Application: Me (TEAM)' App.app
  supermachine codesign --identity me.p12 --password-stdin target/release/app

An ad-hoc signature has no identity, and the program runs only on the Mac that signed it. With an
identity, the program gets the hardened runtime and a trusted timestamp, as notarization requires.";

/// Sign a program for macOS, so that it may use the hypervisor
///
/// PATH is a program (Mach-O, of one or more architectures) or an app bundle. Replaces an existing
/// signature. On macOS the system's tool signs; other systems need a build of this command with
/// `--features codesign`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Sign this program or app bundle
    #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
    path: PathBuf,
    #[command(flatten)]
    signing: SigningArgs,
}

/// How to sign.
#[derive(Debug, clap::Args)]
pub(crate) struct SigningArgs {
    /// Sign with this certificate of the keychain; outside macOS, a PKCS#12 file
    #[arg(long, value_name = "NAME|FILE")]
    pub(crate) identity: Option<String>,
    /// Sign without an identity (the default)
    #[arg(long, conflicts_with = "identity")]
    ad_hoc: bool,
    /// Read entitlements from this property list, and add the hypervisor's
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    entitlements: Option<PathBuf>,
    /// Read the PKCS#12 file's password from standard input
    #[arg(long, requires = "identity")]
    password_stdin: bool,
    /// Skip the trusted timestamp: works offline, but cannot be notarized
    #[arg(long, requires = "identity")]
    no_timestamp: bool,
}

/// Signs the program.
pub(crate) fn exec(args: &Args, globals: &Globals) -> Result<u8, Error> {
    codesign::sign(&args.path, &args.signing.read()?)?;
    if !globals.quiet {
        report::note(&format!("signed {}", args.path.display()));
    }
    Ok(0)
}

impl SigningArgs {
    /// Reads the options. The password can be read once.
    pub(crate) fn read(&self) -> Result<Signing, Error> {
        let identity = match &self.identity {
            None => Identity::AdHoc,
            Some(name) => {
                let password = if self.password_stdin {
                    read_password().map_err(|source| UsageError::Password { source })?
                } else {
                    String::new()
                };
                Identity::Named { name: name.clone(), password }
            }
        };
        let entitlements = self.entitlements.clone();
        Ok(Signing { identity, entitlements, timestamp: !self.no_timestamp })
    }
}
