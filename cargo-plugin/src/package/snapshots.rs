//! The snapshots of a build: the packs of build scripts, and links to them beside programs.
//!
//! `supermachine_baker::build_script` sets a compiler variable for each pack. Cargo reports these
//! variables in its build messages, and sets them for the programs that it starts.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::{fs, process};

use supermachine_formats::Digest;
use supermachine_snapshots::pack::Source;

/// The prefix of the variables. The snapshot's name follows.
const VARIABLE: &str = "SUPERMACHINE_SNAPSHOT_";
/// The folder beside a program where `supermachine::AssetPaths` looks.
pub(crate) const FOLDER: &str = "snapshots";

/// Packs by the names of their snapshots.
pub(crate) type Packs = BTreeMap<String, PathBuf>;

/// The packs that variables name.
pub(crate) fn packs(variables: impl Iterator<Item = (String, String)>) -> Packs {
    named(variables).filter(|(_, path)| size(path) > Some(0)).collect()
}

/// The snapshots that the build skipped. Their packs are empty files.
pub(super) fn skipped(
    variables: impl Iterator<Item = (String, String)>,
) -> impl Iterator<Item = String> {
    named(variables).filter(|(_, path)| size(path) == Some(0)).map(|(name, _)| name)
}

fn named(
    variables: impl Iterator<Item = (String, String)>,
) -> impl Iterator<Item = (String, PathBuf)> {
    variables.filter_map(|(name, value)| Some((name.strip_prefix(VARIABLE)?.into(), value.into())))
}

fn size(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|file| file.len())
}

/// The digest of the snapshot in a pack, if the file is a pack.
pub(super) fn digest_of(pack: &Path) -> Option<Digest> {
    Source::open(pack).and_then(|source| source.find(None)).ok()
}

/// The file name of a snapshot that ships with a program.
pub(crate) fn file_name(name: &str) -> String {
    format!("{name}.tar")
}

/// Removes the links of [`link_beside`] for these snapshots.
pub(crate) fn unlink_beside<'a>(
    program: &Path,
    names: impl Iterator<Item = &'a String>,
) -> io::Result<()> {
    let Some(dir) = program.parent() else { return Ok(()) };
    let places = names.map(|name| dir.join(FOLDER).join(file_name(name)));
    places.filter(|place| place.is_symlink()).try_for_each(fs::remove_file)
}

/// Links packs beside a program, where it looks for them. Keeps other files there.
pub(crate) fn link_beside(program: &Path, packs: &Packs) -> io::Result<()> {
    let Some(dir) = program.parent().filter(|_| !packs.is_empty()) else { return Ok(()) };
    let dir = dir.join(FOLDER);
    fs::create_dir_all(&dir)?;
    for (name, pack) in packs {
        let place = dir.join(file_name(name));
        match fs::symlink_metadata(&place) {
            Ok(there) if !there.is_symlink() => continue,
            Ok(_) if fs::read_link(&place).is_ok_and(|path| path == *pack) => continue,
            _ => {}
        }
        // A program that starts now sees the old link or the new one.
        let scratch = dir.join(format!(".{name}.{}", process::id()));
        let _ = fs::remove_file(&scratch);
        symlink(pack, &scratch)?;
        fs::rename(&scratch, &place)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_are_linked_beside_programs_and_other_files_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let text = |name: &str| path(name).to_str().unwrap().to_owned();
        for (name, content) in [("one", "1"), ("two", "2"), ("left-out", "")] {
            fs::write(path(name), content).unwrap();
        }
        let variable = |name: &str, file: &str| (format!("{VARIABLE}{name}"), text(file));
        let found = packs(
            [
                variable("a", "one"),
                variable("b", "left-out"),
                variable("c", "no-such-file"),
                ("OTHER".to_owned(), text("one")),
            ]
            .into_iter(),
        );
        assert_eq!(found, Packs::from([("a".to_owned(), path("one"))]));
        assert_eq!(skipped([variable("b", "left-out")].into_iter()).collect::<Vec<_>>(), ["b"]);
        let program = path("program");
        link_beside(&program, &found).unwrap();
        link_beside(&program, &found).unwrap();
        assert_eq!(fs::read(path("snapshots/a.tar")).unwrap(), b"1");
        let moved = packs([variable("a", "two")].into_iter());
        link_beside(&program, &moved).unwrap();
        assert_eq!(fs::read(path("snapshots/a.tar")).unwrap(), b"2");
        fs::write(path("snapshots/c.tar"), "mine").unwrap();
        link_beside(&program, &packs([variable("c", "one")].into_iter())).unwrap();
        assert_eq!(fs::read(path("snapshots/c.tar")).unwrap(), b"mine");
        assert_eq!(fs::read_dir(path("snapshots")).unwrap().count(), 2);
        let names = ["a", "c", "none"].map(str::to_owned);
        unlink_beside(&program, names.iter()).unwrap();
        assert!(!path("snapshots/a.tar").is_symlink() && path("snapshots/c.tar").exists());
        link_beside(&path("elsewhere/program"), &Packs::new()).unwrap();
        assert!(!path("elsewhere").exists());
    }
}
