//! An application whose snapshot ships as a file that its library finds.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    eprintln!("snapshot: {}", bundle_app::snapshot().display());
    print!("{}", bundle_app::report()?);
    Ok(())
}
