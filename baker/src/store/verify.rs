//! Verification of every byte of a snapshot and its mapped form.

use std::fs::File;
use std::num::NonZero;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use supermachine_formats::Digest;
use supermachine_snapshots::mapped::{FormCheck, check_form};
use supermachine_snapshots::pack::{ChunkReader, Descriptor, Manifest, Pack, PackError};

use super::archive::digest_of;
use super::handle::Store;
use super::import::sections;
use crate::error::{BakeError, StoreError};

/// The most damaged chunks to list.
const MAX_CHUNKS_TOLD: usize = 16;

/// The result of a verification.
#[derive(Debug)]
#[non_exhaustive]
pub struct Verified {
    /// The digest of the snapshot's manifest.
    pub digest: Digest,
    /// Bytes of all blobs.
    pub size: u64,
    /// The number of chunks decompressed and checked.
    pub chunks: u64,
    /// Problems of the snapshot.
    pub problems: Vec<PackError>,
    /// The state of the mapped form; `None` if the snapshot is too damaged to check it.
    pub mapped: Option<FormCheck>,
}

impl Store {
    /// Checks every byte of a snapshot. Damage is part of the result, not an error.
    ///
    /// # Errors
    /// There is no snapshot with this name, or the store cannot be read.
    pub fn verify(&self, name: &str) -> Result<Verified, BakeError> {
        let _hold = self.layout().hold()?;
        let digest = self.digest(name)?;
        let source = self.source()?;
        let problems = Vec::new();
        let mut verified = Verified { digest, size: 0, chunks: 0, problems, mapped: None };
        let manifest = match Manifest::read(&source, digest) {
            Ok(manifest) => manifest,
            Err(problem) => {
                verified.problems.push(problem);
                return Ok(verified);
            }
        };
        for (section, blob) in sections(&manifest) {
            verified.size = verified.size.saturating_add(blob.size);
            verified.problems.extend(self.problem_of(section, &blob)?);
        }
        match Pack::open(&source, digest) {
            Ok(pack) => {
                let (chunks, problems) = check_chunks(&pack)?;
                verified.chunks = chunks;
                verified.problems.extend(problems);
                let checked = check_form(self.cache(), &pack);
                let checked = checked.map_err(|error| {
                    BakeError::Store(StoreError::Cache { source: error.into() })
                })?;
                verified.mapped = Some(checked);
            }
            // The digests have shown it already.
            Err(_) if !verified.problems.is_empty() => {}
            Err(problem) => verified.problems.push(problem),
        }
        Ok(verified)
    }

    /// The problem of a blob, if it has one.
    pub(super) fn problem_of(
        &self,
        section: &'static str,
        blob: &Descriptor,
    ) -> Result<Option<PackError>, BakeError> {
        let Descriptor { digest, size: expected } = *blob;
        let path = self.layout().blob_path(digest);
        let file = match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Some(PackError::MissingBlob { section, digest }));
            }
            other => other.map_err(BakeError::io("open", &path))?,
        };
        let (found_digest, found) = digest_of(file).map_err(BakeError::io("read", path))?;
        Ok(match (found == expected, found_digest == digest) {
            (false, _) => Some(PackError::Size { section, digest, expected, found }),
            (true, false) => Some(PackError::Damaged { section, digest, found: found_digest }),
            (true, true) => None,
        })
    }
}

/// Decompresses all chunks on all processors. Returns the damaged ones.
fn check_chunks(pack: &Pack) -> Result<(u64, Vec<PackError>), BakeError> {
    let count = pack.index.chunk_count();
    let reader = ChunkReader::new(pack)?;
    let (next, found) = (AtomicU32::new(0), Mutex::new(Vec::new()));
    let work = |mut reader: ChunkReader| {
        loop {
            // The counter hands out chunks and orders nothing else.
            let number = next.fetch_add(1, Ordering::Relaxed);
            if u64::from(number) >= count {
                return;
            }
            if let Err(problem) = reader.read(number) {
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                if found.len() < MAX_CHUNKS_TOLD {
                    found.push((number, problem));
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..thread::available_parallelism().map_or(1, NonZero::get) {
            // The other threads do its work.
            if let Ok(another) = reader.another() {
                let work = &work;
                let thread = thread::Builder::new().name("sm-verify".into());
                let _ = thread.spawn_scoped(scope, move || work(another));
            }
        }
        work(reader);
    });
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by_key(|(number, _)| *number);
    Ok((count, found.into_iter().map(|(_, problem)| problem).collect()))
}
