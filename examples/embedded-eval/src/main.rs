//! Runs untrusted shell scripts, each in its own machine. The snapshot is part of this program, which
//! needs no other file.
//!
//! ```text
//! embedded-eval SCRIPT…
//! ```

use std::error::Error;
use std::time::Duration;

use supermachine::{Image, VmConfig, include_snapshot};

fn main() -> Result<(), Box<dyn Error>> {
    let image = Image::from_embedded(include_snapshot!("shell"))?;
    let config = VmConfig::new().with_pool_warm(1);
    for script in std::env::args().skip(1) {
        // Dropping the machine resets it to its snapshot, so the next script starts clean.
        let vm = image.acquire_with(&config)?;
        let outcome = vm
            .exec_builder()
            .argv(["sh", "-c", &script])
            .timeout(Duration::from_secs(30))
            .output()?;
        print!("{}", String::from_utf8_lossy(&outcome.stdout));
        eprint!("{}", String::from_utf8_lossy(&outcome.stderr));
        println!("[{}]", outcome.status);
    }
    Ok(())
}
