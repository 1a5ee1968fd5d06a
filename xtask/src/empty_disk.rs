//! Makes the empty file system that new volumes begin with, a part of the sources: `mkfs.ext4` is neither on
//! the user's host nor in the guest.

use std::fs;
use std::process::Command;

use crate::command;
use crate::error::Error;
use crate::workspace;

/// Where it is in the sources.
const PLACE: &str = "runtime/src/volume/empty.ext4";
/// Bytes of the file system, which the guest grows to its disk's size.
const SIZE: u64 = 64 << 20;
/// How many zeros end a run: fewer take no more room than another run.
const GAP: usize = 16;
/// The same bytes for everybody who makes it.
const UUID: &str = "5b1f8d52-9a0e-4a6c-8b8a-3f2d1c0e9b7a";
const HASH_SEED: &str = "6d0a3c1e-0f4b-4f39-9d38-2c6f5b8e7a10";
const TIME: &str = "1700000000";
/// Descriptors of groups are with their groups, so that the file system can grow without limit. Checksums do
/// not depend on the UUID.
const FEATURES: &str = "64bit,extent,flex_bg,metadata_csum,metadata_csum_seed,meta_bg,\
                        ^resize_inode,sparse_super";

/// `cargo xtask empty-disk`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Makes it, and writes what is not zero as runs: offset `u32`, length `u16`, bytes.
pub(crate) fn exec(_: &Args) -> Result<u8, Error> {
    let place = workspace::root().join(PLACE);
    let image = place.with_extension("image");
    let made = fs::File::create(&image).and_then(|file| file.set_len(SIZE));
    made.map_err(Error::file("create", &image))?;
    let mut make = Command::new("mkfs.ext4");
    make.env("E2FSPROGS_FAKE_TIME", TIME).args(["-q", "-F", "-b", "4096", "-m", "0"]);
    make.args(["-i", "8192", "-J", "size=16", "-O", FEATURES, "-U", UUID, "-E"]);
    make.arg(format!("lazy_itable_init=0,nodiscard,hash_seed={HASH_SEED}")).arg(&image);
    let done = command::run(&mut make);
    let bytes = fs::read(&image).map_err(Error::file("read", &image));
    fs::remove_file(&image).map_err(Error::file("remove", &image))?;
    done?;
    let encoded = encode(&bytes?);
    fs::write(&place, &encoded).map_err(Error::file("write", &place))?;
    println!("{PLACE}: {} bytes", encoded.len());
    Ok(0)
}

fn encode(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(skipped) =
        bytes.get(at..).and_then(|rest| rest.iter().position(|byte| *byte != 0))
    {
        let start = at + skipped;
        let rest = bytes.get(start..).unwrap_or_default();
        let zeros = rest.windows(GAP).position(|window| window.iter().all(|byte| *byte == 0));
        let length = zeros.unwrap_or(rest.len()).min(usize::from(u16::MAX));
        let (Ok(offset), Ok(count)) = (u32::try_from(start), u16::try_from(length)) else { break };
        out.extend(offset.to_le_bytes());
        out.extend(count.to_le_bytes());
        out.extend(rest.get(..length).unwrap_or_default());
        at = start + length;
    }
    out
}
