//! Ranges of memory.

/// Address and bytes.
pub type Range = (u64, u64);

/// Where something is written that is also read or written otherwise.
pub fn overlap(written: Vec<Range>, read: Vec<Range>) -> Option<u64> {
    let mut all: Vec<(u64, u64, bool)> = written.into_iter().map(|(at, n)| (at, n, true)).collect();
    all.extend(read.into_iter().map(|(at, n)| (at, n, false)));
    all.retain(|(_, bytes, _)| *bytes > 0);
    all.sort_unstable();
    // The furthest ends of what was read and written so far.
    let mut ends = [0, 0];
    for (at, bytes, is_written) in all {
        if at < ends[1] || is_written && at < ends[0] {
            return Some(at);
        }
        let end = &mut ends[usize::from(is_written)];
        *end = (*end).max(at + bytes);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_written_must_be_alone() {
        assert_eq!(overlap(vec![(0, 4)], vec![(4, 4), (6, 4)]), None);
        assert_eq!(overlap(vec![(0, 5)], vec![(4, 4)]), Some(4));
        assert_eq!(overlap(vec![(8, 4)], vec![(0, 100)]), Some(8));
        assert_eq!(overlap(vec![(0, 4), (3, 4)], vec![]), Some(3));
        assert_eq!(overlap(vec![(0, 4), (2, 0)], vec![(2, 0)]), None);
    }
}
