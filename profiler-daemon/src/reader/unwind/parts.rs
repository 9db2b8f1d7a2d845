//! Who says what of which addresses, where several sources overlap.

use profiler_ebpf::unwind::rule::Rule;

/// A range of addresses and where its rows come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// svma of its first byte.
    pub(super) start: u64,
    /// svma of the byte after its last.
    pub(super) end: u64,
    /// Where its rows come from.
    pub(super) source: Source,
}

/// Where a part's rows come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The frame description at this offset of `.eh_frame`.
    EhFrame(u32),
    /// The frame description at this offset of `.debug_frame`.
    DebugFrame(u32),
    /// The function with this number in the table of Go's runtime.
    GoTable(u32),
    /// One rule for all addresses.
    Fixed(Rule),
}

/// Adds what `layer` says of addresses that `above` does not cover. Where parts of the layer
/// overlap, the one that begins first wins, and of those the one that came first.
///
/// `above` is sorted and free of overlap; so is the result. It has at most one part more than the
/// two together for each of `above`.
pub(super) fn lay_below(above: &[Part], mut layer: Vec<Part>) -> Vec<Part> {
    layer.sort_by_key(|part| part.start);
    let mut merged = Vec::with_capacity(above.len() + layer.len());
    let mut next_above = above.iter().copied().peekable();
    let mut covered = 0;
    for part in layer {
        let mut start = part.start.max(covered);
        while start < part.end {
            match next_above.peek() {
                Some(other) if other.start <= start => {
                    start = start.max(other.end);
                    merged.extend(next_above.next());
                }
                Some(other) if other.start < part.end => {
                    merged.push(Part { start, end: other.start, ..part });
                    start = other.start;
                }
                _ => {
                    merged.push(Part { start, ..part });
                    start = part.end;
                }
            }
        }
        covered = covered.max(start);
    }
    merged.extend(next_above);
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(start: u64, end: u64, offset: u32) -> Part {
        Part { start, end, source: Source::EhFrame(offset) }
    }

    #[test]
    fn the_first_of_a_layer_wins() {
        let layer = vec![part(10, 20, 2), part(0, 12, 1), part(11, 30, 3), part(0, 5, 4)];
        let expected = [part(0, 12, 1), part(12, 20, 2), part(20, 30, 3)];
        assert_eq!(lay_below(&[], layer), expected);
    }

    #[test]
    fn a_layer_shows_where_nothing_is_above() {
        let above = [part(10, 20, 1), part(20, 22, 1), part(40, 50, 1), part(60, 61, 1)];
        let layer = vec![part(0, 45, 2), part(46, 48, 3), part(48, 55, 4), part(61, 61, 5)];
        let expected = [
            part(0, 10, 2),
            part(10, 20, 1),
            part(20, 22, 1),
            part(22, 40, 2),
            part(40, 50, 1),
            part(50, 55, 4),
            part(60, 61, 1),
        ];
        assert_eq!(lay_below(&above, layer), expected);
        assert_eq!(lay_below(&above, Vec::new()), above);
    }
}
