//! Archives that can be read only once, standard input and pipes, for users that read them twice.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::cache::BlobStore;
use super::error::Error;
use super::reference::ImageSource;

/// The name of standard input.
pub(super) const STANDARD_INPUT: &str = "-";

/// The source of an image, which can be read any number of times.
#[derive(Debug)]
pub(crate) struct KeptArchive {
    source: ImageSource,
    /// A copy of the archive, which goes when this is dropped.
    _copy: Option<NamedTempFile>,
}

impl KeptArchive {
    /// Copies the archive of `source` next to the blobs if it can be read only once.
    pub(crate) fn of(source: &ImageSource, blobs: &BlobStore) -> Result<Self, Error> {
        let mut source = source.clone();
        let copy = match path_of(&mut source) {
            Some(path) if is_read_once(path) => {
                let copy = copied(path, blobs)?;
                copy.path().clone_into(path);
                Some(copy)
            }
            _ => None,
        };
        Ok(Self { source, _copy: copy })
    }

    pub(crate) fn source(&self) -> &ImageSource {
        &self.source
    }
}

fn path_of(source: &mut ImageSource) -> Option<&mut PathBuf> {
    match source {
        ImageSource::OciArchive { path, .. }
        | ImageSource::DockerArchive { path, .. }
        | ImageSource::Archive { path } => Some(path),
        ImageSource::Registry(_) | ImageSource::Layout { .. } => None,
    }
}

/// Whether a path is standard input or a pipe. What does not exist is reported by its reader.
fn is_read_once(path: &Path) -> bool {
    let is_pipe = || fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir());
    path == Path::new(STANDARD_INPUT) || is_pipe()
}

fn copied(path: &Path, blobs: &BlobStore) -> Result<NamedTempFile, Error> {
    let mut copy = blobs.named_scratch_file()?;
    let write = |source| Error::io("write a copy of the archive to", blobs.dir())(source);
    let mut from: Box<dyn io::Read> = match path == Path::new(STANDARD_INPUT) {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(path).map_err(Error::io("open", path))?),
    };
    let mut piece = vec![0; 1 << 20];
    loop {
        match io::Read::read(&mut from, &mut piece) {
            Ok(0) => break,
            Ok(length) => io::Write::write_all(&mut copy, &piece[..length]).map_err(write)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read", path)(error)),
        }
    }
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipe_is_read_twice_through_its_copy() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = BlobStore::open(dir.path().join("cache")).unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let writer = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::write(pipe, vec![7; 3 << 20]).unwrap()
        });
        let source = ImageSource::DockerArchive { path: pipe.clone(), tag: Some("a:1".into()) };
        let kept = KeptArchive::of(&source, &blobs).unwrap();
        writer.join().unwrap();
        let ImageSource::DockerArchive { path, tag } = kept.source().clone() else {
            unreachable!("the kind of source stays");
        };
        assert_eq!(tag.as_deref(), Some("a:1"));
        for _ in 0..2 {
            assert!(fs::read(&path).unwrap() == vec![7; 3 << 20]);
        }
        // Others take it neither for a leftover nor for theirs.
        assert!(File::open(&path).unwrap().try_lock().is_err());
        drop(kept);
        assert!(!path.exists());
    }

    #[test]
    fn files_and_registries_are_used_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = BlobStore::open(dir.path()).unwrap();
        for text in ["redis", "docker-archive:/nonexistent.tar", "oci:/"] {
            let source: ImageSource = text.parse().unwrap();
            assert_eq!(*KeptArchive::of(&source, &blobs).unwrap().source(), source);
        }
    }
}
