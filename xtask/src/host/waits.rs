//! What every thread waits for: printed when a command in an emulated host is about to time out, so
//! that the log shows what hung.

use std::fmt::Write;
use std::fs;
use std::path::Path;

/// Kernel functions to print for each thread.
const DEPTH: usize = 6;

/// Lists all threads of all processes: name, state, current system call and kernel stack.
pub(super) fn report() -> String {
    let mut text =
        String::from("emulated host: the command is about to time out; its threads wait in:\n");
    for process in entries(Path::new("/proc")) {
        // Kernel threads have no program.
        if fs::read_link(process.join("exe")).is_err() {
            continue;
        }
        text += &of_process(&process);
    }
    text
}

/// The command line of the process in this folder of `/proc`, and a line for each thread.
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

/// The entries of a `/proc` folder whose names are numbers.
fn entries(folder: &Path) -> impl Iterator<Item = std::path::PathBuf> {
    let all = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    all.filter(|path| number(path).bytes().all(|byte| byte.is_ascii_digit()))
}

fn number(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The function in a line of a kernel stack: `futex_wait` for `[<0>] futex_wait+0x10/0x20`.
fn function(line: &str) -> Option<&str> {
    line.split_once("] ")?.1.split('+').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_lists_this_thread_with_its_call() {
        let text = report();
        let own = std::process::id().to_string();
        assert!(text.lines().any(|line| line.starts_with(&format!("{own}: "))), "{text}");
        assert!(text.lines().any(|line| line.starts_with("  ") && line.contains(", call ")));
    }

    #[test]
    fn function_is_the_part_before_the_offset() {
        assert_eq!(function("[<0>] futex_wait_queue+0x63/0x90"), Some("futex_wait_queue"));
        assert_eq!(function(""), None);
    }
}
