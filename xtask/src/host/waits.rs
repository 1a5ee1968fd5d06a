//! Where everything waits: told by an emulated host whose command is about to be ended for taking
//! too long, so that whoever reads the log knows what hung.

use std::fmt::Write;
use std::fs;
use std::path::Path;

/// Calls of the kernel's that are shown of a thread.
const DEPTH: usize = 6;

/// All threads of all processes, a line each: its name, its state, the system call that it is in,
/// and what the kernel does for it.
pub(super) fn report() -> String {
    let mut text =
        String::from("emulated host: the time is nearly over, and these are waited for\n");
    for process in entries(Path::new("/proc")) {
        // The kernel's own threads run no program.
        if fs::read_link(process.join("exe")).is_err() {
            continue;
        }
        text += &of_process(&process);
    }
    text
}

/// The command line of the process with this folder of `/proc`, and a line for each thread.
pub(super) fn of_process(process: &Path) -> String {
    let words = fs::read(process.join("cmdline")).unwrap_or_default();
    let words = String::from_utf8_lossy(&words).replace('\0', " ");
    let mut text = format!("{}: {}\n", number(process), words.trim_end());
    for thread in entries(&process.join("task")) {
        let read = |name: &str| fs::read_to_string(thread.join(name)).unwrap_or_default();
        let status = read("status");
        let state = status.lines().find_map(|line| line.strip_prefix("State:"));
        let (name, call, stack) = (read("comm"), read("syscall"), read("stack"));
        let stack: Vec<&str> = stack.lines().filter_map(function).take(DEPTH).collect();
        let _ = writeln!(
            text,
            "  {} {}{}, call {}, in {}",
            number(&thread),
            name.trim_end(),
            state.unwrap_or_default(),
            call.trim_end(),
            stack.join(" < ")
        );
    }
    text
}

/// What a folder of the kernel's has under numbers.
fn entries(folder: &Path) -> impl Iterator<Item = std::path::PathBuf> {
    let all = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    all.filter(|path| number(path).bytes().all(|byte| byte.is_ascii_digit()))
}

fn number(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The function that a line of a stack names: `[<0>] futex_wait+0x10/0x20` is `futex_wait`.
fn function(line: &str) -> Option<&str> {
    line.split_once("] ")?.1.split('+').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_thread_is_told_with_its_call() {
        let text = report();
        let own = std::process::id().to_string();
        assert!(text.lines().any(|line| line.starts_with(&format!("{own}: "))), "{text}");
        assert!(text.lines().any(|line| line.starts_with("  ") && line.contains(", call ")));
    }

    #[test]
    fn function_is_what_stands_before_its_offset() {
        assert_eq!(function("[<0>] futex_wait_queue+0x63/0x90"), Some("futex_wait_queue"));
        assert_eq!(function(""), None);
    }
}
