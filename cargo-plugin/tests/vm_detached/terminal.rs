//! `-it` on a pseudo-terminal, with the test as the user.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use super::{HOME, Machine};

/// Far longer than any test takes. Only a hang reaches it.
const DEADLINE: Duration = Duration::from_secs(300);

/// A user at a terminal that runs a command.
struct Person {
    keyboard: File,
    screen: Receiver<Vec<u8>>,
    /// Output that the test has not looked at yet.
    shown: String,
    command: Child,
}

impl Person {
    /// Starts a command on a terminal of 30 rows and 100 columns.
    fn at(arguments: &[&str]) -> Self {
        Self::at_program(Path::new(env!("CARGO_BIN_EXE_supermachine")), arguments)
    }

    fn at_program(program: &Path, arguments: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        resize(&master, 30, 100);
        // Only the controlling terminal sends SIGWINCH.
        let mut command = Command::new("setsid");
        HOME.prepare(&mut command).arg("--ctty").arg(program);
        command.args(arguments).stdin(slave.try_clone().unwrap());
        command.stdout(slave.try_clone().unwrap()).stderr(slave).env("TERM", "vt100");
        let child = command.spawn().unwrap();
        drop(command);
        let keyboard = File::from(master);
        let (sender, screen) = channel();
        let mut output = keyboard.try_clone().unwrap();
        thread::spawn(move || {
            let mut piece = [0; 4096];
            // The read fails once nobody has the terminal open.
            while let Ok(count @ 1..) = output.read(&mut piece) {
                if sender.send(piece[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { keyboard, screen, shown: String::new(), command: child }
    }

    fn types(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    /// Waits for a text in the output, and drops the output up to it.
    #[track_caller]
    fn sees(&mut self, text: &str) {
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some(at) = self.shown.find(text) {
                self.shown.drain(..at + text.len());
                return;
            }
            let left = until.saturating_duration_since(Instant::now());
            let Ok(piece) = self.screen.recv_timeout(left) else {
                panic!("{text:?} is not shown, but {:?}", self.shown);
            };
            self.shown += &String::from_utf8_lossy(&piece);
        }
    }

    /// Resizes the terminal, and waits until the shell sees it.
    #[track_caller]
    fn resizes(&mut self, rows: u16, columns: u16) {
        resize(&self.keyboard, rows, columns);
        let known = format!("\"$(stty size)\" = '{rows} {columns}'");
        self.types(&format!("until [ {known} ]; do sleep 0.1; done; echo resi''zed\n"));
        self.sees("resized");
    }

    /// Whether the terminal is in cooked mode.
    fn is_ordinary(&self) -> bool {
        let modes = tcgetattr(&self.keyboard).unwrap().local_modes;
        modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG)
    }

    fn waits(&mut self) -> ExitStatus {
        self.command.wait().unwrap()
    }
}

fn resize(master: impl AsFd, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master, size).unwrap();
}

#[test]
fn terminal_passes_size_type_keys_and_exit_status() {
    let _machine = Machine::start("tty", "bb", &[]);
    let mut person = Person::at(&["exec", "-it", "-e", "PS1=", "tty", "--", "sh"]);
    person.types("stty size; echo kind $TERM\n");
    person.sees("30 100");
    person.sees("kind vt100");
    assert!(!person.is_ordinary());
    person.resizes(40, 120);
    person.types("echo beg''un; sleep 1000\n");
    person.sees("begun");
    person.types("\u{3}");
    person.types("echo after=$?\n");
    person.sees("after=130");
    person.types("exit 5\n");
    assert_eq!(person.waits().code(), Some(5));
    assert!(person.is_ordinary());
}

#[test]
fn terminal_is_restored_when_a_signal_kills_the_command() {
    let _machine = Machine::start("order", "bb", &[]);
    let script = "echo beg''un; sleep 1000";
    let mut person = Person::at(&["exec", "-it", "order", "--", "sh", "-c", script]);
    person.sees("begun");
    assert!(!person.is_ordinary());
    let killed = Command::new("kill").arg(person.command.id().to_string()).status().unwrap();
    assert!(killed.success());
    assert_eq!(person.waits().signal(), Some(15));
    assert!(person.is_ordinary());
}

#[test]
fn fresh_machine_has_a_terminal_too() {
    let script = "test -t 0 && test -t 2 && stty size";
    let mut person = Person::at(&["run", "-it", "bb", "--", "sh", "-c", script]);
    person.sees("30 100");
    assert_eq!(person.waits().code(), Some(0));
    assert!(person.is_ordinary());
}

#[test]
fn terminal_without_i_gets_no_input() {
    let script = "test -t 1 && stty size; sleep 0.2; echo end";
    let done = HOME.run(&["run", "-t", "bb", "--", "sh", "-c", script]);
    assert_eq!(done.succeeds(), "24 80\r\nend\r\n");
}

#[test]
fn tty_without_a_terminal_is_refused() {
    HOME.run(&["run", "-it", "bb", "--", "sh"]).fails(125, &["not a terminal: leave out -t"]);
}

#[test]
fn shell_of_the_example_uses_this_terminal() {
    let shell = Path::new(env!("CARGO_BIN_EXE_supermachine")).with_file_name("examples/shell");
    assert!(shell.exists(), "the examples are built with all tests, or by cargo build --examples");
    let store = HOME.store().display().to_string();
    let mut person = Person::at_program(&shell, &[&store, "bb"]);
    person.types("stty size; echo $TERM\n");
    person.sees("30 100");
    assert!(!person.is_ordinary());
    person.resizes(40, 120);
    // While a shell reads a line, ^C is an ordinary key.
    person.types("echo beg''un; sleep 1000\n");
    person.sees("begun");
    person.types("\u{3}");
    person.types("exit 6\n");
    assert_eq!(person.waits().code(), Some(6));
    assert!(person.is_ordinary());
}
