//! Memory and processors of a machine on the command line.

use clap::builder::TypedValueParser;

/// The least memory of a machine, in MiB.
const MIN_MEMORY_MIB: u64 = 32;
/// The most memory of a machine, in MiB.
const MAX_MEMORY_MIB: u64 = 1 << 20;
/// The most processors of a machine.
const MAX_VCPUS: i64 = 16;

/// Parses an amount of memory into MiB. A number without a unit is MiB, as in `256`, or bytes if it is
/// too large for that, as Docker's tools write it. Units are those of Docker: `512m`, `1g`.
pub(crate) fn memory_mib(text: &str) -> Result<u64, String> {
    let invalid = || "not an amount of memory, as 512m, 1g, or 256 for MiB".to_owned();
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits).ok_or_else(invalid)?;
    let number: u64 = number.parse().map_err(|_| invalid())?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" if number <= MAX_MEMORY_MIB => 20,
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(invalid()),
    };
    let bytes = number.checked_mul(1 << shift).ok_or_else(invalid)?;
    let mib = bytes.div_ceil(1 << 20);
    if (MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&mib) {
        Ok(mib)
    } else {
        Err(format!("{mib} MiB is not in {MIN_MEMORY_MIB} MiB to 1 TiB"))
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
            Ok(number) if (1..=MAX_VCPUS).contains(&number.into()) => Ok(number),
            _ => Err(format!("{number} is not in 1..={MAX_VCPUS}")),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_has_units_and_defaults_to_mib() {
        let parsed =
            ["256", "512m", "1G", "2gb", "536870912", "65536k", "33554432b"].map(memory_mib);
        assert_eq!(parsed, [256, 512, 1024, 2048, 512, 64, 32].map(Ok));
    }

    #[test]
    fn memory_outside_the_limits_or_malformed_is_refused() {
        for text in ["", "1", "31m", "2t", "m", "1x", "-1", "1.5g", "99999999999999999999"] {
            assert!(memory_mib(text).is_err(), "{text:?}");
        }
        assert!(memory_mib("1").unwrap_err().contains("32 MiB"));
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
        for text in ["0", "17", "x", ""] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
