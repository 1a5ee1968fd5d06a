//! The clock of a running machine after the host's clock was set.
//!
//! A program of its own, as it sets the clock of the whole host. It leaves the clock of a real machine
//! alone, and says so: unit tests cover what notices a step.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use supermachine_test_support::machines::{RESUME_DELAY, busybox, clock_error, sh, start};

/// Set in an emulated host.
const EMULATED: &str = "SUPERMACHINE_HOST";
const DAY: i64 = 86_400;

/// Moves the host's clock.
fn step(seconds: i64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let time = libc::timespec {
        tv_sec: i64::try_from(now.as_secs()).unwrap() + seconds,
        tv_nsec: now.subsec_nanos().into(),
    };
    // SAFETY: one time, which the call reads.
    let done = unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn step_of_the_hosts_clock_reaches_a_running_machine_before_its_next_command() {
    if std::env::var_os(EMULATED).is_none() {
        eprintln!("NOT RUN: it would set the clock of this machine; use --host emulated");
        return;
    }
    let vm = start(&busybox());
    sh(&vm, "true");
    for seconds in [DAY, -DAY, 3600, -3600, 30, -30] {
        step(seconds);
        let error = clock_error(&vm).abs();
        assert!(error < RESUME_DELAY, "{seconds} s: {error} s off");
        std::thread::sleep(Duration::from_millis(200));
        assert!(clock_error(&vm).abs() < RESUME_DELAY, "{seconds} s, later");
    }
    step(DAY);
    let today = sh(&vm, "date -u +%Y-%m-%d");
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let text = std::process::Command::new("date")
        .args(["-u", "-d", &format!("@{seconds}"), "+%Y-%m-%d"])
        .output()
        .unwrap();
    assert_eq!(today.into_bytes(), text.stdout);
    step(-DAY);
}
