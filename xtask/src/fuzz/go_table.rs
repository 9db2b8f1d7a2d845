//! Seeds of the target `go_table`: files with the table of one Go function, which two others are
//! inlined in. What Go's linker makes is a hundred times as large.

/// Where a file is loaded.
const BASE: u64 = 0x40_0000;
/// Where a file's table begins, behind its headers.
const TABLE_AT: usize = 256;
/// Bytes of the function.
const CODE: u64 = 32;

/// Names of the functions and where they begin: `outer`, and what is inlined.
const NAMES: &[u8] = b"\0main.outer[go.shape.int]\0main.(*T).middle\0main.inner\0\0";
const OUTER: u32 = 1;
const MIDDLE: u32 = 26;
const INNER: u32 = 43;

const FILES: &[u8] = b"/src/main.go\0\0\0\0";

/// What changes along the function, see `runtime.step`: pairs of a change and a length.
const VALUES: &[u8] = &[
    0, 2, 32, 0, // the file, 0, from 1 on
    22, 8, 20, 8, 17, 16, 0, // lines 10, 20 and 11, from 4 on
    0, 4, 2, 4, 2, 8, 3, 16, 0, // inlined calls: none, 0, 1 and none, from 11 on
];

/// A file as each of the forms that are read; with relocations, as one that may be loaded anywhere.
pub(super) fn seeds() -> [(&'static str, Vec<u8>); 5] {
    [
        ("go118", file(&Form { magic: 0xffff_fff0, inlined: 38, slice: 39, is_relocated: false })),
        ("go120", file(&Form { magic: 0xffff_fff1, inlined: 40, slice: 41, is_relocated: false })),
        ("go126", file(&Form { magic: 0xffff_fff1, inlined: 40, slice: 42, is_relocated: false })),
        ("go127", file(&Form { magic: 0xffff_fff1, inlined: 43, slice: 45, is_relocated: false })),
        ("pie", file(&Form { magic: 0xffff_fff1, inlined: 40, slice: 41, is_relocated: true })),
    ]
}

struct Form {
    magic: u32,
    /// Words of `moduledata`: `gofunc` and `textsectmap`.
    inlined: usize,
    slice: usize,
    is_relocated: bool,
}

fn file(form: &Form) -> Vec<u8> {
    let (table, offsets) = table(form);
    let svma = |into: usize| BASE + into as u64;
    let calls_at = TABLE_AT + table.len();
    let calls = calls(form);
    let module_at = (calls_at + calls.len()).next_multiple_of(8);
    let [names, units, files, values, functions] = offsets.map(|offset| svma(TABLE_AT + offset));
    let pointers = [
        (0, svma(TABLE_AT)),
        (1, names),
        (4, units),
        (7, files),
        (10, values),
        (13, functions),
        (16, functions),
        (22, BASE),
        (23, BASE + CODE),
        (form.inlined, svma(calls_at)),
        (form.slice, BASE),
    ];
    let numbers = [(17, 2), (form.slice + 1, 1), (form.slice + 2, 1)];
    let mut module = [0_u64; 48];
    let mut relocations = Vec::new();
    for (index, value) in pointers {
        if form.is_relocated {
            // `R_X86_64_RELATIVE`.
            relocations.extend([svma(module_at + index * 8), 8, value]);
        } else {
            module[index] = value;
        }
    }
    for (index, value) in numbers {
        module[index] = value;
    }
    let relocations_at = module_at + module.len() * 8;
    let dynamic_at = relocations_at + relocations.len() * 8;
    // `DT_RELA`, `DT_RELASZ`, `DT_NULL`.
    let dynamic = [7, svma(relocations_at), 8, relocations.len() as u64 * 8, 0, 0];
    let size = (dynamic_at + dynamic.len() * 8) as u64;

    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(64, 0);
    for (at, value) in [(18, 62), (32, 64), (54, 56), (56, 2)] {
        file[at] = value;
    }
    // `PT_LOAD`, all of it, and `PT_DYNAMIC`.
    for (kind, at, size) in [(1_u32, 0, size), (2, dynamic_at, size - dynamic_at as u64)] {
        file.extend([kind.to_le_bytes(), 7_u32.to_le_bytes()].concat());
        file.extend(words(&[at as u64, svma(at), svma(at), size, size, 8]));
    }
    file.resize(TABLE_AT, 0);
    file.extend(table);
    file.extend(calls);
    file.resize(module_at, 0);
    file.extend([words(&module), words(&relocations), words(&dynamic)].concat());
    file
}

/// The table, and where its names, units, files, values and functions begin.
fn table(form: &Form) -> (Vec<u8>, [usize; 5]) {
    const HEADER_BYTES: usize = 72;
    let parts = [NAMES, &[0; 4], FILES, VALUES];
    let mut offsets = [HEADER_BYTES; 5];
    for (index, part) in parts.iter().enumerate() {
        offsets[index + 1] = offsets[index] + part.len().next_multiple_of(8);
    }
    // Magic; sizes of an instruction and a pointer.
    let head = u64::from(form.magic) | 1 << 48 | 8 << 56;
    let mut table = words(&[head, 1, 1, if form.is_relocated { 0 } else { BASE }]);
    table.extend(words(&offsets.map(|offset| offset as u64)));
    for (part, end) in parts.iter().zip(&offsets[1..]) {
        table.extend(*part);
        table.resize(*end, 0);
    }
    // The index, where the function ends, and its record.
    let mut numbers = vec![0, 16, CODE as u32, 0, 0, OUTER, 0, 0, 0, 1, 4, 3, 0];
    if form.magic == 0xffff_fff1 {
        numbers.push(9);
    }
    // Four of the tables for what is inlined and so on; its number is the highest byte.
    numbers.extend([4 << 24, 0, 0, 11, u32::MAX, u32::MAX, u32::MAX, 0]);
    table.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    table.resize(table.len().next_multiple_of(8), 0);
    (table, offsets)
}

/// `inner` inlined in `middle`, and that in the function.
fn calls(form: &Form) -> Vec<u8> {
    let numbers: &[u32] = if form.magic == 0xffff_fff0 {
        &[0xffff, 0, 10, MIDDLE, 0, 0, 0, 10, INNER, 4]
    } else {
        &[0, MIDDLE, 0, 30, 0, INNER, 4, 40]
    };
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
