//! `supermachine codesign`: a program gets the signature that macOS asks of those that run machines.

use std::path::PathBuf;

use clap::ValueHint;

use super::pull::read_password;
use crate::codesign::{self, Identity, Signing};
use crate::error::Error;
use crate::{Globals, report};

const EXAMPLES: &str = "\
Examples:
  supermachine codesign target/release/app
  supermachine codesign --identity 'Developer ID Application: Me (TEAM)' App.app
  supermachine codesign --identity me.p12 --password-stdin target/release/app

An ad-hoc signature names nobody; the program runs on the Mac that it was built for. With an
identity, the program gets the hardened runtime and a certified time, as notarization asks for.";

/// Sign a program for macOS, so that it may use the hypervisor
///
/// PATH is a program (Mach-O, of one or more architectures) or an app bundle. A signature that is
/// there is replaced. On macOS the system's tool signs; elsewhere this command must have been built
/// with `--features codesign`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The program or the app bundle
    #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
    path: PathBuf,
    #[command(flatten)]
    signing: SigningArgs,
}

/// How it is signed.
#[derive(Debug, clap::Args)]
pub(crate) struct SigningArgs {
    /// Who signs: a certificate's name in the keychain or, where that is not macOS, a PKCS#12 file
    #[arg(long, value_name = "NAME|FILE")]
    pub(crate) identity: Option<String>,
    /// Sign without an identity; what is done if none is named
    #[arg(long, conflicts_with = "identity")]
    ad_hoc: bool,
    /// A property list of entitlements; the hypervisor's is added to it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    entitlements: Option<PathBuf>,
    /// Read the PKCS#12 file's password from standard input
    #[arg(long, requires = "identity")]
    password_stdin: bool,
    /// Have no server certify the time: needs no network, but cannot be notarized
    #[arg(long, requires = "identity")]
    no_timestamp: bool,
}

/// Signs it.
pub(crate) fn exec(args: &Args, globals: &Globals) -> Result<u8, Error> {
    codesign::sign(&args.path, &args.signing.read()?)?;
    if !globals.quiet {
        report::note(&format!("{} is signed", args.path.display()));
    }
    Ok(0)
}

impl SigningArgs {
    /// What was asked for, with the password, which can be read once.
    pub(crate) fn read(&self) -> Result<Signing, Error> {
        let identity = match &self.identity {
            None => Identity::AdHoc,
            Some(name) => {
                let password = if self.password_stdin {
                    read_password().map_err(|source| Error::Password { source })?
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
