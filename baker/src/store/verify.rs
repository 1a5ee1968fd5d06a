//! Verification: every byte that a snapshot consists of, and of its mapped form.

use std::fs::File;
use std::num::NonZero;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use supermachine_formats::Digest;
use supermachine_snapshots::mapped::{FormCheck, check_form};
use supermachine_snapshots::pack::{ChunkReader, Descriptor, Manifest, Pack, PackError};

use super::Store;
use super::archive::digest_of;
use super::import::sections;
use crate::BakeError;

/// More damaged chunks than this are not told one by one.
const MAX_CHUNKS_TOLD: usize = 16;

/// What a verification found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Verified {
    /// The digest of the snapshot's manifest.
    pub digest: Digest,
    /// Bytes of all blobs.
    pub size: u64,
    /// How many chunks were decompressed and checked.
    pub chunks: u64,
    /// What is wrong with the snapshot.
    pub problems: Vec<PackError>,
    /// What the mapped form was found to be; none if the snapshot is too damaged to tell.
    pub mapped: Option<FormCheck>,
}

impl Store {
    /// Checks every byte of a snapshot. What is wrong is no error of this, but its result.
    ///
    /// # Errors
    /// There is none of this name, or the store cannot be read.
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
                let checked = checked.map_err(|error| BakeError::Cache { source: error.into() })?;
                verified.mapped = Some(checked);
            }
            // The digests have told it already.
            Err(_) if !verified.problems.is_empty() => {}
            Err(problem) => verified.problems.push(problem),
        }
        Ok(verified)
    }

    /// What is wrong with a blob.
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

/// Decompresses all chunks, on all processors, and tells which are not what they should be.
fn check_chunks(pack: &Pack) -> Result<(u64, Vec<PackError>), BakeError> {
    let count = pack.index.chunk_count();
    let reader = ChunkReader::new(pack)?;
    let (next, found) = (AtomicU32::new(0), Mutex::new(Vec::new()));
    let work = |mut reader: ChunkReader| {
        loop {
            // The counter hands out chunks; nothing else is read because of it.
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
            // Without it the others do its work.
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
