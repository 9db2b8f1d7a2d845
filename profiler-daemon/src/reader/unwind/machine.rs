//! What differs between the machines whose files are read.

use gimli::{Register, Vendor};

/// The machine a file is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Machine {
    /// `EM_X86_64`
    #[default]
    X86_64,
    /// `EM_AARCH64`
    Aarch64,
}

impl Machine {
    /// The machine with this `e_machine`.
    pub(super) fn from_elf(number: u16) -> Option<Self> {
        match number {
            62 => Some(Self::X86_64),
            183 => Some(Self::Aarch64),
            _ => None,
        }
    }

    /// Whose extensions its CFI may use.
    pub(super) fn vendor(self) -> Vendor {
        match self {
            Self::X86_64 => Vendor::Default,
            Self::Aarch64 => Vendor::AArch64,
        }
    }

    /// The relocation that adds where the file is loaded: `R_X86_64_RELATIVE`,
    /// `R_AARCH64_RELATIVE`.
    pub(super) fn relative_relocation(self) -> u64 {
        match self {
            Self::X86_64 => 8,
            Self::Aarch64 => 1_027,
        }
    }

    /// DWARF's number of the stack pointer.
    pub(super) fn sp(self) -> Register {
        match self {
            Self::X86_64 => gimli::X86_64::RSP,
            Self::Aarch64 => gimli::AArch64::SP,
        }
    }

    /// DWARF's number of the frame pointer.
    pub(super) fn fp(self) -> Register {
        match self {
            Self::X86_64 => gimli::X86_64::RBP,
            Self::Aarch64 => gimli::AArch64::X29,
        }
    }

    /// DWARF's number of the third register a walk carries.
    pub(super) fn aux(self) -> Register {
        match self {
            Self::X86_64 => gimli::X86_64::RBX,
            Self::Aarch64 => gimli::AArch64::X30,
        }
    }

    /// DWARF's number of the column that holds the return address.
    pub(super) fn return_address(self) -> Register {
        match self {
            Self::X86_64 => gimli::X86_64::RA,
            Self::Aarch64 => gimli::AArch64::X30,
        }
    }

    /// The last of the general registers, whose numbers begin at 0.
    pub(super) fn last_general(self) -> Register {
        match self {
            Self::X86_64 => gimli::X86_64::R15,
            Self::Aarch64 => gimli::AArch64::SP,
        }
    }

    /// What a general register is called.
    pub(super) fn name(self, register: Register) -> &'static str {
        let name = match self {
            Self::X86_64 => gimli::X86_64::register_name(register),
            Self::Aarch64 => gimli::AArch64::register_name(register),
        };
        name.unwrap_or("?")
    }
}
