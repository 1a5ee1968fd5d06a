//! Which names lead to an address, for as long as their answers say.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Addresses that are remembered. Beyond that, the one that ends first is forgotten.
const MOST_ADDRESSES: usize = 4096;
/// Names of one address.
const MOST_NAMES: usize = 64;
/// A program may use an address for a while after it received it; answers that are valid for no time at
/// all are common.
const LEAST: Duration = Duration::from_secs(30);
const MOST: Duration = Duration::from_secs(24 * 60 * 60);

/// The names of addresses.
#[derive(Debug, Default)]
pub(crate) struct Names(HashMap<IpAddr, Vec<(String, Instant)>>);

impl Names {
    /// Ties a name to an address for some seconds.
    pub(super) fn tie(&mut self, address: IpAddr, name: &str, seconds: u32, now: Instant) {
        let time = Duration::from_secs(seconds.into()).clamp(LEAST, MOST);
        let end = now.checked_add(time).unwrap_or(now);
        if self.0.len() >= MOST_ADDRESSES && !self.0.contains_key(&address) {
            self.make_room(now);
        }
        let names = self.0.entry(address).or_default();
        names.retain(|(known, end)| known != name && *end > now);
        if names.len() < MOST_NAMES {
            names.push((name.to_owned(), end));
        }
    }

    /// The names that lead to an address now.
    pub(crate) fn of(&self, address: IpAddr, now: Instant) -> Vec<String> {
        let names = self.0.get(&address).into_iter().flatten();
        names.filter(|(_, end)| *end > now).map(|(name, _)| name.clone()).collect()
    }

    fn make_room(&mut self, now: Instant) {
        let end_of = |names: &[(String, Instant)]| names.iter().map(|(_, end)| *end).max();
        self.0.retain(|_, names| end_of(names).is_some_and(|end| end > now));
        if self.0.len() >= MOST_ADDRESSES {
            let first = self.0.iter().min_by_key(|(_, names)| end_of(names));
            if let Some(address) = first.map(|(address, _)| *address) {
                self.0.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_leads_to_its_address_while_the_answer_is_good() {
        let (mut names, now) = (Names::default(), Instant::now());
        let address = IpAddr::from([1, 2, 3, 4]);
        names.tie(address, "a.org", 100, now);
        names.tie(address, "b.org", 0, now);
        assert_eq!(names.of(address, now), ["a.org", "b.org"]);
        assert_eq!(names.of(address, now + Duration::from_secs(31)), ["a.org"]);
        assert!(names.of(address, now + Duration::from_secs(101)).is_empty());
        assert!(names.of(IpAddr::from([1, 2, 3, 5]), now).is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let (mut names, now) = (Names::default(), Instant::now());
        for number in 0..10_000_u32 {
            names.tie(IpAddr::from(number.to_be_bytes()), "a.org", number + 100, now);
        }
        assert_eq!(names.0.len(), MOST_ADDRESSES);
        assert_eq!(names.of(IpAddr::from(9_999_u32.to_be_bytes()), now), ["a.org"]);
        for number in 0..1000 {
            names.tie(IpAddr::from([9; 4]), &format!("n{number}.org"), 100, now);
        }
        assert_eq!(names.of(IpAddr::from([9; 4]), now).len(), MOST_NAMES);
    }
}
