//! What the BPF programs and the daemon share: the records the kernel side sends, the map keys and
//! values both sides read, and the unwinder's logic over a [`unwind::Memory`], so that it runs in
//! the kernel and is tested on the host.
#![cfg_attr(not(test), no_std)]

pub mod arch;
pub mod config;
pub mod counters;
pub mod go;
pub mod go_waits;
pub mod mappings;
pub mod record;
pub mod stack_id;
pub mod targets;
pub mod unwind;
pub mod waits;

/// The types that cross into maps and globals: plain numbers without padding.
#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "aya asks for a promise that only the type's author can give")]
mod pod {
    macro_rules! pod {
        ($($type:ty),+) => {$(
            // SAFETY: `repr(C)`, `Copy`, integers alone, no padding (asserted by their sizes).
            unsafe impl aya::Pod for $type {}
        )+};
    }
    pod!(
        crate::config::Config,
        crate::config::Control,
        crate::counters::Counters,
        crate::go_waits::Parked,
        crate::go_waits::Place,
        crate::go_waits::Program,
        crate::go_waits::Waiters,
        crate::mappings::Process,
        crate::mappings::Range,
        crate::targets::Target,
        crate::unwind::table::Table,
        crate::waits::Thread
    );
}
