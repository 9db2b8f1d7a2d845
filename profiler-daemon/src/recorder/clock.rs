//! What the kernel says of itself.

use rustix::time::{ClockId, clock_gettime};

/// The boot-time clock, in nanoseconds: that of samples and side-band records.
pub(super) fn boot_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The running kernel's GNU build ID in hexadecimal; empty if it does not show one.
pub(super) fn kernel_build_id() -> String {
    std::fs::read("/sys/kernel/notes")
        .ok()
        .and_then(|notes| build_id(&notes))
        .map(|id| crate::profile::build::hexadecimal(&id))
        .unwrap_or_default()
}

/// Finds the GNU build ID among ELF notes.
fn build_id(mut notes: &[u8]) -> Option<Vec<u8>> {
    const NT_GNU_BUILD_ID: u32 = 3;
    let word =
        |bytes: &[u8], at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    loop {
        let name_bytes = word(notes, 0)? as usize;
        let bytes = word(notes, 4)? as usize;
        let kind = word(notes, 8)?;
        let name = notes.get(12..12_usize.checked_add(name_bytes)?)?;
        let start = 12 + name_bytes.next_multiple_of(4);
        let content = notes.get(start..start.checked_add(bytes)?)?;
        if kind == NT_GNU_BUILD_ID && name == b"GNU\0" {
            return Some(content.to_vec());
        }
        notes = notes.get(start + bytes.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::build_id;

    #[test]
    fn the_gnu_note_among_others() {
        let mut notes = Vec::new();
        for (kind, name, content) in
            [(1_u32, &b"Xen\0"[..], &b"12345"[..]), (3, b"GNU\0", b"\xaa\xbb\xcc")]
        {
            notes.extend((name.len() as u32).to_ne_bytes());
            notes.extend((content.len() as u32).to_ne_bytes());
            notes.extend(kind.to_ne_bytes());
            notes.extend(name);
            notes.extend(content);
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
        assert_eq!(build_id(&notes), Some(vec![0xaa, 0xbb, 0xcc]));
        for end in 0..notes.len() - 1 {
            assert_eq!(build_id(&notes[..end]), None);
        }
    }
}
