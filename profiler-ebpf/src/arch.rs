//! What differs between x86_64 and aarch64.

/// A return address without the bits that are not part of it.
///
/// aarch64 may sign return addresses (pointer authentication) in the bits above the 48 of a user
/// address; x86_64 has no such bits.
#[inline(always)]
pub const fn return_address(word: u64) -> u64 {
    #[cfg(any(target_arch = "aarch64", bpf_target_arch = "aarch64"))]
    return word & 0x0000_ffff_ffff_ffff;
    #[cfg(not(any(target_arch = "aarch64", bpf_target_arch = "aarch64")))]
    return word;
}
