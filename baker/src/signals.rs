//! Names and numbers of the guest's signals. The guest is Linux, whatever the host is.

const LAST: u8 = 64;
const FIRST_REAL_TIME: u8 = 34;

/// From signal 1 on.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The number of a signal: a name, as `SIGQUIT`, `quit` or `SIGRTMIN+3`, or a number from 1 to 64.
#[must_use]
pub fn number(text: &str) -> Option<u8> {
    let text = text.to_ascii_uppercase();
    let name = text.strip_prefix("SIG").unwrap_or(&text);
    let known = NAMES.iter().position(|known| *known == name);
    let other = || {
        let offset = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u8>().ok() };
        match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
            (Some(rest), _) => FIRST_REAL_TIME.checked_add(offset(rest.trim_start_matches('+'))?),
            (_, Some(rest)) => LAST.checked_sub(offset(rest.trim_start_matches('-'))?),
            _ => text.parse().ok(),
        }
    };
    let number = known.and_then(|place| u8::try_from(place + 1).ok()).or_else(other);
    number.filter(|number| (1..=LAST).contains(number))
}

/// The name of a signal, or its number if it has none.
#[must_use]
pub fn name(number: u8) -> String {
    let place = usize::from(number).checked_sub(1);
    let name = place.and_then(|place| NAMES.get(place));
    name.map_or_else(|| number.to_string(), |name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_names_or_numbers() {
        let found =
            ["SIGQUIT", "term", "SIGWINCH", "9", "SIGRTMIN+3", "RTMAX-1", "RTMIN"].map(number);
        assert_eq!(found, [3, 15, 28, 9, 37, 63, 34].map(Some));
        for text in ["", "SIG", "SIGFOO", "0", "65", "RTMIN+31", "RTMIN+300", "RTMIN+x", "-1"] {
            assert_eq!(number(text), None, "{text:?}");
        }
    }

    #[test]
    fn names_are_those_that_are_read() {
        for value in 1..=LAST {
            assert_eq!(number(&name(value)), Some(value));
        }
        assert_eq!([name(1), name(31), name(34)], ["HUP", "SYS", "34"]);
    }
}
