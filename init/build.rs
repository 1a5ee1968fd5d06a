//! Links the agent as a static program with its own entry point.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // The kernel starts the agent directly: no C runtime, no dynamic loader, no relocations.
    for argument in ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,--gc-sections"] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
    // One page-aligned image without a build id or unwind tables to load.
    println!("cargo::rustc-link-arg-bins=-Wl,--build-id=none,-z,noexecstack,-z,norelro");
}
