//! Names and numbers of the guest's signals. The guest is Linux, whatever the host is.

/// SIGINT in the guest.
pub(crate) const GUEST_SIGINT: i32 = 2;

/// The first number is 1.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
const LAST: u8 = 64;
const FIRST_REAL_TIME: u8 = 34;

/// The number of a signal: a name as `SIGTERM`, `term` or `RTMIN+3`, or a number from 1 to 64.
pub(crate) fn number(text: &str) -> Option<u8> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(index) = NAMES.iter().position(|known| *known == name) {
        return u8::try_from(index + 1).ok();
    }
    let offset = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u8>().ok() };
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => FIRST_REAL_TIME.checked_add(offset(rest.trim_start_matches('+'))?),
        (_, Some(rest)) => LAST.checked_sub(offset(rest.trim_start_matches('-'))?),
        _ => upper.parse().ok(),
    };
    number.filter(|number| (1..=LAST).contains(number))
}

/// Parses a signal for an option.
pub(crate) fn parse(text: &str) -> Result<u8, String> {
    number(text).ok_or_else(|| "not a signal: use a name, as TERM, or a number from 1 to 64".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        let found = ["SIGQUIT", "term", "SIGWINCH", "9", "SIGRTMIN+3", "RTMAX-1", "RTMIN"];
        assert_eq!(found.map(number), [3, 15, 28, 9, 37, 63, 34].map(Some));
        for text in ["", "SIG", "SIGFOO", "0", "65", "RTMIN+31", "RTMIN+300", "RTMIN+x", "-1"] {
            assert_eq!(number(text), None, "{text:?}");
        }
    }
}
