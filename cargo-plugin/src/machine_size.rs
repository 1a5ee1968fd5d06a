//! Memory and processors of a machine on the command line.

use clap::builder::TypedValueParser;
use supermachine_vmm::arch::{MAX_MEMORY, MAX_VCPUS, MIN_MEMORY};

const MIB: u64 = 1 << 20;
/// The help of an option for memory.
pub(crate) fn memory_help() -> String {
    let range = memory_range();
    format!("Give the machine this much memory, {range}, as 512m or 1g; a plain number is MiB")
}

/// The help of an option for processors.
pub(crate) fn vcpus_help() -> String {
    format!("Give the machine this many virtual processors, 1 to {MAX_VCPUS}")
}

fn memory_range() -> String {
    format!("{} MiB to {} GiB", MIN_MEMORY / MIB, MAX_MEMORY >> 30)
}

/// Parses a number of bytes with Docker's units: `64m`, `1g`. A number without a unit is bytes.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let invalid = || "not a size, as 64m or 1g".to_owned();
    let (number, shift) = number_and_unit(text).ok_or_else(invalid)?;
    number.checked_mul(1 << shift.unwrap_or(0)).ok_or_else(invalid)
}

/// Splits a size into its number and the power of two of its unit.
fn number_and_unit(text: &str) -> Option<(u64, Option<u32>)> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" => None,
        "b" => Some(0),
        "k" | "kb" | "kib" => Some(10),
        "m" | "mb" | "mib" => Some(20),
        "g" | "gb" | "gib" => Some(30),
        "t" | "tb" | "tib" => Some(40),
        _ => return None,
    };
    Some((number.parse().ok()?, shift))
}

/// Parses an amount of memory into MiB. A number without a unit is MiB, as in `256`, or bytes if it is
/// too large for that, as Docker's tools write it. Units are those of Docker: `512m`, `1g`.
pub(crate) fn memory_mib(text: &str) -> Result<u64, String> {
    let invalid = || "not an amount of memory, as 512m, 1g, or 256 for MiB".to_owned();
    let (number, shift) = number_and_unit(text).ok_or_else(invalid)?;
    let shift = shift.unwrap_or(if number <= MAX_MEMORY / MIB { 20 } else { 0 });
    let bytes = number.checked_mul(1 << shift).ok_or_else(invalid)?;
    let mib = bytes.div_ceil(MIB);
    if (MIN_MEMORY / MIB..=MAX_MEMORY / MIB).contains(&mib) {
        Ok(mib)
    } else {
        Err(format!("{mib} MiB is not in {}", memory_range()))
    }
}

/// The parser for a number of processors. Docker's `--cpus` may be `2.0`.
pub(crate) fn vcpus() -> impl TypedValueParser<Value = u16> {
    let whole = |text: String| match text.split_once('.') {
        None => Ok(text),
        Some((number, rest)) if rest.bytes().all(|digit| digit == b'0') => Ok(number.to_owned()),
        Some((number, _)) => {
            let next = number.parse::<u64>().map_or(1, |number| number + 1);
            Err(format!("a machine has whole processors: use {next} instead"))
        }
    };
    clap::builder::StringValueParser::new().try_map(move |text| {
        let text = whole(text)?;
        let number: i64 = text.parse().map_err(|_| "not a number of processors".to_owned())?;
        match u16::try_from(number) {
            Ok(number) if (1..=MAX_VCPUS).contains(&number) => Ok(number),
            _ => Err(format!("{number} is not in 1 to {MAX_VCPUS}")),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_has_units_and_defaults_to_mib() {
        let parsed =
            ["256", "512m", "1G", "2gb", "536870912", "65536k", "67108864b"].map(memory_mib);
        assert_eq!(parsed, [256, 512, 1024, 2048, 512, 64, 64].map(Ok));
    }

    #[test]
    fn size_is_in_bytes_without_a_unit() {
        let parsed = ["0", "4096", "64m", "1G", "8kb"].map(bytes);
        assert_eq!(parsed, [0, 4096, 64 << 20, 1 << 30, 8 << 10].map(Ok));
        for text in ["", "m", "-1", "1.5g", "1x", "99999999999t", "99999999999999999999"] {
            assert!(bytes(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn malformed_memory_is_refused() {
        for text in ["", "m", "1x", "-1", "1.5g", "99999999999999999999"] {
            assert!(memory_mib(text).unwrap_err().contains("not an amount of memory"), "{text:?}");
        }
    }

    #[test]
    fn limits_of_memory_are_those_of_a_machine() {
        let (least, most) = (MIN_MEMORY / MIB, MAX_MEMORY / MIB);
        for mib in [least, most] {
            assert_eq!(memory_mib(&format!("{mib}m")), Ok(mib));
        }
        for mib in [0, least - 1, most + 1] {
            let error = memory_mib(&format!("{mib}m")).unwrap_err();
            assert_eq!(error, format!("{mib} MiB is not in 64 MiB to 96 GiB"));
        }
    }

    /// Prose cannot be derived, so it is compared.
    #[test]
    fn documents_state_the_limits_of_a_machine() {
        let vcpus = format!("1 to {MAX_VCPUS}");
        let changelog = include_str!("../../CHANGELOG.md");
        assert!(changelog.contains(&format!("{vcpus} vCPUs")));
        let commands = include_str!("../../docs/command.md");
        let sizes = commands.lines().find(|line| line.contains("`--vcpus`")).unwrap();
        assert!(sizes.contains(&memory_range()) && sizes.contains(&vcpus), "{sizes}");
        assert!(memory_help().contains(&memory_range()) && vcpus_help().contains(&vcpus));
    }

    #[test]
    fn processors_are_whole() {
        let parse = |text: &str| {
            let command = clap::Command::new("x").arg(clap::Arg::new("n").value_parser(vcpus()));
            let matches = command.try_get_matches_from(["x", text]);
            matches.map(|found| found.get_one::<u16>("n").copied()).map_err(|e| e.to_string())
        };
        assert_eq!(parse("2"), Ok(Some(2)));
        assert_eq!(parse("2.0"), Ok(Some(2)));
        assert!(parse("1.5").unwrap_err().contains("use 2"));
        for text in ["0", "x", "", "-1", "65537"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert_eq!(parse(&MAX_VCPUS.to_string()), Ok(Some(MAX_VCPUS)));
        let refused = parse(&(MAX_VCPUS + 1).to_string()).unwrap_err();
        assert!(refused.contains(&format!("not in 1 to {MAX_VCPUS}")), "{refused}");
    }
}
