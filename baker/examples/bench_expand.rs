//! How quickly a pack is expanded, beside what its bytes cost without us: `zstd -d -T0` of the
//! same frames, and SHA-256 of the same content on all processors.
//!
//! Run by hand: `bench_expand STORE NAME`. One JSON object a line, as the other bench does.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::error::Error;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::num::NonZero;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use supermachine::Image;
use supermachine_formats::Digest;
use supermachine_formats::pack::CHUNK_SIZE;
use supermachine_snapshots::pack::{Pack, Source};

const RUNS: usize = 10;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [store, name] = arguments.as_slice() else {
        return Err("usage: bench_expand STORE NAME".into());
    };
    let pack = Pack::open_at(Path::new(store), Some(name))?;
    let folder = tempfile::tempdir()?;
    let frames = frames_of(&pack)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    // In turns, so that whatever else the machine does falls on both.
    for run in 0..=RUNS {
        let (expanded, plain) = (expand(&pack, store, folder.path())?, reference(&frames)?);
        // The first run warms the caches.
        if run > 0 {
            ours.push(ms(expanded));
            theirs.push(ms(plain));
        }
    }
    let ratio = theirs.iter().zip(&ours).map(|(theirs, ours)| 100.0 * theirs / ours);
    report(&format!("{name}: expand"), "ms", &ours);
    report(&format!("{name}: zstd -d and SHA-256"), "ms", &theirs);
    report(&format!("{name}: expand, of that"), "%", &ratio.collect::<Vec<f64>>());
    Ok(())
}

/// All frames that the snapshot uses, one after the other.
fn frames_of(pack: &Pack) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut frames = Vec::new();
    for blob in &pack.blobs {
        let mut content = vec![0; usize::try_from(blob.size)?];
        blob.read_exact_at(&mut content, 0)?;
        frames.extend(content);
    }
    Ok(frames)
}

/// Makes the mapped form in an empty cache.
fn expand(pack: &Pack, store: &str, folder: &Path) -> Result<Duration, Box<dyn Error>> {
    let cache = tempfile::tempdir_in(folder)?;
    let begin = Instant::now();
    let image = Image::open(Source::open(Path::new(store))?, pack.digest, cache.path())?;
    image.mapped()?;
    Ok(begin.elapsed())
}

fn reference(frames: &[u8]) -> Result<Duration, Box<dyn Error>> {
    let mut input = tempfile::tempfile()?;
    input.write_all(frames)?;
    input.rewind()?;
    let mut output = tempfile::tempfile()?;
    let begin = Instant::now();
    let status = Command::new("zstd")
        .args(["-d", "-T0", "-q", "-c"])
        .stdin(Stdio::from(input))
        .stdout(Stdio::from(output.try_clone()?))
        .status()?;
    let decompressed = begin.elapsed();
    if !status.success() {
        return Err(status.to_string().into());
    }
    output.rewind()?;
    Ok(decompressed + hash(&output)?)
}

/// The time that the digests of all chunks take, without that of reading them.
fn hash(mut file: &File) -> Result<Duration, Box<dyn Error>> {
    let mut content = Vec::new();
    file.read_to_end(&mut content)?;
    let chunks: Vec<&[u8]> = content.chunks(usize::try_from(CHUNK_SIZE)?).collect();
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let begin = Instant::now();
    thread::scope(|scope| {
        for part in chunks.chunks(chunks.len().div_ceil(processors).max(1)) {
            scope.spawn(|| {
                part.iter().map(|chunk| Digest::of(chunk)).all(|digest| digest.0[0] < 255)
            });
        }
    });
    Ok(begin.elapsed())
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn report(name: &str, unit: &str, runs: &[f64]) {
    println!("{}", serde_json::json!({ "name": name, "unit": unit, "runs": runs }));
}
