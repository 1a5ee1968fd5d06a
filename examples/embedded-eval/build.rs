//! Bakes the snapshot that the program embeds.

use std::process::ExitCode;

use supermachine_baker::{OciImageBuilder, build_script};

fn main() -> ExitCode {
    build_script(|b| {
        b.bake(
            OciImageBuilder::new("busybox")?
                .name("shell")
                .memory_mib(128)
                .entrypoint(["sleep", "1000000000"])
                .env("GREETING", "hello")
                .with_warmup(|vm| {
                    // Every machine then starts with the pages that a first command loads.
                    vm.exec(["sh", "-c", "true"])?;
                    Ok(())
                })
                .with_warmup_tag("1"),
        )?;
        Ok(())
    })
}
