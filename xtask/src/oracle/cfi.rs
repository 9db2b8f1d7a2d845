//! A section of call frame information, read by gimli and by framehop.

use std::{collections::HashMap, ops::Range, rc::Rc, sync::Arc};

use framehop::{
    ExplicitModuleSectionInfo, FrameAddress, Module, Unwinder as _,
    x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64},
};
use gimli::{
    BaseAddresses, CfaRule, CieOrFde, DebugFrame, EhFrame, EhFrameHdr, Encoding, EndianSlice,
    Expression, LittleEndian, Register, RegisterRule, UnwindContext, UnwindExpression,
    UnwindSection,
};

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// A section's bytes and where it is.
pub(super) struct Section {
    pub(super) bytes: Arc<[u8]>,
    pub(super) svma: u64,
}

impl Section {
    fn range(&self) -> Range<u64> {
        self.svma..self.svma + self.bytes.len() as u64
    }
}

/// What CFI says of the code at an address.
pub(super) struct Row {
    /// First svma of the function.
    pub(super) function: u64,
    pub(super) cfa: CfaRule<usize>,
    /// Those that have a rule.
    pub(super) registers: Vec<(Register, RegisterRule<usize>)>,
    pub(super) encoding: Encoding,
    /// What called this was interrupted by a signal.
    pub(super) is_signal: bool,
}

/// Where a function's description is found.
enum Index {
    /// By `.eh_frame_hdr`.
    Header(Section),
    /// By the first svma of each function, sorted, and the description's place in the section.
    Sorted(Vec<(u64, usize)>),
}

/// `.eh_frame` or `.debug_frame` of a file.
pub(super) struct Cfi {
    bytes: Arc<[u8]>,
    is_eh_frame: bool,
    index: Index,
    bases: BaseAddresses,
    context: UnwindContext<usize>,
    rows: HashMap<u64, Option<Rc<Row>>>,
    framehop: UnwinderX86_64<Arc<[u8]>>,
    cache: CacheX86_64,
}

impl Cfi {
    /// `.eh_frame`, with its index if there is one.
    pub(super) fn eh_frame(section: Section, header: Option<Section>, text_svma: u64) -> Self {
        let mut bases = BaseAddresses::default().set_eh_frame(section.svma).set_text(text_svma);
        let mut info = ExplicitModuleSectionInfo {
            text_svma: Some(text_svma..text_svma),
            eh_frame_svma: Some(section.range()),
            eh_frame: Some(Arc::clone(&section.bytes)),
            ..Default::default()
        };
        if let Some(header) = &header {
            bases = bases.set_eh_frame_hdr(header.svma);
        }
        let header = header.filter(|header| {
            let parsed = EhFrameHdr::new(&header.bytes, LittleEndian).parse(&bases, 8);
            parsed.is_ok_and(|header| header.table().is_some())
        });
        let index = if let Some(header) = header {
            info.eh_frame_hdr_svma = Some(header.range());
            info.eh_frame_hdr = Some(Arc::clone(&header.bytes));
            Index::Header(header)
        } else {
            Index::Sorted(functions(&EhFrame::new(&section.bytes, LittleEndian), &bases))
        };
        Self::new(section.bytes, true, index, bases, info)
    }

    /// `.debug_frame`, decompressed.
    pub(super) fn debug_frame(bytes: Arc<[u8]>) -> Self {
        let bases = BaseAddresses::default();
        let mut frame = DebugFrame::new(&bytes, LittleEndian);
        frame.set_address_size(8);
        let index = Index::Sorted(functions(&frame, &bases));
        let info = ExplicitModuleSectionInfo {
            debug_frame: Some(Arc::clone(&bytes)),
            ..Default::default()
        };
        Self::new(bytes, false, index, bases, info)
    }

    fn new(
        bytes: Arc<[u8]>,
        is_eh_frame: bool,
        index: Index,
        bases: BaseAddresses,
        info: ExplicitModuleSectionInfo<Arc<[u8]>>,
    ) -> Self {
        let mut framehop = UnwinderX86_64::new();
        // Not where a process has it, but as it states itself: one serves all processes.
        framehop.add_module(Module::new(String::new(), 0..1 << 32, 0, info));
        Self {
            bytes,
            is_eh_frame,
            index,
            bases,
            context: UnwindContext::new(),
            rows: HashMap::new(),
            framehop,
            cache: CacheX86_64::new(),
        }
    }

