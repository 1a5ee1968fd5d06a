//! Images in an OCI image layout, a folder or a tar.
//!
//! Chooses an image from the layout's index. Copies and verifies blobs; never links to the layout, as
//! its owner may change it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;
use supermachine_formats::Digest;

use super::archive_read::{copy, parse_index, read_small};
use super::source::Source;
use super::tarball::Tarball;
use crate::oci::cache::BlobStore;
use crate::oci::error::{ArchiveProblem, Document, Error};
use crate::oci::manifest::{Descriptor, IndexEntry, Manifest};
use crate::oci::options::FetchOptions;
use crate::oci::progress::Event;

/// The annotations that name an image in an index; OCI specifies the first one.
const NAMES: [&str; 2] = ["org.opencontainers.image.ref.name", "io.containerd.image.name"];

/// How many names an error lists.
const MAX_OFFERED: usize = 32;

pub(crate) struct Layout<'a> {
    files: Files<'a>,
    tag: Option<&'a str>,
    blobs: &'a BlobStore,
    options: &'a FetchOptions,
}

impl<'a> Layout<'a> {
    pub(crate) fn open_dir(
        path: &'a Path,
        tag: Option<&'a str>,
        blobs: &'a BlobStore,
        options: &'a FetchOptions,
    ) -> Self {
        Self { files: Files::Dir(path), tag, blobs, options }
    }

    pub(crate) fn open_tar(
        tar: Tarball,
        tag: Option<&'a str>,
        blobs: &'a BlobStore,
        options: &'a FetchOptions,
    ) -> Self {
        Self { files: Files::Tar(tar), tag, blobs, options }
    }

    fn problem(&self, source: ArchiveProblem) -> Error {
        Error::Archive { path: self.files.path().to_owned(), source }
    }

    fn small_file(&self, name: &str) -> Result<Vec<u8>, Error> {
        let (content, _) = self.files.file(name).map_err(|source| self.problem(source))?;
        read_small(content).map_err(|fault| fault.into_error(self.files.path()))
    }

    fn check_version(&self) -> Result<(), Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Marker {
            image_layout_version: String,
        }
        let json = match self.small_file("oci-layout") {
            Err(Error::Archive { source: ArchiveProblem::Missing { .. }, .. }) => {
                return Err(self.problem(ArchiveProblem::Unrecognized));
            }
            other => other?,
        };
        let marker: Marker = parse_index(&json)?;
        match marker.image_layout_version {
            version if version == "1.0.0" => Ok(()),
            version => Err(self.problem(ArchiveProblem::LayoutVersion { version })),
        }
    }

    /// The entries of the requested image: several only if they differ in platform.
    fn choose(&self, entries: Vec<IndexEntry>) -> Result<Vec<IndexEntry>, Error> {
        let offered: BTreeSet<String> = entries.iter().filter_map(name).cloned().collect();
        let chosen: Vec<_> = match self.tag {
            None if offered.len() > 1 => {
                let offered = offered.into_iter().take(MAX_OFFERED).collect();
                return Err(self.problem(ArchiveProblem::Ambiguous { offered }));
            }
            None => entries,
            Some(tag) => entries.into_iter().filter(|entry| is_named(entry, tag)).collect(),
        };
        match (chosen.is_empty(), self.tag) {
            (false, _) => Ok(chosen),
            (true, None) => Err(self.problem(ArchiveProblem::Empty)),
            (true, Some(tag)) => {
                let offered = offered.into_iter().take(MAX_OFFERED).collect();
                Err(self.problem(ArchiveProblem::NoSuchTag { wanted: tag.to_owned(), offered }))
            }
        }
    }

    fn copy(&self, wanted: &Descriptor) -> Result<(), Error> {
        let Descriptor { digest, size, .. } = *wanted;
        let place = self.files.path();
        let name = format!("blobs/sha256/{}", digest.hex());
        let (content, found) = match self.files.file(&name) {
            Err(ArchiveProblem::Missing { .. }) => {
                return Err(Error::BlobMissing { digest, place: place.display().to_string() });
            }
            other => other.map_err(|source| self.problem(source))?,
        };
        if found != size {
            return Err(Error::SizeMismatch { digest, expected: size, found });
        }
        let mut writer = self.blobs.writer()?;
        copy(content, &mut writer, |received| {
            self.options.report(Event::Advanced { digest, received, size });
        })
        .map_err(|fault| fault.into_error(place))?;
        writer.commit(digest, size)
    }
}

impl Source for Layout<'_> {
    fn root(&mut self) -> Result<(Digest, Manifest), Error> {
        self.check_version()?;
        let json = self.small_file("index.json")?;
        let digest = Digest::of(&json);
        match Manifest::parse(&json, digest)? {
            Manifest::Index(entries) => Ok((digest, Manifest::Index(self.choose(entries)?))),
            Manifest::Image { .. } => Err(self.problem(ArchiveProblem::Empty)),
        }
    }

    fn fetch_document(&mut self, wanted: &Descriptor, _kind: Document) -> Result<(), Error> {
        self.copy(wanted)
    }

    fn fetch_layers(&mut self, wanted: &[Descriptor]) -> Result<(), Error> {
        for layer in wanted {
            let Descriptor { digest, size, .. } = *layer;
            if self.blobs.contains(digest, size) {
                self.options.report(Event::Cached { digest, size });
            } else {
                self.copy(layer)?;
                self.options.report(Event::Fetched { digest, size });
            }
        }
        Ok(())
    }
}

/// The files of a layout.
enum Files<'a> {
    Dir(&'a Path),
    Tar(Tarball),
}

impl Files<'_> {
    fn path(&self) -> &Path {
        match self {
            Self::Dir(path) => path,
            Self::Tar(tar) => tar.path(),
        }
    }

    /// Opens the file `name` of the layout. Refuses links.
    fn file(&self, name: &str) -> Result<(Box<dyn Read + '_>, u64), ArchiveProblem> {
        let dir = match self {
            Self::Dir(dir) => dir,
            Self::Tar(tar) => {
                return tar.file(name).map(|(file, size)| (Box::new(file) as _, size));
            }
        };
        let path = dir.join(name);
        let of_io = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => ArchiveProblem::Missing { name: name.to_owned() },
            _ => ArchiveProblem::Unreadable { source },
        };
        let metadata = fs::symlink_metadata(&path).map_err(of_io)?;
        if !metadata.is_file() {
            return Err(ArchiveProblem::NotAFile { name: name.to_owned() });
        }
        let file = File::open(&path).map_err(of_io)?;
        Ok((Box::new(file.take(metadata.len())), metadata.len()))
    }
}

fn name(entry: &IndexEntry) -> Option<&String> {
    NAMES.iter().find_map(|name| entry.annotations.get(*name))
}

fn is_named(entry: &IndexEntry, tag: &str) -> bool {
    NAMES.iter().any(|name| entry.annotations.get(*name).is_some_and(|value| value == tag))
}
