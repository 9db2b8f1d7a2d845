//! Walks of user stacks.

pub mod rule;
pub mod table;
pub mod walk;

/// The memory a stack is read from.
pub trait Memory {
    /// The two 8-byte words at `avma`, if both can be read.
    fn pair(&self, avma: u64) -> Option<[u64; 2]>;

    /// The 8-byte word at `avma`, if it can be read.
    fn word(&self, avma: u64) -> Option<u64>;

    /// The value that a register had when the innermost frame was interrupted, by DWARF's number.
    fn register(&self, number: u32) -> Option<u64>;
}

/// How the walk of a user stack ended.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is no user stack: a kernel thread, a process that has given up its memory at its end
    /// or for an `exec`, or user stacks were not asked for.
    None = 0,
    /// The last frame is a known root.
    Complete = 1,
    /// The chain of frame pointers ended as it should, but whether each function on the way kept
    /// one is not known.
    Guessed = 2,
    /// More frames than are walked.
    Truncated = 3,
    /// A program counter that no executable mapping covers.
    NoMapping = 4,
    /// No unwind rule for a program counter, and no frame pointer to follow.
    NoRule = 5,
    /// An unwind rule that is not supported.
    UnsupportedRule = 6,
    /// Stack memory that could not be read.
    Unreadable = 7,
}

impl Outcome {
    /// The outcome with this number.
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::None,
            1 => Self::Complete,
            2 => Self::Guessed,
            3 => Self::Truncated,
            4 => Self::NoMapping,
            5 => Self::NoRule,
            6 => Self::UnsupportedRule,
            7 => Self::Unreadable,
            _ => return None,
        })
    }
}

/// The registers a walk begins with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// Program counter, as an avma.
    pub pc: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Frame pointer.
    pub fp: u64,
    /// `rbx` on x86_64: what some functions keep their frame's address in when they realign the
    /// stack; on aarch64 the link register.
    pub aux: u64,
}

/// What a step of a walk found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A caller's return address, as an avma.
    Caller(u64),
    /// The end.
    End(Outcome),
}