    /// What is said of the code at `svma`; nothing if it is not covered, or in an unknown way.
    pub(super) fn row(&mut self, svma: u64) -> Option<Rc<Row>> {
        if let Some(row) = self.rows.get(&svma) {
            return row.clone();
        }
        let bytes = Arc::clone(&self.bytes);
        let row = if self.is_eh_frame {
            let mut frame = EhFrame::new(&bytes, LittleEndian);
            frame.set_address_size(8);
            self.read_row(&frame, svma)
        } else {
            let mut frame = DebugFrame::new(&bytes, LittleEndian);
            frame.set_address_size(8);
            self.read_row(&frame, svma)
        };
        let row = row.map(Rc::new);
        self.rows.insert(svma, row.clone());
        row
    }

    fn read_row<'a, S: UnwindSection<Slice<'a>>>(&mut self, frame: &S, svma: u64) -> Option<Row> {
        let offset = match &self.index {
            Index::Header(header) => {
                let header = EhFrameHdr::new(&header.bytes, LittleEndian).parse(&self.bases, 8);
                let header = header.ok()?;
                let table = header.table()?;
                let pointer = table.lookup(svma, &self.bases).ok()?;
                table.pointer_to_offset(pointer).ok()?.0
            }
            Index::Sorted(functions) => {
                let above = functions.partition_point(|(start, _)| *start <= svma);
                functions[above.checked_sub(1)?].1
            }
        };
        let fde = frame.fde_from_offset(&self.bases, offset.into(), S::cie_from_offset).ok()?;
        let function = fde.initial_address();
        let encoding = fde.cie().encoding();
        let is_signal = fde.is_signal_trampoline();
        let row = fde.unwind_info_for_address(frame, &self.bases, &mut self.context, svma).ok()?;
        let registers = row.registers().map(|(register, rule)| (*register, rule.clone())).collect();
        Some(Row { function, cfa: row.cfa().clone(), registers, encoding, is_signal })
    }

    /// An expression of one of its rows.
    pub(super) fn expression(
        &self,
        expression: &UnwindExpression<usize>,
    ) -> Option<Expression<Slice<'_>>> {
        let end = expression.offset.checked_add(expression.length)?;
        let bytes = self.bytes.get(expression.offset..end)?;
        Some(Expression(EndianSlice::new(bytes, LittleEndian)))
    }

    /// framehop's next frame from `registers`, whose program counter is an svma.
    ///
    /// # Errors
    ///
    /// framehop's own.
    pub(super) fn framehop(
        &mut self,
        is_interrupted: bool,
        registers: &mut UnwindRegsX86_64,
        mut read: impl FnMut(u64) -> Option<u64>,
    ) -> Result<Option<u64>, framehop::Error> {
        let address = if is_interrupted {
            FrameAddress::from_instruction_pointer(registers.ip())
        } else {
            let address = FrameAddress::from_return_address(registers.ip());
            address.ok_or(framehop::Error::ReturnAddressIsNull)?
        };
        let mut read = |avma| read(avma).ok_or(());
        self.framehop.unwind_frame(address, registers, &mut self.cache, &mut read)
    }
}

/// The functions that a section describes: their first svma and the place of the description.
fn functions<'a, S: UnwindSection<Slice<'a>>>(
    frame: &S,
    bases: &BaseAddresses,
) -> Vec<(u64, usize)> {
    let mut functions = Vec::new();
    let mut entries = frame.entries(bases);
    while let Ok(Some(entry)) = entries.next() {
        if let CieOrFde::Fde(partial) = entry
            && let Ok(fde) = partial.parse(S::cie_from_offset)
            && fde.len() > 0
        {
            functions.push((fde.initial_address(), fde.offset()));
        }
    }
    functions.sort_unstable();
    functions
}
