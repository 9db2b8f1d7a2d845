//! How many descriptors there are, and for what.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::kernel::online_cpus;

/// As many as are ever needed: the rest would be room for mistakes.
const WANTED: u64 = 16 << 10;

/// What is not for connections: the kernel's maps and programs, lanes to readers, files that are
/// written, pipes, and as much again.
const OTHERS: u64 = 192;

/// Events of each CPU, and those of another rate while one takes over.
const OF_CPU: u64 = 4;

/// Raises the limit (1,024, as services are started, `LimitNOFILE` in systemd.exec(5)). Returns what
/// it is.
pub(super) fn raise() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(WANTED, |maximum| maximum.min(WANTED));
    let Some(limit) = current else { return WANTED };
    if limit >= wanted {
        return limit;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }) {
        Ok(()) => wanted,
        Err(error) => {
            tracing::debug!("the limit of descriptors stays {limit}: {error}");
            limit
        }
    }
}

/// Of so many, those that connections may take: sampling never waits for a client to hang up.
pub(super) fn for_connections(limit: u64) -> usize {
    let cpus = online_cpus().map_or(1, |count| count as u64);
    usize::try_from(limit.saturating_sub(OTHERS + OF_CPU * cpus)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_what_it_was_raised_to() {
        let limit = raise();
        assert_eq!(getrlimit(Resource::Nofile).current.unwrap_or(WANTED), limit);
        assert!(for_connections(limit) < limit.try_into().unwrap());
        assert_eq!(for_connections(100), 0);
    }
}
