//! ELF files, put together by hand.

/// svma at which the code of a bomb is.
pub(super) const CODE: u64 = 0x40_0000;

/// Bytes of code.
pub(super) const CODE_BYTES: u64 = 0x10_0000;

pub(super) const SHT_SYMTAB: u32 = 2;
pub(super) const SHT_STRTAB: u32 = 3;
pub(super) const SHT_PROGBITS: u32 = 1;

/// A section of a bomb.
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) kind: u32,
    pub(super) flags: u64,
    pub(super) svma: u64,
    pub(super) bytes: Vec<u8>,
    /// If it is said to be of another size than its bytes.
    pub(super) stated: Option<u64>,
}

pub(super) fn section(name: &'static str, bytes: Vec<u8>) -> Section {
    Section { name, kind: SHT_PROGBITS, flags: 0, svma: 0, bytes, stated: None }
}

/// A little-endian ELF file of 64 bits, as it is put together.
pub(super) struct Elf {
    pub(super) sections: Vec<Section>,
    /// Type, flags, offset, svma, size of further program headers.
    pub(super) programs: Vec<(u32, u32, u64, u64, u64)>,
}

impl Elf {
    pub(super) fn of(sections: Vec<Section>) -> Self {
        Self { sections, programs: Vec::new() }
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        let Self { sections, mut programs } = self;
        programs.insert(0, (1, 5, 0, CODE, CODE_BYTES));
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(64 + programs.len() * 56, 0);
        elf[18] = 62;
        elf[32] = 64;
        elf[54] = 56;
        elf[56..58].copy_from_slice(&(programs.len() as u16).to_le_bytes());
        elf[58] = 64;
        elf[60..62].copy_from_slice(&(sections.len() as u16 + 2).to_le_bytes());
        elf[62..64].copy_from_slice(&(sections.len() as u16 + 1).to_le_bytes());
        for (n, (kind, flags, offset, svma, size)) in programs.into_iter().enumerate() {
            let mut header = [kind, flags].map(u32::to_le_bytes).concat();
            header.extend([offset, svma, svma, size, size, 1].map(u64::to_le_bytes).concat());
            elf[64 + n * 56..64 + (n + 1) * 56].copy_from_slice(&header);
        }
        let mut names = vec![0];
        let mut headers = vec![0; 64];
        let last = Section { kind: SHT_STRTAB, ..section(".shstrtab", Vec::new()) };
        let count = sections.len();
        for (n, section) in sections.into_iter().chain([last]).enumerate() {
            let Section { name, kind, flags, svma, mut bytes, stated } = section;
            headers.extend([names.len() as u32, kind].map(u32::to_le_bytes).concat());
            names.extend(name.as_bytes());
            names.push(0);
            if n == count {
                bytes.clone_from(&names);
            }
            let size = stated.unwrap_or(bytes.len() as u64);
            align(&mut elf);
            headers.extend([flags, svma, elf.len() as u64, size].map(u64::to_le_bytes).concat());
            // A symbol table's names are in the next section.
            headers.extend([n as u32 + 2, 0].map(u32::to_le_bytes).concat());
            headers.extend([1_u64, 0].map(u64::to_le_bytes).concat());
            elf.extend(bytes);
        }
        align(&mut elf);
        let sections_at = elf.len() as u64;
        elf[40..48].copy_from_slice(&sections_at.to_le_bytes());
        elf.extend(headers);
        elf
    }
}

/// Pads to where a table may begin: blazesym reads none that is not aligned, and would be spared
/// the rest of the bomb.
fn align(elf: &mut Vec<u8>) {
    elf.resize(elf.len().next_multiple_of(8), 0);
}

pub(super) fn symbol(name: u32, address: u64, size: u64) -> Vec<u8> {
    let mut symbol = name.to_le_bytes().to_vec();
    // A global function of section 1.
    symbol.extend([0x12, 0, 1, 0]);
    symbol.extend([address, size].map(u64::to_le_bytes).concat());
    symbol
}

/// A symbol table and its names.
pub(super) fn with_symbols(symbols: Vec<u8>, names: Vec<u8>) -> Vec<Section> {
    vec![
        Section { kind: SHT_SYMTAB, ..section(".symtab", symbols) },
        Section { kind: SHT_STRTAB, ..section(".strtab", names) },
    ]
}
