//! The stacks of threads that go on meanwhile: nobody is stopped.

use super::protocol::{MAX_STACKS, STACK_BYTES, StackBytes, Stacks};
use super::sys;

/// Reads them.
///
/// # Errors
///
/// A sentence: there are too many.
pub(super) fn read(asked: &Stacks) -> Result<StackBytes, String> {
    if asked.starts.len() > MAX_STACKS {
        return Err(format!("at most {MAX_STACKS} stacks are read at a time"));
    }
    let mut buffer = vec![0; STACK_BYTES.min(asked.bytes as usize)];
    let stacks = asked.starts.iter().map(|&start| {
        let count = sys::read_memory(asked.pid, start, &mut buffer);
        buffer.get(..count).unwrap_or_default().to_vec()
    });
    Ok(StackBytes { stacks: stacks.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_empty() {
        let here = [7_u8; 100];
        let starts = vec![here.as_ptr() as u64, 0, u64::MAX, 1 << 63];
        let stacks = read(&Stacks { pid: std::process::id(), starts, bytes: 100 }).unwrap().stacks;
        assert_eq!(&stacks[0][..100], here);
        assert!(stacks[1..].iter().all(Vec::is_empty));
        let none = read(&Stacks { pid: 0, starts: vec![here.as_ptr() as u64], bytes: 9 }).unwrap();
        assert_eq!(none.stacks, [Vec::<u8>::new()]);
        assert!(read(&Stacks { pid: 1, starts: vec![0; MAX_STACKS + 1], bytes: 9 }).is_err());
    }
}
