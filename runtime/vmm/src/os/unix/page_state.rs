//! The state of a mapping's pages, by what the system reports for each page of the host.

/// How a page of a private mapping is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::os) enum PageState {
    /// Never touched, or given back.
    Absent,
    /// The mapped file's own.
    Read,
    /// A private copy.
    Written,
}

/// Calls `report` for each stretch of present pages that are alike, with its first page, its length,
/// and whether the pages were written. `states` are those of the host's pages from `first` on, each
/// of which has so many `parts`.
pub(in crate::os) fn report_present(
    states: impl Iterator<Item = PageState>,
    first: u64,
    parts: u64,
    report: &mut impl FnMut(u64, u64, bool),
) {
    let mut stretch: Option<(u64, u64, PageState)> = None;
    let mut end = |stretch: Option<(u64, u64, PageState)>| {
        if let Some((first, count, state)) = stretch {
            report(first * parts, count * parts, state == PageState::Written);
        }
    };
    for (page, state) in (first..).zip(states) {
        match &mut stretch {
            Some((_, count, before)) if *before == state => *count += 1,
            _ => {
                let next = (state != PageState::Absent).then_some((page, 1, state));
                end(std::mem::replace(&mut stretch, next));
            }
        }
    }
    end(stretch);
}

#[cfg(test)]
mod tests {
    use super::PageState::{Absent, Read, Written};
    use super::*;

    fn reported(states: &[PageState], first: u64, parts: u64) -> Vec<(u64, u64, bool)> {
        let mut found = Vec::new();
        let mut report = |page, count, written| found.push((page, count, written));
        report_present(states.iter().copied(), first, parts, &mut report);
        found
    }

    #[test]
    fn stretches_of_equal_pages_are_reported_in_order() {
        let states = [Written, Written, Read, Absent, Absent, Read, Read, Written];
        let expected = [(0, 2, true), (2, 1, false), (5, 2, false), (7, 1, true)];
        assert_eq!(reported(&states, 0, 1), expected);
        assert_eq!(reported(&[], 0, 1), []);
        assert_eq!(reported(&[Absent; 3], 0, 1), []);
    }

    #[test]
    fn page_of_a_host_counts_as_all_of_its_parts() {
        assert_eq!(reported(&[Absent, Written, Read], 0, 4), [(4, 4, true), (8, 4, false)]);
        assert_eq!(reported(&[Written, Written], 10, 16), [(160, 32, true)]);
    }
}
