//! Export: one snapshot as one file, an OCI archive, which is a tar.
//!
//! Members have a fixed order, and fixed owners, modes and times, so that the same snapshot produces
//! the same bytes. Each blob's content is aligned to 4 KiB, so that it can be mapped. A comment in
//! the header before the member pads it; tar readers ignore comments.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use supermachine_formats::pack::ARTIFACT_TYPE;
use supermachine_formats::{Digest, Hasher};
use supermachine_snapshots::pack::{Descriptor, MANIFEST_TYPE, NAME_ANNOTATION, PackError};

use super::handle::Store;
use crate::error::BakeError;

/// The alignment of a blob's content.
const ALIGNMENT: u64 = 4096;
const BLOCK: u64 = 512;
/// How many bytes are copied at a time.
const PIECE: usize = 1 << 20;
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

impl Store {
    /// Writes a snapshot and its parents' blobs to the file at `path`, which appears when it is complete.
    /// Returns its size.
    ///
    /// # Errors
    /// There is no snapshot with this name, it is damaged, or the file cannot be written.
    pub fn export(&self, name: &str, path: &Path) -> Result<u64, BakeError> {
        self.export_snapshot(self.digest(name)?, name, path)
    }

    /// Exports a snapshot by its digest, under any name.
    ///
    /// # Errors
    /// Those of [`Store::export`].
    pub fn export_snapshot(
        &self,
        digest: Digest,
        name: &str,
        path: &Path,
    ) -> Result<u64, BakeError> {
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let file = tempfile::Builder::new()
            .prefix(".export-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(dir)
            .map_err(BakeError::io("create a file in", dir))?;
        let size = self.write_archive(digest, name, &mut file.as_file(), path)?;
        file.as_file().sync_all().map_err(BakeError::io("write", path))?;
        file.persist(path).map_err(|error| BakeError::io("create", path)(error.error))?;
        let synced = File::open(dir).and_then(|dir| dir.sync_all());
        synced.map_err(BakeError::io("write", dir))?;
        Ok(size)
    }

    /// Writes a snapshot as [`Store::export`] does, to `out`, which errors call `path`.
    ///
    /// # Errors
    /// There is no snapshot with this name, it is damaged, or it cannot be written; the output is then
    /// incomplete.
    pub fn export_to(
        &self,
        name: &str,
        out: &mut dyn Write,
        path: &Path,
    ) -> Result<u64, BakeError> {
        self.write_archive(self.digest(name)?, name, out, path)
    }

    fn write_archive(
        &self,
        digest: Digest,
        name: &str,
        out: &mut dyn Write,
        path: &Path,
    ) -> Result<u64, BakeError> {
        let _hold = self.layout().hold()?;
        let summary = self.summary(digest)?;
        let mut archive = Archive { out, path, written: 0 };
        archive.small("oci-layout", LAYOUT)?;
        archive.small("index.json", index_json(name, summary.descriptor).as_bytes())?;
        let source = self.source()?;
        for (section, blob) in summary.sections() {
            let found = source.blob(section, &blob)?;
            archive.begin(&format!("blobs/sha256/{}", blob.digest.hex()), blob.size, ALIGNMENT)?;
            let mut hasher = Hasher::new();
            let mut piece = vec![0; PIECE];
            let mut at = 0;
            while at < blob.size {
                let length = usize::try_from(blob.size - at).map_or(PIECE, |left| left.min(PIECE));
                let Some(piece) = piece.get_mut(..length) else { break };
                let read = found.read_exact_at(piece, at);
                read.map_err(BakeError::io("read", self.layout().blob_path(blob.digest)))?;
                hasher.update(piece);
                archive.write(piece)?;
                at += length as u64;
            }
            let (digest, found) = (blob.digest, hasher.finish());
            if found != digest {
                return Err(PackError::Damaged { section, digest, found }.into());
            }
            archive.end()?;
        }
        archive.finish()
    }
}

/// The index of an archive with one snapshot. Formatted by hand, so that no library changes its
/// bytes.
fn index_json(name: &str, manifest: Descriptor) -> String {
    let Descriptor { digest, size } = manifest;
    let names = format!(r#"{{"{NAME_ANNOTATION}":"{name}"}}"#);
    let entry = format!(
        r#"{{"mediaType":"{MANIFEST_TYPE}","digest":"{digest}","size":{size},"annotations":{names},"artifactType":"{ARTIFACT_TYPE}"}}"#
    );
    let kind = "application/vnd.oci.image.index.v1+json";
    format!(r#"{{"schemaVersion":2,"mediaType":"{kind}","manifests":[{entry}]}}"#)
}

/// Writes a tar.
struct Archive<'a> {
    out: &'a mut dyn Write,
    path: &'a Path,
    written: u64,
}

impl Archive<'_> {
    fn small(&mut self, name: &str, content: &[u8]) -> Result<(), BakeError> {
        self.begin(name, content.len() as u64, BLOCK)?;
        self.write(content)?;
        self.end()
    }

    /// Begins a member whose content is aligned to `alignment`.
    fn begin(&mut self, name: &str, size: u64, alignment: u64) -> Result<(), BakeError> {
        let lacking = (self.written + BLOCK).next_multiple_of(alignment) - (self.written + BLOCK);
        match lacking {
            0 => {}
            // The padding holds the comment's header, but not the comment.
            BLOCK => self.comment(name, alignment)?,
            room => self.comment(name, room - BLOCK)?,
        }
        let header = self.header(name, size, tar::EntryType::Regular)?;
        self.write(header.as_bytes())
    }

    /// Writes a comment of `size` bytes, and its header.
    fn comment(&mut self, name: &str, size: u64) -> Result<(), BakeError> {
        let last = name.rsplit('/').next().unwrap_or(name);
        let name = format!("PaxHeaders/{last}");
        let header = self.header(&name, size, tar::EntryType::XHeader)?;
        self.write(header.as_bytes())?;
        let start = format!("{size} comment=");
        let fill = usize::try_from(size).unwrap_or(0).saturating_sub(start.len() + 1);
        self.write(format!("{start}{}\n", "-".repeat(fill)).as_bytes())
    }

    fn header(
        &self,
        name: &str,
        size: u64,
        kind: tar::EntryType,
    ) -> Result<tar::Header, BakeError> {
        let mut header = tar::Header::new_ustar();
        header.set_path(name).map_err(BakeError::io("name a member of", self.path))?;
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header.set_cksum();
        Ok(header)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), BakeError> {
        self.out.write_all(bytes).map_err(BakeError::io("write", self.path))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Pads a member to a whole block.
    fn end(&mut self) -> Result<(), BakeError> {
        let lacking = self.written.next_multiple_of(BLOCK) - self.written;
        self.write(&vec![0; usize::try_from(lacking).unwrap_or(0)])
    }

    /// Writes the two final blocks of an archive.
    fn finish(mut self) -> Result<u64, BakeError> {
        self.write(&[0; 2 * BLOCK as usize])?;
        self.out.flush().map_err(BakeError::io("write", self.path))?;
        Ok(self.written)
    }
}

/// The digest of everything that `read` returns.
pub(super) fn digest_of(mut read: impl io::Read) -> io::Result<(Digest, u64)> {
    let mut hasher = Hasher::new();
    let (mut piece, mut size) = (vec![0; PIECE], 0);
    loop {
        let length = match read.read(&mut piece) {
            Ok(0) => return Ok((hasher.finish(), size)),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&piece[..length]);
        size += length as u64;
    }
}
